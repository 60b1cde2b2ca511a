from dataclasses import replace

import pytest
from mitmproxy.test import tflow, tutils

from kimi_core.exchange import Attempt, Reply
from kimi_core.headers import Headers
from kimi_core.proxy import seal

ATTEMPT = Attempt(
    "POST",
    "https",
    "api.kimi.com",
    443,
    "/coding/v1/chat/completions",
    Headers([("Host", "api.kimi.com"), ("authorization", "Bearer [kimi]"), ("X-Twice", "a"), ("X-Twice", "b")]),
    secrets={"authorization": "Bearer fake-access-1"},
    body=b'{"model":"k3"}',
)


def test_a_flow_shows_labels_only():
    """What is put into the flow is the attempt with its label; the secret is not among it."""
    request = tflow.tflow().request
    seal.dress(request, ATTEMPT)
    assert request.headers.get_all("X-Twice") == ["a", "b"]
    assert (request.scheme, request.host, request.port) == ("https", "api.kimi.com", 443)
    assert request.path == "/coding/v1/chat/completions"
    assert request.content == b'{"model":"k3"}'
    assert request.headers["content-length"] == "14"
    assert "fake-access-1" not in str(request.get_state())


def test_a_body_that_is_streamed_stays_framed_as_it_came():
    """Where the body is not ours, what frames it is left alone."""
    request = tflow.tflow().request
    attempt = Attempt("POST", "https", "h", 443, "/", Headers([("Transfer-Encoding", "chunked")]))
    seal.dress(request, attempt)
    assert request.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in request.headers


def test_expect_is_mitmproxys_to_answer():
    """While the client waits for 100 Continue the field stays; once it is answered it does not come back."""
    request = tflow.tflow().request
    attempt = Attempt("POST", "https", "h", 443, "/", Headers([("Expect", "100-continue")]))
    request.headers["Expect"] = "100-continue"
    seal.dress(request, attempt)
    assert request.headers["expect"] == "100-continue"
    request.headers.pop("expect")
    seal.dress(request, attempt)
    assert "expect" not in request.headers


def test_a_rewritten_body_replaces_the_framing():
    """A rewritten body has its own length and no coding any more."""
    request = tflow.tflow().request
    headers = Headers([("Transfer-Encoding", "chunked"), ("Content-Encoding", "gzip")])
    seal.dress(request, Attempt("POST", "https", "h", 443, "/", headers, body=b"{}"))
    assert [(k.lower(), v) for k, v in request.headers.items()] == [("content-length", "2")]


def test_what_is_dressed_already_gets_its_body_only():
    """Where an attempt differs from the one before in its body alone, fields that were set since stay."""
    request = tflow.tflow().request
    seal.dress(request, ATTEMPT)
    request.headers["x-since"] = "1"
    seal.dress(request, replace(ATTEMPT, body=b"{}"), ATTEMPT)
    assert (request.content, request.headers["content-length"], request.headers["x-since"]) == (b"{}", "2", "1")
    seal.dress(request, replace(ATTEMPT, path="/other"), ATTEMPT)
    assert request.path == "/other"
    assert "x-since" not in request.headers


def test_a_twin_is_a_copy():
    """What is done to the head of the copy does not show in the original."""
    request = tflow.tflow().request
    before = request.get_state()
    twin = seal.twin(request)
    assert twin.get_state() == before
    twin.headers["authorization"] = "Bearer fake-access-1"
    twin.http_version, twin.path, twin.authority = "HTTP/1.1", "/other", ""
    assert request.get_state() == before


def test_the_wire_gets_the_secret_under_the_same_spelling():
    """On the copy for the wire the label's field carries the secret, spelled and placed as before."""
    request = tflow.tflow().request
    seal.dress(request, ATTEMPT)
    copy = seal.unlabelled(request.copy(), ATTEMPT)
    assert copy.headers["Authorization"] == "Bearer fake-access-1"
    assert [name for name, _ in copy.headers.items(multi=True)] == [
        name for name, _ in request.headers.items(multi=True)
    ]
    assert request.headers["authorization"] == "Bearer [kimi]"


def test_http2_requests_leave_as_http1():
    """A client's HTTP/2 request is handed to mitmproxy as HTTP/1.1, which it turns into what the server speaks."""
    request = tflow.tflow().request
    request.http_version = "HTTP/2.0"
    request.authority = "127.0.0.1:8080"
    seal.dress(request, ATTEMPT)
    assert request.authority == "api.kimi.com"
    copy = seal.unlabelled(request.copy(), ATTEMPT)
    assert copy.http_version == "HTTP/1.1"
    assert copy.authority == ""
    assert request.http_version == "HTTP/2.0"


@pytest.mark.parametrize(
    ("mine", "wire"),
    [
        (
            [("A", "1"), ("Connection", "close"), ("B", "2")],
            [("A", "1"), ("Connection", "close"), ("B", "2")],
        ),
        ([("A", "1"), ("connection", "keep-alive")], [("A", "1"), ("connection", "keep-alive")]),
        ([("A", "1"), ("B", "2")], [("A", "1"), ("B", "2")]),
    ],
)
@pytest.mark.parametrize("client", [None, "close", "keep-alive"])
def test_each_leg_has_its_own_connection_field(client, mine, wire):
    """The flow keeps what the client said of its connection; the wire gets what the identity says, in its place."""
    request = tflow.tflow().request
    request.headers.clear()
    if client:
        request.headers["Connection"] = client
    attempt = Attempt("GET", "https", "h", 443, "/", Headers(mine))
    seal.dress(request, attempt)
    assert request.headers.get("connection") == client
    copy = seal.unlabelled(request.copy(), attempt)
    assert list(copy.headers.items(multi=True)) == wire


def test_a_secret_without_a_label_is_added():
    """A secret whose field is not there yet is added under its own name."""
    copy = seal.unlabelled(tflow.tflow().request, Attempt("GET", "https", "h", 443, "/", Headers(), {"x-key": "v"}))
    assert copy.headers["x-key"] == "v"


def test_heads_are_read_in_wire_order():
    """A request's head comes out with its fields in order, repeated ones too."""
    flow = tflow.tflow()
    flow.request.headers.add("X-A", "1")
    flow.request.headers.add("X-A", "2")
    head = seal.head_of(flow)
    assert head.headers.get_all("x-a") == ["1", "2"]
    assert (head.method, head.host, head.port, head.path) == ("GET", "address", 22, "/path")
    assert head.peer == "127.0.0.1"
    assert seal.answer_head(tutils.tresp()).status == 200


@pytest.mark.parametrize("status", [204, 304])
def test_replies_without_a_body_do_not(status):
    """Their length would be that of the answer they stand for (RFC 9110 §8.6)."""
    assert "content-length" not in seal.response_for(Reply(status, Headers(), b"")).headers


@pytest.mark.parametrize("status", [200, 401, 429])
def test_replies_say_their_length(status):
    """A reply of ours has its length and its own fields, and nothing of mitmproxy's."""
    response = seal.response_for(Reply(status, Headers([("content-type", "application/json")]), b"{}"))
    assert response.status_code == status
    assert list(response.headers.items()) == [("content-type", "application/json"), ("content-length", "2")]
