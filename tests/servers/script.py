"""Answers of the fake service: scripts of bytes, gates and breaks, and the shapes that the real service sends."""

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tests.servers.serve import Connection

SSE = "text/event-stream; charset=utf-8"
JSON = "application/json"

INVALID_TOKEN = "The API Key appears to be invalid or may have expired. Please verify your credentials and try again."
ERRORS: dict[int, tuple[str, str]] = {
    400: ("invalid_request_error", "Invalid request: text content is empty"),
    401: ("invalid_authentication_error", INVALID_TOKEN),
    402: ("billing_error", "We're unable to verify your membership benefits at this time."),
    403: (
        "access_terminated_error",
        "You've reached your usage limit for this billing cycle. Your quota will be refreshed in the next cycle.",
    ),
    404: ("resource_not_found_error", "Not found the model fake or Permission denied"),
    429: ("engine_overloaded_error", "The engine is currently overloaded, please try again later"),
    500: ("server_error", "Internal server error"),
    503: ("server_error", "Service unavailable"),
}
IDENTITY_REFUSED = (
    "Kimi For Coding is currently only available for Coding Agents such as Kimi CLI, Claude Code, Roo Code, Kilo Code."
)

USAGE = {"prompt_tokens": 900, "completion_tokens": 40, "total_tokens": 940, "cached_tokens": 800}


class Gate:
    """Steps that a test allows one by one; `open` may be called from any thread, before or after the fake waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: defaultdict[int, Future[None]] = defaultdict(Future)
        self._opened = 0
        self._taken = 0

    def open(self, steps: int = 1) -> None:
        with self._lock:
            for _ in range(steps):
                self._steps[self._opened].set_result(None)
                self._opened += 1

    async def step(self) -> None:
        """Wait for the next step to be opened."""
        with self._lock:
            future = self._steps[self._taken]
            self._taken += 1
        await asyncio.shield(asyncio.wrap_future(future))  # a client that leaves must not cancel the step itself


class Pace:
    """Beats of a clock, *seconds* apart: a script that is late sends what it owes at once, so that the rate holds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due: float | None = None

    async def step(self) -> None:
        """Wait for the next beat."""
        now = asyncio.get_running_loop().time()
        self._due = now if self._due is None else self._due + self._seconds
        if self._due > now:
            await asyncio.sleep(self._due - now)


class Break(StrEnum):
    """How a script ends a connection, below TLS."""

    RESET = "reset"
    CLOSE = "close"


@dataclass(slots=True)
class Script:
    """One answer: `before` is done before the head goes out, then `steps`: bytes are sent, gates and paces waited for.

    A `Break` ends the connection there and then. `stale` lets the connection die when it is used the next time.
    """

    steps: Sequence[bytes | Gate | Pace | Break] = ()
    status: int = 200
    headers: Sequence[tuple[str, str]] = (("content-type", SSE),)
    before: Sequence[Gate | Break] = ()
    stale: bool = False


async def perform(step: Gate | Pace | Break, connection: Connection | None) -> bool:
    """Wait at a gate or for a beat, or break the connection; tell whether the script goes on."""
    if isinstance(step, Gate | Pace):
        await step.step()
        return True
    assert connection is not None, "a connection can be broken only behind a relay"
    (connection.reset if step is Break.RESET else connection.close)()
    return False


def as_json(data: Any, status: int = 200, headers: Sequence[tuple[str, str]] = ()) -> Script:
    """Return *data* as a whole JSON answer."""
    body = json.dumps(data).encode()
    return Script([body], status, [("content-type", JSON), ("content-length", str(len(body))), *headers])


def error(status: int, message: str | None = None, *, dialect: str = "openai", **headers: str) -> Script:
    """Return the real service's error for *status*; names of *headers* have "_" for "-"."""
    kind, usual = ERRORS[status]
    detail = {"message": message or usual, "type": kind}
    data = {"error": detail} if dialect == "openai" else {"type": "error", "error": detail}
    return as_json(data, status, [(name.replace("_", "-"), value) for name, value in headers.items()])


def event(data: Any, *, name: str | None = None, end: bytes = b"\n\n") -> bytes:
    """Return one server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + b"data: " + text.encode() + end


def chunk(delta: dict[str, Any], **choice: Any) -> dict[str, Any]:
    """Return one chat.completion.chunk with a single choice."""
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion.chunk",
        "created": 1761264000,
        "model": "kimi-for-coding",
        "choices": [{"index": 0, "delta": delta, "finish_reason": None} | choice],
    }


def chat_events(
    *texts: str, reasoning: Sequence[str] = (), calls: Sequence[tuple[str, str]] = (), done: bool = True
) -> list[bytes]:
    """Return a streamed chat answer: one event per piece, usage inside the last choice as the service sends it."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning_content": piece} for piece in reasoning]
    deltas += [{"content": piece} for piece in texts]
    for index, (name, arguments) in enumerate(calls):
        head = {"index": index, "id": f"{name}:{index}", "type": "function"}
        deltas.append({"tool_calls": [head | {"function": {"name": name, "arguments": ""}}]})
        middle = len(arguments) // 2
        for piece in (arguments[:middle], arguments[middle:]):
            deltas.append({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    last = chunk({}, finish_reason="tool_calls" if calls else "stop", usage=USAGE)
    events = [event(data) for data in (*(chunk(delta) for delta in deltas), last)]
    return [*events, event("[DONE]")] if done else events


def chat_script(*texts: str, gate: Gate | None = None, **kind: Any) -> Script:
    """Return `chat_events` as a script that waits at *gate*, where given, before each event but the first."""
    events = chat_events(*texts, **kind)
    if gate is None:
        return Script(events)
    return Script([events[0], *(step for piece in events[1:] for step in (gate, piece))])


def completion(text: str, reasoning: str | None = None, calls: Sequence[tuple[str, str]] = ()) -> Script:
    """Return an answer to ``stream: false``."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if reasoning is not None:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [
            {"id": f"{name}:{n}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for n, (name, arguments) in enumerate(calls)
        ]
    return as_json(
        {
            "id": "chatcmpl-fake",
            "object": "chat.completion",
            "created": 1761264000,
            "model": "kimi-for-coding",
            "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}],
            "usage": USAGE,
        }
    )


def messages_events(*texts: str) -> list[bytes]:
    """Return a streamed answer in the Anthropic dialect."""
    start = {
        "id": "msg_fake",
        "type": "message",
        "role": "assistant",
        "model": "kimi-for-coding",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 900, "output_tokens": 1, "cache_read_input_tokens": 800},
    }
    datas: list[dict[str, Any]] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}} for text in texts),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 40},
        },
        {"type": "message_stop"},
    ]
    return [event(data, name=data["type"]) for data in datas]
