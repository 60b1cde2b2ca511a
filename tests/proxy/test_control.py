import gzip
import json
from dataclasses import replace

import pytest
from mitmproxy import connection
from mitmproxy.test import taddons, tflow, tutils

from kimi_core.errors import BadRequest
from kimi_core.exchange import AnswerHead, Limits, Relay, Reply, RequestHead, Retry, reply_for
from kimi_core.headers import Headers
from kimi_core.proxy import sides
from kimi_core.proxy.control import Client, ExchangeControl
from kimi_core.proxy.passing import RefusedControl
from kimi_core.proxy.replay import Attempt
from tests.proxy.stand_ins import SECRET, FakeExchange, Line, attempt


class Retries:
    """Notes the attempts that are given up."""

    def __init__(self):
        self.seen = []

    async def __call__(self, failed, why, number):
        self.seen.append((failed.response, why, number))


def _control(*verdicts, flow=None, **kwargs):
    flow = flow or tflow.tflow()
    retries = Retries()
    control = ExchangeControl(flow, FakeExchange(*verdicts, **kwargs), record_limit=100, on_retry=retries)
    return flow, control, retries


def _answered(flow, status=200, headers=None, http_version="HTTP/1.1"):
    flow.response = tutils.tresp(status_code=status, headers=Headers(), http_version=http_version.encode())
    flow.response.headers.clear()
    for name, value in (headers or {}).items():
        flow.response.headers[name] = value
    return flow.response


def test_a_controlled_flow_shows_labels():
    """From the moment of control the flow shows the attempt, without its secret."""
    flow, control, _ = _control()
    assert flow.request.headers["authorization"] == "Bearer [kimi]"
    assert flow.request.host == "api.kimi.com"
    assert SECRET not in str(flow.get_state())
    assert control.seal(flow.request.copy()).headers["authorization"] == SECRET
    assert (control.buffers_body, control.max_body, control.limits) == (True, 1024, Limits())


async def test_the_body_is_rewritten():
    """The body that goes out is the one the exchange made of the client's."""
    flow, control, _ = _control()
    flow.request.content = b"client's"
    await control.prepare(flow)
    assert control.exchange.bodies == [b"client's"]
    assert flow.request.content == b'{"rewritten":true}'
    assert flow.response is None


async def test_an_encoded_body_is_decoded_first():
    """A gzipped request body is read decoded."""
    flow, control, _ = _control()
    flow.request.headers["content-encoding"] = "gzip"
    flow.request.data.content = gzip.compress(b"plain")
    await control.prepare(flow)
    assert control.exchange.bodies == [b"plain"]
    assert "content-encoding" not in flow.request.headers


async def test_a_body_that_cannot_be_sent_is_answered():
    """Where the exchange refuses the body, the flow gets that answer and nothing is sent."""
    flow, control, _ = _control()
    control.exchange.prepared = reply_for(BadRequest("No."), "openai")
    await control.prepare(flow)
    assert flow.response.status_code == 400


def test_too_large():
    """A body beyond the limit gets a 400 that names the option."""
    flow, control, _ = _control()
    response = control.too_large(flow)
    assert response.status_code == 400
    assert b"kimi_max_body" in response.content


async def test_retry_changes_the_request_and_shows_the_attempt():
    """A retry is recorded as a flow of its own, and the request is that of the next attempt."""
    flow, control, retries = _control(Retry(attempt(path="/two"), "401, token refreshed"))
    failed = Attempt(flow, 1, response=_answered(flow, 401))
    await control.judge(failed)
    assert failed.decision == "retry"
    assert flow.request.path == "/two"
    assert retries.seen == [(failed.response, "401, token refreshed", 1)]
    assert control.attempts == 2


async def test_reply_replaces_the_answer():
    """A reply of the exchange replaces the held answer."""
    flow, control, _ = _control(Reply(401, Headers([("x-a", "b")]), b"log in"))
    failed = Attempt(flow, 1, response=_answered(flow, 401))
    await control.judge(failed)
    assert (failed.decision, failed.response.status_code, failed.response.content) == ("reply", 401, b"log in")


async def test_relay_adds_its_fields():
    """A relayed answer keeps its body and gains the exchange's fields."""
    flow, control, _ = _control(Relay(Headers([("x-kimi-mitm-reason", "quota")])))
    failed = Attempt(flow, 1, response=_answered(flow, 403))
    await control.judge(failed)
    assert failed.decision == "relay"
    assert failed.response.headers["x-kimi-mitm-reason"] == "quota"


