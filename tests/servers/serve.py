"""Real sockets for the fakes: hypercorn behind a relay that can break connections, all in one background loop.

::

    proxy under test ──tcp──> Relay ──tcp──> hypercorn (TLS, HTTP/1.1 or HTTP/2) ──> ASGI app

What no ASGI app can do (refuse, reset, close without an answer, let a kept-alive connection go stale) the relay does
below TLS, so that it is the same for both protocols. The app finds its own connection in
``scope["extensions"]["tests.connection"]``.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

import trustme
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config

CONNECTION = "tests.connection"
ALPN = ("h2", "http/1.1")
HTTP1 = ("http/1.1",)
CHUNK = 65536
STOP_SECONDS = 10.0
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with no time left: close() sends RST instead of FIN


class Background:
    """An event loop in a thread of its own. `call` runs a coroutine there and returns its result here."""

    def __init__(self, name: str = "fakes") -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.call(self._wind_down())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(STOP_SECONDS)
        self.loop.close()

    def call[T](self, work: Coroutine[Any, Any, T], timeout: float = STOP_SECONDS) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    def run[T](self, function: Callable[[], T]) -> T:
        """Run a plain function in the loop's thread: for what belongs to the loop."""

        async def inside() -> T:
            return function()

        return self.call(inside())

    async def _wind_down(self) -> None:
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self.loop.shutdown_asyncgens()
        await self.loop.shutdown_default_executor()


class Fault(StrEnum):
    """What a relay does to a new connection."""

    RESET = "reset"
    CLOSE = "close"


class Connection:
    """One relayed connection. All methods are for the loop's own thread."""

    def __init__(self, number: int, near: asyncio.StreamWriter, far: asyncio.StreamWriter | None = None) -> None:
        self.number = number
        self.near = near
        self.far = far
        self.stale = False  # looks alive; the app closes it without an answer when the next request comes

    def reset(self) -> None:
        """Send RST to the peer, whatever was under way."""
        sock = self.near.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.abort()

    def close(self) -> None:
        """Send FIN to the peer without a TLS farewell or an end of the answer."""
        self.near.close()
        if self.far is not None:
            self.far.transport.abort()

    def abort(self) -> None:
        self.near.transport.abort()
        if self.far is not None:
            self.far.transport.abort()


class Relay:
    """Relays TCP connections on a loopback port to another; a base for what reads a preface first (`target`).

    `faults` are met by the next connections, one each. `connections` holds every one so far, open or not.
    """

    def __init__(self, to_port: int = 0, *, port: int = 0) -> None:
        self.to_port = to_port
        self.port = port
        self.connections: list[Connection] = []
        self.faults: list[Fault] = []
        self._server: asyncio.Server | None = None
        self._by_far_port: dict[int, Connection] = {}

    async def open(self) -> None:
        """Listen; again on the same port after `refuse`."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._server = await asyncio.start_server(self._serve, sock=listener)

    async def refuse(self) -> None:
        """Stop listening: a connect gets ECONNREFUSED from the kernel. Open connections stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def close(self) -> None:
        await self.refuse()
        for connection in self.connections:
            connection.abort()
        await asyncio.sleep(0)

    def connection_from(self, far_port: int) -> Connection | None:
        """Return the connection that the served app sees as coming from *far_port*."""
        return self._by_far_port.get(far_port)

    async def target(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int | None:
        """Return the port to relay to, or None where the connection is done with."""
        return self.to_port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(len(self.connections) + 1, writer)
        self.connections.append(connection)
        if self.faults:
            fail = connection.reset if self.faults.pop(0) is Fault.RESET else connection.close
            fail()
            return
        try:
            port = await self.target(reader, writer)
            if port is None:
                return
            far_reader, connection.far = await asyncio.open_connection("127.0.0.1", port)
            self._by_far_port[connection.far.get_extra_info("sockname")[1]] = connection
            await asyncio.gather(_pump(reader, connection.far), _pump(far_reader, writer))
        except (OSError, EOFError):
            connection.reset()
        finally:
            for side in (connection.near, connection.far):
                if side is not None:
                    await _closed(side)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    if not writer.is_closing():
        writer.write_eof()


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


class _Config(Config):
    def __init__(self, ca: trustme.CA | None, names: Sequence[str], alpn: Sequence[str]) -> None:
        super().__init__()
        self._names, self._ca = names, ca
        self.alpn_protocols = list(alpn)
        self.accesslog = self.errorlog = None
        self.graceful_timeout = 1.0
        self.keep_alive_timeout = 300.0
        self.h11_pass_raw_headers = True  # header names as they were spelled
        self.include_server_header = False

    @property
    def ssl_enabled(self) -> bool:
        return self._ca is not None

    def create_ssl_context(self) -> ssl.SSLContext | None:
        if self._ca is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*self._names).configure_cert(context)
        context.set_alpn_protocols(list(self.alpn_protocols))
        return context


class Service:
    """An ASGI app on a loopback port: with TLS for *names* where a CA is given, speaking what *alpn* says."""

    def __init__(
        self,
        background: Background,
        app: Any,
        *,
        ca: trustme.CA | None = None,
        names: Sequence[str] = ("localhost", "127.0.0.1"),
        alpn: Sequence[str] = ALPN,
    ) -> None:
        self.app = app
        self.relay = Relay()
        self.scheme = "https" if ca else "http"
        self._background = background
        self._config = _Config(ca, names, alpn)
        self._stop = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        return self.relay.port

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}"

    def __enter__(self) -> Self:
        self._background.call(self._start())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._background.call(self._end())

    def refuse(self) -> None:
        """Close the port."""
        self._background.call(self.relay.refuse())

    def accept(self) -> None:
        """Open the port again."""
        self._background.call(self.relay.open())

    def drop(self) -> None:
        """End every connection that is open now, as a restart of the service would."""
        self._background.run(lambda: [connection.abort() for connection in self.relay.connections])

    async def _start(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.relay.to_port = listener.getsockname()[1]
        self._config.bind = [f"fd://{listener.detach()}"]
        self._serving = asyncio.create_task(
            hypercorn_serve(self._entry, self._config, shutdown_trigger=self._stop.wait)
        )
        await self.relay.open()

    async def _end(self) -> None:
        await self.relay.close()
        self._stop.set()
        assert self._serving is not None
        await self._serving

    async def _entry(
        self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] == "http":
            scope["extensions"][CONNECTION] = self.relay.connection_from(scope["client"][1])
        await self.app(scope, receive, send)
