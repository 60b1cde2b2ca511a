"""Who a request says it comes from: kiro-cli or the Kiro IDE, one table each, never halves of two (kiro.md §3.1, §3.2).

The service checks that host, target, origin and header fields fit together, so all of them come from here. Names in
``<angle brackets>`` are filled from the versions, this machine, the account and the call.

To follow a new release of a client: change `Versions`, and compare the tables with a fresh recording.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from kimi_core.headers import Headers
from kimi_core.kiro.constants import AWS_JSON, GENERATE_TARGET, MODELS_TARGET, PROFILES_TARGET, USAGE_TARGET

type Name = Literal["cli", "ide"]
type Operation = Literal["generate", "models", "usage", "profiles", "refresh"]
type Table = tuple[tuple[str, str], ...]

# values that differ from call to call; one that a call has none for is left out
BEARER = "<bearer>"
ATTEMPT = "<attempt>"
INVOCATION = "<invocation>"


@dataclass(frozen=True, slots=True)
class Versions:
    """Versions that the clients name: pinned here, once. The service turns old ones of the IDE away."""

    cli: str = "2.14.2"
    cli_sdk: str = "1.3.15"
    cli_api: str = "0.1.17975"
    cli_rust: str = "1.92.0"
    cli_metrics: str = "F,C"
    ide: str = "0.12.155"
    ide_sdk: str = "1.0.34"
    ide_control_sdk: str = "1.0.0"
    ide_node: str = "22.22.0"

    @classmethod
    def chosen(cls, cli: str = "", ide: str = "") -> Versions:
        """Return the pinned versions with those of the user's options in their place, where not empty."""
        pinned = cls()
        return replace(pinned, cli=cli or pinned.cli, ide=ide or pinned.ide)


PINNED = Versions()


@dataclass(frozen=True, slots=True)
class Machine:
    """The operating system, as Python's `platform` names it."""

    system: str = field(default_factory=platform.system)
    release: str = field(default_factory=platform.release)


# --- kiro-cli: aws-sdk-rust, thirteen fields ------------------------------------------------------------------------


def _cli(target: str, api: str) -> Table:
    return (
        ("content-type", AWS_JSON),
        ("x-amz-target", target),
        (
            "user-agent",
            f"aws-sdk-rust/<cli-sdk> ua/2.1 api/{api}/<cli-api> os/<cli-os> lang/rust/<cli-rust> "
            "md/appVersion-<cli> app/AmazonQ-For-CLI",
        ),
        (
            "x-amz-user-agent",
            f"aws-sdk-rust/<cli-sdk> ua/2.1 api/{api}/<cli-api> os/<cli-os> lang/rust/<cli-rust> "
            "m/<cli-metrics> app/AmazonQ-For-CLI",
        ),
        ("x-amzn-codewhisperer-optout", "false"),
        ("authorization", BEARER),
        ("accept", "*/*"),
        ("accept-encoding", "gzip"),
        ("amz-sdk-request", ATTEMPT),
        ("amz-sdk-invocation-id", INVOCATION),
        ("connection", "close"),
    )