async def test_a_held_answer_is_judged_decoded():
    """The exchange reads a held body decoded, the client gets it as it came."""
    flow, control, _ = _control(Relay())
    response = _answered(flow, 403, {"content-encoding": "gzip"})
    response.data.content = gzip.compress(b"why")
    await control.judge(Attempt(flow, 1, response=response, complete=False, final=True))
    (answer,) = control.exchange.answers
    assert (answer.head.status, answer.body, answer.complete, answer.final) == (403, b"why", False, True)


async def test_a_failed_connection_is_judged():
    """A connection that failed is judged by its error."""
    flow, control, _ = _control(Reply(502, Headers(), b""))
    await control.judge(Attempt(flow, 1, error="refused", silent_for=3.0))
    (answer,) = control.exchange.answers
    assert (answer.head, answer.error, answer.silent_for) == (None, "refused", 3.0)


async def test_relay_of_an_error_leaves_it_to_mitmproxy():
    """There is nothing to add to where no answer came."""
    flow, control, _ = _control(Relay(Headers([("x", "y")])))
    failed = Attempt(flow, 1, error="refused")
    await control.judge(failed)
    assert failed.decision == "relay"


async def test_a_connection_to_elsewhere_is_refused_in_words():
    """Where a connection does not lead to the service the client is told, and the exchange is not asked to retry."""
    flow, control, _ = _control()
    with taddons.context() as tctx:
        tctx.options.add_option("ssl_insecure", bool, False, "")
        assert control.permit(flow, connection.Server(address=("evil.test", 443)))
    failed = Attempt(flow, 1, error="refused", final=True)
    await control.judge(failed)
    assert failed.decision == "reply"
    assert json.loads(failed.response.content)["error"]["code"] == "misdirected"
    assert control.exchange.answers == []


def test_answers_stream_through_their_converter():
    """An answer that is not held streams, converted and kept for the record."""
    flow, control, _ = _control()
    response = _answered(flow, headers={"content-type": "text/event-stream"})
    assert not control.holds(flow, response)
    control.open_stream(flow)
    assert response.stream(b"abc") == [b"abc"]
    assert response.stream(b"") == [b"<end>"]
    control.keep(flow)
    assert flow.response.data.content == b"abc<end>"


def test_encoded_answers_leave_plain():
    """An encoded answer is decoded on its way; its coding and its length are no longer told."""
    flow, control, _ = _control(converter=False)
    packed = gzip.compress(b"data: x\n\n")
    response = _answered(flow, headers={"content-encoding": "gzip", "content-length": str(len(packed))})
    control.open_stream(flow)
    assert b"".join(response.stream(packed)) == b"data: x\n\n"
    assert dict(response.headers) == {"transfer-encoding": "chunked"}


@pytest.mark.parametrize(
    ("client", "server", "method", "status", "headers", "chunked"),
    [
        ("HTTP/1.1", "HTTP/1.1", "POST", 200, {}, True),
        ("HTTP/1.1", "HTTP/2.0", "POST", 200, {}, True),
        ("HTTP/2.0", "HTTP/1.1", "POST", 200, {}, False),
        ("HTTP/1.1", "HTTP/1.1", "POST", 200, {"content-length": "3"}, False),
        ("HTTP/1.1", "HTTP/2.0", "HEAD", 200, {}, False),
        ("HTTP/1.1", "HTTP/2.0", "POST", 204, {}, False),
    ],
)
def test_bodies_of_unknown_length_are_chunked_for_http1(client, server, method, status, headers, chunked):
    """An HTTP/1.1 client is told where a body ends, whatever the server spoke."""
    flow, control, _ = _control()
    flow.request.http_version = client
    flow.request.method = method
    response = _answered(flow, status, headers, server)
    control.open_stream(flow)
    assert (response.headers.get("transfer-encoding") == "chunked") is chunked


def test_a_client_of_http_1_0_gets_no_chunks():
    """It would read their sizes as part of the body, which for it ends with the connection (RFC 9112 §6.1)."""
    flow, control, _ = _control()
    flow.request.http_version = "HTTP/1.0"
    response = _answered(flow, headers={"transfer-encoding": "chunked"})
    control.open_stream(flow)
    assert "transfer-encoding" not in response.headers


def test_a_service_of_http_1_0_is_read_by_clients_of_http_1_1():
    """Chunks need the version that has them."""
    flow, control, _ = _control()
    response = _answered(flow, http_version="HTTP/1.0")
    control.open_stream(flow)
    assert response.headers["transfer-encoding"] == "chunked"
    assert response.http_version == "HTTP/1.1"


