"""Answers on their way to the client: watched while they stream, and edited in one place only.

Kimi may put the usage into ``choices[0].usage``, where most clients do not look (kimi.md §3.7). `ChatStream` copies it
to the top level of the same chunk and mirrors ``cached_tokens`` into ``prompt_tokens_details``; every other byte leaves
as it came. A chunk is parsed only where its text shows that it holds something to note.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from pydantic_core import from_json

from kimi_core.errors import KimiMitmError, anthropic_body, openai_body
from kimi_core.exchange import Story
from kimi_core.kimi.memory import ReasoningMemory
from kimi_core.kimi.notes import ChatNotes, MessagesNotes, is_count, nested_usage, top_usage
from kimi_core.wire import members
from kimi_core.wire.chat import DONE, anthropic_error_event, openai_error_event
from kimi_core.wire.sse import Editor

MAX_JSON = 8 * 1024 * 1024  # bytes of an answer that is no stream; a longer one passes, and nothing is noted

# what a chunk must hold to be worth parsing; a key that is written with \u escapes passes unseen and unharmed
CHAT_KEYS = (b'"reasoning_content"', b'"tool_calls"', b'"usage"', b'"error"', DONE)
CONTENT = re.compile(rb'"content": ?"')
FINISH, NOT_FINISHED = b'"finish_reason"', b'"finish_reason":null'
MESSAGES_KEYS = (b'"message_', b'"error"')  # message_start, message_delta, message_stop
MESSAGES_END = "message_stop"


class ChatStream:
    """An SSE answer in the OpenAI dialect; see `kimi_core.exchange.Converter`.

    What a turn thought before its tool calls goes to *memory*, which the caller has scoped to the conversation.
    """

    def __init__(self, story: Story, memory: ReasoningMemory) -> None:
        self._story = story
        self._notes = ChatNotes(story, memory)
        self._editor = Editor(self._chunk, self._look)
        self._likeness = Likeness()
        self._began = False
        self._done = False
        self.feed = self._editor.feed  # one call less per chunk: nothing is to be done around it

    def finish(self) -> bytes:
        """Say that the answer has ended; return a last line without an end."""
        rest = self._editor.finish()
        self._notes.end()
        return rest

    def fail(self, error: KimiMitmError) -> bytes:
        """Say that the answer was cut; return an error event, or nothing where ``[DONE]`` had already come."""
        end = self._editor.cut()
        if self._done:
            return end
        self._story.facts["error"] = error.code
        return end + openai_error_event(error)

    def _look(self, data: bytes) -> bool:
        if not self._began:
            return True  # the first chunk is parsed for its model
        if self._likeness.holds(data):
            return False
        if _look_at_chat(data):
            return True
        self._likeness.learn(data)
        return False

    def _chunk(self, payload: bytes) -> bytes | None:
        if payload == DONE:
            self._done = True
            return None
        if not self._look(payload):
            return None
        self._began = True
        chunk = _parse(payload)
        if chunk is None:
            return None
        self._notes.take(chunk, payload)
        return lift_usage(payload, chunk) if b'"usage"' in payload else None


class Likeness:
    """Knows a chunk that differs from one before it in the words of its content alone: there are thousands of them.

    Looking into such a chunk for every key costs many times what two comparisons do.
    """

    def __init__(self) -> None:
        self._before = self._after = b""

    def holds(self, data: bytes) -> bool:
        """Tell whether *data* is a chunk that was learnt, with another string in it."""
        before, after = self._before, self._after
        return (
            bool(before)
            and data.startswith(before)
            and data.endswith(after)
            # a key has quotes, and one that ends the string early stands before whatever it could hide
            and data.find(b'"', len(before), len(data) - len(after)) < 0
        )

    def learn(self, data: bytes) -> None:
        """Keep what stands around the content of *data*, in which there is nothing to note."""
        found = CONTENT.search(data)
        end = data.find(b'"', found.end()) if found else -1
        if found and end >= 0 and data[end - 1 : end] != b"\\":
            self._before, self._after = data[: found.end()], data[end:]


class MessagesStream:
    """An SSE answer in the Anthropic dialect: not a byte is changed."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._notes = MessagesNotes(story)
        self._editor = Editor(self._event, _look_at_messages)
        self._done = False
        self.feed = self._editor.feed

    def finish(self) -> bytes:
        """Say that the answer has ended; return a last line without an end."""
        return self._editor.finish()

    def fail(self, error: KimiMitmError) -> bytes:
        """Say that the answer was cut; return an ``error`` event, or nothing where ``message_stop`` had come."""
        end = self._editor.cut()
        if self._done:
            return end
        self._story.facts["error"] = error.code
        return end + anthropic_error_event(error)

    def _event(self, payload: bytes) -> None:
        event = _parse(payload) if _look_at_messages(payload) else None
        if event is not None:
            self._done = self._done or event.get("type") == MESSAGES_END
            self._notes.take(event, payload)


