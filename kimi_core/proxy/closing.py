"""A connection that is given up while more of it arrives is closed, and its layers hear of it.

mitmproxy closes a connection by cancelling the task that reads it. It is ready for that while it waits for bytes, but
not while it waits to hand them on, as it does behind a hook: the task then ends with the socket open, and who waits for
the connection waits for ever.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from contextlib import suppress

from mitmproxy.connection import Connection, ConnectionState
from mitmproxy.proxy import events
from mitmproxy.proxy.server import ConnectionHandler

_stock = inspect.unwrap(
    ConnectionHandler.handle_connection
)  # where this module is executed again, ours is in its place


@functools.wraps(_stock)
async def handle_connection(handler: ConnectionHandler, connection: Connection) -> None:
    """Read *connection* to its end, as mitmproxy does; whatever that end is, it is one."""
    try:
        await _stock(handler, connection)
    except asyncio.CancelledError:
        left = handler.transports.pop(connection, None)
        if left is not None:
            if left.writer is not None:
                with suppress(OSError):
                    left.writer.close()
            connection.state = ConnectionState.CLOSED
            await handler.server_event(events.ConnectionClosed(connection))
        raise


def enable() -> None:
    """Have mitmproxy read connections so."""
    ConnectionHandler.handle_connection = handle_connection  # type: ignore[method-assign,assignment]  # replaced on purpose


def disable() -> None:
    """Undo `enable`."""
    ConnectionHandler.handle_connection = _stock  # type: ignore[method-assign]  # see `enable`
