"""An answer as people read it, in nobody's dialect, and its page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kimi_core.view import text
from kimi_core.view.events import Gap
from kimi_core.view.text import Page, count

REASONING_SHOWN = 40_000  # characters
TEXT_SHOWN = 120_000
ARGUMENTS_SHOWN = 20_000
ERROR_SHOWN = 8_000
MAX_CALLS = 100
MAX_ERRORS = 20
MAX_CHOICES = 16


@dataclass(slots=True)
class Call:
    """A tool call: the arguments as the text that came, piece by piece."""

    name: str = ""
    id: str = ""
    pieces: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        """The arguments as they came."""
        return "".join(self.pieces)


@dataclass(slots=True)
class Choice:
    """What one choice of an answer says; `other` holds content of kinds that have no section of their own."""

    reasoning: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    calls: dict[Any, Call] = field(default_factory=dict)
    other: list[Any] = field(default_factory=list)
    finish: str = ""


@dataclass(slots=True)
class Turn:
    """A whole answer.

    `usage` maps a label to what the service counted; a label that begins with a blank is a part of the one above it.
    """

    dialect: str
    model: str = ""
    id: str = ""
    choices: dict[Any, Choice] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    errors: list[Any] = field(default_factory=list)
    ended: bool = False

    def choice(self, key: Any = 0) -> Choice:
        """Return the choice of that index, made where it is new."""
        if not isinstance(key, int):
            key = 0
        found = self.choices.get(key)
        if found is None:
            found = self.choices[key] = Choice()
        return found

    def leave_out(self, events: int) -> None:
        """Say, where the answer stands now, that so many events of it were not read."""
        words = f"\n[… {count(events, 'event')} left out …]\n"
        for choice in self.choices.values():
            (choice.text or choice.reasoning).append(words)
            for call in list(choice.calls.values())[-1:]:
                call.pieces.append(words)


def no_event(turn: Turn, value: Any) -> None:
    """Take what stands among the events of a stream and is none."""
    if isinstance(value, Gap):
        turn.leave_out(value.events)
    else:
        turn.errors.append(value)


def write(page: Page, turn: Turn) -> None:
    """Put *turn* on the page: reasoning, text, calls, errors, how it ended, what it cost."""
    for number, key in enumerate(list(turn.choices)[:MAX_CHOICES]):
        if number:
            page.divider(f"choice {key}")
        _choice(page, turn.choices[key])
    if len(turn.choices) > MAX_CHOICES:
        page.add(f"\n… {count(len(turn.choices) - MAX_CHOICES, 'choice')} more left out …")
    page.make_room(text.FOOT)
    for error in turn.errors[:MAX_ERRORS]:
        page.section("ERROR")
        page.prose(text.shorten(error if isinstance(error, str) else text.pretty(error), ERROR_SHOWN))
    if len(turn.errors) > MAX_ERRORS:
        page.add(f"\n… {count(len(turn.errors) - MAX_ERRORS, 'error')} more left out …")
    _usage(page, turn.usage)


def _choice(page: Page, choice: Choice) -> None:
    for title, pieces, limit in (
        ("Reasoning", choice.reasoning, REASONING_SHOWN),
        ("Text", choice.text, TEXT_SHOWN),
        ("Refusal", choice.refusal, TEXT_SHOWN),
    ):
        whole = "".join(pieces)
        if whole:
            page.section(title, count(len(whole), "character"))
            page.prose(text.shorten(whole, limit))
    for number, call in enumerate(list(choice.calls.values())[:MAX_CALLS], 1):
        arguments = call.arguments
        page.section(f"Tool call {number}", text.clip(call.name, text.INLINE) or "(no name)", text.clip(call.id, 80))
        page.prose(text.pretty_source(arguments, ARGUMENTS_SHOWN) if arguments else "(no arguments)")
    if len(choice.calls) > MAX_CALLS:
        page.add(f"\n… {count(len(choice.calls) - MAX_CALLS, 'call')} more left out …")
    for value in choice.other[:MAX_CALLS]:
        page.section("Other content")
        page.prose(text.shorten(text.pretty(value), ARGUMENTS_SHOWN))
    page.section("End")
    page.add(f"finish reason  {choice.finish or 'none came'}")


def _usage(page: Page, usage: dict[str, Any]) -> None:
    if not usage:
        return
    page.section("Usage")
    rows = [(label, text.amount(value)) for label, value in usage.items()]
    wide = max(len(label) for label, _ in rows)
    far = max(len(value) for _, value in rows)
    for label, value in rows:
        page.add(f"{label:<{wide}}  {value:>{far}}")
