"""Tool calls from their fragments (kiro.md §2.4).

A call is a run of fragments with one id: first a name, then pieces of JSON text, at last a stop. Seen besides: the
whole arguments as an object, no stop at all, no id after the first fragment, fragments of a finished call once more.

Text goes on as it comes. Nothing is mended: what does not become one JSON object raises ToolCallBroken, so that no
half of a call is ever taken for one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from kimi_core.kiro.events import ToolUse
from kimi_core.kiro.failures import ToolCallBroken
from kimi_core.kiro.frames import read_json
from kimi_core.kiro.text import Surrogates
from kimi_core.wire.parts import ToolArguments, ToolCallEnd, ToolCallStart

MAX_ARGUMENTS = 16 * 1024 * 1024  # characters of a call's arguments; a model's whole output is some hundred thousand
MAX_CALLS = 1000  # calls of an answer; clients run a handful at a time

type CallPart = ToolCallStart | ToolArguments | ToolCallEnd


class _Call:
    """A call that is open."""

    __slots__ = ("halves", "held", "id", "index", "length", "name", "object", "sent", "text", "waits")

    def __init__(self, index: int, call_id: str) -> None:
        self.index = index
        self.id = call_id
        self.name: str | None = None  # what the client calls it; a ToolCallStart has gone out
        self.text: list[str] = []  # string fragments
        self.held = ""  # of these, what has not gone out
        self.sent = 0  # characters that have
        self.length = 0
        self.object: dict[str, Any] | None = None  # object fragments, merged
        self.waits = False  # an object came before any text: the end decides which of them counts
        self.halves = Surrogates()


class ToolCalls:
    """Turns fragments into parts; one for each answer."""

    __slots__ = ("_aliases", "_ended", "_open", "ids")

    def __init__(self, aliases: Mapping[str, str]) -> None:
        self._aliases = aliases
        self._open: _Call | None = None
        self._ended: dict[str, bool] = {}  # id -> whether it had arguments
        self.ids: list[str] = []
        """Ids of the calls that began, in order."""

    @property
    def open(self) -> bool:
        """True while a call is not complete."""
        return self._open is not None

    def begins(self, fragment: ToolUse) -> bool:
        """Tell whether *fragment* is the first of a call."""
        known = fragment.id is None or fragment.id in self._ended
        return not known and (self._open is None or self._open.id != fragment.id)

    def take(self, fragment: ToolUse) -> Iterator[CallPart]:
        """Yield what *fragment* adds. Raises ToolCallBroken."""
        call_id = fragment.id or (self._open.id if self._open else None)
        if call_id is None:
            if fragment.input or fragment.name:
                raise ToolCallBroken("Kiro sent a piece of a tool call without saying of which.")
            return
        if call_id in self._ended:
            self._replay(call_id, fragment)
            return
        if self._open is not None and self._open.id != call_id:
            yield from self._end()
        call = self._open = self._open or self._begin(call_id)
        yield from self._add(call, fragment)
        if fragment.stop:
            yield from self._end()

    def finish(self) -> Iterator[CallPart]:
        """Yield the end of a call that never stopped; to be called where the answer is complete."""
        if self._open is not None:
            yield from self._end()

    def _begin(self, call_id: str) -> _Call:
        if len(self.ids) >= MAX_CALLS:
            raise ToolCallBroken(f"Kiro sent more than {MAX_CALLS} tool calls in one answer.")
        self.ids.append(call_id)
        return _Call(len(self.ids) - 1, call_id)

    def _replay(self, call_id: str, fragment: ToolUse) -> None:
        """Ignore a fragment of a finished call, unless it brings what that call went without."""
        if fragment.input and not self._ended[call_id]:
            raise ToolCallBroken("Kiro sent arguments for a tool call that had ended without any.")

    def _add(self, call: _Call, fragment: ToolUse) -> Iterator[CallPart]:
        if fragment.name and call.name is None:
            call.name = self._aliases.get(fragment.name, fragment.name)
            yield ToolCallStart(call.index, call.id, call.name)
        if isinstance(fragment.input, dict):
            call.object = {**(call.object or {}), **fragment.input}
            call.waits = call.waits or (bool(call.object) and not call.text)
        elif fragment.input:
            self._append(call, call.halves.push(fragment.input))
        # white space may turn out to be all there is, and then is no JSON object
        if call.name is not None and not call.waits and (call.sent or not call.held.isspace()):
            yield from self._give(call, call.held)

    def _end(self) -> Iterator[CallPart]:
        call, self._open = self._open, None
        assert call is not None
        if call.name is None:
            raise ToolCallBroken("Kiro sent a tool call without a name.")
        self._append(call, call.halves.flush())
        yield from self._give(call, self._rest(call))
        self._ended[call.id] = call.sent > len(_NOTHING)
        yield ToolCallEnd(call.index)

    @staticmethod
    def _append(call: _Call, text: str) -> None:
        call.length += len(text)
        if call.length > MAX_ARGUMENTS:
            raise ToolCallBroken(f"Kiro sent a tool call with more than {MAX_ARGUMENTS} characters of arguments.")
        call.text.append(text)
        call.held += text

    @staticmethod
    def _rest(call: _Call) -> str:
        """Return what is missing from the arguments: string fragments win over objects where they parse."""
        text = "".join(call.text)
        if isinstance(read_json(text), dict):
            return call.held
        if call.sent or (text.strip() and not call.object):
            # no length in it: clients take numbers like 500 for a passing fault and ask again
            raise ToolCallBroken(
                f"The arguments of a call of {call.name} are no JSON object: they were cut or damaged."
            )
        return json.dumps(call.object, separators=(",", ":")) if call.object else _NOTHING

    @staticmethod
    def _give(call: _Call, text: str) -> Iterator[CallPart]:
        call.held = ""
        call.sent += len(text)
        if text:
            yield ToolArguments(call.index, text)


_NOTHING = "{}"  # the arguments of a call that has none
