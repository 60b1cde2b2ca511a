"""An answer in the OpenAI dialect, from `wire.parts`: a stream of chunks, or one object.

The chunks are what OpenAI's SDKs accumulate: the role first and once, a tool call's id and name once and then pieces of
its arguments under its index, the finish_reason in a chunk of its own, then the usage where it was asked for (with no
choices), then ``[DONE]``. A failure is an error event in place of all that: a cut answer must not look finished.
Reasoning goes into ``reasoning_content``, which this dialect has no better name for; signatures and redacted blocks
have no place in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from pydantic_core import to_json

from kimi_core.errors import KimiMitmError, openai_body
from kimi_core.wire.chat import DONE, openai_error_event
from kimi_core.wire.parts import (
    Credits,
    End,
    Failed,
    Part,
    ReasoningDelta,
    TextDelta,
    ToolArguments,
    ToolCallEnd,
    ToolCallStart,
    Usage,
)


def usage_object(usage: Usage, told: Credits | None = None) -> dict[str, Any]:
    """Return the usage of a completion.

    Beside the dialect's own fields: ``estimated`` where a number is not the service's, ``credits_used`` where it says
    what the turn cost.
    """
    details = {"cached_tokens": usage.cached}
    if usage.cache_written:
        details["cache_write_tokens"] = usage.cache_written
    body: dict[str, Any] = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.total,
        "prompt_tokens_details": details,
    }
    if usage.estimated:
        body["estimated"] = True
    if told is not None:
        body["credits_used"] = told.amount
    return body


class ChunkWriter:
    """Writes parts as ``chat.completion.chunk`` events.

    `created` is in seconds since the epoch. `usage` is the client's ``stream_options.include_usage``.
    """

    __slots__ = ("_after", "_begun", "_choice", "_content", "_credits", "_end", "_head", "_reasoning", "_usage")

    def __init__(self, *, completion_id: str, model: str, created: int, usage: bool = False) -> None:
        head = {"id": completion_id, "object": "chat.completion.chunk", "created": created, "model": model}
        self._head = b"data: " + to_json(head)[:-1]
        # where usage is asked for, every chunk has the field, and all but the last have null
        self._end = b',"usage":null}\n\n' if usage else b"}\n\n"
        self._choice = self._head + b',"choices":[{"index":0,"delta":{'
        self._after = b'},"finish_reason":null}]' + self._end
        self._content = self._choice + b'"content":'
        self._reasoning = self._choice + b'"reasoning_content":'
        self._begun = False  # the role is out
        self._usage: dict[str, Any] | None = {} if usage else None
        self._credits: Credits | None = None

    def write(self, part: Part) -> bytes:
        """Return the events for *part*, b"" where it has none."""
        return self._WRITERS[type(part)](self, part)

    def _text(self, part: TextDelta) -> bytes:
        event = self._content + to_json(part.text) + self._after
        return event if self._begun else self._role(b'""') + event

    def _thought(self, part: ReasoningDelta) -> bytes:
        if not part.text:
            return b""
        event = self._reasoning + to_json(part.text) + self._after
        return event if self._begun else self._role(b"null") + event

    def _call(self, part: ToolCallStart) -> bytes:
        call = {
            "index": part.index,
            "id": part.id,
            "type": "function",
            "function": {"name": part.name, "arguments": ""},
        }
        event = self._choice + b'"tool_calls":[' + to_json(call) + b"]" + self._after
        return event if self._begun else self._role(b"null") + event

    def _arguments(self, part: ToolArguments) -> bytes:
        text = to_json(part.text)
        return b'%b"tool_calls":[{"index":%d,"function":{"arguments":%b}}]%b' % (
            self._choice,
            part.index,
            text,
            self._after,
        )

    def _call_end(self, _part: ToolCallEnd) -> bytes:
        return b""

    def _note_usage(self, part: Usage) -> bytes:
        if self._usage is not None:
            self._usage = usage_object(part, self._credits)
        return b""

    def _note_credits(self, part: Credits) -> bytes:
        self._credits = part
        return b""

    def _finish(self, part: End) -> bytes:
        finish = self._choice + b'},"finish_reason":' + to_json(part.reason) + b"}]" + self._end
        usage = self._head + b',"choices":[],"usage":' + to_json(self._usage) + b"}\n\n" if self._usage else b""
        role = b"" if self._begun else self._role(b'""')
        return role + finish + usage + b"data: " + DONE + b"\n\n"

    def _fail(self, part: Failed) -> bytes:
        return openai_error_event(part.error)

    def _role(self, content: bytes) -> bytes:
        """Return the first chunk; its content is null where it is not yet known whether there will be text."""
        self._begun = True
        return self._choice + b'"role":"assistant","content":' + content + self._after

    _WRITERS: ClassVar[dict[type, Callable[[Any, Any], bytes]]] = {
        TextDelta: _text,
        ReasoningDelta: _thought,
        ToolCallStart: _call,
        ToolArguments: _arguments,
        ToolCallEnd: _call_end,
        Usage: _note_usage,
        Credits: _note_credits,
        End: _finish,
        Failed: _fail,
    }


class Completion:
    """Collects parts into one ``chat.completion`` object, or the error object of a failed answer."""

    __slots__ = ("_calls", "_credits", "_head", "_reason", "_text", "_thoughts", "_usage", "error")

    def __init__(self, *, completion_id: str, model: str, created: int) -> None:
        self._head = {"id": completion_id, "object": "chat.completion", "created": created, "model": model}
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[tuple[ToolCallStart, list[str]]] = []
        self._usage: Usage | None = None
        self._credits: Credits | None = None
        self._reason: str | None = None
        self.error: KimiMitmError | None = None
        """Why there is no answer; its `status` is that of the reply."""

    def take(self, part: Part) -> None:
        """Add *part*; the end of a call adds nothing."""
        match part:
            case TextDelta(text):
                self._text.append(text)
            case ReasoningDelta(text):
                self._thoughts.append(text)
            case ToolCallStart():
                self._calls.append((part, []))
            case ToolArguments(index, text):
                self._calls[index][1].append(text)
            case Usage():
                self._usage = part
            case Credits():
                self._credits = part
            case End(reason):
                self._reason = reason
            case Failed(error):
                self.error = error

    def body(self) -> bytes:
        """Return the object as JSON, to be called after `End` or `Failed`."""
        if self.error is not None:
            return openai_body(self.error)
        choice = {"index": 0, "message": self._message(), "logprobs": None, "finish_reason": self._reason}
        body: dict[str, Any] = {**self._head, "choices": [choice]}
        if self._usage is not None:
            body["usage"] = usage_object(self._usage, self._credits)
        return to_json(body)

    def _message(self) -> dict[str, Any]:
        text, thoughts = "".join(self._text), "".join(self._thoughts)
        message: dict[str, Any] = {"role": "assistant", "content": text or (None if self._calls else "")}
        if thoughts:
            message["reasoning_content"] = thoughts
        if self._calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": "".join(pieces)}}
                for call, pieces in self._calls
            ]
        return message
