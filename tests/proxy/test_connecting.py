"""A connection that does not come about is given up; one that does is left alone."""

import asyncio

import pytest
from mitmproxy import connection

from kimi_core.proxy import connecting

SOON = 0.01  # seconds


@pytest.fixture
def client():
    """Return a client's connection."""
    return connection.Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2))


@pytest.fixture(autouse=True)
def _nothing_is_left():
    """Whatever happens, nobody is remembered afterwards."""
    yield
    assert not connecting._clients


async def connect(client, made):
    """Make a connection that is never made, or stays; return what it was told when it was given up."""
    connecting.begin(client)
    made.set()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError as error:
        return str(error)


async def connecting_task(client):
    """Return the task of a connection that has begun."""
    made = asyncio.Event()
    task = asyncio.create_task(connect(client, made))
    await made.wait()
    return task


async def test_a_connection_that_is_not_made_in_time_is_given_up(client):
    """Its task is told why."""
    with connecting.waiting(client, SOON):
        task = await connecting_task(client)
        assert await task == "no connection within 0.01 s"


@pytest.mark.parametrize("meanwhile", [False, True], ids=["nobody waits", "another one waits"])
async def test_a_connection_that_was_made_stays(client, meanwhile):
    """Once its stream goes on nobody touches it, though another stream of that client may wait for another one."""
    with connecting.waiting(client, SOON):
        task = await connecting_task(client)
    if meanwhile:
        with connecting.waiting(client, SOON):
            await asyncio.sleep(3 * SOON)
    else:
        await asyncio.sleep(3 * SOON)
    assert not task.done()
    task.cancel()


async def test_each_stream_has_its_own_patience(client):
    """The shortest counts; the clocks of connections that are made go with the last stream that waits."""
    with connecting.waiting(client, None), connecting.waiting(client, SOON):
        task = await connecting_task(client)
        assert await task
    with connecting.waiting(client, 1000):
        again = await connecting_task(client)
        (clock,) = connecting._clients[client.id].clocks
        assert clock.when() - asyncio.get_running_loop().time() <= connecting.SECONDS
    assert clock.cancelled()
    again.cancel()


async def test_whom_nobody_waits_for_takes_its_time(client):
    """A connection of a flow that is none of ours has mitmproxy's own limits."""
    task = await connecting_task(client)
    assert not task.done()
    task.cancel()
