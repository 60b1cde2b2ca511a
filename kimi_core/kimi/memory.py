"""What the model thought before each tool call, for clients that do not send it back (kimi.md §3.5).

Upstream wants the `reasoning_content` of every assistant turn that called a tool. Call ids such as ``Shell:0`` begin
anew in every conversation, so what is remembered belongs to a scope: the conversation that the answer was part of.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

MAX_ENTRIES = 4096  # tool calls; the longest agent runs seen make a few hundred
MAX_BYTES = 32 * 1024 * 1024  # reasoning of one turn is 1-20 kB, so the entries fit; a runaway answer does not


class _Shelf:
    """The entries of all scopes in order of use, the longest unused first."""

    __slots__ = ("entries", "max_bytes", "max_entries", "size")

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self.entries: OrderedDict[tuple[str, str], tuple[str, int]] = OrderedDict()
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.size = 0

    def put(self, key: tuple[str, str], text: str) -> None:
        size = len(text.encode("utf-8", "surrogatepass"))
        _, old = self.entries.pop(key, ("", 0))
        self.entries[key] = (text, size)
        self.size += size - old
        while len(self.entries) > self.max_entries or self.size > self.max_bytes:
            _, (_, gone) = self.entries.popitem(last=False)
            self.size -= gone

    def get(self, key: tuple[str, str]) -> str | None:
        if key not in self.entries:
            return None
        self.entries.move_to_end(key)
        return self.entries[key][0]


class ReasoningMemory:
    """Reasoning by tool-call id, bounded by entries and by bytes; the longest unused goes first.

    All scopes of one memory share its bounds. Each operation is O(1).
    """

    __slots__ = ("_scope", "_shelf")

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._shelf = _Shelf(max_entries, max_bytes)
        self._scope = ""

    def __repr__(self) -> str:
        return f"ReasoningMemory({len(self)} entries)"  # what was thought is no matter for a log

    def __len__(self) -> int:
        return len(self._shelf.entries)

    def scope(self, conversation: str) -> ReasoningMemory:
        """Return the part of this memory that belongs to *conversation*."""
        view = object.__new__(ReasoningMemory)
        view._shelf = self._shelf
        view._scope = conversation
        return view

    def remember(self, call_ids: Iterable[str], reasoning: str) -> None:
        """Keep *reasoning* (may be empty: thought, but said nothing) for every one of *call_ids*."""
        for call_id in call_ids:
            self._shelf.put((self._scope, call_id), reasoning)

    def recall(self, call_id: str) -> str | None:
        """Return what was thought before the call *call_id*, None where that is not known."""
        return self._shelf.get((self._scope, call_id))
