"""Tools that were translated before: a client sends the same ones with every request of a conversation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from kimi_core.kiro.openai_in import Tool
from kimi_core.kiro.tools import ToolSet, build

KEPT = 8  # tool sets; a line of work has one for its agent and one for each kind of sub-agent
# of JSON, of what a client sent and of what it became: references in a schema can make that a thousand times as long.
# A client's twenty tools have about 30 KB; what is longer is translated each time.
KEPT_BYTES = 128 * 1024

type Key = tuple[bytes, tuple[str, ...], frozenset[str] | None]


class ToolSets:
    """What tools became, by what they were; the longest unused go first."""

    def __init__(self, keep: int = KEPT, longest: int = KEPT_BYTES) -> None:
        self._keep = keep
        self._longest = longest
        self._known: OrderedDict[Key, ToolSet] = OrderedDict()

    def build(
        self, raw: Any, tools: Sequence[Tool], called: Iterable[str], allowed: frozenset[str] | None = None
    ) -> ToolSet:
        """Return what `tools.build` does for *tools*, which were read from the JSON value *raw*; not to be altered."""
        offered = {tool.function.name for tool in tools}
        if allowed is not None:
            offered &= allowed
        stubs = tuple(name for name in dict.fromkeys(called) if name not in offered)
        text = _text(raw)
        if text is None or len(text) + sum(map(len, stubs)) > self._longest:
            return build(tools, stubs, allowed)
        key = (text, stubs, allowed)
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
            return found
        found = build(tools, stubs, allowed)
        made = _text(found.specs)
        if made is not None and len(made) <= self._longest:
            self._known[key] = found
            if len(self._known) > self._keep:
                self._known.popitem(last=False)
        return found


def _text(raw: Any) -> bytes | None:
    """Return *raw* as JSON, None where it is deeper than the fast writer goes."""
    try:
        return to_json(raw)
    except PydanticSerializationError:
        return None
