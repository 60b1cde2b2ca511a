"""The tools of a chat request as Kiro takes them: names, specifications, stubs, choice (kiro.md §3.5, §3.6, §4.1)."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from kimi_core.errors import BadRequest
from kimi_core.kiro.openai_in import FunctionSpec, Tool, is_finite
from kimi_core.kiro.schema import clean

NAME_LENGTH = 64  # characters (service model)
MAX_DESCRIPTION = 9216  # characters; the service model says 10240, the most careful of the clients that tried 9216
MANY_TOOLS = 64  # 137 tools have been refused and 49 taken; above this the flow says how many there are
_HASH_LENGTH = 8

STUB_DESCRIPTION = "A tool that was used earlier in this conversation. It is not available now: do not call it."
_STUB_SCHEMA = {"type": "object", "properties": {}}

_legal = re.compile(rf"[A-Za-z0-9_-]{{1,{NAME_LENGTH}}}").fullmatch
_foreign = re.compile(r"[^A-Za-z0-9_-]")

type Forced = Literal["refuse", "prompt"]


class ToolNames:
    """Names of tools as Kiro takes them, and back again.

    A name of allowed characters and length stays as it is. Any other becomes its beginning and a hash of the whole,
    which depends on the name alone: it is the same in every turn. Where that is the name of another tool, the hash is
    taken once more.
    """

    __slots__ = ("_wire", "aliases")

    def __init__(self, names: Iterable[str]) -> None:
        names = list(dict.fromkeys(names))
        self._wire = {name: name for name in names if _legal(name)}
        self.aliases: dict[str, str] = {}
        """Name on the wire -> the client's name, where they differ."""
        for name in names:
            if name not in self._wire:
                alias = self._alias(name)
                self._wire[name] = alias
                self.aliases[alias] = name

    def wire(self, name: str) -> str:
        """Return the name on the wire of a tool that was among the names."""
        return self._wire[name]

    def _alias(self, name: str) -> str:
        base = _foreign.sub("_", name)[: NAME_LENGTH - _HASH_LENGTH - 1]
        salt = ""
        while (alias := f"{base}_{_digest(name + salt)}") in self.aliases or alias in self._wire:
            salt += "\0"
        return alias


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]


@dataclass(frozen=True, slots=True)
class Choice:
    """What ``tool_choice`` asks for: `allowed` None = every tool.

    `forced`: a call has to come, and none but that of `name` where there is one; Kiro can only be asked for it.
    """

    allowed: frozenset[str] | None = None
    forced: bool = False
    name: str | None = None

    def sentence(self, names: ToolNames) -> str:
        """Return the words that ask for the call."""
        what = "at least one of the tools" if self.name is None else f"the tool {names.wire(self.name)}"
        return f"Call {what} now."


_FREE = Choice()


def choice(value: Any, names: Sequence[str], forced: Forced) -> Choice:
    """Return what ``tool_choice`` *value* asks for among the tools *names*. Raises BadRequest.

    Kiro has no field for it. auto is what it does, none leaves the tools out; a call cannot be forced, so that is
    refused, or by the user's option asked for in words.
    """
    match value:
        case None | "auto":
            return _FREE
        case "none":
            return Choice(frozenset())
        case "required":
            _may_force(names, forced)
            return Choice(forced=True)
        case {"type": "function", "function": {"name": str(name)}}:
            _known([name], names, "tool_choice.function.name")
            _may_force(names, forced)
            return Choice(forced=True, name=name)
        case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode, "tools": list(tools)}}:
            allowed = frozenset(_known(map(_named, tools), names, "tool_choice.allowed_tools.tools"))
            if mode == "required":
                _may_force(names, forced)
            return Choice(allowed, forced=mode == "required")
    raise BadRequest("tool_choice is auto, none, required, a function or a list of allowed tools.", "tool_choice")


def _may_force(names: Sequence[str], forced: Forced) -> None:
    if not names:
        raise BadRequest("tool_choice asks for a call, but there are no tools.", "tool_choice")
    if forced == "refuse":
        raise BadRequest(
            "Kiro cannot be made to call a tool. Send tool_choice auto, or set kiro_forced_tools=prompt to have it "
            "asked for in words, without a guarantee.",
            "tool_choice",
        )


def _named(tool: Any) -> str:
    match tool:
        case {"type": "function", "function": {"name": str(name)}}:
            return name
    raise BadRequest("An allowed tool is a function with its name.", "tool_choice.allowed_tools.tools")


def _known(wanted: Iterable[str], names: Sequence[str], path: str) -> list[str]:
    found = list(wanted)
    if missing := next((name for name in found if name not in names), None):
        raise BadRequest(f"There is no tool of the name {missing[:NAME_LENGTH]!r}.", path)
    return found


@dataclass(slots=True)
class ToolSet:
    """`specs` for the wire. `sections`: text that found no room in them, for the system text.

    `stubs`: the client's names of tools that only the history knows.
    """

    specs: list[dict[str, Any]]
    names: ToolNames
    sections: tuple[str, ...] = ()
    stubs: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    repairs: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))


def build(tools: Sequence[Tool], called: Iterable[str], allowed: frozenset[str] | None) -> ToolSet:
    """Return what to send for *tools*, and for those that were *called* in the history.

    *allowed* None = every tool. Kiro refuses a history that calls a tool which is not among the current ones, so these
    get a stub. Raises BadRequest with the path at fault.
    """
    repairs: defaultdict[str, int] = defaultdict(int)
    kept = {name: place for name, place in _distinct(tools, repairs).items() if allowed is None or name in allowed}
    stubs = tuple(name for name in dict.fromkeys(called) if name not in kept)
    names = ToolNames([*(tool.function.name for tool in tools), *stubs])
    sections: list[str] = []
    specs = [
        _specification(tools[place].function, names.wire(name), f"tools[{place}].function", sections, repairs)
        for name, place in kept.items()
    ]
    specs += [_written(names.wire(name), STUB_DESCRIPTION, _STUB_SCHEMA) for name in stubs]
    repairs["tool-stub-added"] += len(stubs)
    repairs["tool-name-aliased"] += len(names.aliases)
    ignored = ("tools[].function.strict",) if any(tools[place].function.strict for place in kept.values()) else ()
    return ToolSet(specs, names, tuple(sections), stubs, ignored, repairs)


def _distinct(tools: Sequence[Tool], repairs: defaultdict[str, int]) -> dict[str, int]:
    """Return the place of each tool by its name; the same tool twice counts once."""
    places: dict[str, int] = {}
    for place, tool in enumerate(tools):
        first = places.setdefault(tool.function.name, place)
        if first == place:
            continue
        if tools[first].function != tool.function:
            raise BadRequest("Two different tools have the same name.", f"tools[{place}].function.name")
        repairs["duplicate-tool-dropped"] += 1
    return places


def _specification(
    function: FunctionSpec, name: str, path: str, sections: list[str], repairs: defaultdict[str, int]
) -> dict[str, Any]:
    description = function.description or ""
    if not description.strip():
        description = name
    if len(description) > MAX_DESCRIPTION:
        sections.append(f"# Tool {name}\n\n{description}")
        description = f'Described in full under "Tool {name}" at the beginning of this conversation.'
        repairs["tool-description-moved"] += 1
    schema, dropped = clean(function.parameters or {}, f"{path}.parameters")
    if not is_finite(schema):
        raise BadRequest("A number is too large.", f"{path}.parameters")
    repairs["schema-keyword-dropped"] += dropped
    return _written(name, description, schema)


def _written(name: str, description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"toolSpecification": {"name": name, "description": description, "inputSchema": {"json": schema}}}
