"""A connection that is given up at any moment is closed, and its layers hear of it."""

from __future__ import annotations

import asyncio

import pytest
from mitmproxy import connection, options
from mitmproxy.proxy import commands, context, events, layer, server

from kimi_core.proxy import closing


class Listening(layer.Layer):
    """Notes what it hears, and closes on the first word."""

    def __init__(self, surroundings):
        super().__init__(surroundings)
        self.heard = []

    def _handle_event(self, event):
        self.heard.append(type(event))
        if isinstance(event, events.DataReceived):
            yield commands.CloseConnection(event.connection)


class Handler(server.ConnectionHandler):
    """A handler without hooks."""

    async def handle_hook(self, hook):
        pass


class Writer:
    """The sending end of a connection."""

    closed = False

    def close(self):
        self.closed = True

    async def drain(self):
        pass


@pytest.fixture(autouse=True)
def replaced():
    """Have mitmproxy read connections as we do."""
    stock = server.ConnectionHandler.handle_connection
    closing.enable()
    assert server.ConnectionHandler.handle_connection is closing.handle_connection
    yield
    closing.disable()
    assert server.ConnectionHandler.handle_connection is stock


@pytest.fixture
async def handler():
    """Return the handler of a client that has sent two pieces; the lock that events go through is free."""
    client = connection.Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2), timestamp_start=0)
    client.state = connection.ConnectionState.OPEN
    made = Handler(context.Context(client, options.Options()))
    made.layer = Listening(made.layer.context)
    reader = asyncio.StreamReader()
    reader.feed_data(b"one")
    made.transports[client] = server.ConnectionIO(handler=None, reader=reader, writer=Writer())
    return made


async def read(handler):
    """Begin to read, and return the task that does."""
    task = asyncio.create_task(handler.handle_connection(handler.client))
    handler.transports[handler.client].handler = task
    for _ in range(5):
        await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("when", ["waiting for bytes", "handing them on", "busy"])
async def test_a_connection_that_is_given_up_is_closed(handler, when):
    """While it waits for more, for its turn to hand on what has come, or as its own bytes close it."""
    writer, client = handler.transports[handler.client].writer, handler.client
    if when != "busy":
        handler.layer._handle_event = lambda event: (handler.layer.heard.append(type(event)), iter(()))[1]
    if when == "handing them on":
        await handler._server_event_lock.acquire()
    task = await read(handler)
    task.cancel("given up")
    await asyncio.sleep(0)
    if when == "handing them on":
        handler._server_event_lock.release()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert writer.closed
    assert not handler.transports
    assert client.state is connection.ConnectionState.CLOSED
    assert handler.layer.heard[-1] is events.ConnectionClosed
    assert handler.layer.heard.count(events.ConnectionClosed) == 1


async def test_a_connection_without_a_way_back_is_left_as_well(handler):
    """What cannot be written to needs no closing."""
    handler.transports[handler.client].writer = None
    await handler._server_event_lock.acquire()
    task = await read(handler)
    task.cancel("given up")
    await asyncio.sleep(0)
    handler._server_event_lock.release()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not handler.transports


async def test_a_connection_that_ends_by_itself_is_mitmproxys(handler):
    """Nothing is added."""
    handler.layer._handle_event = lambda event: (handler.layer.heard.append(type(event)), iter(()))[1]
    handler.transports[handler.client].reader.feed_eof()
    task = await read(handler)
    assert handler.layer.heard == [events.DataReceived, events.ConnectionClosed]
    task.cancel()  # what is left could still be written to
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not handler.transports
