"""A service at the level of bytes: it reads whole requests, and answers with whatever a test makes it send.

`RawServer` speaks HTTP/1.1 or HTTP/2, over TLS, in the fakes' own loop. Requests get the next of `scripts`, and a good
answer where there is none, so that a probe after a fault needs nothing.
"""

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Iterator

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from tests.servers.script import SSE
from tests.servers.serve import RESET_ON_CLOSE, Background

READ = 65536
END = b"0\r\n\r\n"
ARRIVAL = 0.02  # seconds in which what was sent arrives: a reset overtakes it otherwise


def head(kind: str = SSE, *lines: str, status: str = "200 OK") -> bytes:
    """Return the head of an HTTP/1.1 answer; without a line on its length it is chunked."""
    framing = lines or ("transfer-encoding: chunked",)
    return "\r\n".join([f"HTTP/1.1 {status}", f"content-type: {kind}", *framing, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked body (RFC 9112 §7.1)."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def answer(status: int, body: bytes = b"", *fields: tuple[str, str]) -> bytes:
    """Return a whole HTTP/1.1 answer of a known length."""
    lines = [f"{name}: {value}" for name, value in (*fields, ("content-length", str(len(body))))]
    return "\r\n".join([f"HTTP/1.1 {status} Fake", *lines, "", ""]).encode() + body


class Exchange:
    """One request over HTTP/1.1, and the means to answer it badly."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: bytes, body: bytes) -> None:
        self.reader, self.writer, self.asked, self.body = reader, writer, asked, body
        self.over = False

    async def send(self, *pieces: bytes, pause: float = 0.0) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            if pause:
                await asyncio.sleep(pause)

    async def end(self, how: str) -> None:
        """Break the connection: "reset", "close" (TLS says farewell), or "cut" (TCP alone ends)."""
        await asyncio.sleep(ARRIVAL)
        self.over = True
        if how == "close":
            self.writer.close()
            return
        if how == "reset":
            sock = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.writer.transport.abort()


class Stream:
    """One request over HTTP/2. `wire` is the connection's state machine; `flush` sends what it has to say."""

    def __init__(self, connection: "Http2", number: int, asked: bytes) -> None:
        self.connection, self.number, self.asked = connection, number, asked
        self.wire = connection.wire
        self.left = asyncio.Event()

    async def head(self, *fields: tuple[str, str], status: int = 200, end: bool = False) -> None:
        self.wire.send_headers(self.number, [(":status", str(status)), *fields], end_stream=end)
        await self.flush()

    async def data(self, data: bytes, *, end: bool = False, pause: float = 0.0) -> None:
        self.wire.send_data(self.number, data, end_stream=end)
        await self.flush()
        if pause:
            await asyncio.sleep(pause)

    async def reset(self, code: int) -> None:
        self.wire.reset_stream(self.number, code)
        await self.flush()

    async def frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Send a frame past the state machine: RFC 9113 §4.1."""
        await self.flush()
        head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
        self.connection.writer.write(head + payload)
        await self.connection.writer.drain()

    async def flush(self) -> None:
        self.connection.writer.write(self.wire.data_to_send())
        await self.connection.writer.drain()

    async def end(self, how: str) -> None:
        await Exchange(self.connection.reader, self.connection.writer, b"", b"").end(how)


type Script = Callable[[Exchange], Awaitable[None]] | Callable[[Stream], Awaitable[None]]


class Http2:
    """One HTTP/2 connection."""

    def __init__(self, server: "RawServer", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server, self.reader, self.writer = server, reader, writer
        config = h2.config.H2Configuration(client_side=False, validate_outbound_headers=False)
        config.normalize_outbound_headers = False
        self.wire = h2.connection.H2Connection(config)
        self.streams: dict[int, Stream] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        self.wire.initiate_connection()
        self.writer.write(self.wire.data_to_send())
        try:
            while data := await self.reader.read(READ):
                for event in self.wire.receive_data(data):
                    self._take(event)
                self.writer.write(self.wire.data_to_send())
        finally:
            for task in self.tasks:
                task.cancel()

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            asked = b"\n".join(name + b": " + value for name, value in event.headers)
            self.streams[event.stream_id] = Stream(self, event.stream_id, asked)
        elif isinstance(event, h2.events.DataReceived):
            self.wire.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.streams[event.stream_id].left.set()
        elif isinstance(event, h2.events.StreamEnded):
            stream = self.streams[event.stream_id]
            task = asyncio.create_task(_quiet(self.server.next_script(stream.asked)(stream)))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)


async def _quiet(work: Awaitable[None]) -> None:
    """Do what a script says; that the proxy hangs up meanwhile is part of the game."""
    with contextlib.suppress(OSError, h2.exceptions.H2Error):
        await work


class RawServer:
    """The server. `served` counts whole requests, `scripts_taken` those that met a script.

    *context* None knows no TLS, and says so to whoever begins with it; *kind* and *good* make a good answer. A request
    whose head lacks *wanted* is one that the program makes for itself: it gets a 404, and is not counted.

    `always` is a script for all requests that have none of their own.
    """

    def __init__(
        self,
        context: ssl.SSLContext | None,
        kind: str,
        good: bytes,
        *,
        wanted: bytes = b"",
        http2: bool = False,
        host: str = "127.0.0.1",
    ) -> None:
        self.kind, self.good, self.wanted = kind, good, wanted
        self.scripts: deque[Script] = deque()
        self.always: Script | None = None
        self.served = 0
        self.scripts_taken = 0
        self.port = 0
        self.host = host
        self._context = context
        self._http2 = http2
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        if context is not None:
            context.set_alpn_protocols(["h2"] if http2 else ["http/1.1"])

    @contextlib.contextmanager
    def run(self, background: Background) -> Iterator["RawServer"]:
        background.call(self._open())
        try:
            yield self
        finally:
            background.call(self._close())

    def next_script(self, asked: bytes) -> Script:
        """Return what a request with this head gets."""
        if self.wanted not in asked:
            return self._no_h2 if self._http2 else self._no_h1
        self.served += 1
        if self.scripts:
            self.scripts_taken += 1
            return self.scripts.popleft()
        return self.always or (self._good_h2 if self._http2 else self._good_h1)

    async def _good_h1(self, exchange: Exchange) -> None:
        await exchange.send(head(self.kind), chunk(self.good), END)

    async def _good_h2(self, stream: Stream) -> None:
        await stream.head(("content-type", self.kind))
        await stream.data(self.good, end=True)

    async def _no_h1(self, exchange: Exchange) -> None:
        await exchange.send(answer(404, b"{}", ("content-type", "application/json")))

    async def _no_h2(self, stream: Stream) -> None:
        await stream.head(("content-type", "application/json"), status=404)
        await stream.data(b"{}", end=True)

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._serve, self.host, 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self._context is None:  # as web servers do that are spoken to in TLS and expected none
                await reader.read(1)
                writer.write(answer(400))
                return
            await (Http2(self, reader, writer).serve() if self._http2 else self._serve_h1(reader, writer))
        except (OSError, EOFError, ssl.SSLError, asyncio.CancelledError, h2.exceptions.H2Error):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve_h1(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked = await reader.readuntil(b"\r\n\r\n")
            exchange = Exchange(reader, writer, asked, await _body(asked, reader))
            await _quiet(self.next_script(asked)(exchange))
            if exchange.over:
                return


async def _body(asked: bytes, reader: asyncio.StreamReader) -> bytes:
    fields = dict(line.lower().split(b": ", 1) for line in asked.split(b"\r\n")[1:] if b": " in line)
    if b"content-length" in fields:
        return await reader.readexactly(int(fields[b"content-length"]))
    body = b""
    while fields.get(b"transfer-encoding") == b"chunked":
        size = int(await reader.readuntil(b"\r\n"), 16)
        body += (await reader.readexactly(size + 2))[:-2]
        if not size:
            break
    return body
