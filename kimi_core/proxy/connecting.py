"""Connections to a service that do not come about are given up after a while, the handshake of TLS included.

mitmproxy waits for both without an end, and a stream that waits for them hears no clock: the limits of `replay_stream`
begin with the request. What makes a connection is a task of its own, in which the hook `server_connect` runs; where
that is cancelled, mitmproxy reports the connection as one that failed.

Through an upstream proxy there are two: the connection to that proxy, and the one within, which begins with CONNECT and
of which no hook but those of TLS tells. The task is that of the first, and the time that of both together.
"""

from __future__ import annotations

import asyncio
import time
from functools import cache, partial
from weakref import WeakSet, WeakValueDictionary

from mitmproxy import connection, tls
from mitmproxy.proxy.mode_specs import UpstreamMode

from kimi_core.proxy import internals

SECONDS = 15.0  # for name, TCP and TLS together; kimi-cli waits as long for the first two (kimi.md §1.5)


class Patience:
    """Has an eye on connections that are being made."""

    def __init__(self) -> None:
        self._clocks: dict[str, asyncio.TimerHandle] = {}
        self._tasks: WeakValueDictionary[str, asyncio.Task[object]] = WeakValueDictionary()
        self._tunnelled: WeakSet[connection.Client] = WeakSet()  # those who have asked for a tunnel

    def begin(self, server: connection.Server, seconds: float) -> None:
        """Give up *server* after so many seconds, unless `end` comes first. To be called in the task that connects."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks[server.id] = task
        self._set(seconds, task, server, seconds)

    def note_tunnel(self, client: connection.Client) -> None:
        """Remember that *client* has asked for a tunnel."""
        self._tunnelled.add(client)

    def is_told(self, client: connection.Client) -> bool:
        """Tell whether a hook will say that a connection for *client* is there; none does of a raw tunnel."""
        return client.tls or client not in self._tunnelled

    def resume(self, server: connection.Server, seconds: float) -> None:
        """Give up *server*, which is there, for what is made within it; the time is that of `begin`."""
        task = self._tasks.get(server.id)
        if task is not None:
            self.end(server)
            self._expire(task, server, seconds)

    def end(self, server: connection.Connection) -> None:
        """Leave *server* alone: it is there, or it has failed."""
        clock = self._clocks.pop(server.id, None)
        if clock is not None:
            clock.cancel()

    def _set(self, delay: float, task: asyncio.Task[object], server: connection.Server, seconds: float) -> None:
        again = partial(self._expire, task, server, seconds)
        self._clocks[server.id] = asyncio.get_running_loop().call_later(delay, again)

    def _expire(self, task: asyncio.Task[object], server: connection.Server, seconds: float) -> None:
        self._clocks.pop(server.id, None)
        since = server.timestamp_start  # mitmproxy makes five at a time, and who is not let in cannot report back
        left = seconds if since is None else since + seconds - time.time()
        if task.done():  # the client has left before it was its turn
            return
        if left > 0:
            self._set(left, task, server, seconds)
        else:
            task.cancel(f"no connection within {seconds:g} s")


def leads_on(client: connection.Client, server: connection.Server) -> bool:
    """Tell whether *server* is the upstream proxy of *client*, through which services are reached as well."""
    mode = client.proxy_mode
    return isinstance(mode, UpstreamMode) and server.address == mode.address


@cache
def sees_tunnels() -> bool:
    """Tell whether the end of a handshake within an upstream proxy's connection can be told from any other's."""
    return not internals.missing(internals.TUNNELS)


def carriers(data: tls.TlsData) -> list[connection.Connection]:
    """Return the connection whose handshake this is, and those of upstream proxies that it is made through."""
    layers = [each for each in data.context.layers if getattr(each, "conn", None) is data.conn]
    return [data.conn, *(getattr(each, "tunnel_connection", data.conn) for each in layers)]
