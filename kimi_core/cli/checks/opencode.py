"""opencode's configuration: whether a provider leads here, by which way, and whether images survive.

opencode merges its files: the user's own, the one that OPENCODE_CONFIG names, those of the project from its root down,
and OPENCODE_CONFIG_CONTENT. Both syntaxes are read: `provider` of opencode 1, `providers` of opencode 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kimi_core.blocks.kimi import PROVIDER_ID
from kimi_core.blocks.kiro import PROVIDER_ID as KIRO_ID
from kimi_core.cli import jsonc
from kimi_core.cli.checks.check import Check, Finding, NothingToJudge, ok, problem, skipped, warning
from kimi_core.cli.checks.login import USABLE, everybody
from kimi_core.cli.checks.machine import Machine
from kimi_core.cli.checks.variables import gather as variables
from kimi_core.cli.probe import is_loopback
from kimi_core.kimi.constants import sites

PROGRAM = "opencode"
NAMES = ("config.json", "opencode.json", "opencode.jsonc")  # the later one wins
PROJECT_NAMES = NAMES[1:]
WRITE = "kimi-mitm config opencode --write"
RUN = "kimi-mitm run -- opencode"
PATHS = ("/kimi/v1", "/kiro/v1")  # on the proxy's own port
IDS = (PROVIDER_ID, KIRO_ID)
SNAKE = "reasoning_effort"  # is dropped by opencode's SDK without a word


@dataclass(frozen=True, slots=True)
class Model:
    """What opencode thinks of a model; None = the configuration does not say."""

    id: str
    attachment: bool | None
    images: bool | None
    snake: bool

    @property
    def loses_images(self) -> bool:
        """Whether opencode takes images out although it was not told to: both members must be there, and agree."""
        return not (self.attachment is self.images is True or (self.attachment is False and self.images is not True))


@dataclass(frozen=True, slots=True)
class Block:
    """One provider of opencode's configuration that leads to this proxy or to a host that it serves."""

    id: str
    base_url: str
    models: Sequence[Model] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """opencode's configuration as far as it matters. `wanted`: the user asked about opencode with --client.

    `problem` is a sentence about a file that cannot be read; `refused` has the ids that are switched off; `logged_in`
    the hosts for which there is a login, `served` all those that the proxy serves.
    """

    files: Sequence[Path]
    problem: str
    blocks: Sequence[Block]
    refused: Sequence[str]
    proxy_url: str
    through: bool
    served: Sequence[str]
    logged_in: Sequence[str]
    kimi_hosts: Sequence[str]
    wanted: bool = False


def facts(machine: Machine) -> Facts:
    """Read opencode's configuration, once for all checks. Raises NothingToJudge where there is no opencode."""
    return machine.once("opencode", lambda: _facts(machine))


def _facts(machine: Machine) -> Facts:
    files = list(_files(machine))
    wanted = machine.client is not None and machine.client.name == PROGRAM
    if not (files or wanted or machine.which(PROGRAM)):
        raise NothingToJudge("There is no opencode here, and no configuration of it.")
    merged, trouble = _merged(files, machine.environ.get("OPENCODE_CONFIG_CONTENT", ""))
    proxies = variables(machine)
    every = sites(machine.configuration.settings.kimi_region, machine.environ)
    logins = {one.status.slot for one in everybody(machine).kimi if one.status.state in USABLE}
    blocks = [block for block in _blocks(merged) if block.id in IDS or _concerns(block, proxies.served)]
    return Facts(
        files,
        trouble,
        blocks,
        [id_ for id_ in IDS if _off(merged, id_)],
        machine.configuration.proxy_url,
        proxies.ours("HTTPS_PROXY"),
        proxies.served,
        [site.host for site in every if site.slot in logins],
        [site.host for site in every],
        wanted,
    )


def _files(machine: Machine) -> Iterator[Path]:
    environ = machine.environ
    folder = Path(environ.get("XDG_CONFIG_HOME") or machine.home / ".config") / "opencode"
    yield from (path for name in NAMES if (path := folder / name).is_file())
    if named := environ.get("OPENCODE_CONFIG"):
        yield Path(named)
    for parent in reversed((machine.cwd, *machine.cwd.parents)):
        yield from (path for name in PROJECT_NAMES if (path := parent / name).is_file())


def _merged(files: Sequence[Path], content: str) -> tuple[dict[str, Any], str]:
    """Return the merged configuration, and a sentence about the first file that is not part of it."""
    merged: dict[str, Any] = {}
    trouble = ""
    texts: list[tuple[str, str | Path]] = [(str(path), path) for path in files]
    for name, source in [*texts, ("OPENCODE_CONFIG_CONTENT", content)]:
        try:
            text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
            node = jsonc.parse(text)
        except OSError as error:
            trouble = trouble or f"{name} cannot be read: {error.strerror}."
        except UnicodeDecodeError:
            trouble = trouble or f"{name} cannot be read: it is no UTF-8."
        except jsonc.JsoncError as error:
            trouble = trouble or f"{name} is no JSON at line {error.line}."
        else:
            merged = _overlaid(merged, node.value if node is not None else {})
    return merged, trouble


