"""A connection handler without sockets: drives a real HttpLayer between a client and servers that are h1 or h2 peers.

Every command of the layer is carried out at once, as `mitmproxy.proxy.server` does it; completions and closed
connections are reported in a later event, never from within. Exceptions of the layer reach the test. Time stands
still but for `advance`.
"""

from __future__ import annotations

import collections
import functools
import inspect
from dataclasses import dataclass, field
from types import SimpleNamespace

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
from mitmproxy import connection, http, options
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy import commands, context, events
from mitmproxy.proxy.layers.http import HttpLayer, HTTPMode

from kimi_core.proxy import replay, replay_stream

READ = 2**16  # bytes per read, as mitmproxy has it; h2 takes quadratic time for one large piece
KEPT = 2**12  # bytes of the end of a connection that a test may look at raw
WINDOW = 2**24  # of the h2 peers: a test's body fits without window updates


@dataclass
class Message:
    """What a peer has received of one request or answer."""

    key: int  # h2: the stream id; h1: running number
    head: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    trailers: dict[str, str] = field(default_factory=dict)
    ended: bool = False
    reset: bool = False

    @property
    def status(self):
        return int(self.headers[":status"])

    @property
    def body(self):
        return b"".join(self.chunks)


class H1Peer:
    """One end of an HTTP/1.1 connection; parses what the proxy sends it, strictly."""

    def __init__(self, client):
        self.raw = b""
        self.client, self.buffer, self.messages, self.current, self.left = client, b"", [], None, 0
        self.closed = False

    def start(self):
        return b""

    def received(self, data):
        self.raw = (self.raw + data)[-KEPT:]
        self.buffer += data
        while self._step():
            pass

    def _step(self):
        if self.current is None:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return False
            self.buffer = rest
            first, *lines = head.decode("latin-1").split("\r\n")
            fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            if self.client:
                fields[":status"] = first.split(" ")[1]
            else:
                fields |= {":method": first.split(" ")[0], ":path": first.split(" ")[1]}
            self.current = Message(len(self.messages), head, fields)
            self.messages.append(self.current)
            self.left = int(fields.get("content-length", -1 if self.client else 0))
            if self.client and self.current.status == 100:
                self.left = 0
        if "transfer-encoding" in self.current.headers:
            return self._chunk()
        taken = self.buffer if self.left < 0 else self.buffer[: self.left]
        if taken:
            self.current.chunks.append(taken)
        self.buffer = self.buffer[len(taken) :]
        if self.left >= 0:
            self.left -= len(taken)
            if not self.left:
                self._end()
                return True
        return False

    def _chunk(self):
        size, found, rest = self.buffer.partition(b"\r\n")
        if not found or len(rest) < int(size, 16) + 2:
            return False
        length = int(size, 16)
        assert rest[length : length + 2] == b"\r\n", "broken chunk"
        self.buffer = rest[length + 2 :]
        if length:
            self.current.chunks.append(rest[:length])
        else:
            self._end()
        return True

    def _end(self):
        self.current.ended, self.current = True, None

    def connection_closed(self):
        self.closed = True
        if self.current is not None:
            delimited = {"content-length", "transfer-encoding"} & self.current.headers.keys()
            self.current.ended, self.current.reset = not delimited, bool(delimited)
            self.current = None

    def request(self, body, headers, method="POST", whole=True):
        fields = {"host": "a.test", "content-length": str(len(body)), **{n.lower(): v for n, v in headers.items()}}
        if "transfer-encoding" in fields:
            fields.pop("content-length")
            body = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
        head = f"{method} http://a.test/x HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in fields.items()) + "\r\n"
        if whole and "transfer-encoding" in fields:
            body += b"0\r\n\r\n"
        return None, head.encode() + body

    def more(self, key, data, end):
        return data

    def respond(self, key, status, headers, body, end):
        fields = dict(headers)
        if end and not {"content-length", "transfer-encoding"} & fields.keys():
            fields["content-length"] = str(len(body))
        elif "content-length" not in fields and status != 101:
            fields["transfer-encoding"] = "chunked"
        self.chunked = "transfer-encoding" in fields
        head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{n}: {v}\r\n" for n, v in fields.items()) + "\r\n"
        return head.encode() + (self.send(key, body, end) if body or end else b"")

    def send(self, key, data, end):
        if not self.chunked:
            return data
        return (b"%x\r\n%s\r\n" % (len(data), data) if data else b"") + (b"0\r\n\r\n" if end else b"")


