"""Settings as mitmproxy options, and mitmproxy's own options as settings of our own calls."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Any

from mitmproxy import exceptions
from mitmproxy.addonmanager import Loader
from mitmproxy.options import Options

from kimi_core.errors import ConfigError
from kimi_core.outbound import Outbound
from kimi_core.settings import Settings, choices, parse

NAMES = tuple(Settings.model_fields)


def declare(loader: Loader) -> None:
    """Declare every setting as an option of mitmproxy."""
    for name, field in Settings.model_fields.items():
        loader.add_option(
            name, _typespec(field.annotation), field.get_default(), field.description or "", choices(name)
        )


def _typespec(annotation: Any) -> type:
    """Return the type that mitmproxy knows: a choice is a str, a list is a sequence."""
    match typing.get_origin(annotation):
        case typing.Literal:
            return str
        case origin if origin is list:
            return Sequence[str]
        case _:
            return annotation  # type: ignore[no-any-return]  # int, bool and str as they are


def read(options: Options) -> Settings:
    """Return the validated settings. Raises mitmproxy's OptionsError."""
    values: dict[str, object] = {name: getattr(options, name) for name in NAMES}
    values = {
        name: list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
        for name, value in values.items()
    }
    try:
        return parse(values)
    except ConfigError as error:
        raise exceptions.OptionsError(str(error)) from error


def outbound(options: Options) -> Outbound:
    """Return how calls of our own leave, following mitmproxy's own upstream legs."""
    upstream = next((mode.partition("@")[0] for mode in options.mode if mode.startswith("upstream:")), None)
    proxy = upstream.removeprefix("upstream:") if upstream else None
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"
    return Outbound(
        proxy=proxy,
        proxy_auth=options.upstream_auth,
        ca_file=options.ssl_verify_upstream_trusted_ca,
        ca_dir=options.ssl_verify_upstream_trusted_confdir,
    )
