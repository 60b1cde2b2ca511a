"""What an assistant's answer is made of, in no provider's and no client's dialect.

A provider's converter turns its events into parts as they come; a writer (`chat_chunks`) turns parts into the bytes of
a dialect. Order: deltas and tool calls as the model gives them, then `Credits` and `Usage` where they are known, then
exactly one `End` or `Failed`. Parts of one tool call carry its index; calls may not overlap, text may stand inside.
"""

from __future__ import annotations

from dataclasses import dataclass

from kimi_core.errors import KimiMitmError


@dataclass(slots=True)
class TextDelta:
    """Text of the answer; never empty."""

    text: str


@dataclass(slots=True)
class ReasoningDelta:
    """Thoughts: text for the reader, and what has to be given back unchanged when the turn is sent again.

    `signature` vouches for the text; `redacted` is a block of thoughts that only the service can read (base64).
    """

    text: str = ""
    signature: str | None = None
    redacted: str | None = None


@dataclass(slots=True)
class ToolCallStart:
    """A tool call begins; `index` counts from 0, `name` is what the client calls the tool."""

    index: int
    id: str
    name: str


@dataclass(slots=True)
class ToolArguments:
    """A piece of the JSON text of a call's arguments; all pieces together are one JSON object."""

    index: int
    text: str


@dataclass(slots=True)
class ToolCallEnd:
    """A tool call is complete, and its arguments are a JSON object."""

    index: int


@dataclass(slots=True)
class Usage:
    """Tokens of the turn. `prompt` includes `cached` (read from the cache) and `cache_written`.

    `estimated` says that `prompt` or `completion` is not the service's own number.
    """

    prompt: int
    completion: int
    cached: int = 0
    cache_written: int = 0
    estimated: bool = False

    @property
    def total(self) -> int:
        """Prompt and completion together."""
        return self.prompt + self.completion


@dataclass(slots=True)
class Credits:
    """What the turn cost in the plan's own unit."""

    amount: float
    unit: str = "credit"


@dataclass(slots=True)
class End:
    """The answer is complete; `reason` is a finish_reason of the OpenAI dialect (stop, length, tool_calls)."""

    reason: str


@dataclass(slots=True)
class Failed:
    """The answer broke off: nothing that follows belongs to it."""

    error: KimiMitmError


type Part = TextDelta | ReasoningDelta | ToolCallStart | ToolArguments | ToolCallEnd | Usage | Credits | End | Failed