class H2Peer:
    """One end of an HTTP/2 connection."""

    def __init__(self, client):
        config = h2.config.H2Configuration(client_side=client, header_encoding="utf-8")
        self.client, self.conn, self.messages, self.by_id, self.closed = (
            client,
            h2.connection.H2Connection(config),
            [],
            {},
            False,
        )

    def start(self):
        self.conn.initiate_connection()
        codes = h2.settings.SettingCodes
        self.conn.update_settings({codes.INITIAL_WINDOW_SIZE: WINDOW, codes.MAX_FRAME_SIZE: WINDOW - 1})
        self.conn.increment_flow_control_window(WINDOW)
        return self.conn.data_to_send()

    def received(self, data):
        for event in self.conn.receive_data(data):
            match event:
                case h2.events.RequestReceived() | h2.events.ResponseReceived():
                    message = Message(event.stream_id, headers=dict(event.headers))
                    self.messages.append(message)
                    self.by_id[event.stream_id] = message
                case h2.events.DataReceived():
                    if event.data:
                        self.by_id[event.stream_id].chunks.append(event.data)
                case h2.events.TrailersReceived():
                    self.by_id[event.stream_id].trailers = dict(event.headers)
                case h2.events.StreamEnded():
                    self.by_id[event.stream_id].ended = True
                case h2.events.StreamReset():
                    if event.stream_id in self.by_id:
                        self.by_id[event.stream_id].reset = True
                    else:
                        self.messages.append(Message(event.stream_id, reset=True))
                case _:
                    pass
        return self.conn.data_to_send()

    def connection_closed(self):
        self.closed = True
        for message in self.messages:
            message.reset = message.reset or not message.ended

    def request(self, body, headers, method="POST", whole=True):
        stream = self.conn.get_next_available_stream_id()
        fields = [(":method", method), (":scheme", "http"), (":authority", "a.test"), (":path", "/x")]
        if whole and body:
            headers = {"content-length": str(len(body)), **headers}
        fields += [(n.lower(), v) for n, v in headers.items() if n.lower() not in {"transfer-encoding", "connection"}]
        self.conn.send_headers(stream, fields, end_stream=whole and not body)
        return stream, self.more(stream, body, whole) if body else self.conn.data_to_send()

    def more(self, key, data, end):
        size = self.conn.max_outbound_frame_size
        for start in range(0, len(data), size):
            self.conn.send_data(key, data[start : start + size])
        if end:
            self.conn.end_stream(key)
        return self.conn.data_to_send()

    def respond(self, key, status, headers, body, end):
        fields = [(":status", str(status)), *((n, v) for n, v in headers.items() if n != "connection")]
        self.conn.send_headers(key, fields, end_stream=end and not body)
        return self.send(key, body, end) if body else self.conn.data_to_send()

    def send(self, key, data, end):
        return self.more(key, data, end)

    def reset(self, key, code=h2.errors.ErrorCodes.INTERNAL_ERROR):
        self.conn.reset_stream(key, code)
        return self.conn.data_to_send()


@functools.cache
def options_with(**values):
    """Return mitmproxy's options; made once, since that takes longer than most tests."""
    made = options.Options()
    Proxyserver().load(made)
    made.update(http2_ping_keepalive=0, **values)  # its wakeups never end
    return made


@dataclass(eq=False)
class Upstream:
    """A server connection that was opened, and the peer at its end."""

    conn: connection.Server
    peer: H1Peer | H2Peer


