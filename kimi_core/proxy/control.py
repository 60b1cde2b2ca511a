"""Joins one flow to one exchange: what the replay asks, answered in the provider's terms."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus

from mitmproxy import connection, http

from kimi_core.errors import BadRequest, Refused, Unforeseen
from kimi_core.exchange import Answer, AnswerHead, Exchange, Limits, Reply, RequestHead, Retry, Verdict
from kimi_core.proxy import guard, record, seal, sides
from kimi_core.proxy.fields import indexed, set_headers
from kimi_core.proxy.replay import Attempt, Broken, report
from kimi_core.proxy.stream import AnswerStream, Tape
from kimi_core.wire.codings import decode, decoder_for

MAX_HELD = 4 << 20  # bytes of a held answer, or of the first ones that decide, decoded: it is an error message
MAX_COLLECTED = 256 << 20  # bytes of an answer that is read whole, decoded; the longest known is below 1 MiB


class Misdirected(Refused):
    """A connection was made that does not lead where the credentials may go."""

    code = "misdirected"
    status = 502


@dataclass(frozen=True, slots=True)
class Client:
    """What a client asked for: its head, of which provider, and which endpoint of it.

    `body` is None for what the flow's request brings, or the body that is used in its place: a flow that is sent again
    shows what went out the last time.
    """

    head: RequestHead
    provider: str
    operation: str
    body: bytes | None = None


class ExchangeControl:
    """What `replay` asks about a flow; see `replay.Control`."""

    def __init__(
        self,
        flow: http.HTTPFlow,
        exchange: Exchange,
        *,
        record_limit: int,
        on_retry: Callable[[Attempt, str, int], Awaitable[None]],
        client: Client | None = None,
    ) -> None:
        self.exchange = exchange
        self.id = record.new_id()
        self.attempts = 1
        self.finished = False
        self.bare = False  # do the secrets stand in the flow itself while its request is on its way?
        self.stream: AnswerStream | None = None
        self._collecting = False
        self._record_limit = record_limit
        self._on_retry = on_retry
        self._held: http.Response | None = None
        self._response: http.Response | None = None  # whose first bytes decide
        self._head: AnswerHead
        self._refusal: str | None = None
        self._client = client
        self._wire_type = ""
        seal.dress(flow.request, exchange.attempt)

    @property
    def buffers_body(self) -> bool:
        """Tell whether the whole request body is read first."""
        return self.exchange.buffers_body

    @property
    def max_body(self) -> int:
        """Bytes of request body at the most."""
        return self.exchange.max_body

    @property
    def max_attempts(self) -> int:
        """How often the request is sent at the most."""
        return self.exchange.max_attempts

    @property
    def limits(self) -> Limits:
        """Time limits of the answer."""
        return self.exchange.limits

    async def prepare(self, flow: http.HTTPFlow) -> None:
        """Rewrite the buffered body; where that cannot be done, set the refusal as the flow's response."""
        try:
            await self._prepare(flow)
        except Exception as error:  # noqa: BLE001 - any: the body must not go out as it came, nor its text into the log
            report(self._prepare, error)
            flow.response = seal.response_for(self.exchange.refuse(Unforeseen()))

    async def _prepare(self, flow: http.HTTPFlow) -> None:
        client = self._client
        body = client.body if client else None
        if body is None:
            body = plain_body(flow.request, self.max_body)
        if len(body) > self.max_body:
            flow.response = self.too_large(flow)
            return
        dressed = self.exchange.attempt
        outcome = await self.exchange.prepare(body)
        if isinstance(outcome, Reply):
            flow.response = seal.response_for(outcome)
        else:
            seal.dress(flow.request, outcome, dressed)
        if client:
            sides.keep_request(flow, client.head, client.provider, client.operation, body, self._record_limit)

    def too_large(self, flow: http.HTTPFlow) -> http.Response:
        """Return the answer to a body beyond `max_body`."""
        mib = self.max_body / (1024 * 1024)
        error = BadRequest(f"The request body is larger than {mib:g} MiB (option kimi_max_body).")
        return seal.response_for(self.exchange.refuse(error))

    def permit(self, flow: http.HTTPFlow, server: connection.Server) -> str | None:
        """Say why the credentials must not go over this connection, None where they may."""
        self._refusal = guard.why_not(server, self.exchange.attempt)
        return self._refusal

    def seal(self, request: http.Request) -> http.Request:
        """Put the secrets into a copy of the request for the wire."""
        return seal.unlabelled(request, self.exchange.attempt)

    def holds(self, flow: http.HTTPFlow, response: http.Response) -> bool:
        """Tell whether this answer is kept from the client until it is judged."""
        indexed(response)
        self._response, self._head = response, seal.answer_head(response)
        if self.exchange.holds(self._head):
            self._held = response
            return True
        return False

    def peeks(self, flow: http.HTTPFlow, response: http.Response) -> bool:
        """Tell whether the first bytes of this answer decide."""
        assert response is self._response  # it was asked about a moment ago
        return self.exchange.peek(self._head, b"", ended=False) is not True

    @property
    def peek_limit(self) -> int:
        """Bytes after which an answer is relayed whatever it is."""
        return self.exchange.peek_limit

    def peek(self, flow: http.HTTPFlow, data: bytearray, ended: bool) -> bool | None:
        """Have the exchange judge the first bytes of an answer."""
        assert self._response is not None  # it was asked about a moment ago
        encoding = self._response.headers.get("content-encoding")
        plain = decode(bytes(data), encoding, MAX_HELD) if encoding else data
        verdict = self.exchange.peek(self._head, plain, ended=ended)
        if verdict is False:
            self._held = self._response
        return verdict

    async def judge(self, attempt: Attempt) -> None:
        """Have the exchange judge a held answer or a failed attempt."""
        if self._refusal:
            error = Misdirected(f"Nothing was sent, for {self._refusal}.")
            verdict: Verdict = self.exchange.refuse(error)
        else:
            verdict = await self.exchange.judge(_answer(attempt))
        if isinstance(verdict, Retry):
            try:
                await self._on_retry(attempt, verdict.why, self.attempts)
            except Exception as error:  # noqa: BLE001 - any: a record that cannot be written must not cost the request
                report(self._on_retry, error)
            self.attempts += 1
            self._held = None
            seal.dress(attempt.flow.request, verdict.attempt)
            attempt.decision = "retry"
        elif isinstance(verdict, Reply):
            attempt.response = self._held = seal.response_for(verdict)
            attempt.decision = "reply"
        elif attempt.response is not None:
            _undo_coding(attempt.response)
            for name, value in verdict.extra:
                attempt.response.headers[name] = value
            attempt.decision = "relay"

    def open_stream(self, flow: http.HTTPFlow) -> None:
        """Let an answer that is not held stream to the client through its converter."""
        response = flow.response
        assert response is not None
        if response is self._held or self.stream is not None or response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            return
        if self.exchange.collects(seal.answer_head(response)):
            self._collecting = True
            return
        decoder = decoder_for(response.headers.get("content-encoding"))
        if decoder:
            response.headers.pop("content-encoding")
            response.headers.pop("content-length", None)
        came_as = response.headers.get("content-type", "")
        head = seal.answer_head(response)
        converted = self.exchange.converter(head)
        if converted and converted[0].headers != head.headers:
            set_headers(response, converted[0].headers)
        if not flow.request.is_http2:
            _chunk(flow.request, response)
        wire = None
        translated = response.headers.get("content-type", "") != came_as  # into another format than the service sent
        if translated and self._record_limit:
            wire, self._wire_type = Tape(self._record_limit), came_as
        self.stream = AnswerStream(converted[1] if converted else None, decoder, Tape(self._record_limit), wire)
        response.stream = self.stream

    def cut(self, flow: http.HTTPFlow, limit: Broken) -> bytes | None:
        """Return the last bytes for a client whose answer stays silent.

        An answer that the server breaks off is broken off toward the client as well: clients know that and ask again.
        """
        if self.stream is None or limit != "idle":
            return None
        words = self.stream.fail(self.exchange.silence(self.limits.idle or 0))
        return None if words is None else self.stream.tape.feed(words)

    def collect(self, flow: http.HTTPFlow) -> None:
        """Have an answer that was read whole turned into what the client gets; it has not been sent yet."""
        if not self._collecting or flow.response is None:
            return
        self._collecting = False
        raw, flow.response = flow.response, seal.response_for(self.exchange.refuse(Unforeseen()))  # until it is read
        head = seal.answer_head(raw)
        body = decode(raw.data.content or b"", raw.headers.get("content-encoding"), MAX_COLLECTED)
        came_as = raw.headers.get("content-type", "")
        flow.response = seal.response_for(self.exchange.collected(head, body))
        if self._record_limit:
            sides.keep_answer(flow, came_as, body[: self._record_limit], len(body))

    def ping(self, flow: http.HTTPFlow) -> bytes:
        """Return a word for a client that waits; an answer that told its length has no room for one."""
        if self.stream is None or flow.response is None or "content-length" in flow.response.headers:
            return b""
        return self.exchange.ping()

    def keep(self, flow: http.HTTPFlow) -> None:
        """Put what was streamed into the flow, which is only a record now.

        An upload is not kept, nor an answer where the limit is 0: an empty body takes their place, since mitmweb fails
        on one that is missing.
        """
        if flow.request.data.content is None:
            flow.request.data.content = b""
        sides.sign(flow)
        if self.stream is None or flow.response is None:
            return
        tape, wire = self.stream.tape, self.stream.wire
        flow.response.data.content = content = tape.take()
        if len(content) < tape.length:
            sides.keep_cut(flow, tape.length)
        if wire is not None:
            sides.keep_answer(flow, self._wire_type, wire.take(), wire.length)


