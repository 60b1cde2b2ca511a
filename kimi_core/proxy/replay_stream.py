"""mitmproxy's HTTP stream, able to hold an answer back and to send its request again.

`HttpLayer.make_stream` looks `HttpStream` up as a module global, so `enable` covers CONNECT, reverse mode, direct
requests and client replay at once. Flows without a `Control` pass through as they do in plain mitmproxy. The internals
of mitmproxy that a replay needs are used here alone; `internals` lists them.

The server's side of a stream, as far as it differs::

    waiting ──head──> held ──end, bound, break──> judged ──retry──> waiting, under a fresh upstream id
       │       └────> peeking ──False──> held            └─relay, reply──> done
       │                 └──True──> streaming or collecting, as in mitmproxy
       └──refused, reset, silent, unsealed──> judged

Two rules keep it sound. Each attempt has a stream id of its own on the server's side (HTTP/2 maps streams by id, and
late events of an attempt that was given up must not be taken for the next one's): `_upstream_id`, never on the wire.
And between the end of one attempt and the next there is always a blocking hook, because an HTTP/1 connection is done
with an answer only after the event that ended it has been handled.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mitmproxy import connection, hooks, http
from mitmproxy.net.http.http1 import expected_http_body_size
from mitmproxy.net.http.validate import validate_headers
from mitmproxy.proxy import commands, context, events
from mitmproxy.proxy.layers import http as layers
from mitmproxy.proxy.layers.http import (
    DropStream,
    ErrorCode,
    HttpLayer,
    HttpRequestHeadersHook,
    HttpResponseHeadersHook,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    RequestTrailers,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
    SendHttp,
)
from mitmproxy.utils import human

from kimi_core.proxy import closing, heads, trailers
from kimi_core.proxy.replay import Attempt, Broken, Control, Sink, control_of, guarded
from kimi_core.proxy.seal import twin

if TYPE_CHECKING:
    from mitmproxy.proxy.layers.http import HttpStream as StockStream
else:  # where this module is executed again while it is enabled, the global is the class of the first time
    StockStream = getattr(layers.HttpStream, "stock_stream", layers.HttpStream)

HELD_BYTES = 256 * 1024  # a held answer is an error message: what is longer is cut here, and the server told so
COLLECTED_BYTES = 256 * 1024 * 1024  # of an answer that is read whole; the longest known is below 1 MiB
HELD_SECONDS = 3.0  # and one that does not end is not waited for longer than a person would
LONGEST_WAKEUP = 30.0  # seconds; a pending wakeup keeps a finished stream in memory, so none is long

SURE_DIGITS = 15  # of a length that is surely a number, and no attempt at something else
MULTIPLEXED = frozenset({b"h2", b"h3"})  # protocols (ALPN) that have frames: for trailers, for the end of a body
FIRST_STATUS, LAST_STATUS = 200, 599  # of a final answer (RFC 9110 §15)
MALFORMED = "the head of its answer breaks the rules of HTTP"
CUT = "the answer could not be read to its end"
UNCHECKED = "The connection to the service could not be checked, so nothing was sent."
UNSEALED = "The credentials could not be put into the request, so nothing was sent."

_SERVER_EVENTS = (ResponseHeaders, ResponseData, ResponseTrailers, ResponseEndOfMessage, ResponseProtocolError)
_READERS = (trailers, heads, closing)  # what else of mitmproxy's is replaced: each on its page says why
_upstream_ids = itertools.count(1 << 40)  # beyond any id that HTTP/1, HTTP/2 or HTTP/3 give out

clock: Callable[[], float] = time.monotonic

type Steps[T] = Generator[commands.Command, Any, T]

# a module that is executed again brings a class of its own; mitmproxy warns of two for one name
hooks.all_hooks.pop("replay_attempt", None)


@dataclass
class ReplayAttemptHook(commands.StartHook):
    """Has an attempt judged: the addon hands it to `replay.judge` in its hook ``replay_attempt``."""

    attempt: Attempt


class LimitWakeup(commands.RequestWakeup):
    """A wakeup that *owner* asked for, to be told from those of a layer or a tunnelled stream further in."""

    def __init__(self, delay: float, owner: ReplayStream) -> None:
        super().__init__(delay)
        self.owner = owner


class ReplayStream(StockStream):
    """One request of a client and all attempts at it."""

    stock_stream: ClassVar[type[StockStream]] = StockStream

    def __init__(self, context: context.Context, stream_id: int) -> None:
        super().__init__(context, stream_id)
        self._control: Control | None = None  # who is in charge since the last hook
        self._number = 1
        self._upstream_id = stream_id
        self._alive = True  # does an attempt run whose events count?
        self._streamed = False  # is the request body passed on as it comes?
        self._sound: http.Response | None = None  # an answer whose head was found in order
        self._refused = False  # was the request kept from the server, which no further attempt would change?
        self._since: float | None = None  # when the server last did what a limit waits for; None: request not out yet
        self._pinged = 0.0  # when the client last got a word of ours in place of the server's
        self._silent_for: float | None = None
        self._head: ResponseHeaders
        self._peeked: list[events.Event] = []
        self._peeked_bytes = bytearray()
        self._wakeup: LimitWakeup | None = None
        self._wakeup_due = 0.0
        self._sink: Sink | None = None
        self._streaming: Callable[..., Any] | None = None  # the state in which pieces go to `_sink`
        self._patience: float | None = None  # seconds without a piece after which something is due; None: never

    @property
    def _layer(self) -> HttpLayer:
        parent = self.context.layers[self.context.layers.index(self) - 1]
        assert isinstance(parent, HttpLayer)
        return parent

    # --- what comes in, what goes out --------------------------------------------------------------------------

    def _handle_event(self, event: events.Event) -> Steps[None]:
        if type(event) is ResponseData and self._sink is not None and self.server_state == self._streaming:
            return self._pass_on(event, self._sink)
        if isinstance(event, events.Wakeup):
            steps = self._woken(event)
        elif self._takes(event):
            steps = super()._handle_event(event)
        else:
            steps = _nothing()
        return self._outgoing(steps, timed=True)

    def _takes(self, event: events.Event) -> bool:
        """Tell whether *event* is of the attempt that runs; the server's get the id that the client's side knows."""
        if self._control is None or not isinstance(event, _SERVER_EVENTS):
            return True
        if not self._alive or event.stream_id != self._upstream_id:
            return False  # of an attempt that was given up
        if isinstance(event, ResponseTrailers) and not self.flow.request.is_http2:
            return False  # mitmproxy cannot send them over HTTP/1.1, and crashes (see `trailers`)
        event.stream_id = self.stream_id
        if self._since is not None and self.server_state != self.state_held:
            self._since = clock()
        return True

    def _pass_on(self, event: ResponseData, sink: Sink) -> Steps[None]:
        """Take the short way for a piece of a streamed answer, of which there are thousands, to the client alone."""
        if not self._alive or event.stream_id != self._upstream_id:
            return  # of an attempt that was given up
        timed = self._patience is not None and self._since is not None
        if timed:
            self._since = clock()
        for piece in sink(event.data):
            yield SendHttp(ResponseData(self.stream_id, piece), self.context.client)
        if sink.over and self._is_over():
            yield from self._outgoing(self._end_early())
        elif timed and self._needs_wakeup():
            yield from self._set_wakeup()

    def _needs_wakeup(self) -> bool:
        """Tell whether, after a piece of a streamed answer, something is due before the wakeup that is pending."""
        assert self._since is not None
        assert self._patience is not None
        return self._wakeup is None or self._wakeup_due > self._since + self._patience

    def start_response_stream(self) -> Steps[None]:
        """Note where the pieces go, and how much silence between them is waited for."""
        steps = super().start_response_stream()
        yield from steps if self._control is None else _unlogged(steps)
        control, sink = self._control, self.flow.response and self.flow.response.stream
        # with store_streamed_bodies mitmproxy keeps the pieces that leave, and has to see them
        if control is not None and isinstance(sink, Sink) and not self.context.options.store_streamed_bodies:
            self._sink, self._streaming = sink, self.server_state
            limits = control.limits
            self._patience = min((each for each in (limits.idle, limits.keep_alive) if each), default=None)

    def _is_over(self) -> bool:
        """Tell whether the client has everything of an answer that still streams."""
        streaming = self.server_state == self._streaming and self.client_state == self.state_done
        return self._sink is not None and self._sink.over and streaming

    def _end_early(self) -> Steps[None]:
        """End an answer of which the client has everything, and have the server stop."""
        yield from self._cancel()
        yield from self.state_stream_response_body(ResponseEndOfMessage(self.stream_id))

    def send_response(self, already_streamed: bool = False) -> Steps[None]:
        """End an answer in good order, but for one of which the client has a part and cannot be told."""
        response = self.flow.response
        sink = response.stream if response and already_streamed else None
        if isinstance(sink, Sink) and sink.broken:
            failure = ResponseProtocolError(self.stream_id, CUT, ErrorCode.GENERIC_SERVER_ERROR)
            yield from super().handle_protocol_error(failure)
        else:
            yield from super().send_response(already_streamed)

    def passthrough(self, event: events.Event) -> Steps[None]:
        """Hand everything to the layer that took the stream over, but for late wakeups of our own."""
        command = event.command if isinstance(event, events.Wakeup) else None
        if not (isinstance(command, LimitWakeup) and command.owner is self):
            yield from self._outgoing(super().passthrough(event))

    def _outgoing(self, steps: Steps[None], *, timed: bool = False) -> Steps[None]:
        """Run *steps*; what they send to the server gets the attempt's stream id and the secrets.

        *timed*: see to it then that what is due is looked at.
        """
        reply = None
        while True:
            try:
                command = steps.send(reply)
            except StopIteration:
                break
            control = self._control
            if control and isinstance(command, SendHttp) and command.connection is not self.context.client:
                if isinstance(command.event, RequestTrailers) and command.connection.alpn not in MULTIPLEXED:
                    reply = None
                    continue  # mitmproxy cannot send them over HTTP/1.1, and crashes (see `trailers`)
                if not self._make_ready(command, control):
                    steps.close()  # the rest of the request must not follow
                    steps, reply = self._refuse(UNSEALED), None
                    continue
            reply = yield command
            if isinstance(command, commands.StartHook):
                self._control = control_of(self.flow)
            if isinstance(command, DropStream) and command.stream_id == self.stream_id:
                yield from self._end_attempt()
            elif isinstance(command, HttpRequestHeadersHook) and self._answered_early():
                steps.close()
                steps, reply = self._answer_early(), None
        if timed and self._since is not None:
            yield from self._set_wakeup()

    def _make_ready(self, command: SendHttp, control: Control) -> bool:
        """Give what goes to the server what the attempt has of its own; False where the secrets cannot be put in."""
        if isinstance(command.event, RequestHeaders):
            sealed = guarded(None, control.seal, twin(command.event.request))
            if sealed is None:
                return False
            command.event.request = _framed(sealed, command)
        elif isinstance(command.event, RequestEndOfMessage):
            self._since = clock()
        command.event.stream_id = self._upstream_id
        return True

    # --- the request -------------------------------------------------------------------------------------------

    def _answered_early(self) -> bool:
        """Tell, after the requestheaders hook, whether the body matters no more; see to it that it is read whole."""
        control = self._control
        if control is None or self.flow.error:
            return False
        if self.flow.response:
            return True
        if not control.buffers_body:
            return False
        self.flow.request.stream = False
        return self._declares_more(control.max_body)

    def _declares_more(self, limit: int) -> bool:
        """Tell whether the request's body says that it is longer than *limit*."""
        length = self.flow.request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and len(length) <= SURE_DIGITS and int(length) <= limit:
            return False  # whatever else the head says of it
        return (self._declared() or 0) > limit

    def _declared(self) -> int | None:
        """Return how long the request's body says it is, None where it does not say so."""
        try:
            return expected_http_body_size(self.flow.request)
        except ValueError:
            return None  # what an addon has made of it; the body is counted as it comes

    def _answer_early(self) -> Steps[None]:
        """Answer now and let the rest of the body run into the void: a client that still sends must not be cut off."""
        self.request_body_buf.clear()
        self.client_state = self.state_discard_request_body
        control = self._control
        assert control is not None
        response = self.flow.response or guarded(http.Response.make(413), control.too_large, self.flow)
        if self._declared() != 0 and not (self.flow.request.is_http2 or self.flow.request.is_http3):
            # RFC 9110 10.1.1: a client that asked with `Expect` may leave the body out, and then nobody knows
            # where the next request on this connection begins
            response.headers["connection"] = "close"
        yield from self._deliver(response)
        if self.server_state == self.state_done:
            yield SendHttp(ResponseEndOfMessage(self.stream_id), self.context.client)

    def state_discard_request_body(self, event: events.Event) -> Steps[None]:
        """Wait for the end of a body that matters no more; this costs no memory."""
        if isinstance(event, RequestEndOfMessage):
            self.client_state = self.state_done
            self.flow.live = False
            yield DropStream(self.stream_id)

    def check_body_size(self, request: bool) -> Steps[bool]:
        """Keep stream_large_bodies off a body that is to be read whole, and hold it to `max_body`."""
        control = self._control
        if not request or control is None or not control.buffers_body:
            return (yield from super().check_body_size(request))
        size = len(self.request_body_buf)
        users = human.parse_size(self.context.options.body_size_limit)
        if users is not None and users <= control.max_body:
            return size > users and (yield from super().check_body_size(request))
        if size <= control.max_body:
            return False
        yield from self._answer_early()
        return True

    def start_request_stream(self) -> Steps[None]:
        """Remember that there is no body to send a second time."""
        self._streamed = True
        yield from super().start_request_stream()

    def make_server_connection(self) -> Steps[bool]:
        """Get a connection, and leave to use it."""
        control = self._control
        if control is None:
            return (yield from super().make_server_connection())
        self._tidy()
        if not (yield from super().make_server_connection()) or (yield from self.check_killed(True)):
            return False
        why = guarded(UNCHECKED, control.permit, self.flow, self.context.server)
        if why is not None:
            yield from self._refuse(why)
        return why is None

    def _tidy(self) -> None:
        """Let a server be tried again that could not be reached, and forget connections that are over.

        mitmproxy remembers both for as long as the client's connection lasts: it fails all further requests to the
        one address at once, and looks through the others for each request, of which there is one where an identity
        asks for `Connection: close`. A connection with a `timestamp_end` has had its last event.
        """
        layer = self._layer
        request = self.flow.request
        used = {layer.context.server, *(stream.context.server for stream in layer.streams.values())}
        for known in (*layer.connections, layer.context.server):
            if isinstance(known, connection.Server):
                never_made = known.error is not None and known.timestamp_tcp_setup is None
                if (known.timestamp_end is not None or never_made) and known not in used:
                    layer.connections.pop(known, None)
                elif known.error and known.address == (request.host, request.port):
                    known.error = None

    def _refuse(self, why: str) -> Steps[None]:
        self._refused = True
        yield from self.handle_protocol_error(
            ResponseProtocolError(self.stream_id, why, ErrorCode.GENERIC_SERVER_ERROR)
        )
        if self._streamed:
            self.client_state = self.state_errored  # the upload may go on for a while

    # --- the answer --------------------------------------------------------------------------------------------

    def state_wait_for_response_headers(self, event: ResponseHeaders) -> Steps[None]:
        """Hold the answer back, look into it first, or treat it as mitmproxy does."""
        control = self._control
        if control is not None and self._judged:
            self._head = event
            self._sound = None if self._malformed(event.response) else event.response
            if self._sound is None:
                failure = ResponseProtocolError(self.stream_id, MALFORMED, ErrorCode.GENERIC_SERVER_ERROR)
                yield from self._cancel()
                yield from self.handle_protocol_error(failure)
                return
            final = event.response.status_code >= FIRST_STATUS
            if final and guarded(False, control.holds, self.flow, event.response):
                self.server_state = self.state_held
                return
            if final and guarded(False, control.peeks, self.flow, event.response):
                self.server_state = self.state_peek
                return
        yield from super().state_wait_for_response_headers(event)

    def _malformed(self, response: http.Response) -> bool:
        """Tell whether a head is one of which mitmproxy makes an error page, or no answer: such an attempt has failed.

        mitmproxy takes an interim answer (1xx) for the whole one, and a 101 that nobody asked for as the end of HTTP.
        """
        status = response.status_code
        wanted = status == http.status_codes.SWITCHING and "upgrade" in self.flow.request.headers
        if not (wanted or FIRST_STATUS <= status <= LAST_STATUS):
            return True
        try:
            if self.context.options.validate_inbound_headers:
                validate_headers(response)
        except ValueError:
            return True
        return False

    @property
    def _judged(self) -> bool:
        """Does the control judge what becomes of this attempt? Only where it can be sent again as it was."""
        return not self._streamed and self.client_state == self.state_done

    def state_held(self, event: events.Event) -> Steps[None]:
        """Collect the body of an answer that the client may never see. Trailers have nothing to add to it."""
        if isinstance(event, ResponseData):
            self.response_body_buf += event.data
            if len(self.response_body_buf) > HELD_BYTES:
                yield from self._cancel()
                yield from self._judge_held(complete=False)
        elif isinstance(event, ResponseEndOfMessage):
            yield from self._judge_held(complete=True)

    def state_peek(self, event: events.Event) -> Steps[None]:
        """Keep the answer back until the control knows by its first bytes what it is."""
        control = self._control
        assert control is not None
        self._peeked.append(event)
        if isinstance(event, ResponseData):
            self._peeked_bytes += event.data
        data, ended = self._peeked_bytes, isinstance(event, ResponseEndOfMessage)
        verdict = guarded(True, control.peek, self.flow, data, ended)
        if verdict is False:
            self._forget_peeked()
            self.server_state = self.state_held
            yield from self.state_held(ResponseData(self.stream_id, bytes(data)))
            if ended:
                yield from self.server_state(event)
        elif verdict or ended or len(data) > guarded(0, lambda: control.peek_limit):
            peeked = self._peeked
            self._forget_peeked()
            yield from super().state_wait_for_response_headers(self._head)
            for part in peeked:
                yield from self.server_state(part)
            if self._is_over():
                yield from self._end_early()

    def state_consume_response_body(self, event: events.Event) -> Steps[None]:
        """Read an answer whole, but one without an end no further than `COLLECTED_BYTES`."""
        if self._control is not None and len(self.response_body_buf) > COLLECTED_BYTES:
            yield from self._cancel()
            why = f"the answer is longer than {COLLECTED_BYTES >> 20} MiB"
            failure = ResponseProtocolError(self.stream_id, why, ErrorCode.GENERIC_SERVER_ERROR)
            yield from super().handle_protocol_error(failure)
        else:
            yield from super().state_consume_response_body(event)

    def _forget_peeked(self) -> None:
        self._peeked, self._peeked_bytes = [], bytearray()

    def handle_protocol_error(self, event: RequestProtocolError | ResponseProtocolError) -> Steps[None]:
        """Have a broken attempt judged while the client has seen nothing of it, end a broken answer in good order."""
        if isinstance(event, ResponseProtocolError) and self._control is not None:
            event.message = event.message.replace("reset by client", "reset by server")  # it says so of either side
            if self.server_state == self.state_held:
                yield from self._judge_held(complete=False)
                return
            unseen = self.server_state in {self.state_wait_for_response_headers, self.state_peek}
            if unseen and self._judged:
                attempt = Attempt(self.flow, self._number, error=event.message, silent_for=self._silent_for)
                yield from self._judge(attempt, event)
                return
            if self.server_state == self.state_stream_response_body and (yield from self._cut("upstream")):
                return
        yield from super().handle_protocol_error(event)

    def _cut(self, broken: Broken) -> Steps[bool]:
        """End an answer that stopped in the middle; False where only a reset says so honestly."""
        control, response = self._control, self.flow.response
        assert control is not None
        assert response is not None
        if self.client_state != self.state_done or "content-length" in response.headers:
            return False
        last = guarded(None, control.cut, self.flow, broken)
        if last is None:
            return False
        yield from self._end_attempt()
        response.stream = lambda _: [last] if last else []  # what mitmproxy asks for the end of a stream
        yield from self.state_stream_response_body(ResponseEndOfMessage(self.stream_id))
        return True

    # --- the verdict -------------------------------------------------------------------------------------------

    def _judge_held(self, *, complete: bool) -> Steps[None]:
        response = self._head.response
        response.data.content = bytes(self.response_body_buf)[:HELD_BYTES]
        response.timestamp_end = time.time()
        self.response_body_buf.clear()
        yield from self._judge(Attempt(self.flow, self._number, response=response, complete=complete))

    def _judge(self, attempt: Attempt, failure: ResponseProtocolError | None = None) -> Steps[None]:
        control = self._control
        assert control is not None
        yield from self._end_attempt()
        self._forget_peeked()
        self._silent_for = None
        self.server_state = self.state_errored
        if (yield from self.check_killed(True)):
            return
        attempt.final = self._refused or self._number >= control.max_attempts
        held = attempt.response
        yield ReplayAttemptHook(attempt)
        if (yield from self.check_killed(True)):
            return
        response = attempt.response or held
        if attempt.decision == "retry" and not attempt.final:
            yield from self._send_again()
        elif response is not None and (failure is None or attempt.decision == "reply"):
            yield from self._deliver(response)
        else:
            assert failure is not None
            failure.code = ErrorCode.GENERIC_SERVER_ERROR  # a 502, where a server's cancellation would be passed on
            self.server_state = self.state_wait_for_response_headers
            yield from super().handle_protocol_error(failure)

    def _deliver(self, response: http.Response) -> Steps[None]:
        """Give the client *response*, whose body is whole, as mitmproxy does with one that an addon has set."""
        self.flow.response = response
        self._sound = None  # it may have been edited
        code = response.status_code
        if self.flow.request.method == "HEAD" or code in {http.status_codes.NO_CONTENT, http.status_codes.NOT_MODIFIED}:
            response.data.content = b""
        else:
            response.headers.pop("transfer-encoding", None)
            response.headers["content-length"] = str(len(response.raw_content or b""))
        if (yield from self.check_invalid(False)):
            yield DropStream(self.stream_id)
            return
        yield HttpResponseHeadersHook(self.flow)
        if not (yield from self.check_killed(True)):
            yield from self.send_response()

    def _send_again(self) -> Steps[None]:
        self._number += 1
        self._upstream_id = next(_upstream_ids)
        self._layer.streams[self._upstream_id] = self
        self._alive = True
        self.flow.response = self.flow.error = None
        self.server_state = self.state_wait_for_response_headers
        if not (yield from self.make_server_connection()):
            return
        request, server = self.flow.request, self.context.server
        content, trailers = request.raw_content, request.trailers
        yield SendHttp(RequestHeaders(self.stream_id, request, end_stream=not (content or trailers)), server)
        if content:
            yield SendHttp(RequestData(self.stream_id, content), server)
        if trailers:
            yield SendHttp(RequestTrailers(self.stream_id, trailers), server)
        yield SendHttp(RequestEndOfMessage(self.stream_id), server)

    def check_invalid(self, request: bool) -> Steps[bool]:
        """Look at no head twice."""
        if not request and self.flow.response is self._sound:
            return False
        return (yield from super().check_invalid(request))

    def check_killed(self, emit_error_hook: bool) -> Steps[bool]:
        """Tell whether the client has left or the flow was killed meanwhile; nothing stays in memory then."""
        killed = yield from super().check_killed(emit_error_hook)
        if killed and self._control is not None:
            yield DropStream(self.stream_id)
        return killed

    def _cancel(self) -> Steps[None]:
        """Tell the server that its answer is not wanted any more: HTTP/2 resets the stream, HTTP/1 hangs up."""
        given_up = RequestProtocolError(self.stream_id, "attempt given up", ErrorCode.CANCEL)
        yield SendHttp(given_up, self.context.server)
        yield from self._end_attempt()

    def _end_attempt(self) -> Steps[None]:
        self._alive = False
        self._since = None
        if self._upstream_id != self.stream_id:
            yield DropStream(self._upstream_id)

    # --- limits ------------------------------------------------------------------------------------------------

    def _limit(self) -> float | None:
        """Return how many seconds after `_since` it is too late, None where nothing is waited for."""
        control = self._control
        if control is None or self._since is None:
            return None
        idle = control.limits.idle
        if self.server_state == self.state_stream_response_body:  # asked for every piece
            return idle
        return {
            self.state_wait_for_response_headers: control.limits.first_byte,
            self.state_held: HELD_SECONDS,
            self.state_peek: idle,
            self.state_consume_response_body: idle,
        }.get(self.server_state)

    def _ping_due(self) -> float | None:
        """Return when the client is to hear that its answer is still on the way, None where it need not."""
        control = self._control
        streaming = self.server_state == self.state_stream_response_body
        if control is None or self._since is None or not control.limits.keep_alive or not streaming:
            return None
        return max(self._since, self._pinged) + control.limits.keep_alive

    def _set_wakeup(self) -> Steps[None]:
        """Have one wakeup pending that comes no later than the first thing due; a later one is looked at then."""
        assert self._since is not None
        now, limit, ping = clock(), self._limit(), self._ping_due()
        dues = [self._since + limit] if limit else []
        dues += [ping] if ping is not None else []
        due = min([*dues, now + LONGEST_WAKEUP])
        if dues and (self._wakeup is None or due < self._wakeup_due):
            self._wakeup, self._wakeup_due = LimitWakeup(max(due - now, 0.0), self), due
            yield self._wakeup

    def _woken(self, event: events.Wakeup) -> Steps[None]:
        if event.command is not self._wakeup:
            return  # replaced by an earlier one since
        self._wakeup = None
        limit, ping = self._limit(), self._ping_due()
        if limit and self._since is not None and clock() >= self._since + limit:
            yield from self._expired(limit)
        elif ping is not None and clock() >= ping:
            yield from self._ping()

    def _ping(self) -> Steps[None]:
        control = self._control
        assert control is not None
        self._pinged = clock()
        data = guarded(b"", control.ping, self.flow)
        if data:
            yield SendHttp(ResponseData(self.stream_id, data), self.context.client)

    def _expired(self, limit: float) -> Steps[None]:
        yield from self._cancel()
        if self.server_state == self.state_held:
            yield from self._judge_held(complete=False)
            return
        waiting = self.server_state == self.state_wait_for_response_headers
        what = "no answer" if waiting else "no further byte of the answer"
        if self.server_state == self.state_stream_response_body and (yield from self._cut("idle")):
            return
        self._silent_for = limit
        failure = ResponseProtocolError(self.stream_id, f"{what} within {limit:g} s", ErrorCode.GENERIC_SERVER_ERROR)
        if self.server_state == self.state_stream_response_body:
            yield from super().handle_protocol_error(failure)
        else:
            yield from self.handle_protocol_error(failure)


