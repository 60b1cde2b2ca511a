"""Heads, lines between chunks, and what is sent ahead have an end, and nothing of them is quoted."""

from __future__ import annotations

import pytest
from h11._receivebuffer import ReceiveBuffer
from mitmproxy.proxy.layers import http as layers

from kimi_core.proxy import heads, replay, trailers
from tests.proxy.driver import READ, Driver

SECRET = b"Bearer fake-access-1"
FIELD = b"x-fake: " + b"x" * 1000 + b"\r\n"
PLENTY = heads.HEAD_BYTES // len(FIELD) + 2


@pytest.fixture(autouse=True, scope="module")
def installed():
    """Have mitmproxy use our classes during a test."""
    replay.install()
    yield
    replay.uninstall()


@pytest.fixture
def driver():
    """Return a client before a server, both of HTTP/1.1; at the end nothing may be left of any stream."""
    made = Driver().start()
    yield made
    made.finish()


def sent(driver, *pieces):
    """Have the client send these bytes."""
    for piece in pieces:
        driver.receive(driver.client, piece)


def served(driver, *pieces):
    """Have the server of the last request send these bytes."""
    upstream, _ = driver.requests[-1]
    for piece in pieces:
        driver.receive(upstream.conn, piece)
    return upstream


# --- answers ---------------------------------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(("begin", "piece"), [(OK, FIELD), (b"HTTP/1.1 200 ", FIELD.rstrip())], ids=["fields", "line"])
def test_a_head_of_an_answer_has_an_end(driver, begin, piece):
    """One that is longer is a broken answer, and its connection is over; little more than the bound is kept."""
    driver.request()
    upstream = served(driver, begin, *[piece] * PLENTY)
    assert driver.answer.status == 502
    assert heads.ENDLESS.encode() in driver.got
    assert upstream.peer.closed


def test_a_long_head_is_no_endless_one(driver):
    """What is within the bound is read, in pieces or in one."""
    for pieces in ([FIELD] * (PLENTY - 4), [FIELD * (PLENTY - 4)]):
        driver.request()
        served(driver, OK, *pieces, b"content-length: 4\r\n\r\nfine")
        assert driver.answer.body == b"fine"


@pytest.mark.parametrize(
    ("begin", "piece"), [(b"5;", b"x" * 1000), (b"0\r\n", FIELD)], ids=["chunk extension", "trailers"]
)
def test_a_line_between_chunks_has_an_end(driver, begin, piece):
    """A size, its extensions, trailers: without an end they are a broken answer."""
    driver.request()
    upstream = served(driver, CHUNKED + b"4\r\nfine\r\n" + begin, *[piece] * (PLENTY + 10))
    assert driver.answer.status == 502
    assert trailers.ENDLESS.encode() in driver.got
    assert upstream.peer.closed


@pytest.mark.parametrize("head", [SECRET, OK + SECRET, OK + b" " + SECRET, b"HTTP/1.1 abc " + SECRET])
@pytest.mark.parametrize("end", [b"\r\n\r\n", b""])
def test_a_broken_head_is_not_quoted(driver, head, end):
    """An answer that cannot be read, or breaks off in its head, may hold an echo of what was sent."""
    driver.request()
    served(driver, head + end)
    driver.hang_up()
    assert driver.answer.status == 502
    assert SECRET not in driver.got
    assert SECRET.decode() not in str(driver.logged)
    assert (heads.BROKEN if end else "server closed connection").encode() in driver.got


def test_a_broken_chunk_is_not_quoted(driver):
    """Nor what stands where the size of a chunk should."""
    driver.request()
    served(driver, CHUNKED + SECRET + b"\r\n")
    assert driver.answer.status == 502
    assert SECRET not in driver.got
    assert trailers.BROKEN.encode() in driver.got


def test_what_nobody_asked_for_is_not_quoted(driver):
    """A server that speaks unasked is left, and its words are not logged."""
    driver.request()
    driver.respond(200, b"fine")
    upstream = served(driver, SECRET)
    assert upstream.peer.closed
    assert driver.logged == [heads.UNASKED]


def test_a_line_of_chunks_within_the_bound_is_waited_for():
    """The reader asks for more."""
    reader, buf = trailers.TrailerlessReader(), ReceiveBuffer()
    buf += b"5;" + b"x" * (heads.HEAD_BYTES - 2)
    assert reader(buf) is None
    buf += b"\r\nhello"
    assert bytes(reader(buf).data) == b"hello"


# --- requests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("begin", "piece"), [(b"GET / HTTP/1.1\r\n", FIELD), (b"GET /", b"x" * 1000)])
def test_a_head_of_a_request_has_an_end(driver, begin, piece):
    """It is answered with a 431, and its connection is over; what still comes is not kept."""
    sent(driver, begin, *[piece] * (PLENTY + 10))
    assert driver.answer.status == heads.TOO_LARGE
    assert b"longer than 256 KiB" in driver.got
    assert driver.peer.closed
    assert not driver.flows
    server = driver.layer.connections[driver.client]
    sent(driver, FIELD)
    assert len(server.buf) < READ


@pytest.mark.parametrize("cut", [True, False], ids=["breaks off", "unreadable"])
def test_a_broken_request_is_not_quoted_in_the_log(driver, cut):
    """It may hold the login of a client of the service's own."""
    sent(driver, b"authorization: " + SECRET + b"\r\n" + (b"" if cut else b"\r\n"))
    driver.leave()
    assert driver.logged == [f"127.0.0.1:1: {heads.REFUSED}"]


def test_a_client_may_send_ahead_of_its_turn(driver):
    """The next request waits until the first has its answer; it may have a body."""
    driver.request()
    driver.request(b"x" * READ)
    assert len(driver.requests) == 1
    driver.respond(200, b"one")
    driver.respond(200, b"two")
    assert [answer.body for answer in driver.answers] == [b"one", b"two"]


def test_what_a_client_sends_ahead_of_its_turn_has_an_end(driver, monkeypatch):
    """One that floods the proxy meanwhile is cut off, and its request is taken back."""
    monkeypatch.setattr(heads, "AHEAD_BYTES", 2 * READ)
    driver.request()
    sent(driver, b"x" * (4 * READ))
    assert driver.peer.closed
    assert driver.cancelled()
    assert driver.hooks.count("error") == 1
    assert driver.flows[0].error.msg == heads.GREEDY
    assert len(driver.layer.connections[driver.client].buf) <= READ


def test_replacing_and_undoing():
    """The classes of mitmproxy come back."""
    assert (layers.Http1Server, layers.Http1Client) == (heads.BoundedServer, heads.BoundedClient)
    replay.uninstall()
    assert (layers.Http1Server, layers.Http1Client) == (heads.Http1Server, heads.Http1Client)
    replay.install()