def test_the_flow_says_how_the_answer_came():
    """Of HTTP/2 mitmproxy makes a status line with a reason; it has none of its own."""
    flow, control, _ = _control()
    response = _answered(flow, http_version="HTTP/2.0")
    control.open_stream(flow)
    assert response.http_version == "HTTP/2.0"


@pytest.mark.parametrize("status", [401, 101])
def test_held_answers_and_upgrades_do_not_stream(status):
    """A held answer and an upgraded connection are not streamed through a converter."""
    flow, control, _ = _control()
    response = _answered(flow, status)
    assert control.holds(flow, response) is (status == 401)
    control.open_stream(flow)
    assert response.stream is False
    control.keep(flow)


def test_silence_in_mid_stream_ends_with_an_error():
    """An answer that goes silent ends with an error frame; one that the server breaks off is broken off."""
    flow, control, _ = _control(limits=Limits(idle=2))
    assert control.cut(flow, "idle") is None
    _answered(flow)
    control.open_stream(flow)
    assert control.cut(flow, "upstream") is None
    assert control.cut(flow, "idle") == b"<upstream_error>"
    control.keep(flow)
    assert flow.response.content == b"<upstream_error>"


@pytest.mark.parametrize("body", [gzip.compress(b"no"), b"damaged"], ids=["good", "damaged"])
async def test_a_held_answer_is_relayed_in_no_coding(body):
    """Its client may not have asked for the one that the identity asks for; what cannot be decoded stays as it is."""
    flow, control, _ = _control(Relay())
    response = _answered(flow, 429, {"content-encoding": "gzip"})
    response.data.content = body
    failed = Attempt(flow, 1, response=response)
    await control.judge(failed)
    assert failed.decision == "relay"
    plain = body != b"damaged"
    assert response.data.content == (b"no" if plain else body)
    assert ("content-encoding" in response.headers) is not plain


async def test_what_cannot_be_recorded_is_sent_again_all_the_same(caplog):
    """A full disk where flows are saved costs a record, and no request."""

    async def fail(*_):
        raise OSError(f"no room for {SECRET}")

    flow = tflow.tflow()
    control = ExchangeControl(flow, FakeExchange(Retry(attempt(), "401")), record_limit=100, on_retry=fail)
    failed = Attempt(flow, 1, response=_answered(flow, 401))
    await control.judge(failed)
    assert (failed.decision, control.attempts) == ("retry", 2)
    assert "OSError" in caplog.text
    assert SECRET not in caplog.text


def test_answers_can_be_judged_by_their_first_bytes():
    """Where the head does not tell, the exchange is asked with the first bytes; a failure is held like any other."""
    flow, control, _ = _control()
    response = _answered(flow)
    assert not control.holds(flow, response)
    assert not control.peeks(flow, response)
    control.exchange.peeked = lambda data: None if len(data) < 2 else data == b"ok"
    assert control.peeks(flow, response)
    assert control.peek_limit == 10
    assert control.peek(flow, bytearray(b"o"), False) is None
    response.headers["content-encoding"] = "gzip"
    assert not control.holds(flow, response)
    assert control.peek(flow, bytearray(gzip.compress(b"ok")), False) is True
    response.headers.pop("content-encoding")
    assert not control.holds(flow, response)
    assert control.peek(flow, bytearray(b"ok"), False) is True
    assert control.peek(flow, bytearray(b"no"), True) is False
    control.open_stream(flow)
    assert response.stream is False


def test_codings_that_are_named_twice_are_read_the_same_throughout():
    """What is peeked at is what the converter would get: raw, since nobody knows both at once."""
    flow, control, _ = _control()
    response = _answered(flow)
    response.headers.set_all("content-encoding", ["gzip", "identity"])
    seen = []
    control.exchange.peeked = seen.append
    control.holds(flow, response)
    packed = gzip.compress(b"ok")
    control.peek(flow, bytearray(packed), True)
    assert seen == [packed]


@pytest.mark.parametrize("encoding", [None, "gzip"])
def test_an_answer_can_be_collected(encoding):
    """An answer that the client wants whole is read whole, decoded, and replaced before it is sent."""
    flow, control, _ = _control()
    control.exchange.whole = True
    response = _answered(flow, headers={"content-encoding": encoding} if encoding else {})
    control.open_stream(flow)
    assert response.stream is False
    response.data.content = gzip.compress(b"all") if encoding else b"all"
    control.collect(flow)
    assert (flow.response.status_code, flow.response.content) == (201, b"<all>")
    collected = flow.response
    control.collect(flow)
    assert flow.response is collected