class Driver:
    """A client's connection to the proxy, and the servers behind it.

    *addon* has the hooks as plain functions. Hosts in `refuse` cannot be connected to. Hooks named in `paused` and
    connections (``"connect"``) wait for `resume`.
    """

    def __init__(self, addon=None, *, client="h1", upstream="h1", mode=HTTPMode.regular, **opts):
        self.opts = options_with(**opts)
        self.h2_client, self.upstream_alpn = client == "h2", upstream
        self.client = connection.Client(
            peername=("127.0.0.1", 1),
            sockname=("127.0.0.1", 8080),
            state=connection.ConnectionState.OPEN,
            alpn=b"h2" if self.h2_client else None,
        )
        self.peer = H2Peer(client=True) if self.h2_client else H1Peer(client=True)
        self.addon, self.judge = addon, SimpleNamespace(replay_attempt=replay.judge)
        self.refuse, self.paused, self.pending = set(), set(), []
        self.upstreams, self.hooks, self.flows, self.logged = [], [], [], []
        self.now, self.wakeups, self.asked = 0.0, [], 0
        self._queue, self._busy = collections.deque(), False
        self.layer = HttpLayer(context.Context(self.client, self.opts), mode)

    def start(self):
        """Begin; `layer.connections` may have been prepared before, as client replay does."""
        hello = self.peer.start()
        self.feed(events.Start(), *([events.DataReceived(self.client, hello)] if hello else []))
        return self

    # --- the loop

    def feed(self, *new):
        self._queue.extend(new)
        if self._busy:
            return
        self._busy = True
        try:
            while self._queue:
                event = self._queue.popleft()
                for command in self.layer.handle_event(event):
                    self._do(command)
                over = isinstance(event, events.ConnectionClosed)
                if over and event.connection.state is connection.ConnectionState.CLOSED:
                    event.connection.timestamp_end = self.now  # after its last event, as the server does
        finally:
            self._busy = False

    def receive(self, conn, data):
        """Report *data* in the pieces in which a socket is read."""
        self.feed(*(events.DataReceived(conn, data[at : at + READ]) for at in range(0, len(data), READ)))

    def _do(self, command):
        match command:
            case commands.SendData():
                self._send(command.connection, command.data)
            case commands.OpenConnection():
                self._pausable("connect", lambda: self._open(command))
            case commands.CloseConnection():
                self._close(command.connection)
            case commands.RequestWakeup():
                self.asked += 1
                self.wakeups.append((self.now + command.delay, command))
            case commands.StartHook():
                self.hooks.append(command.name)
                self._pausable(command.name, lambda: self._hook(command))
            case commands.Log():
                self.logged.append(command.message)

    def _pausable(self, name, action):
        if name in self.paused:
            self.pending.append(action)
        else:
            action()

    def resume(self):
        self.paused.clear()
        pending, self.pending = self.pending, []
        for action in pending:
            action()
        if self._queue and not self._busy:
            self.feed(self._queue.popleft())

    def _hook(self, command):
        (data,) = command.args()
        if isinstance(data, http.HTTPFlow) and data not in self.flows:
            self.flows.append(data)
        for addon in (self.judge, self.addon):
            result = getattr(addon, command.name, lambda _: None)(data)
            if inspect.iscoroutine(result):
                try:
                    result.send(None)
                except StopIteration:
                    pass
                else:
                    raise AssertionError("a test's coroutine must not wait")
        self._queue.append(events.HookCompleted(command))

    def _open(self, command):
        conn = command.connection
        if conn.address[0] in self.refuse:
            conn.error = "refused"
            self._queue.append(events.OpenConnectionCompleted(command, "refused"))
            return
        conn.state = connection.ConnectionState.OPEN
        conn.timestamp_start = self.now + 1
        conn.alpn = b"h2" if self.upstream_alpn == "h2" else None
        upstream = Upstream(conn, H2Peer(client=False) if self.upstream_alpn == "h2" else H1Peer(client=False))
        self.upstreams.append(upstream)
        self._queue.append(events.OpenConnectionCompleted(command, None))
        if hello := upstream.peer.start():
            self._queue.append(events.DataReceived(conn, hello))

    def _peer(self, conn):
        if conn is self.client:
            return self.peer
        return next(upstream.peer for upstream in self.upstreams if upstream.conn is conn)

    def _send(self, conn, data):
        if conn.state & connection.ConnectionState.CAN_WRITE:
            for at in range(0, len(data), READ):
                answer = self._peer(conn).received(data[at : at + READ])
                if answer:
                    self._queue.append(events.DataReceived(conn, answer))

    def _close(self, conn):
        if conn.state is not connection.ConnectionState.CLOSED:
            conn.state = connection.ConnectionState.CLOSED
            self._peer(conn).connection_closed()
            self._queue.append(events.ConnectionClosed(conn))

    # --- the client

    def request(self, body=b"body", headers=None, method="POST", *, whole=True):
        """Send a request; returns its key (h2: stream id)."""
        key, data = self.peer.request(body, headers or {}, method, whole)
        self.receive(self.client, data)
        return key

    def more(self, key, data, *, end=False):
        """Send more of a request's body (h1: raw bytes)."""
        self.receive(self.client, self.peer.more(key, data, end))

    def leave(self, key=None):
        """Let the client go: h2 resets the stream, h1 hangs up."""
        if self.h2_client and key is not None:
            self.feed(events.DataReceived(self.client, self.peer.reset(key)))
        elif self.client.state is not connection.ConnectionState.CLOSED:
            self.client.state = connection.ConnectionState.CLOSED
            self.feed(events.ConnectionClosed(self.client))

    @property
    def answers(self):
        return [answer for answer in self.peer.messages if answer.headers]

    @property
    def answer(self):
        return self.answers[-1]

    @property
    def got(self):
        """The last bytes that an h1 client got."""
        return self.peer.raw

    # --- the servers

    @property
    def requests(self):
        """Every request that reached a server, as (upstream, message), in order of connections."""
        return [(up, message) for up in self.upstreams for message in up.peer.messages]

    def respond(self, status, body=b"", headers=None, *, end=True, index=-1):
        """Answer the request *index*."""
        up, message = self.requests[index]
        self.receive(up.conn, up.peer.respond(message.key, status, headers or {}, body, end))

    def send(self, data, *, end=False, index=-1):
        """Send more of an answer."""
        up, message = self.requests[index]
        self.receive(up.conn, up.peer.send(message.key, data, end))

    def break_off(self, index=-1):
        """Let the server go in the middle: h2 resets the stream, h1 hangs up."""
        up, message = self.requests[index]
        if isinstance(up.peer, H2Peer):
            self.feed(events.DataReceived(up.conn, up.peer.reset(message.key)))
        else:
            self.hang_up(index)

    def hang_up(self, index=-1):
        """Close the server's connection."""
        up, _ = self.requests[index]
        up.conn.state &= ~connection.ConnectionState.CAN_READ
        self.feed(events.ConnectionClosed(up.conn))

    def cancelled(self, index=0):
        """Tell whether the proxy has taken request *index* back."""
        up, message = self.requests[index]
        return up.peer.closed or message.reset

    # --- time

    def advance(self, seconds):
        """Let time pass; wakeups come in their order, each at its time."""
        end = self.now + seconds
        while due := sorted((entry for entry in self.wakeups if entry[0] <= end), key=lambda entry: entry[0]):
            self.wakeups.remove(due[0])
            self.now = max(self.now, due[0][0])
            self.feed(events.Wakeup(due[0][1]))
        self.now = end

    def finish(self):
        """Let the client go and look that nothing is left of any stream."""
        self.resume()
        self.leave()
        assert self.layer.streams == {}
        pending = {entry[1] for entry in self.wakeups}
        assert all(command in pending for command in self.layer.command_sources)
        self.advance(2 * replay_stream.LONGEST_WAKEUP)
        assert self.layer.command_sources == {}