class JsonAnswer:
    """An answer that is one JSON object: not a byte is changed; what it says is noted at its end.

    *on_body* gets the whole body, unless it is longer than *limit*; it must not raise.
    """

    def __init__(
        self,
        story: Story | None = None,
        memory: ReasoningMemory | None = None,
        *,
        dialect: str = "openai",
        on_body: Callable[[bytes], object] | None = None,
        limit: int = MAX_JSON,
    ) -> None:
        self._story = story
        self._memory = memory
        self._dialect = dialect
        self._on_body = on_body
        self._limit = limit
        self._body = bytearray()
        self._length = 0

    def feed(self, data: bytes) -> bytes:
        """Pass *data* on."""
        self._length += len(data)
        if self._length <= self._limit:
            self._body += data
        else:
            self._body = bytearray()
        return data

    def finish(self) -> bytes:
        """Note what the answer said; nothing is left to send."""
        body = bytes(self._body)
        self._body = bytearray()
        if not body:
            return b""
        if self._on_body is not None:
            self._on_body(body)
        answer = _parse(body)
        if self._story is not None and answer is not None:
            self._note(self._story, answer, body)
        return b""

    def fail(self, error: KimiMitmError) -> bytes | None:
        """Say that the answer was cut: an error object where nothing has gone out; into half of one no word fits."""
        self._body = bytearray()
        if self._story is not None:
            self._story.facts["error"] = error.code
        if self._length:
            return None
        return anthropic_body(error) if self._dialect == "anthropic" else openai_body(error)

    def _note(self, story: Story, answer: dict[str, Any], body: bytes) -> None:
        if self._dialect == "anthropic":
            MessagesNotes(story).take(answer, body)
            return
        notes = ChatNotes(story, self._memory)
        notes.take(answer, body)
        notes.end()


def lift_usage(payload: bytes, chunk: dict[str, Any]) -> bytes | None:
    """Return a chat chunk whose usage stands where clients look for it, None where nothing is to be changed.

    *chunk* is what *payload* says.

    A usage of a choice is copied to the top level unless the chunk has one there; ``cached_tokens`` of the top-level
    usage is mirrored into its ``prompt_tokens_details`` unless that says a number of its own. All other text stays.
    """
    text = payload.decode()  # it parsed, so it is UTF-8
    body = text.strip()
    try:
        new = _lifted(body, chunk)
    except (ValueError, RecursionError):  # numbers that JSON does not know, or nested beyond sense: it passes
        return None
    return None if new is None else text.replace(body, new).encode()


def _lifted(body: str, chunk: dict[str, Any]) -> str | None:
    usage = top_usage(chunk)
    if usage is None:
        usage = nested_usage(chunk)
        set_usage = members.put if "usage" in chunk else members.add
        return None if usage is None else set_usage(body, "usage", _dump({**usage, **_mirror(usage)}))
    missing = _mirror(usage)
    if not missing:
        return None
    inner = members.get(body, "usage") or ""
    for name, value in missing.items():
        inner = members.put(inner, name, _dump(value))
    return members.put(body, "usage", inner)


def _mirror(usage: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"prompt_tokens_details": {…, "cached_tokens": n}}`` where it is missing from *usage*, else nothing."""
    cached = usage.get("cached_tokens")
    details = usage.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    if not is_count(cached) or details.get("cached_tokens") is not None:
        return {}
    return {"prompt_tokens_details": {**details, "cached_tokens": cached}}


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _dump(value: object) -> str:
    """Return compact JSON. Raises ValueError for infinity, which a number such as 1e400 becomes when it is read."""
    return _encode(value)


def _look_at_chat(data: bytes) -> bool:
    for key in CHAT_KEYS:  # a loop, as any() with a generator takes twice the time
        if key in data:
            return True
    return data.count(FINISH) != data.count(NOT_FINISHED)


def _look_at_messages(data: bytes) -> bool:
    return any(key in data for key in MESSAGES_KEYS)


def _parse(payload: bytes) -> dict[str, Any] | None:
    try:
        value = from_json(payload)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