def test_waiting_clients_get_a_word():
    """A streamed answer has room for a keep-alive; one that told its length, or none at all, has not."""
    flow, control, _ = _control()
    assert control.ping(flow) == b""
    response = _answered(flow)
    control.open_stream(flow)
    assert control.ping(flow) == b": ping\n\n"
    response.headers["content-length"] = "5"
    assert control.ping(flow) == b""


def test_nothing_is_kept_where_nothing_is_wanted():
    """With a limit of 0 the flow keeps no streamed body: an empty one, at which mitmweb does not fail."""
    flow, control = _kept(Translates(), limit=0)
    _answered(flow, headers={"content-type": "application/x-frames"}).data.content = None
    control.open_stream(flow)
    flow.response.stream(b"abc")
    control.keep(flow)
    assert flow.response.data.content == b""
    assert sides.full_length(flow) == 3
    assert sides.answer_of(flow) is None


def test_an_upload_that_was_streamed_has_an_empty_body():
    """A streamed upload is not kept, and its flow can still be looked at."""
    flow, control, _ = _control()
    flow.request.data.content = None
    control.keep(flow)
    assert flow.request.data.content == b""


async def test_a_refused_request_goes_nowhere():
    """A request that was answered at once is never sent, held or judged."""
    flow = tflow.tflow(resp=True)
    control = RefusedControl()
    assert control.too_large(flow) is flow.response
    assert control.permit(flow, flow.server_conn)
    assert control.seal(flow.request) is flow.request
    assert not control.holds(flow, flow.response)
    assert not control.peeks(flow, flow.response)
    assert control.peek(flow, bytearray(), False) is True
    assert control.cut(flow, "idle") is None
    assert control.ping(flow) == b""
    failed = Attempt(flow, 1, error="refused")
    await control.judge(failed)
    assert failed.decision == "relay"


# --- both sides ----------------------------------------------------------------------------------------------------

CLIENT = Client(RequestHead("POST", "http", "127.0.0.1", 8080, "/kimi/v1/chat/completions", Headers()), "fake", "chat")


class Translates(FakeExchange):
    """An exchange whose client gets another format than the service sends."""

    def converter(self, head):
        return AnswerHead(200, Headers([("content-type", "text/event-stream")])), Line()


def _kept(exchange, limit=100, client=CLIENT):
    flow = tflow.tflow()
    control = ExchangeControl(flow, exchange, record_limit=limit, on_retry=Retries(), client=client)
    return flow, control


async def test_what_the_client_sent_is_kept():
    """The request as it came is kept beside the one that goes out."""
    flow, control = _kept(FakeExchange())
    flow.request.content = b"client's"
    await control.prepare(flow)
    assert sides.request_of(flow).body == b"client's"
    assert flow.request.content == b'{"rewritten":true}'


async def test_a_body_given_is_used_in_place_of_the_flows():
    """A flow that is sent again shows what went out; what its client sent is what is rewritten."""
    flow, control = _kept(FakeExchange(), client=replace(CLIENT, body=b"client's"))
    flow.request.content = b"went out"
    await control.prepare(flow)
    assert control.exchange.bodies == [b"client's"]


def test_a_translated_answer_is_kept_as_it_came():
    """Where the client gets another format both are kept, each up to the limit."""
    flow, control = _kept(Translates(), limit=6)
    _answered(flow, headers={"content-type": "application/x-frames"})
    control.open_stream(flow)
    for piece in (b"frames", b" more", b""):
        flow.response.stream(piece)
    control.keep(flow)
    assert sides.answer_of(flow) == sides.WireAnswer("application/x-frames", b"frames", 11)
    assert flow.response.data.content == b"frames"
    assert sides.full_length(flow) == 16
    assert control.stream.tape.take() == b""


def test_an_answer_in_the_same_format_is_kept_once():
    """Where the format stays what the client got is all there is to see."""
    flow, control = _kept(FakeExchange())
    _answered(flow, headers={"content-type": "text/event-stream"})
    control.open_stream(flow)
    flow.response.stream(b"data")
    control.keep(flow)
    assert sides.answer_of(flow) is None
    assert sides.full_length(flow) is None


@pytest.mark.parametrize(("limit", "kept"), [(3, b"who"), (0, None)])
def test_a_collected_answer_is_kept_as_it_came(limit, kept):
    """The same of an answer that was read whole; with a limit of 0 nothing is kept."""
    flow, control = _kept(FakeExchange(), limit)
    control.exchange.whole = True
    _answered(flow, headers={"content-type": "application/x-frames"})
    control.open_stream(flow)
    flow.response.data.content = b"whole"
    control.collect(flow)
    control.keep(flow)
    found = sides.answer_of(flow)
    assert (found and found.body) == kept
    assert flow.response.content == b"<whole>"
