"""A small HTTP server on loopback that waits for the one request with which the portal ends a login.

It answers a browser of this machine and nobody else: loopback addresses only, GET only, a Host that names this
machine, the attempt's own state. Anything else is turned away and waited on; everything is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from kimi_core.errors import LoginError
from kimi_core.kiro.auth_errors import CodeExpired
from kimi_core.kiro.portal import Attempt, Callback, read_callback
from kimi_core.origins import LOOPBACK

PORTS = (3128, 49153)  # those that the portal is known to send back to (kiro.md §7.5)
PATIENCE = 600.0  # seconds for the whole of a login in the browser
HEAD_LIMIT = 16384  # bytes of a request up to its empty line
HEAD_SECONDS = 10.0  # for a request to be there
MAX_CONNECTIONS = 64  # in one login; a browser makes a few
OUTCOMES = {
    200: ("OK", "You are logged in; this page can be closed."),
    400: ("Bad Request", "This is not the login that is being waited for."),
    403: ("Forbidden", "The login was refused."),
}


@dataclass(slots=True)
class Listener:
    """Waits on `port` of this machine."""

    port: int
    _sockets: list[socket.socket]

    async def wait(self, attempt: Attempt, *, seconds: float = PATIENCE) -> Callback:
        """Return what the portal comes back with. Raises what `read_callback` raises, and CodeExpired."""
        result: asyncio.Future[Callback] = asyncio.get_running_loop().create_future()
        door = _Door(attempt, self.port, result)
        servers = [await asyncio.start_server(door.enter, sock=sock, limit=HEAD_LIMIT) for sock in self._sockets]
        self._sockets = []
        try:
            async with asyncio.timeout(seconds):
                return await result
        except TimeoutError:
            raise CodeExpired("Nobody logged in in the browser in time.") from None
        finally:
            for server in servers:
                server.close()
            await door.leave()

    def close(self) -> None:
        """Give up the port if it was never waited on."""
        for sock in self._sockets:
            sock.close()
        self._sockets = []


@contextlib.asynccontextmanager
async def listen(ports: Sequence[int] = PORTS) -> AsyncIterator[Listener]:
    """Hold the first of *ports* that is free on this machine. Raises LoginError where none is."""
    for port in ports:
        sockets = _bound(port)
        if sockets:
            listener = Listener(sockets[0].getsockname()[1], sockets)
            try:
                yield listener
            finally:
                listener.close()
            return
    tried = ", ".join(map(str, ports))
    raise LoginError(f"None of the ports {tried} of this machine is free; paste the address instead (--paste).")


def _bound(port: int) -> list[socket.socket]:
    """Return sockets on *port* of both loopback addresses; IPv6 only where there is any. Empty where it is taken."""
    sockets: list[socket.socket] = []
    try:
        sockets.append(socket.create_server(("127.0.0.1", port)))
        with contextlib.suppress(OSError):  # no IPv6 here; "localhost" is 127.0.0.1 then
            here = sockets[0].getsockname()[1]
            sockets.append(socket.create_server(("::1", here), family=socket.AF_INET6))
    except OSError:
        return []
    return sockets


class _Door:
    """Reads one request per connection, and lets the right one in."""

    def __init__(self, attempt: Attempt, port: int, result: asyncio.Future[Callback]) -> None:
        self.attempt = attempt
        self.hosts = {f"{f'[{name}]' if ':' in name else name}:{port}" for name in LOOPBACK}
        self.result = result
        self.seen = 0
        self.open: set[asyncio.Task[object]] = set()

    async def enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # a coroutine that runs is in one
        self.open.add(task)
        self.seen += 1
        settle: Callable[[], None] | None = None
        try:
            if self.seen <= MAX_CONNECTIONS:
                async with asyncio.timeout(HEAD_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                    status, settle = self._judge(head)
                    writer.write(_page(status))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()
            if settle is not None and not self.result.done():
                settle()
            self.open.discard(task)

    async def leave(self) -> None:
        """End what is still open; the one that was let in has its page."""
        for task in list(self.open):
            task.cancel()
        await asyncio.gather(*self.open, return_exceptions=True)

    def _judge(self, head: bytes) -> tuple[int, Callable[[], None] | None]:
        line, _, rest = head.decode("latin-1").partition("\r\n")
        method, _, target = line.partition(" ")
        address = target.rpartition(" ")[0]
        hosts = [value.strip().lower() for value in _fields(rest, "host")]
        if method != "GET" or len(hosts) != 1 or hosts[0] not in self.hosts:
            return 400, None
        try:
            found = read_callback(address, self.attempt)
        except LoginError as error:
            problem = error
            return 403, lambda: self.result.set_exception(problem)
        if found is None:
            return 400, None
        return 200, lambda: self.result.set_result(found)


def _fields(head: str, name: str) -> list[str]:
    pairs = (line.partition(":") for line in head.split("\r\n"))
    return [value for key, _, value in pairs if key.strip().lower() == name]


def _page(status: int) -> bytes:
    """Return a page without anything from the request in it."""
    reason, text = OUTCOMES[status]
    body = f"<!doctype html><title>kimi-mitm</title><p>{text}".encode()
    fields = (
        f"HTTP/1.1 {status} {reason}",
        "Content-Type: text/html; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Referrer-Policy: no-referrer",
        "Connection: close",
    )
    return "\r\n".join(fields).encode() + b"\r\n\r\n" + body
