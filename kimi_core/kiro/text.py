"""What happens to the text of an answer between the model and the client, one incremental step each.

Every step has ``push(text) -> text`` and ``flush() -> text``; it holds back what it cannot decide yet, and what it
gives out does not depend on how the text was cut. Where nothing is switched on, text goes through as it is: it is never
deduplicated (kiro.md §2.3).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

REPLACEMENT = "\ufffd"
THINKING_TAGS = ("thinking", "think", "reasoning", "thought")


class Surrogates:
    """Joins surrogate halves that two deltas share, so that what leaves can be encoded as UTF-8.

    A half that stays alone becomes U+FFFD.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""

    def push(self, text: str) -> str:
        """Return *text* without a high half at its end, which waits for its other half."""
        if not self._held and (text.isascii() or _encodable(text)):
            return text
        text = self._held + text
        self._held = ""
        if "\ud800" <= text[-1:] <= "\udbff":
            self._held, text = text[-1], text[:-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def flush(self) -> str:
        """Return U+FFFD for a half that is left."""
        held, self._held = self._held, ""
        return REPLACEMENT if held else ""


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class ThinkingTags:
    """Takes ``<thinking>…</thinking>`` from the start of an answer, and only from there (kiro.md §5).

    What is inside goes to *on_thought*; the white space before the block and the blank lines after it are dropped. A
    closing tag beside a quote or a backtick is talk about the tag. A block that never ends is thought to the end.
    """

    __slots__ = ("_back", "_close", "_held", "_last", "_on_thought", "_push", "_tags")

    def __init__(self, on_thought: Callable[[str], None], tags: Iterable[str] = THINKING_TAGS) -> None:
        self._on_thought = on_thought
        self._tags = {f"<{tag}>": re.compile(rf"(?<![`'\"])</{tag}>(?![`'\"])") for tag in tags}
        self._held = ""
        self._last = ""  # the character before `_held`, within the block
        self._close = re.compile("")
        self._back = 0  # characters that a closing tag and the one after it have
        self._push: Callable[[str], str] = self._before

    def push(self, text: str) -> str:
        """Take a delta, return what is text."""
        return self._push(text)

    def flush(self) -> str:
        """Return what was held back and is text; give the rest of a block to *on_thought*."""
        held, self._held = self._held, ""
        if self._push != self._inside:
            return held if self._push == self._before else ""
        end = re.search(self._close.pattern + r"\Z", self._last + held)
        self._think(held if end is None else held[: end.start() - len(self._last)])
        return ""

    def _before(self, text: str) -> str:
        self._held += text
        start = self._held.lstrip()
        for tag, close in self._tags.items():
            if start.startswith(tag):
                self._held, self._close, self._push = "", close, self._inside
                self._back = len("/") + len(tag) + 1
                return self._inside(start.removeprefix(tag))
        if any(tag.startswith(start) for tag in self._tags):
            return ""
        self._push = _as_it_is
        held, self._held = self._held, ""
        return held

    def _inside(self, text: str) -> str:
        held = self._last + self._held + text
        end = self._close.search(held, len(self._last))
        if end is not None and end.end() < len(held):  # the character after the tag is there and is no quote
            self._think(held[len(self._last) : end.start()])
            self._held, self._push = "", self._after
            return self._after(held[end.end() :])
        keep = max(len(self._last), len(held) - self._back)
        self._think(held[len(self._last) : keep])
        self._last, self._held = held[max(0, keep - 1) : keep], held[keep:]
        return ""

    def _after(self, text: str) -> str:
        self._held += text
        if self._held.isspace() or not self._held:
            return ""
        held, self._held, self._push = self._held, "", _as_it_is
        white = len(held) - len(held.lstrip())
        return held[held.rfind("\n", 0, white) + 1 :]

    def _think(self, text: str) -> None:
        if text:
            self._on_thought(text)


def _as_it_is(text: str) -> str:
    return text


class Fence:
    """Takes a single outer fence of three backticks off an answer that should be bare JSON (kiro.md §4.1).

    An answer that begins with a fence is held back to its end, since only there it shows that the fence is the outer
    one; any other passes at once.
    """

    __slots__ = ("_fenced", "_held", "_passing")

    def __init__(self) -> None:
        self._held = ""  # while it is open whether there is a fence
        self._fenced: list[str] = []
        self._passing = False

    def push(self, text: str) -> str:
        """Return what may pass."""
        if self._passing:
            return text
        if self._fenced:
            self._fenced.append(text)
            return ""
        self._held += text
        start = self._held.lstrip()
        if _FENCE.startswith(start[: len(_FENCE)]):
            if len(start) >= len(_FENCE):
                self._fenced.append(self._held)
                self._held = ""
            return ""
        self._passing = True
        text, self._held = self._held, ""
        return text

    def flush(self) -> str:
        """Return what was held back, without its fence if that is the only one."""
        text, self._held = self._held + "".join(self._fenced), ""
        self._fenced.clear()
        body = text.strip()
        opening = _OPENING.match(body)
        if opening is None or not body.endswith(_FENCE, opening.end()):
            return text
        inner = body[opening.end() : -len(_FENCE)].strip()
        return text if _INNER_FENCE.search(inner) else inner


_FENCE = "```"
_OPENING = re.compile(r"```[\w+-]*[ \t]*\r?\n")
_INNER_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)


class StopSequences:
    """Ends the text before the first of *stops* that is complete, also where it is spread over deltas."""

    __slots__ = ("_held", "_stops", "hit")

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(filter(None, stops))
        self._held = ""
        self.hit = False
        """True from the moment a sequence was complete; no text leaves after that."""

    def push(self, text: str) -> str:
        """Return what cannot be part of a stop sequence."""
        if self.hit:
            return ""
        text = self._held + text
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self.hit, self._held = True, ""
            return text[: min(found)[1]]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        cut = len(text) - held
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """Return what was held back and did not become a stop sequence."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of *text* may be the beginning of *stop*."""
    longest = min(len(stop) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
