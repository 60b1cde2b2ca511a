"""The events of a Kiro answer (kiro.md §2.2), as `kiro.frames` reads them.

Only what this program uses of them is kept. `Failure` stands for every way in which an answer reports an error. They
are not frozen, since that triples the time to make one, and one is made for every word of an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Text:
    """A piece of the answer; `model` is the one that serves it, as the service writes it."""

    content: str
    model: str | None = None


@dataclass(slots=True)
class Reasoning:
    """A piece of native thinking; `redacted` is base64."""

    text: str = ""
    signature: str | None = None
    redacted: str | None = None


@dataclass(slots=True)
class ToolUse:
    """A fragment of a tool call; `input` is a piece of JSON text, or an object, or None for nothing."""

    id: str | None
    name: str | None
    input: str | dict[str, Any] | None
    stop: bool


@dataclass(slots=True)
class ContextUsage:
    """How much of the model's window the turn has filled, in percent; None where the number makes no sense."""

    percentage: float | None


@dataclass(slots=True)
class Metering:
    """What the turn cost; None where the number makes no sense."""

    usage: float | None
    unit: str = "credit"


@dataclass(slots=True)
class TokenUsage:
    """Exact counts, each None where the service does not say it; `uncached` is the prompt without its cached part."""

    uncached: int | None = None
    output: int | None = None
    total: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None


@dataclass(slots=True)
class Metadata:
    """Why the model stopped, and counts."""

    stop_reason: str | None = None
    tokens: TokenUsage | None = None
    percentage: float | None = None


@dataclass(slots=True)
class Stopped:
    """`messageStopEvent`: the message is complete."""


@dataclass(slots=True)
class Ignored:
    """A known event that says nothing to a client."""

    name: str


@dataclass(slots=True)
class Unknown:
    """An event that this program does not know."""

    name: str


@dataclass(slots=True)
class Failure:
    """The service (or a frame of it) reports an error: exception's name, its sentence, its reason code."""

    type: str
    message: str = ""
    reason: str | None = None


type Event = Text | Reasoning | ToolUse | ContextUsage | Metering | Metadata | Stopped | Ignored | Unknown | Failure
