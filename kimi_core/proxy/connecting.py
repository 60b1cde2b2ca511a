"""Connections to a service that do not come about are given up after a while, the handshake of TLS included.

mitmproxy waits for both without an end, and what waits there hears no clock: the limits of `replay_stream` begin with
the request. So a stream says here that it waits for a connection, and the task that makes it is cancelled if the same
stream still does when its time is over; mitmproxy then reports the connection as one that failed.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mitmproxy import connection

SECONDS = 30.0  # name, connection and TLS take a second or two where the service is there at all


@dataclass
class _Client:
    """A client's streams that wait: number -> seconds; and the clocks of the connections that are being made."""

    streams: dict[int, float] = field(default_factory=dict)
    clocks: list[asyncio.TimerHandle] = field(default_factory=list)


_clients: dict[str, _Client] = {}
_numbers = itertools.count()


@contextmanager
def waiting(client: connection.Client, seconds: float | None) -> Iterator[None]:
    """Wait for a connection of *client*'s within, so many *seconds* at the most where that is less than `SECONDS`."""
    entry = _clients.setdefault(client.id, _Client())
    number = next(_numbers)
    entry.streams[number] = min(seconds or SECONDS, SECONDS)
    try:
        yield
    finally:
        del entry.streams[number]
        if not entry.streams:
            for clock in entry.clocks:
                clock.cancel()
            _clients.pop(client.id, None)


def begin(client: connection.Client) -> None:
    """Watch the connection that the current task makes for *client*; to be called before it is made."""
    entry, task = _clients.get(client.id), asyncio.current_task()
    if entry is None:
        return
    assert task is not None  # mitmproxy makes each connection in one of its own
    those, seconds = set(entry.streams), min(entry.streams.values())

    def expire() -> None:
        if not those.isdisjoint(entry.streams):
            task.cancel(f"no connection within {seconds:g} s")

    loop = asyncio.get_running_loop()
    entry.clocks = [clock for clock in entry.clocks if clock.when() > loop.time()]
    entry.clocks.append(loop.call_later(seconds, expire))
