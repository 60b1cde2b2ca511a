"""The lines a client needs to use the proxy: opencode's provider block, shell variables, SDK settings. Pure.

There are two ways in. A client that honours HTTPS_PROXY keeps the service's own base URL, so that its configuration
stays right without the proxy too; it must trust mitmproxy's CA. A client that takes a base URL speaks plain http to
the proxy's own port instead and needs no CA.

No block holds a secret: the proxy replaces whatever key a client sends, so the key is a placeholder. Where
`kimi_client_key` is set, the block says where the key comes from.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from kimi_core.kimi.constants import MODEL_ALIAS
from kimi_core.kimi.models import Catalog, Model

# not the id that models.dev uses for Kimi: that one belongs to logins with a static API key
PROVIDER_ID = "kimi-for-coding-oauth"
PROVIDER_NAME = "Kimi for Coding"
NPM_PACKAGE = "@ai-sdk/openai-compatible"
PLACEHOLDER_KEY = "kimi-mitm"
KEY_VARIABLE = "KIMI_MITM_KEY"
# `off` is first: opencode takes the first variant of a model for the title of a session, whatever was chosen
EFFORTS = ("off", "auto", "low", "medium", "high")
WIDTH = 80  # columns of a JSON block, so that a terminal does not break its lines
NO_PROXY = "localhost,127.0.0.1,::1"
# where discovery failed: what kimi-cli assumes of a model of this name (kimi.md §4)
_ALIAS_MODEL = Model(MODEL_ALIAS, PROVIDER_NAME, reasoning=True, image_in=True, video_in=True)


class Key(StrEnum):
    """What the proxy asks of clients: nothing, a key the user chose, or one that it made itself."""

    NONE = "none"
    CHOSEN = "chosen"
    MADE = "made"


@dataclass(frozen=True, slots=True)
class Place:
    """Where clients find things.

    `proxy_url` is the listener (``http://127.0.0.1:8080``), `api_base` the service's own base URL, `ca` mitmproxy's
    certificate, `key_file` the file of a key that the proxy made. `powershell` chooses the shell's syntax.
    """

    proxy_url: str
    api_base: str
    ca: Path
    key: Key = Key.NONE
    key_file: Path | None = None
    powershell: bool = False

    @property
    def local_base(self) -> str:
        """The base URL of the local endpoint for OpenAI clients."""
        return f"{self.proxy_url}/kimi/v1"


@dataclass(frozen=True, slots=True)
class Block:
    """One thing to paste: `text` exactly as it goes in, `title` what it is for, `notes` what to know."""

    name: str
    title: str
    text: str
    language: str
    notes: tuple[str, ...] = ()


def blocks(catalog: Catalog, place: Place, output_limit: int | None = None) -> tuple[Block, ...]:
    """Return every block for the models of *catalog*; an empty one gives the alias with what is known of it.

    *output_limit* in tokens puts a ``limit`` into opencode's models whose context the service tells.
    """
    models = offered(catalog)
    base_url_note = (
        f"Without HTTPS_PROXY: put {place.local_base} in place of {place.api_base}.",
        *_key_notes(place),
    )
    return (
        Block(
            "opencode",
            "opencode: into ~/.config/opencode/opencode.json, with HTTPS_PROXY set as below",
            _dump(opencode(models, place, output_limit)),
            "json",
            base_url_note,
        ),
        Block(
            "opencode-v2",
            "opencode 2: the same in its own syntax (it reads the block above as well)",
            _dump(opencode_v2(models, place, output_limit)),
            "json",
            base_url_note,
        ),
        Block("shell", "Shell: clients that honour HTTPS_PROXY", _shell(place), "bash", _shell_notes(place)),
        Block("openai", "OpenAI SDKs and whatever reads their variables", _openai(place), "bash", _sdk_notes(place)),
        Block("anthropic", "Claude Code and the Anthropic SDKs", _anthropic(place), "bash", _key_notes(place)),
    )


BLOCK_NAMES = ("opencode", "opencode-v2", "shell", "openai", "anthropic")


def offered(catalog: Catalog) -> tuple[Model, ...]:
    """Return the models to offer: the alias first, with what its slug can do, then every other one."""
    slug, found = catalog.resolve(MODEL_ALIAS)
    alias = _ALIAS_MODEL if found is None else _renamed(found)
    return (alias, *(model for model in catalog.models if model.id not in (slug, MODEL_ALIAS)))


def efforts(model: Model) -> tuple[str, ...]:
    """Return the levels to offer for *model*: the common ones, then what it lists beyond; () where it cannot think."""
    if model.reasoning is False or model.thinking_type == "no":
        return ()
    return tuple(dict.fromkeys((*EFFORTS, *model.efforts)))


def opencode(models: Iterable[Model], place: Place, output_limit: int | None = None) -> dict[str, Any]:
    """Return the content of ``opencode.json`` for opencode 1."""
    provider = {
        "npm": NPM_PACKAGE,
        "name": PROVIDER_NAME,
        "options": {"baseURL": place.api_base, "apiKey": _opencode_key(place)},
        "models": {model.id: _model_v1(model, output_limit) for model in models},
    }
    return {"$schema": "https://opencode.ai/config.json", "provider": {PROVIDER_ID: provider}}


def opencode_v2(models: Iterable[Model], place: Place, output_limit: int | None = None) -> dict[str, Any]:
    """Return the content of ``opencode.json`` in the syntax of opencode 2.

    It differs by `providers`, `package` with its loader's prefix, `settings`, `capabilities`, and variants as a list.
    """
    provider = {
        "name": PROVIDER_NAME,
        "package": f"aisdk:{NPM_PACKAGE}",
        "settings": {"baseURL": place.api_base, "apiKey": _opencode_key(place)},
        "models": {model.id: _model_v2(model, output_limit) for model in models},
    }
    return {"$schema": "https://opencode.ai/config.json", "providers": {PROVIDER_ID: provider}}


def inputs(model: Model) -> list[str]:
    """Return the kinds of input that *model* takes, in opencode's words."""
    return ["text", *(["image"] if model.image_in else []), *(["video"] if model.video_in else [])]


def _renamed(model: Model) -> Model:
    fields = {name: getattr(model, name) for name in Model.__slots__}
    return Model(**fields | {"id": MODEL_ALIAS})


def _model_v1(model: Model, output_limit: int | None) -> dict[str, Any]:
    takes = inputs(model)
    return {
        "name": model.display_name or model.id,
        # without both of these opencode takes images out of the conversation before anything is sent
        "attachment": len(takes) > 1,
        "modalities": {"input": takes, "output": ["text"]},
        "reasoning": bool(efforts(model)),
        "tool_call": model.tool_use is not False,
        **_limit(model, output_limit),
        # camelCase: the AI SDK drops reasoning_effort without a word
        **({"variants": {e: {"reasoningEffort": e} for e in levels}} if (levels := efforts(model)) else {}),
    }


def _model_v2(model: Model, output_limit: int | None) -> dict[str, Any]:
    return {
        "name": model.display_name or model.id,
        "capabilities": {"tools": model.tool_use is not False, "input": inputs(model), "output": ["text"]},
        **_limit(model, output_limit),
        **(
            {"variants": [{"id": e, "settings": {"reasoningEffort": e}} for e in levels]}
            if (levels := efforts(model))
            else {}
        ),
    }


def _limit(model: Model, output: int | None) -> dict[str, Any]:
    """Only the context is known from the service, and opencode takes a limit whole or not at all."""
    if output is None or model.context_length is None:
        return {}
    return {"limit": {"context": model.context_length, "output": output}}


def _opencode_key(place: Place) -> str:
    return PLACEHOLDER_KEY if place.key is Key.NONE else f"{{env:{KEY_VARIABLE}}}"


def _key_notes(place: Place) -> tuple[str, ...]:
    if place.key is Key.NONE:
        return ()
    source = f"what {place.key_file} holds as `key`" if place.key is Key.MADE else "the value of kimi_client_key"
    return (f"The proxy asks for a key: put {source} into {KEY_VARIABLE}.",)


def _shell(place: Place) -> str:
    return _exports(
        place,
        ("HTTPS_PROXY", place.proxy_url),
        ("NO_PROXY", NO_PROXY),
        ("NODE_EXTRA_CA_CERTS", str(place.ca)),
    )


def _shell_notes(place: Place) -> tuple[str, ...]:
    return (
        "mitmproxy makes the certificate at its first start.",
        f"Python clients: SSL_CERT_FILE={place.ca} where they speak to Kimi only: it replaces all other roots.",
    )


def _openai(place: Place) -> str:
    return _exports(place, ("OPENAI_BASE_URL", place.local_base), ("OPENAI_API_KEY", _shell_key(place)))


def _sdk_notes(place: Place) -> tuple[str, ...]:
    return (f"The model is {MODEL_ALIAS}. No CA and no HTTPS_PROXY are needed.", *_key_notes(place))


def _anthropic(place: Place) -> str:
    return _exports(
        place,
        ("ANTHROPIC_BASE_URL", f"{place.proxy_url}/kimi"),  # the SDK adds /v1/messages
        ("ANTHROPIC_AUTH_TOKEN", _shell_key(place)),
        ("ANTHROPIC_MODEL", MODEL_ALIAS),
    )


def _shell_key(place: Place) -> str:
    return PLACEHOLDER_KEY if place.key is Key.NONE else f"${KEY_VARIABLE}"


def _exports(place: Place, *variables: tuple[str, str]) -> str:
    return "\n".join(_export(name, value, powershell=place.powershell) for name, value in variables)


def _export(name: str, value: str, *, powershell: bool) -> str:
    reference = value.startswith("$")
    if powershell:
        return f"$env:{name} = {f'$env:{value[1:]}' if reference else _powershell_quote(value)}"
    return f"export {name}={f'"{value}"' if reference else shlex.quote(value)}"


def _powershell_quote(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _dump(value: Any, indent: int = 0, used: int = 0) -> str:
    """Return *value* as JSON in which what fits on a line of `WIDTH` columns, *used* of them taken, stands on one."""
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or used + len(flat) < WIDTH:
        return flat
    names = (
        [f"{json.dumps(key, ensure_ascii=False)}: " for key in value] if isinstance(value, dict) else [""] * len(value)
    )
    items = value.values() if isinstance(value, dict) else value
    inner = " " * (indent + 2)
    lines = (
        f"{inner}{name}{_dump(item, indent + 2, len(inner) + len(name))}"
        for name, item in zip(names, items, strict=True)
    )
    left, right = "{}" if isinstance(value, dict) else "[]"
    return f"{left}\n" + ",\n".join(lines) + "\n" + " " * indent + right
