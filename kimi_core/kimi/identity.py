"""Who a request says it comes from: one table a client, never halves of two (kimi.md §2; recordings of the clients).

An identity is the list of header fields that one official client sends, in its order and spelling, per kind of
endpoint. Names in ``<angle brackets>`` are filled from this machine's facts; the slots ``CLIENT`` and ``BEARER`` mark
where a field of the client's own request and the authorization stand.

To follow a new release of a client: change its version constants here, run ``make check-upstream`` and the golden
tests, and compare the tables below with a fresh recording.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kimi_core.headers import Headers
from kimi_core.kimi.device import (
    STAINLESS_OS,
    Device,
    cli_model,
    code_model,
    device_id_path,
    node_arch,
    node_release,
    read_device_id,
    sanitise,
)

KIMI_CLI_VERSION = "1.52.0"  # the last release; the client is archived
KIMI_CODE_VERSION = "2.1.0"

CLIENT = object()  # the client's own field of that name, left out where it has none
BEARER = object()  # Authorization

type Value = str | object
type Table = tuple[tuple[str, Value], ...]

_MSH: Table = (
    ("X-Msh-Platform", "<platform>"),
    ("X-Msh-Version", "<version>"),
    ("X-Msh-Device-Name", "<device-name>"),
    ("X-Msh-Device-Model", "<device-model>"),
    ("X-Msh-Os-Version", "<os-version>"),
    ("X-Msh-Device-Id", "<device-id>"),
)

# --- kimi-cli 1.52.0: Python, aiohttp for OAuth and information, openai-python for chat -----------------------------

_AIOHTTP = "Python/3.13 aiohttp/3.13.3"
_CLI_INFO: Table = (
    ("Authorization", BEARER),
    ("Accept", "*/*"),
    ("Accept-Encoding", "gzip, deflate"),
    ("User-Agent", _AIOHTTP),
)
_CLI_CHAT: Table = (
    ("Accept-Encoding", "gzip, deflate"),
    ("Connection", "keep-alive"),
    ("Accept", "application/json"),
    ("Content-Type", CLIENT),
    ("User-Agent", "KimiCLI/<version>"),
    ("X-Stainless-Lang", "python"),
    ("X-Stainless-Package-Version", "2.14.0"),
    ("X-Stainless-OS", "<stainless-os>"),
    ("X-Stainless-Arch", "<node-arch>"),
    ("X-Stainless-Runtime", "CPython"),
    ("X-Stainless-Runtime-Version", "3.13.0"),
    ("Authorization", BEARER),
    *_MSH,
    ("X-Stainless-Async", "async:asyncio"),
    ("x-stainless-retry-count", "0"),
    ("x-stainless-read-timeout", "600"),
)
_CLI_SEARCH: Table = (
    ("User-Agent", "KimiCLI/<version>"),
    ("Authorization", BEARER),
    ("X-Msh-Tool-Call-Id", "SearchWeb:0"),
    *_MSH,
    ("Accept", "*/*"),
    ("Accept-Encoding", "gzip, deflate"),
    ("Content-Type", CLIENT),
)
_CLI_FETCH: Table = (
    ("User-Agent", "KimiCLI/<version>"),
    ("Authorization", BEARER),
    ("Accept", "text/markdown"),
    ("X-Msh-Tool-Call-Id", "FetchURL:0"),
    *_MSH,
    ("Accept-Encoding", "gzip, deflate"),
    ("Content-Type", CLIENT),
)
_CLI_OAUTH: Table = (
    *_MSH,
    ("Accept", "*/*"),
    ("Accept-Encoding", "gzip, deflate"),
    ("User-Agent", _AIOHTTP),
)

# --- Kimi Code 2.1.0: TypeScript, node's fetch everywhere, openai-node for chat --------------------------------------

_NODE: Table = (
    ("accept-language", "*"),
    ("sec-fetch-mode", "cors"),
    ("accept-encoding", "br, gzip, deflate"),
)
_CODE_ID: Table = (("User-Agent", "kimi-code-cli/<version>"), *_MSH)
_CODE_CHAT: Table = (
    ("connection", "keep-alive"),
    ("Accept", "application/json"),
    ("X-Stainless-Retry-Count", "0"),
    ("X-Stainless-Lang", "js"),
    ("X-Stainless-Package-Version", "6.34.0"),
    ("X-Stainless-OS", "<stainless-os>"),
    ("X-Stainless-Arch", "<node-arch>"),
    ("X-Stainless-Runtime", "node"),
    ("X-Stainless-Runtime-Version", "v24.21.0"),
    ("authorization", BEARER),
    *_CODE_ID,
    ("content-type", CLIENT),
    *_NODE,
)
_CODE_INFO: Table = (
    ("connection", "keep-alive"),
    *_CODE_ID,
    ("Authorization", BEARER),
    ("Accept", "application/json"),
    *_NODE,
)
_CODE_USAGES: Table = (
    ("connection", "keep-alive"),
    ("Authorization", BEARER),
    ("Accept", "application/json"),
    *_NODE,
)
_CODE_SEARCH: Table = (
    ("connection", "keep-alive"),
    *_CODE_ID,
    ("Authorization", BEARER),
    ("Content-Type", CLIENT),
    ("X-Msh-Tool-Call-Id", "WebSearch:0"),
    ("accept", "*/*"),
    *_NODE,
)
_CODE_FETCH: Table = (
    ("connection", "keep-alive"),
    *_CODE_ID,
    ("Authorization", BEARER),
    ("Accept", "text/markdown"),
    ("Content-Type", CLIENT),
    ("X-Msh-Tool-Call-Id", "FetchURL:0"),
    *_NODE,
)
_CODE_OAUTH: Table = (
    ("connection", "keep-alive"),
    *_CODE_ID,
    ("Accept", "application/json"),
    *_NODE,
)

# --- ourselves -------------------------------------------------------------------------------------------------------

_OWN: Table = (
    ("Accept", CLIENT),
    ("Accept-Encoding", "gzip, deflate"),
    ("Content-Type", CLIENT),
    ("User-Agent", "kimi-mitm/<version>"),
    ("Authorization", BEARER),
)
_OWN_TOOL: Table = (*_OWN, ("X-Msh-Tool-Call-Id", CLIENT))

_ANTHROPIC: Table = (("anthropic-version", CLIENT), ("anthropic-beta", CLIENT))

TABLES: dict[str, dict[str, Table]] = {
    "kimi-cli": {
        "oauth": _CLI_OAUTH,
        "models": _CLI_INFO,
        "usages": _CLI_INFO,
        "chat": _CLI_CHAT,
        "files": _CLI_CHAT,
        "messages": (*_CLI_CHAT, *_ANTHROPIC),
        "search": _CLI_SEARCH,
        "fetch": _CLI_FETCH,
        "other": _CLI_CHAT,
    },
    "kimi-code": {
        "oauth": _CODE_OAUTH,
        "models": _CODE_INFO,
        "usages": _CODE_USAGES,
        "chat": _CODE_CHAT,
        "files": _CODE_CHAT,
        "messages": (*_CODE_CHAT, *_ANTHROPIC),
        "search": _CODE_SEARCH,
        "fetch": _CODE_FETCH,
        "other": _CODE_CHAT,
    },
    "own": {
        "oauth": (("Accept", "application/json"), ("User-Agent", "kimi-mitm/<version>")),
        "models": _OWN,
        "usages": _OWN,
        "chat": _OWN,
        "files": _OWN,
        "messages": (*_OWN, *_ANTHROPIC),
        "search": _OWN_TOOL,
        "fetch": _OWN_TOOL,
        "other": _OWN,
    },
}

# fields that frame the message rather than say who sent it: the proxy and HTTP own these
FRAMING = frozenset({"host", "content-length", "transfer-encoding", "content-encoding", "expect", "trailer"})
# fields, as the tables spell them, of which a client may know better: the value of its own request wins if it has one
_CLIENT_KNOWS = ("X-Msh-Tool-Call-Id",)


def _own_version() -> str:
    try:
        return version("kimi-mitm")
    except PackageNotFoundError:  # a checkout that was never installed
        return "0"


def _facts(name: str, device: Device, device_id: str) -> dict[str, str]:
    code = name == "kimi-code"
    versions = {"kimi-cli": KIMI_CLI_VERSION, "kimi-code": KIMI_CODE_VERSION}
    facts = {
        "<platform>": "kimi_code_cli" if code else "kimi_cli",
        "<version>": versions.get(name) or _own_version(),
        "<device-name>": device.node,
        "<device-model>": code_model(device) if code else cli_model(device),
        "<os-version>": node_release(device) if code else device.version,
        "<device-id>": device_id,
        "<node-arch>": node_arch(device),
        "<stainless-os>": STAINLESS_OS.get(device.system, device.system),
    }
    return {key: sanitise(value) for key, value in facts.items()}


@dataclass(frozen=True, slots=True)
class Identity:
    """One client's identity on this machine. `device_id` is "" for `own`, which sends none."""

    name: str
    device_id: str
    _tables: Mapping[str, Table]

    def headers(self, operation: str) -> Headers:
        """Return the fields of a call of our own to *operation*, without Authorization.

        *operation* is one of oauth, models, usages, chat, messages, search, fetch, files, other.
        """
        return Headers(
            (name, value) for name, value in self._tables[operation] if isinstance(value, str) and value != "keep-alive"
        )

    def compose(self, operation: str, client: Headers, bearer: str, keep: frozenset[str] = frozenset()) -> Headers:
        """Return the fields that go upstream for a client's request to *operation*.

        The identity's own table, *bearer* as Authorization, the fields of *client* that frame its message, and those
        whose lower-cased names are in *keep*.
        """
        table = self._tables[operation]
        out = [pair for pair in client if pair[0].lower() in FRAMING]
        for name, value in table:
            mine = client.get(name) if value is CLIENT or name in _CLIENT_KNOWS else None
            if mine is not None:
                out.append((name, mine))
            elif value is not CLIENT:
                out.append((name, bearer if value is BEARER else str(value)))
        kept = keep - _names(table) - FRAMING if keep else keep
        return Headers([*out, *(pair for pair in client if pair[0].lower() in kept)] if kept else out)

    def removed(self, operation: str, client: Headers, keep: frozenset[str] = frozenset()) -> list[str]:
        """Return the names of *client*'s fields that `compose` does not let through, lower case, sorted."""
        return sorted(client.first.keys() - _names(self._tables[operation]) - FRAMING - keep - {"authorization"})


@functools.lru_cache(maxsize=64)  # there are two dozen tables
def _names(table: Table) -> frozenset[str]:
    return frozenset(name.lower() for name, _ in table)


def _fill(table: Table, facts: Mapping[str, str]) -> Table:
    def fill(value: Value) -> Value:
        if not isinstance(value, str):
            return value
        for key, fact in facts.items():
            value = value.replace(key, fact)
        return value

    return tuple((name, fill(value)) for name, value in table)


def build(name: str, device: Device, device_id: str) -> Identity:
    """Return identity *name* for *device*; pure."""
    facts = _facts(name, device, device_id)
    return Identity(name, device_id, {operation: _fill(table, facts) for operation, table in TABLES[name].items()})


def load(name: str, environ: Mapping[str, str] = os.environ, home: Path | None = None) -> Identity:
    """Return identity *name* on this machine, with the device id that the client of that name uses.

    The id's file is made (0600) when it is missing and never overwritten. Where it cannot be made or read, an id
    derived from the machine's name stands in, so that it is at least the same at every start.
    """
    device = Device.here()
    path = device_id_path(name, environ, home)
    return build(name, device, read_device_id(path, device, dashed=name == "kimi-code") if path else "")