def _overlaid(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {**below, **{key: _overlaid(below.get(key), value) for key, value in above.items()}}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _blocks(merged: Mapping[str, Any]) -> Iterator[Block]:
    for id_, value in _mapping(merged.get("provider")).items():
        block = _mapping(value)
        url = _mapping(block.get("options")).get("baseURL") or block.get("api")
        models = [_model_v1(name, _mapping(model)) for name, model in _mapping(block.get("models")).items()]
        yield Block(id_, str(url or ""), models)
    for id_, value in _mapping(merged.get("providers")).items():
        block = _mapping(value)
        url = _mapping(block.get("settings")).get("baseURL")
        models = [_model_v2(name, _mapping(model)) for name, model in _mapping(block.get("models")).items()]
        yield Block(id_, str(url or ""), models)


def _model_v1(name: str, model: Mapping[str, Any]) -> Model:
    attachment = model.get("attachment")
    inputs = _mapping(model.get("modalities")).get("input")
    images = "image" in inputs if isinstance(inputs, list) else None
    variants = [_mapping(one) for one in _mapping(model.get("variants")).values()]
    snake = any(SNAKE in one for one in [*variants, _mapping(model.get("options"))])
    return Model(name, attachment if isinstance(attachment, bool) else None, images, snake)


def _model_v2(name: str, model: Mapping[str, Any]) -> Model:
    inputs = _mapping(model.get("capabilities")).get("input")
    images = "image" in inputs if isinstance(inputs, list) else None
    variants = model.get("variants")
    listed = variants if isinstance(variants, list) else []
    snake = any(SNAKE in _mapping(_mapping(one).get("settings")) for one in listed)
    return Model(name, images, images, snake)


def _concerns(block: Block, served: Sequence[str]) -> bool:
    try:
        parts = urlsplit(block.base_url)
    except ValueError:  # of a provider that is none of ours; `_route` tells where one is
        return False
    host = parts.hostname or ""
    return host in served or (is_loopback(host) and parts.path.startswith(("/kimi", "/kiro")))


def _off(merged: Mapping[str, Any], id_: str) -> bool:
    disabled, enabled = merged.get("disabled_providers"), merged.get("enabled_providers")
    return (isinstance(disabled, list) and id_ in disabled) or (isinstance(enabled, list) and id_ not in enabled)


# --- judgements -------------------------------------------------------------------------------------------------------


def judge_provider(found: Facts) -> Finding:
    """Judge whether opencode knows a provider that leads here."""
    if found.problem:
        return problem(found.problem, "Mend the file: opencode reads none of it as it is.")
    if not found.blocks:
        if found.wanted:
            return problem("No provider in opencode's configuration leads to this proxy.", WRITE)
        return skipped(f"opencode's configuration has no provider that leads to this proxy; {WRITE} adds one.")
    off = [block.id for block in found.blocks if block.id in found.refused]
    if off:
        return problem(
            f"opencode's configuration switches {', '.join(off)} off.",
            "Take it out of disabled_providers, or put it into enabled_providers.",
        )
    return ok(f"opencode knows {', '.join(dict.fromkeys(block.id for block in found.blocks))}.")


def judge_route(found: Facts) -> Finding:
    """Judge whether requests of those providers reach the proxy."""
    if not found.blocks:
        return skipped("opencode's configuration has no provider that leads to this proxy.")
    return next((bad for block in found.blocks if (bad := _route(block, found))), None) or ok(
        "opencode's requests reach the proxy."
    )


def _route(block: Block, found: Facts) -> Finding | None:
    try:
        parts = urlsplit(block.base_url)
        port = parts.port
    except ValueError:
        return problem(f"The base URL of {block.id} is no address.", WRITE)
    host = parts.hostname or ""
    if is_loopback(host):
        return _local_route(block, found, parts.path.rstrip("/"), port)
    if host not in found.served:
        return problem(f"{block.id} asks {host or 'nobody'}, which this proxy does not serve.", WRITE)
    if host in found.kimi_hosts and host not in found.logged_in and found.logged_in:
        other = next((one for one in found.logged_in), "")
        return problem(f"{block.id} asks {host}, but the login is for {other}.", WRITE)
    if not found.through:
        return problem(
            f"{block.id} asks {host} itself, and HTTPS_PROXY is not set here: it gets a 401 there.",
            f"Start it as: {RUN}. Or let it ask the proxy: {WRITE}",
        )
    return None


def _local_route(block: Block, found: Facts, path: str, port: int | None) -> Finding | None:
    wanted = urlsplit(found.proxy_url).port
    if port != wanted:
        return problem(f"{block.id} asks port {port} of this machine; the proxy is at {found.proxy_url}.", WRITE)
    if path not in PATHS:
        return problem(
            f"The base URL of {block.id} ends with {path or '/'}; it must be one of {', '.join(PATHS)}.", WRITE
        )
    return None


def judge_models(found: Facts) -> Finding:
    """Judge whether images and efforts reach the models."""
    every = [model for block in found.blocks for model in block.models]
    if not every:
        return skipped("opencode's configuration lists no model of this proxy's.")
    without = [model.id for model in every if model.loses_images]
    if without:
        return warning(
            f"opencode sends no images to {', '.join(without)}: attachment and modalities are not both set.",
            f"{WRITE}, or set both as the block in docs/opencode.md does",
        )
    snake = [model.id for model in every if model.snake]
    if snake:
        return warning(
            f"The efforts of {', '.join(snake)} have no effect: opencode's SDK drops reasoning_effort.",
            "Write reasoningEffort.",
        )
    return ok("Images and efforts reach the models.")


CHECKS = (
    Check("opencode.provider", "opencode's provider", facts, judge_provider),
    Check("opencode.route", "opencode's way to the proxy", facts, judge_route),
    Check("opencode.models", "opencode's models", facts, judge_models),
)
