"""Every option once: name, type, default, help.

mitmproxy's options are declared from these fields (`mitmdump --options` prints them), and the command line reads
the same names from the user's mitmproxy configuration, so that both sides of the program agree. mitmproxy knows
only str, int, bool and lists of str: hence plain types here and validation on top.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from kimi_core.errors import ConfigError

_VERSION = r"^([0-9][0-9A-Za-z_.-]{0,31})?$"  # of ASCII: to compile all of Unicode's digits takes long
_HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(?:\.(?!-)[a-z0-9-]{1,63})*", re.IGNORECASE)

SECRETS = ("kimi_client_key",)  # their values are not repeated in messages


class Settings(BaseModel):
    """The options of the addon, validated."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kimi_region: Annotated[
        Literal["cn", "global"],
        Field(
            description="Where your Kimi Code plan lives: cn = kimi.com, global = kimi.ai. Logins are kept apart; "
            "requests to api.kimi.com and api.kimi.ai use the login of their own region in any case."
        ),
    ] = "cn"
    kimi_identity: Annotated[
        Literal["kimi-cli", "kimi-code", "own"],
        Field(
            description="How requests identify themselves: as kimi-cli, as its successor Kimi Code, or honestly as "
            "this program (which the service may refuse)."
        ),
    ] = "kimi-cli"
    kimi_thinking: Annotated[
        Literal["plugin", "kimi-cli", "kimi-code"],
        Field(
            description="How an effort is put into the request: plugin = thinking and reasoning_effort, kimi-cli = "
            "thinking on or off only, kimi-code = thinking.effort as far as the model lists it."
        ),
    ] = "plugin"
    kimi_keep_own_key: Annotated[
        bool,
        Field(description="Leave requests alone that carry an API key of the client's own (sk-…)."),
    ] = False
    kimi_keep_headers: Annotated[
        list[str],
        Field(
            description="Names of client headers to let through although they are not part of the identity in use; "
            "all others of the client's own are removed."
        ),
    ] = []
    kimi_parent_cache_key: Annotated[
        bool,
        Field(description="Give the requests of a sub-agent the prompt cache key of the session that started it."),
    ] = True
    kimi_clamp_tokens: Annotated[
        bool,
        Field(description="Lower max_completion_tokens to what is left of the model's context."),
    ] = False
    kimi_max_body: Annotated[
        int,
        Field(ge=1, description="Largest chat request that is read, in MiB; a larger one is refused."),
    ] = 64
    kimi_first_byte_timeout: Annotated[
        int,
        Field(ge=0, description="Seconds to wait for the first byte of a Kimi answer; 0 = no limit."),
    ] = 0
    kimi_idle_timeout: Annotated[
        int,
        Field(
            ge=0,
            description="Seconds of silence within a Kimi answer after which it is ended with an error; 0 = no limit.",
        ),
    ] = 0
    kimi_record_limit: Annotated[
        int,
        Field(
            ge=0,
            description="KiB that a flow keeps for inspection of a streamed answer, and of each original that was "
            "rewritten: the client's request, the service's answer; 0 = keep nothing.",
        ),
    ] = 8192
    kimi_client_key: Annotated[
        str,
        Field(
            description="Key that clients must send as their API key. Empty = programs on this machine need none. "
            "auto = one is made at first start and kept with the logins (`kimi-mitm status` shows where)."
        ),
    ] = ""
    kimi_allow_clients: Annotated[
        list[str],
        Field(
            description="Networks besides this machine whose clients may use the proxy (10.0.0.0/24); "
            "needs kimi_client_key as well."
        ),
    ] = []
    kimi_intercept_all: Annotated[
        bool,
        Field(description="Decrypt every host, not only those that are served here."),
    ] = False

    kiro_enabled: Annotated[
        bool,
        Field(description="Serve Kiro: OpenAI-style paths on its hosts, and /kiro/ on the proxy's own port."),
    ] = True
    kiro_identity: Annotated[
        Literal["cli", "ide"],
        Field(description="How requests to Kiro identify themselves: as kiro-cli or as the Kiro IDE."),
    ] = "cli"
    kiro_cli_version: Annotated[
        str,
        Field(
            pattern=_VERSION,
            description="Version of kiro-cli that requests name. Empty = the one that this program was made with.",
        ),
    ] = ""
    kiro_ide_version: Annotated[
        str,
        Field(
            pattern=_VERSION,
            description="Version of the Kiro IDE that requests name. Empty = the one that this program was made with; "
            "Kiro turns old ones away.",
        ),
    ] = ""
    kiro_strategy: Annotated[
        Literal["", "sticky", "round-robin", "hybrid"],
        Field(
            description="How an account is chosen for a conversation: sticky = the active one, round-robin = the least "
            "recently used, hybrid = the active one while it has credits, then the one with most. Empty = what the "
            "accounts file says."
        ),
    ] = ""
    kiro_sync: Annotated[
        bool,
        Field(
            description="Take over logins of kiro-cli, the Kiro IDE and opencode's Kiro plugins at start, each once, "
            "as `kimi-mitm accounts sync` does."
        ),
    ] = False
    kiro_concurrency: Annotated[
        int,
        Field(ge=0, description="Requests that a Kiro account may have under way at a time; 0 = any number."),
    ] = 0
    kiro_deadline: Annotated[
        int,
        Field(
            ge=1,
            description="Seconds from the start of a request after which no other account is tried any more.",
        ),
    ] = 300
    kiro_first_byte_timeout: Annotated[
        int,
        Field(ge=0, description="Seconds to wait for the first byte of a Kiro answer; 0 = no limit."),
    ] = 180
    kiro_idle_timeout: Annotated[
        int,
        Field(
            ge=0,
            description="Seconds of silence within a Kiro answer after which it is ended with an error; 0 = no limit.",
        ),
    ] = 300
    kiro_reasoning: Annotated[
        Literal["native", "tags", "off"],
        Field(
            description="How thinking is asked of Kiro models: native = by the fields that the model lists, tags = by "
            "words in the prompt where it lists none, off = not at all."
        ),
    ] = "native"
    kiro_forced_tools: Annotated[
        Literal["refuse", "prompt"],
        Field(
            description="What becomes of a tool_choice that forces a call, which Kiro cannot do: refuse = the request "
            "is refused, prompt = the call is asked for in words."
        ),
    ] = "refuse"
    kiro_max_weight: Annotated[
        int,
        Field(
            ge=0,
            description="Refuse a request to Kiro whose text weighs more (a byte of ASCII 1, any other character 8) as "
            "too long for the context; 0 = let Kiro decide.",
        ),
    ] = 0
    openai_hosts: Annotated[
        list[str],
        Field(
            description="Other OpenAI-style hosts (api.openai.com) on which requests whose model begins with kiro/ or "
            "kimi/ are taken over; all others pass untouched with their own key."
        ),
    ] = []

    @field_validator("kimi_allow_clients")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for network in value:
            ipaddress.ip_network(network)
        return value

    @field_validator("openai_hosts")
    @classmethod
    def _hosts(cls, value: list[str]) -> list[str]:
        for host in value:
            if not _HOST.fullmatch(host):
                raise ValueError(f"{host!r} is no host name (api.openai.com)")
        return [host.lower() for host in value]

    def networks(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        """Return the networks of `kimi_allow_clients`."""
        return [ipaddress.ip_network(network) for network in self.kimi_allow_clients]


def choices(name: str) -> tuple[str, ...] | None:
    """Return the values that option *name* can take, or None where it is free."""
    annotation = Settings.model_fields[name].annotation
    return get_args(annotation) if get_origin(annotation) is Literal else None


def parse(values: dict[str, object]) -> Settings:
    """Return validated settings; unknown names are an error.

    Raises ConfigError with one sentence that names the option and what is wrong with it.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":  # what was given is not repeated: the misspelt one may be a secret's
            raise ConfigError(f"There is no option {name}.") from None
        got = "" if name in SECRETS else f" (got {first['input']!r})"
        raise ConfigError(f"Option {name}: {first['msg']}{got}.") from (None if name in SECRETS else error)
