"""A fake of both services for `proxy.py`, and its client: raw HTTP/1.1 on asyncio's protocols, so that neither limits.

Both live in one event loop. `Pace` lets the client say when a piece has arrived, and the server then writes the next:
each piece is a read of its own for the proxy between them, however busy the machine is.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.kiro.kiro_frames import INITIAL, METERING, PERCENT, text
from tests.servers.kimi import MODELS as KIMI_MODELS
from tests.servers.kiro import MODELS as KIRO_MODELS

KIB = 1024
HEAD_END = b"\r\n\r\n"
LAST_CHUNK = b"\r\n0\r\n\r\n"
FETCH_SECONDS = 120.0
PATIENCE = 0.25  # seconds after which the next piece goes out although the last one has brought the client nothing
CLOSE = "x-benchmark-close: 1"  # asks the service to end the connection, which "Connection: close" does at a proxy
SSE = "text/event-stream; charset=utf-8"
EVENT_STREAM = "application/vnd.amazon.eventstream"

KIRO_USAGE = {
    "nextDateReset": 1785542400,
    "subscriptionInfo": {"type": "Q_DEVELOPER_STANDALONE_FREE", "subscriptionTitle": "KIRO FREE"},
    "usageBreakdownList": [{"resourceType": "CREDIT", "currentUsage": 12, "usageLimit": 5000}],
}
USAGE = {"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 320, "cached_tokens": 256}
CLOSING = (b"\r\nconnection: close", CLOSE.encode())  # words in the head of a request after which it is the last one
SIDE = (  # words in the head of a call beside the requests -> its answer
    (b"listavailablemodels", {"defaultModel": {"modelId": "auto"}, "models": KIRO_MODELS}),
    (b"getusagelimits", KIRO_USAGE),
    (b"/models ", {"object": "list", "data": KIMI_MODELS}),
)


# --- what is answered ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """A streamed answer: pieces in one write, or each when the client has the one before; `open_end` never ends."""

    kind: str
    pieces: Sequence[bytes]
    paced: bool = False
    open_end: bool = False

    @property
    def head(self) -> bytes:
        return f"HTTP/1.1 200 OK\r\nContent-Type: {self.kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


def kimi_answer(pieces: int, *, last: str = "", paced: bool = False, open_end: bool = False) -> Answer:
    """Return so many events of 1 KB; *last* is the text of one more."""
    end = [_event({"content": last})] if last else [_event({}, finish="stop", usage=USAGE), b"data: [DONE]\n\n"]
    padding = "x" * (KIB - len(_event({"content": ""})))
    return Answer(SSE, [*[_event({"content": padding})] * pieces, *end], paced, open_end)


def kiro_answer(pieces: int, *, last: str = "", paced: bool = False, open_end: bool = False) -> Answer:
    """Return so many frames with a word each; *last* is the text of one more."""
    words = [text(f"word{number % 10} ") for number in range(pieces)]
    words[0] = INITIAL + words[0]  # it brings the client nothing that could be waited for
    end = text(last) if last else PERCENT + METERING
    return Answer(EVENT_STREAM, [*words, end], paced, open_end)


def _event(delta: dict[str, str], finish: str | None = None, **more: Any) -> bytes:
    head = {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1, "model": "kimi-for-coding"}
    choice = {"index": 0, "delta": delta, "finish_reason": finish, **more}
    return f"data: {json.dumps({**head, 'choices': [choice]}, separators=(',', ':'))}\n\n".encode()


# --- the server ----------------------------------------------------------------------------------------------------


@dataclass
class Pace:
    """Something arrived at the client."""

    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    patience: float = PATIENCE

    async def wait(self) -> None:
        try:
            async with asyncio.timeout(self.patience):
                await self.arrived.wait()
        except TimeoutError:
            pass
        self.arrived.clear()


class FakeService:
    """Answers every chat request with `answer`, other calls with what the services list."""

    def __init__(self) -> None:
        self.answer = kimi_answer(1)
        self.pace = Pace()
        self.port = 0
        self.requests = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Serving(self), "127.0.0.1", 0, backlog=512
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self.tasks:
            task.cancel()


class _Serving(asyncio.Protocol):
    """One connection of the server."""

    transport: asyncio.Transport

    def __init__(self, service: FakeService) -> None:
        self._service = service
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (request := _take(self._buffer)) is not None:
            self._serve(request.lower())

    def _serve(self, head: bytes) -> None:
        for word, found in SIDE:
            if word in head:
                body = json.dumps(found).encode()
                kind = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
                self.transport.write(b"HTTP/1.1 200 OK\r\n" + kind + body)
                return
        self._service.requests += 1
        answer = self._service.answer
        if answer.paced:
            task = asyncio.ensure_future(self._send_slowly(answer))
            self._service.tasks.add(task)
            task.add_done_callback(self._service.tasks.discard)
        else:
            end = b"" if answer.open_end else b"0\r\n\r\n"
            self.transport.write(answer.head + b"".join(map(_chunk, answer.pieces)) + end)
            if end and any(word in head for word in CLOSING):
                self.transport.close()

    async def _send_slowly(self, answer: Answer) -> None:
        pace = self._service.pace
        pace.arrived.clear()
        before = answer.head
        for piece in answer.pieces:
            if self.transport.is_closing():  # whom it was for has left
                return
            self.transport.write(before + _chunk(piece))
            before = b""
            await pace.wait()
        self.transport.write(b"0\r\n\r\n")


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def _take(buffer: bytearray) -> bytes | None:
    """Take a whole request out of *buffer*; return its head."""
    end = buffer.find(HEAD_END)
    if end < 0:
        return None
    head = bytes(buffer[:end])
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    whole = end + len(HEAD_END) + length
    if len(buffer) < whole:
        return None
    del buffer[:whole]
    return head


# --- the client ----------------------------------------------------------------------------------------------------


class Client(asyncio.Protocol):
    """One connection to a proxy, one request at a time."""

    _transport: asyncio.Transport

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._head = bytearray()
        self._tail = b""  # of the body: what is looked for may be cut by a read
        self._first = 0.0
        self._until = LAST_CHUNK
        self._done: asyncio.Future[None] | None = None

    @classmethod
    async def connect(cls, port: int, pace: Pace) -> Client:
        _, client = await asyncio.get_running_loop().create_connection(lambda: cls(pace), "127.0.0.1", port)
        return client

    def close(self) -> None:
        self._done = None
        self._transport.abort()

    async def fetch(self, request: bytes, until: bytes = LAST_CHUNK) -> tuple[float, float]:
        """Send *request*, read the answer up to *until*; return seconds to the body's first byte and to its end.

        Raises RuntimeError for anything but a streamed 200, TimeoutError.
        """
        self._head.clear()
        self._tail, self._first, self._until = b"", 0.0, until
        self._done = asyncio.get_running_loop().create_future()
        begin = time.perf_counter()
        self._transport.write(request)
        async with asyncio.timeout(FETCH_SECONDS):
            await self._done
        return self._first - begin, time.perf_counter() - begin

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        body = data if self._first else self._begin(data)
        if not body:
            return
        self._first = self._first or time.perf_counter()
        self._pace.arrived.set()
        seen = self._tail + body
        if self._until in seen and self._done is not None and not self._done.done():
            self._done.set_result(None)
        self._tail = seen[-len(self._until) :]

    def _begin(self, data: bytes) -> bytes:
        """Read the head; return what of the body came with it."""
        self._head += data
        head, end, body = bytes(self._head).partition(HEAD_END)
        if end and not (head.startswith(b"HTTP/1.1 200") and b"chunked" in head.lower()):
            self._fail(bytes(self._head).decode("latin-1"))
        return body

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection ended: {exc}")

    def _fail(self, what: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(RuntimeError(what))


def request(target: str, host: str, body: dict[str, Any], *more: str) -> bytes:
    """Return a chat request with the head that opencode 1.18.33 writes, and *more* lines in it."""
    data = json.dumps(body, separators=(",", ":")).encode()
    fields = (
        f"POST {target} HTTP/1.1",
        "Authorization: Bearer fake-client-key",
        "Content-Type: application/json",
        "User-Agent: opencode/1.18.33 ai-sdk/provider-utils/4.0.23 runtime/bun/1.3.14",
        "x-session-affinity: ses_benchmark",
        "x-session-id: ses_benchmark",
        *more,
        "Connection: keep-alive",
        "Accept: */*",
        f"Host: {host}",
        "Accept-Encoding: gzip, deflate, br, zstd",
        f"Content-Length: {len(data)}",
    )
    return "\r\n".join(fields).encode() + HEAD_END + data