_CLI: Mapping[Operation, Table] = {
    "generate": _cli(GENERATE_TARGET, "codewhispererstreaming"),
    "models": _cli(MODELS_TARGET, "codewhispererruntime"),
    "usage": _cli(USAGE_TARGET, "codewhispererruntime"),
    "profiles": _cli(PROFILES_TARGET, "codewhispererruntime"),
    "refresh": (
        ("content-type", "application/json"),
        ("user-agent", "Kiro-CLI"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip"),
    ),
}

# --- the IDE: aws-sdk-js -------------------------------------------------------------------------------------------

_IDE_NAME = "KiroIDE-<ide>-<machine-id>"


def _ide(sdk: str, api: str, metrics: str, *more: tuple[str, str]) -> Table:
    return (
        *more,
        ("x-amzn-codewhisperer-optout", "true"),
        (
            "user-agent",
            f"aws-sdk-js/{sdk} ua/2.1 os/<ide-os>#<release> lang/js md/nodejs#<ide-node> "
            f"api/{api}#{sdk} m/{metrics} {_IDE_NAME}",
        ),
        ("x-amz-user-agent", f"aws-sdk-js/{sdk} {_IDE_NAME}"),
        ("amz-sdk-invocation-id", INVOCATION),
        ("amz-sdk-request", ATTEMPT),
        ("authorization", BEARER),
        ("accept", "*/*"),
        ("accept-encoding", "gzip"),
        ("connection", "close"),
    )


_VIBE = ("x-amzn-kiro-agent-mode", "vibe")
_IDE_CONTROL = _ide("<ide-control-sdk>", "codewhispererruntime", "N,E")
_IDE: Mapping[Operation, Table] = {
    "generate": _ide("<ide-sdk>", "codewhispererstreaming", "E", ("content-type", "application/json"), _VIBE),
    "models": _IDE_CONTROL,
    "usage": _IDE_CONTROL,
    "profiles": _ide("<ide-control-sdk>", "codewhispererruntime", "N,E", ("content-type", "application/json")),
    "refresh": (
        ("content-type", "application/json"),
        ("user-agent", _IDE_NAME),
        ("accept", "*/*"),
        ("accept-encoding", "gzip"),
    ),
}

TABLES: Mapping[Name, Mapping[Operation, Table]] = {"cli": _CLI, "ide": _IDE}
ORIGINS: Mapping[Name, str] = {"cli": "KIRO_CLI", "ide": "AI_EDITOR"}
PATHS: Mapping[Name, str] = {"cli": "/", "ide": "/generateAssistantResponse"}

# what a login of that kind adds to calls that carry a token (kiro.md §3.2)
LOGIN_FIELDS: Mapping[str, tuple[str, str]] = {
    "api_key": ("tokentype", "API_KEY"),
    "external_idp": ("TokenType", "EXTERNAL_IDP"),
}
SOME_OPERATIONS = ("generate", "usage")  # the only ones that take the field of an external login

_CLI_OS = {"Darwin": "macos", "Windows": "windows"}  # in the words of aws-sdk-rust; all else is linux
_IDE_OS = {"Darwin": "darwin", "Windows": "win32"}  # in node's


@dataclass(frozen=True, slots=True)
class KiroIdentity:
    """One client's identity for one account. `origin` is the value that every user message carries."""

    name: Name
    _facts: Mapping[str, str] = field(repr=False)
    _filled: dict[Operation, Table] = field(default_factory=dict, repr=False, compare=False)

    @property
    def origin(self) -> str:
        """Value of `origin` in a request."""
        return ORIGINS[self.name]

    @property
    def path(self) -> str:
        """Path to which generation is posted."""
        return PATHS[self.name]

    def headers(
        self,
        operation: Operation,
        *,
        invocation: str,
        attempt: int = 1,
        bearer: str | None = None,
        auth_method: str = "",
    ) -> Headers:
        """Return the fields of one call, without those that frame its message.

        *invocation* is a UUID, one per call and kept over its attempts; *bearer* is the value of Authorization, or
        None for none; *auth_method* is the account's.
        """
        call = {BEARER: bearer, ATTEMPT: f"attempt={attempt}; max=3", INVOCATION: invocation}
        out = Headers(
            [(name, filled) for name, value in self._table(operation) if (filled := call.get(value, value)) is not None]
        )
        everywhere = auth_method == "api_key" and operation != "refresh"
        more = LOGIN_FIELDS.get(auth_method) if everywhere or operation in SOME_OPERATIONS else None
        return out.plus(more) if more else out

    def _table(self, operation: Operation) -> Table:
        """Return the table of *operation* with the facts in it, which are the same for every call."""
        table = self._filled.get(operation)
        if table is None:
            table = tuple((name, _fill(value, self._facts)) for name, value in TABLES[self.name][operation])
            self._filled[operation] = table
        return table


def build(
    name: Name, versions: Versions = PINNED, machine_id: str = "", machine: Machine | None = None
) -> KiroIdentity:
    """Return identity *name*. *machine_id* is the account's own (64 hex digits); only the IDE sends it."""
    here = machine or Machine()
    facts = {
        "<cli>": versions.cli,
        "<cli-sdk>": versions.cli_sdk,
        "<cli-api>": versions.cli_api,
        "<cli-rust>": versions.cli_rust,
        "<cli-metrics>": versions.cli_metrics,
        "<cli-os>": _CLI_OS.get(here.system, "linux"),
        "<ide>": versions.ide,
        "<ide-sdk>": versions.ide_sdk,
        "<ide-control-sdk>": versions.ide_control_sdk,
        "<ide-node>": versions.ide_node,
        "<ide-os>": _IDE_OS.get(here.system, "linux"),
        "<release>": here.release,
        "<machine-id>": machine_id,
    }
    return KiroIdentity(name, {key: _sanitised(value) for key, value in facts.items()})


def _fill(value: str, facts: Mapping[str, str]) -> str:
    for key, fact in facts.items():
        value = value.replace(key, fact)
    return value


def _sanitised(value: str) -> str:
    """Return *value* as part of a header field: visible ASCII without spaces, "unknown" where nothing is left."""
    return "".join(char for char in value if "!" <= char <= "~") or "unknown"
