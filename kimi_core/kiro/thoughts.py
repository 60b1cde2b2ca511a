"""Native reasoning of a turn, kept so that it can be given back with the turn's tool calls (kiro.md §5)."""

from __future__ import annotations

from kimi_core.kiro.events import Reasoning

MAX_TEXT = (
    2 * 1024 * 1024
)  # characters of an answer's reasoning and of its redacted blocks; a full window is about half


class Thoughts:
    """Collects reasoning events. Half a thought is none: where it grows too long, nothing of it is kept."""

    __slots__ = ("_redacted", "_room", "_text", "seen", "signature")

    def __init__(self) -> None:
        self._text: list[str] = []
        self._redacted: list[str] = []
        self._room = MAX_TEXT
        self.seen = False
        """True once the service gave readable thoughts."""
        self.signature: str | None = None
        """What vouches for `text`."""

    def add(self, event: Reasoning) -> None:
        """Take one event."""
        self.seen = self.seen or bool(event.text)
        self._room -= len(event.text) + len(event.redacted or "")
        if self._room < 0:
            self._text, self._redacted, self.signature = [], [], None
            return
        self._text.append(event.text)
        self.signature = event.signature or self.signature
        if event.redacted:
            self._redacted.append(event.redacted)

    @property
    def text(self) -> str:
        """The thoughts, as they came; may hold lone surrogates."""
        return "".join(self._text)

    @property
    def redacted(self) -> tuple[str, ...]:
        """Blocks that only the service can read, base64."""
        return tuple(self._redacted)