def _chunk(request: http.Request, response: http.Response) -> None:
    """Say to an HTTP/1.1 client where a body of unknown length ends (RFC 9112 §6.3).

    The answer itself may have come over HTTP/2, which needs no such word; a body that ends with the connection is
    not told from one that was cut.
    """
    if request.http_version == "HTTP/1.0":  # knows no chunks: its body ends with the connection (RFC 9112 §6.1)
        response.headers.pop("transfer-encoding", None)
        return
    bodiless = request.method == "HEAD" or response.status_code in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}
    if not bodiless and "content-length" not in response.headers and "transfer-encoding" not in response.headers:
        response.headers["transfer-encoding"] = "chunked"
        if response.http_version == "HTTP/1.0":
            response.http_version = "HTTP/1.1"  # which has them


def _undo_coding(response: http.Response) -> None:
    """Give the client a held answer as it would get a streamed one: in no coding, for it may have asked for none."""
    coded = response.data.content or b""
    plain = decode(coded, response.headers.get("content-encoding"), MAX_HELD)
    if plain is not coded:  # a damaged one stays as it is
        response.data.content = plain
        response.headers.pop("content-encoding")


def plain_body(request: http.Request, limit: int) -> bytes:
    """Return a request's body, its content coding undone; of one that is longer than *limit* the beginning.

    Never more than a little beyond *limit* is decoded: a few bytes can stand for gigabytes.
    """
    return decode(request.data.content or b"", request.headers.get("content-encoding"), limit)


def _answer(attempt: Attempt) -> Answer:
    response = attempt.response
    if response is None:
        return Answer(None, error=attempt.error, complete=False, silent_for=attempt.silent_for, final=attempt.final)
    body = decode(response.data.content or b"", response.headers.get("content-encoding"), MAX_HELD)
    return Answer(seal.answer_head(response), body, complete=attempt.complete, final=attempt.final)
