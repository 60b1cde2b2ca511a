"""A connection that does not come about is given up; one that does is left alone."""

import asyncio
import time

import pytest
from mitmproxy import connection

from kimi_core.proxy import connecting, internals
from kimi_core.proxy.connecting import Patience

SOON = 0.01  # seconds


@pytest.fixture
def server():
    """Return a connection to a service, which is being made."""
    return connection.Server(address=("service.test", 443), timestamp_start=time.time())


@pytest.fixture
def patience():
    """Return what watches; nothing may be left in it afterwards."""
    made = Patience()
    yield made
    assert not made._clocks


async def connect(patience, server, begun):
    """Connect without an end; return what was said when that was given up."""
    patience.begin(server, SOON)
    begun.set()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError as error:
        return str(error)


@pytest.fixture
async def task(patience, server):
    """Return the task that makes the connection."""
    begun = asyncio.Event()
    made = asyncio.create_task(connect(patience, server, begun))
    await begun.wait()
    yield made
    made.cancel()


async def test_a_connection_that_is_not_made_in_time_is_given_up(patience, server, task):
    """Its task is told why, and to end it once more does nothing."""
    assert await task == "no connection within 0.01 s"
    patience.end(server)


async def test_a_connection_that_was_made_stays(patience, server, task):
    """What became of it, and whatever its task does from then on, is nobody's business."""
    patience.end(server)
    await asyncio.sleep(3 * SOON)
    assert not task.done()


async def test_a_connection_that_waits_for_its_turn_is_not_given_up(patience, server, task):
    """Its time begins when it does."""
    server.timestamp_start = None
    await asyncio.sleep(3 * SOON)
    assert not task.done()
    server.timestamp_start = time.time()
    assert await task


async def test_a_connection_whose_client_has_left_is_forgotten(patience, server, task):
    """It is cancelled while it waits for its turn, of which no hook tells."""
    server.timestamp_start = None
    task.cancel()
    await asyncio.sleep(3 * SOON)
    assert not patience._clocks


async def test_a_late_turn_has_all_its_time(patience, server, task):
    """What it has waited for its turn does not count."""
    server.timestamp_start = time.time() + 3600
    await asyncio.sleep(3 * SOON)
    assert not task.done()
    assert patience._clocks[server.id].when() - asyncio.get_running_loop().time() > 3000
    patience.end(server)


async def test_what_is_made_within_a_connection_has_the_rest_of_its_time(patience, server, task):
    """The clock goes on where it was stopped, and one that has run out meanwhile strikes at once."""
    patience.end(server)
    patience.resume(server, 3600.0)
    assert 3500 < patience._clocks[server.id].when() - asyncio.get_running_loop().time() <= 3600
    server.timestamp_start -= 3600
    patience.resume(server, 3600.0)
    assert await task == "no connection within 3600 s"


async def test_a_connection_that_nobody_began_is_left_alone(patience, server):
    """Or whose task is gone."""
    patience.resume(server, SOON)
    assert not patience._clocks


def test_without_the_internals_no_tunnel_is_given_up(monkeypatch):
    """A mitmproxy of which it is not known how it tells of the inner connection."""
    connecting.sees_tunnels.cache_clear()
    assert connecting.sees_tunnels()
    monkeypatch.setattr(internals, "TUNNELS", (internals.Internal("mitmproxy.proxy.tunnel", "gone"),))
    assert connecting.sees_tunnels()  # asked once
    connecting.sees_tunnels.cache_clear()
    assert not connecting.sees_tunnels()
    connecting.sees_tunnels.cache_clear()