def _nothing() -> Steps[None]:
    yield from ()


def _unlogged(steps: Steps[None]) -> Steps[None]:
    """Leave out the line of the log that an answer is streamed: the flow says so, and a line costs a round of hooks."""
    for command in steps:
        if not isinstance(command, commands.Log):
            yield command


def _framed(request: http.Request, command: SendHttp) -> http.Request:
    """Fit *request* to the connection that it leaves by.

    HTTP/2 need not say where a body ends, and mitmproxy then sends HTTP/1.1 one that no server can tell. And a
    connection of HTTP/1.1 that serves a client of HTTP/2 is used for one request alone; mitmproxy closes it after that
    by the version of the request, else it would stand open, and five of them keep every further request waiting.
    """
    assert isinstance(command.event, RequestHeaders)
    multiplexed = command.connection.alpn in MULTIPLEXED
    if not multiplexed:
        request.http_version = command.event.request.http_version
    needless = command.event.end_stream or multiplexed
    framed = "content-length" in request.headers or "transfer-encoding" in request.headers
    if not (needless or framed):
        request.headers["transfer-encoding"] = "chunked"
    return request


def enable() -> None:
    """Have `HttpLayer` make its streams of `ReplayStream`, and read what they are made of as this project does."""
    for each in _READERS:
        each.enable()
    layers.HttpStream = ReplayStream  # type: ignore[misc]  # a class of theirs is replaced on purpose


def disable() -> None:
    """Undo `enable`."""
    for each in _READERS:
        each.disable()
    layers.HttpStream = StockStream  # type: ignore[misc]  # see `enable`


def enabled() -> bool:
    """Tell whether `enable` is in force."""
    return layers.HttpStream is ReplayStream
