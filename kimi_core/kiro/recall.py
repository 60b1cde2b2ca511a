"""What a model thought in a turn, given back when a client sends that turn again without it (kiro.md §5).

Native reasoning carries a signature that only the service can make, and clients drop it. So it is remembered per
conversation by the ids of the turn's tool calls; a turn that called nothing does without.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kimi_core.kiro.answer import Answer

MAX_TURNS = 2048  # turns of all conversations; an agent's longest run has a few hundred
MAX_CHARACTERS = 16 * 1024 * 1024  # of all thoughts kept

type Key = tuple[str, ...]  # the conversation, then the ids of a turn's calls


class TurnMemory:
    """Reasoning by turn, bounded; the longest unused goes first."""

    def __init__(self, max_turns: int = MAX_TURNS, max_characters: int = MAX_CHARACTERS) -> None:
        self._turns: OrderedDict[Key, tuple[dict[str, Any], int]] = OrderedDict()
        self._max_turns = max_turns
        self._max_characters = max_characters
        self._characters = 0

    def __repr__(self) -> str:
        return f"TurnMemory({len(self._turns)} turns)"  # what was thought is no matter for a log

    def recall(self, conversation: str) -> Callable[[Sequence[str], str], dict[str, Any] | None]:
        """Return the lookup for one conversation: ids of a turn's calls (and its text) -> ``reasoningContent``."""

        def lookup(call_ids: Sequence[str], _text: str) -> dict[str, Any] | None:
            key = (conversation, *call_ids)
            if key not in self._turns:
                return None
            self._turns.move_to_end(key)
            return self._turns[key][0]

        return lookup

    def remember(self, conversation: str, answer: Answer) -> None:
        """Keep what *answer* thought before its calls; nothing where it called or showed nothing."""
        content = _content(answer)
        if content is None or not answer.calls.ids:
            return
        key = (conversation, *answer.calls.ids)
        size = len(answer.thoughts.text) + sum(map(len, answer.thoughts.redacted))
        self._characters += size - self._turns.pop(key, ({}, 0))[1]
        self._turns[key] = (content, size)
        while len(self._turns) > self._max_turns or self._characters > self._max_characters:
            _, (_, gone) = self._turns.popitem(last=False)
            self._characters -= gone


def _content(answer: Answer) -> dict[str, Any] | None:
    thoughts = answer.thoughts
    if thoughts.text and thoughts.signature:
        return {"reasoningText": {"text": thoughts.text, "signature": thoughts.signature}}
    if thoughts.redacted:
        return {"redactedContent": thoughts.redacted[-1]}
    return None
