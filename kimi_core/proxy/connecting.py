"""Connections to a service that do not come about are given up after a while, the handshake of TLS included.

mitmproxy waits for both without an end, and a stream that waits for them hears no clock: the limits of `replay_stream`
begin with the request. What makes a connection is a task of its own, in which the hook `server_connect` runs; where
that is cancelled, mitmproxy reports the connection as one that failed.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial

from mitmproxy import connection

SECONDS = 15.0  # for name, TCP and TLS together; kimi-cli waits as long for the first two (kimi.md §1.5)


class Patience:
    """Has an eye on connections that are being made."""

    def __init__(self) -> None:
        self._clocks: dict[str, asyncio.TimerHandle] = {}

    def begin(self, server: connection.Server, seconds: float) -> None:
        """Give up *server* after so many seconds, unless `end` comes first. To be called in the task that connects."""
        task = asyncio.current_task()
        assert task is not None
        self._clocks[server.id] = asyncio.get_running_loop().call_later(
            seconds, partial(self._expire, task, server, seconds)
        )

    def end(self, server: connection.Connection) -> None:
        """Leave *server* alone: it is there, or it has failed."""
        clock = self._clocks.pop(server.id, None)
        if clock is not None:
            clock.cancel()

    def _expire(self, task: asyncio.Task[object], server: connection.Server, seconds: float) -> None:
        since = server.timestamp_start  # mitmproxy makes five at a time, and who is not let in cannot report back
        left = seconds if since is None else since + seconds - time.time()
        if task.done():  # the client has left before it was its turn
            del self._clocks[server.id]
        elif left > 0:
            again = partial(self._expire, task, server, seconds)
            self._clocks[server.id] = asyncio.get_running_loop().call_later(left, again)
        else:
            del self._clocks[server.id]
            task.cancel(f"no connection within {seconds:g} s")
