"""Heads of HTTP/1.1 that have no end get one, and nobody quotes what stands in a broken one.

mitmproxy reads a head until its blank line comes, so that who sends none fills the memory until time ends it. It keeps,
in the same way, all that a client sends ahead of its turn. And what it says of a head that breaks off or cannot be read
quotes its bytes, credentials among them, into the log and into errors.

HTTP/2 has bounds of its own: h2 takes 64 frames, and 64 KiB of fields.
"""

from __future__ import annotations

from collections.abc import Generator

from h11._receivebuffer import ReceiveBuffer
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers import http as layers
from mitmproxy.proxy.layers.http import ErrorCode, ReceiveHttp, RequestProtocolError, ResponseProtocolError
from mitmproxy.proxy.layers.http._http1 import Http1Client, Http1Server, make_error_response
from mitmproxy.utils import human

HEAD_BYTES = 256 * 1024  # of a head, or of a line between chunks; most programs refuse beyond 8 to 64 KiB
AHEAD_BYTES = 65 << 20  # that a client sends ahead of its turn: a request as large as one may be by default
TOO_LARGE = 431  # Request Header Fields Too Large (RFC 6585 §5)

ENDLESS = f"the head of its answer is longer than {HEAD_BYTES >> 10} KiB"
BROKEN = "the head of its answer breaks the rules of HTTP"
UNASKED = "A server sent something that nobody had asked for."
REFUSED = "a request whose head breaks off or cannot be read"
GREEDY = f"The client sent more than {AHEAD_BYTES >> 20} MiB ahead of its turn."

type Steps = Generator[commands.Command, object, None]


class BoundedServer(Http1Server):
    """Reads requests."""

    def read_headers(self, event: events.ConnectionEvent) -> Steps:
        """Read a head; one that is too long is answered at once."""
        steps = super().read_headers(event)
        for command in steps:
            if isinstance(command, commands.Log):
                command.message = f"{human.format_address(self.conn.peername)}: {REFUSED}"
            yield command
            if isinstance(command, ReceiveHttp):  # it was understood
                yield from steps
        if self.state == self.read_headers and len(self.buf) > HEAD_BYTES:
            text = f"The head of the request is longer than {HEAD_BYTES >> 10} KiB."
            self.state, self.buf = self.done, ReceiveBuffer()
            yield commands.SendData(self.conn, make_error_response(TOO_LARGE, text))
            yield commands.CloseConnection(self.conn)

    def wait(self, event: events.Event) -> Steps:
        """Keep what a client sends ahead of its turn; one that does so without an end is cut off."""
        if not isinstance(event, events.DataReceived) or len(self.buf) <= AHEAD_BYTES:
            yield from super().wait(event)
            return
        self.state, self.buf = self.done, ReceiveBuffer()
        yield commands.CloseConnection(self.conn)
        yield ReceiveHttp(RequestProtocolError(self.stream_id, GREEDY, ErrorCode.CLIENT_DISCONNECTED))


class BoundedClient(Http1Client):
    """Reads answers."""

    def read_headers(self, event: events.ConnectionEvent) -> Steps:
        """Read a head; one that is too long is an attempt that failed."""
        if isinstance(event, events.ConnectionClosed):
            self.buf = ReceiveBuffer()  # half a head says no more than none
        steps = super().read_headers(event)
        for command in steps:
            if isinstance(command, commands.Log):
                command.message = UNASKED
            elif isinstance(command, ReceiveHttp) and isinstance(event, events.DataReceived):
                if isinstance(command.event, ResponseProtocolError):  # it was not understood
                    command.event.message = BROKEN
                yield command
                yield from steps
                return
            yield command
        if self.state == self.read_headers and self.stream_id is not None and len(self.buf) > HEAD_BYTES:
            self.state, self.buf = self.done, ReceiveBuffer()
            yield commands.CloseConnection(self.conn)
            yield ReceiveHttp(ResponseProtocolError(self.stream_id, ENDLESS, ErrorCode.GENERIC_SERVER_ERROR))


def enable() -> None:
    """Have mitmproxy read heads so."""
    layers.Http1Server, layers.Http1Client = BoundedServer, BoundedClient  # type: ignore[misc]  # replaced on purpose


def disable() -> None:
    """Undo `enable`."""
    layers.Http1Server, layers.Http1Client = Http1Server, Http1Client  # type: ignore[misc]  # see `enable`
