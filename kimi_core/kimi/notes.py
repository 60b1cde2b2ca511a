"""What is noted of an answer while it passes: facts for the flow, and the reasoning that belongs to tool calls.

Facts, each there only where the service says it: ``answered by`` (a model other than the one asked for), ``in``,
``cached``, ``out``, ``reasoning`` (tokens; `in` includes the cached ones in both dialects), ``finish``, ``error`` (a
reason of `kimi.verdict`). Numbers of a later usage replace those of an earlier one (kimi.md §3.7).

Everything here takes any JSON value and never raises.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kimi_core.exchange import Story
from kimi_core.kimi.memory import ReasoningMemory
from kimi_core.kimi.verdict import classify

IN_STREAM = 200  # the status of an answer that turns out to be an error
MAX_REASONING = 2 * 1024 * 1024  # characters of one answer; a full context of thinking is about half of it
MAX_CALLS = 1024  # tool calls of one answer; clients run a handful at a time
MAX_CHOICES = 16  # clients ask for one
MAX_COUNT = 10**15  # tokens; beyond it is nonsense, and Python refuses to print an integer of 5000 digits
MAX_NAME = 80  # characters of a name that a flow's comment shows


@dataclass(slots=True)
class _Choice:
    reasoning: list[str] | None = None
    calls: dict[str, None] = field(default_factory=dict)  # an ordered set


class ChatNotes:
    """Notes of one answer in the OpenAI dialect, from its chunks or from its one object."""

    def __init__(self, story: Story, memory: ReasoningMemory | None) -> None:
        self._story = story
        self._memory = memory
        self._choices: dict[int, _Choice] = {}
        self._room = MAX_REASONING
        self._calls = MAX_CALLS

    def take(self, chunk: dict[str, Any], raw: bytes) -> None:
        """Note what *chunk* (*raw* when it was parsed) says; a choice's ``message`` counts like its ``delta``."""
        facts = self._story.facts
        _note_model(facts, chunk.get("model"))
        if chunk.get("error"):
            facts["error"] = str(classify(IN_STREAM, raw).reason)
        for choice in _objects(chunk.get("choices")):
            self._choice(choice)
        if b'"usage"' in raw:
            facts.update(_openai_tokens(top_usage(chunk) or nested_usage(chunk) or {}))

    def end(self) -> None:
        """Remember what no finish_reason has completed: some services send none, and clients live with that."""
        for index in list(self._choices):
            self._remember(index)

    def _choice(self, choice: dict[str, Any]) -> None:
        index = choice.get("index")
        if not isinstance(index, int):
            index = 0
        part = choice.get("delta") or choice.get("message")
        if isinstance(part, dict):
            self._part(index, part)
        reason = choice.get("finish_reason")
        if isinstance(reason, str):
            self._story.facts["finish"] = reason[:MAX_NAME]
            self._remember(index)

    def _part(self, index: int, part: dict[str, Any]) -> None:
        thought, calls = part.get("reasoning_content"), _objects(part.get("tool_calls"))
        state = self._choices.get(index)
        if state is None:
            if (thought is None and not calls) or len(self._choices) >= MAX_CHOICES:
                return
            state = self._choices[index] = _Choice()
        if isinstance(thought, str):
            if state.reasoning is None:
                state.reasoning = []
            state.reasoning.append(thought)
            self._room -= len(thought)
        for call in calls:
            call_id = call.get("id")
            if isinstance(call_id, str) and call_id and self._calls > 0:
                state.calls[call_id] = None
                self._calls -= 1
        if self._room < 0:  # half a thought is none: forget the reasoning rather than remember a part of it
            state.reasoning = []
            state.calls = {}

    def _remember(self, index: int) -> None:
        """Hand a choice's reasoning to the memory, at once when it is complete: the next request may follow now."""
        state = self._choices.pop(index, None)
        if self._memory is not None and state and state.calls and state.reasoning is not None:
            self._memory.remember(state.calls, "".join(state.reasoning))


class MessagesNotes:
    """Notes of one answer in the Anthropic dialect, from its events or from its one object."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._usage: dict[str, int] = {}

    def take(self, event: dict[str, Any], raw: bytes) -> None:
        """Note what *event* (*raw* when it was parsed) says."""
        facts = self._story.facts
        kind = event.get("type")
        if kind == "error":
            facts["error"] = str(classify(IN_STREAM, raw).reason)
        message = event.get("message") if kind == "message_start" else event
        if not isinstance(message, dict):
            return
        _note_model(facts, message.get("model"))
        usage = message.get("usage")
        if isinstance(usage, dict):
            self._usage.update(_known(usage))
            facts.update(_anthropic_tokens(self._usage))
        delta = event.get("delta") if kind == "message_delta" else message
        reason = delta.get("stop_reason") if isinstance(delta, dict) else None
        if isinstance(reason, str):
            facts["finish"] = reason[:MAX_NAME]


def top_usage(chunk: dict[str, Any]) -> dict[str, Any] | None:
    """Return a chunk's own usage."""
    usage = chunk.get("usage")
    return usage if isinstance(usage, dict) else None


def nested_usage(chunk: dict[str, Any]) -> dict[str, Any] | None:
    """Return the usage that the first choice with one carries (kimi.md §3.7)."""
    return next((u for c in _objects(chunk.get("choices")) if isinstance(u := c.get("usage"), dict)), None)


def _note_model(facts: dict[str, Any], model: object) -> None:
    if isinstance(model, str) and model and model != facts.get("model"):
        facts["answered by"] = model[:MAX_NAME]


def _openai_tokens(usage: dict[str, Any]) -> dict[str, int]:
    into, out = _object(usage.get("prompt_tokens_details")), _object(usage.get("completion_tokens_details"))
    return _known(
        {
            "in": usage.get("prompt_tokens"),
            "cached": _either(usage.get("cached_tokens"), into.get("cached_tokens")),
            "out": usage.get("completion_tokens"),
            "reasoning": _either(usage.get("reasoning_tokens"), out.get("reasoning_tokens")),
        }
    )


def _anthropic_tokens(usage: dict[str, Any]) -> dict[str, int]:
    fresh, read, written = (
        usage.get(name) for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    )
    total = sum(_known({"fresh": fresh, "read": read, "written": written}).values())
    return _known({"in": total if is_count(fresh) else None, "cached": read, "out": usage.get("output_tokens")})


def is_count(value: object) -> bool:
    """Tell whether *value* can be a number of tokens."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_COUNT


def _known(counts: dict[str, Any]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if is_count(count)}


def _either(first: object, second: object) -> object:
    return first if is_count(first) else second


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> list[dict[str, Any]]:
    if not value or not isinstance(value, list):
        return []
    return [item for item in value if isinstance(item, dict)]
