from __future__ import annotations

import contextlib

import pytest
from h2.errors import ErrorCodes
from h2.exceptions import StreamClosedError
from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy import connection, http

from kimi_core.exchange import Limits
from kimi_core.proxy import replay, replay_stream, seal
from tests.proxy.driver import Driver
from tests.proxy.stand_ins import attempt

PROTOCOLS = [("h1", "h1"), ("h1", "h2"), ("h2", "h1"), ("h2", "h2")]
SECRET = "fake-access-1"
EVENT_STREAM = {"content-type": "text/event-stream"}


class Policy:
    """A control that holds 401s and has everything sent again, up to three times."""

    buffers_body = True
    max_body = 8 * 1024 * 1024
    limits = Limits()
    max_attempts = 3
    peek_limit = 64 * 1024

    def __init__(self):
        self.attempts = []

    def too_large(self, flow):
        return http.Response.make(400, b"too large")

    def permit(self, flow, server):
        return None

    def seal(self, request):
        request.headers["authorization"] = f"fake-access-{len(self.attempts) + 1}"
        return request

    def holds(self, flow, response):
        return response.status_code == 401

    def peeks(self, flow, response):
        return False

    def peek(self, flow, data, ended):
        raise AssertionError("not asked for")

    async def judge(self, attempt):
        self.attempts.append(attempt)
        self.decide(attempt)

    def decide(self, attempt):
        attempt.decision = "retry"

    def cut(self, flow, limit):
        return None

    def ping(self, flow):
        raise AssertionError("not asked for")

    def wants_no_more(self, seen):
        return False


class Passing(replay.Sink):
    """A sink that passes every piece on, until the policy says that the client has everything."""

    def __init__(self, policy):
        self.over = False
        self._policy = policy
        self._seen = b""

    def __call__(self, data):
        self._seen += data
        self.over = self._policy.wants_no_more(self._seen)
        return [data] if data else []


class Addon:
    """Attaches a policy to every flow and streams every answer, through a sink or as mitmproxy does by itself."""

    sinks = True

    def __init__(self, policy):
        self.policy = policy

    def requestheaders(self, flow):
        replay.attach(flow, self.policy)
        flow.request.headers["authorization"] = "Bearer [kimi]"

    def responseheaders(self, flow):
        if flow.response.status_code == 101:
            return
        flow.response.stream = Passing(self.policy) if self.sinks else True
        headers = flow.response.headers
        if not flow.request.is_http2 and "content-length" not in headers:
            headers["transfer-encoding"] = "chunked"


@pytest.fixture(autouse=True, scope="module")
def installed():
    """Have mitmproxy use our streams during a test."""
    replay.install()
    yield
    replay.uninstall()


@pytest.fixture
def drive(monkeypatch):
    """Make drivers on their own clock; at the end nothing may be left of any stream."""
    drivers = []

    def make(policy=None, protocols=("h1", "h1"), addon=None, **options):
        client, upstream = protocols
        driver = Driver(addon or Addon(policy or Policy()), client=client, upstream=upstream, **options)
        drivers.append(driver)
        monkeypatch.setattr(replay_stream, "clock", lambda: driver.now)
        return driver.start()

    yield make
    for driver in drivers:
        driver.finish()


def fail(driver, how):
    """Let the only attempt so far fail."""
    if how == "401":
        driver.respond(401, b'{"error": "expired"}')
    elif how == "reset":
        driver.break_off()


@pytest.mark.parametrize("size", [4, 5 * 1024 * 1024])
@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
@pytest.mark.parametrize("how", ["401", "refused", "reset"])
@pytest.mark.parametrize("stays", [True, False], ids=["stays", "leaves"])
def test_matrix(drive, how, protocols, size, stays):
    """A failed attempt is judged and sent again as it was, streamed at once; a client that leaves ends it all."""
    policy = Policy()
    driver = drive(policy, protocols)
    driver.paused.add("replay_attempt")
    if how == "refused":
        driver.refuse.add("a.test")
    body = bytes(range(256)) * (size // 256) or b"body"
    key = driver.request(body)
    fail(driver, how)
    assert driver.answers == []
    assert driver.pending
    driver.refuse.clear()
    sent = len(driver.requests)
    if not stays:
        driver.leave(key)
        driver.resume()
        assert len(driver.requests) == sent == (how != "refused")
        assert driver.hooks.count("error") == 1
        return
    driver.resume()
    _, message = driver.requests[-1]
    assert len(driver.requests) == sent + 1
    assert message.ended
    assert message.body == body
    assert message.headers["authorization"] == "fake-access-2"
    driver.respond(200, b"one", EVENT_STREAM, end=False)
    assert (driver.answer.status, driver.answer.body) == (200, b"one")
    driver.send(b"two")
    assert driver.answer.chunks == [b"one", b"two"]
    driver.send(b"three", end=True)
    assert driver.answer.ended
    assert driver.flows[0].request.headers["authorization"] == "Bearer [kimi]"
    assert driver.hooks.count("response") == 1
    assert "error" not in driver.hooks


# --- held answers


class Relaying(Policy):
    def decide(self, attempt):
        attempt.decision = "relay"


class Replying(Policy):
    def decide(self, attempt):
        attempt.decision, attempt.response = "reply", http.Response.make(418, b"our own", {"x-ours": "yes"})


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
def test_second_401_is_relayed(drive, protocols):
    """The last attempt is judged as well, and "retry" then means "relay"."""
    policy = Policy()
    policy.max_attempts = 2
    driver = drive(policy, protocols)
    driver.request()
    driver.respond(401, b"first")
    driver.respond(401, b"second", {"x-upstream": "kept"})
    assert (driver.answer.status, driver.answer.body, driver.answer.ended) == (401, b"second", True)
    assert driver.answer.headers["x-upstream"] == "kept"
    assert [(a.number, a.final, a.complete, a.error) for a in policy.attempts] == [
        (1, False, True, None),
        (2, True, True, None),
    ]
    assert len(driver.requests) == 2
    assert policy.attempts[0].response.content == b"first"


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
def test_ten_attempts_on_changing_hosts(drive, protocols):
    """Attempts go on as long as the policy wants, to whatever host it names, refused or answered."""

    class Wandering(Policy):
        max_attempts = 10

        def decide(self, attempt):
            attempt.flow.request.host = "b.test" if attempt.number % 3 == 1 else "a.test"
            attempt.decision = "retry"

    policy = Wandering()
    driver = drive(policy, protocols)
    driver.refuse.add("b.test")
    driver.request()
    while len(policy.attempts) < 9:
        driver.respond(401, b"no")
    driver.respond(200, b"at last")
    assert driver.answer.body == b"at last"
    assert [a.error for a in policy.attempts if a.error] == ["refused"] * 3
    assert [a.number for a in policy.attempts] == list(range(1, 10))


@pytest.mark.parametrize("client", ["h1", "h2"])
def test_connections_that_are_over_are_forgotten(drive, client):
    """A client whose every request has a connection of its own leaves none of them behind, nor what they need."""
    driver = drive(Peeking(), (client, "h1"))
    for number in range(20):
        driver.request()
        driver.respond(200, b"fine")
        driver.hang_up()
        assert len(driver.requests) == number + 1
    assert [message.body for message in driver.answers] == [b"fine"] * 20
    assert len(driver.layer.connections) <= 3


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
def test_connections_live_on_after_a_retry(drive, protocols):
    """The client's connection serves the next request, and nothing of the first one gets in its way."""
    driver = drive(None, protocols)
    for turn in range(3):
        driver.request()
        driver.respond(401, b"no")
        driver.respond(200, b"answer %d" % turn)
        assert driver.answer.body == b"answer %d" % turn
    assert len(driver.answers) == 3
    assert len(driver.upstreams) == (6 if protocols == ("h2", "h1") else 1)


@pytest.mark.parametrize("chunked", [True, False])
def test_relay_keeps_body_and_edited_head(drive, chunked):
    """A relayed answer has the judge's headers, the server's body and a length that is right."""

    class Editing(Relaying):
        def decide(self, attempt):
            attempt.response.headers["x-reason"] = "auth"

    driver = drive(Editing())
    driver.request()
    driver.respond(401, b"bo", end=False, headers=None if chunked else {"content-length": "4"})
    driver.send(b"dy", end=True)
    assert driver.answer.body == b"body"
    assert driver.answer.headers.get("x-reason") == "auth"
    assert driver.answer.headers["content-length"] == "4"
    assert "transfer-encoding" not in driver.answer.headers
    assert driver.hooks.count("responseheaders") == driver.hooks.count("response") == 1


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
@pytest.mark.parametrize("how", ["401", "refused", "reset"])
def test_reply_replaces_the_answer(drive, protocols, how):
    """A judge may answer instead, whatever came of the attempt."""
    driver = drive(Replying(), protocols)
    if how == "refused":
        driver.refuse.add("a.test")
    driver.request()
    fail(driver, how)
    assert (driver.answer.status, driver.answer.body, driver.answer.ended) == (418, b"our own", True)
    assert driver.answer.headers["x-ours"] == "yes"
    driver.refuse.clear()
    driver.request()
    driver.respond(200, b"next")
    assert driver.answer.body == b"next"


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
@pytest.mark.parametrize("how", ["refused", "reset", "hang up"])
def test_relayed_failure_is_a_502(drive, protocols, how):
    """A failure that nobody cares to replace is told as mitmproxy tells it."""
    policy = Relaying()
    driver = drive(policy, protocols)
    if how == "refused":
        driver.refuse.add("a.test")
    driver.request()
    if how == "reset":
        driver.break_off()
    elif how == "hang up":
        driver.hang_up()
    assert driver.answer.status == 502
    assert policy.attempts[0].error in driver.answer.body.decode().replace("&#x27;", "'")
    assert driver.hooks.count("error") == 1


@pytest.mark.parametrize("client", ["h1", "h2"])
def test_cancellation_by_the_server_is_a_502(drive, client):
    """A server that cancels a stream has failed; the client gets words, not a reset."""
    driver = drive(Relaying(), (client, "h2"))
    driver.request()
    upstream, message = driver.requests[0]
    driver.receive(upstream.conn, upstream.peer.reset(message.key, ErrorCodes.CANCEL))
    assert driver.answer.status == 502
    assert b"CANCEL" in driver.answer.body


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
@pytest.mark.parametrize("policy", [Policy, Relaying])
def test_long_held_body_is_cut(drive, protocols, policy):
    """Of a held answer that is too long the beginning is kept, and the server is told to stop."""
    policy = policy()
    driver = drive(policy, protocols)
    driver.request()
    driver.respond(401, b"x" * (replay_stream.HELD_BYTES + 1), end=False)
    (attempt,) = policy.attempts
    assert driver.cancelled()
    assert (attempt.complete, len(attempt.response.content)) == (False, replay_stream.HELD_BYTES)
    if type(policy) is Policy:
        driver.respond(200, b"fine")
        assert driver.answer.body == b"fine"
    else:
        assert driver.answer.body == b"x" * replay_stream.HELD_BYTES
        assert driver.answer.ended


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
def test_held_body_that_does_not_end(drive, protocols):
    """A held answer is judged after a while as far as it came; what comes late is ignored."""
    policy = Policy()
    driver = drive(policy, protocols)
    driver.request()
    driver.respond(401, b"beg", end=False)
    driver.advance(replay_stream.HELD_SECONDS / 2)
    driver.send(b"in")
    driver.advance(replay_stream.HELD_SECONDS / 2 - 0.01)
    assert policy.attempts == []
    driver.advance(0.01)
    assert policy.attempts[0].response.content == b"begin"
    assert not policy.attempts[0].complete
    assert driver.cancelled()
    driver.respond(200, b"fine")
    driver.advance(10)
    assert driver.answer.body == b"fine"


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
def test_held_answer_that_breaks_off(drive, protocols):
    """The head of a held answer counts, even where the server does not get to the end of its body."""
    policy = Relaying()
    driver = drive(policy, protocols)
    driver.request()
    driver.respond(401, b"beg", {"content-length": "10"}, end=False)
    driver.break_off()
    assert (policy.attempts[0].complete, policy.attempts[0].error) == (False, None)
    assert (driver.answer.status, driver.answer.body, driver.answer.ended) == (401, b"beg", True)


@pytest.mark.parametrize("client", ["h1", "h2"])
def test_trailers_of_a_held_answer_are_dropped(drive, client):
    """Trailers, which mitmproxy cannot send over HTTP/1.1, do not hinder a relayed answer."""
    driver = drive(Relaying(), (client, "h2"))
    driver.request()
    driver.respond(401, b"body", end=False)
    upstream, message = driver.requests[0]
    upstream.peer.conn.send_headers(message.key, [("x-trailer", "1")], end_stream=True)
    driver.receive(upstream.conn, upstream.peer.conn.data_to_send())
    assert (driver.answer.body, driver.answer.ended) == (b"body", True)


@pytest.mark.parametrize("client", ["h1", "h2"])
def test_trailers_of_a_streamed_answer_do_not_hang_the_client(drive, client):
    """A client of HTTP/1.1, to which mitmproxy cannot send them, gets the answer without; one of HTTP/2 both."""
    driver = drive(protocols=(client, "h2"))
    driver.request()
    driver.respond(200, b"body", end=False)
    upstream, message = driver.requests[0]
    upstream.peer.conn.send_headers(message.key, [("x-trailer", "1")], end_stream=True)
    driver.receive(upstream.conn, upstream.peer.conn.data_to_send())
    assert (driver.answer.body, driver.answer.ended) == (b"body", True)


@pytest.mark.parametrize(("upstream", "passed"), [("h1", {}), ("h2", {"x-trailer": "1"})])
def test_trailers_of_a_request_go_where_they_can(drive, upstream, passed):
    """Over HTTP/1.1 mitmproxy would crash at them; a service that speaks HTTP/2 gets them."""
    policy = Policy()
    policy.decide = lambda attempt: None
    driver = drive(policy, ("h2", upstream))
    key = driver.request(whole=False)
    driver.peer.conn.send_headers(key, [("x-trailer", "1")], end_stream=True)
    driver.receive(driver.client, driver.peer.conn.data_to_send())
    driver.respond(200, b"ok")
    assert driver.answer.body == b"ok"
    assert [(m.body, m.trailers or {}) for _, m in driver.requests] == [(b"body", passed)]


def test_trailers_of_a_request_are_sent_again(drive):
    """The second attempt ends with the same trailers as the first."""
    driver = drive(None, ("h2", "h2"))
    key = driver.request(b"body", whole=False)
    driver.peer.conn.send_headers(key, [("x-trailer", "1")], end_stream=True)
    driver.receive(driver.client, driver.peer.conn.data_to_send())
    driver.respond(401)
    assert [(m.body, m.trailers, m.ended) for _, m in driver.requests] == [(b"body", {"x-trailer": "1"}, True)] * 2


@pytest.mark.parametrize(("method", "status"), [("HEAD", 401), ("POST", 204), ("POST", 304)])
def test_answers_without_a_body_keep_their_head(drive, method, status):
    """Where there can be no body, the length the server names stays, and a reply's body is left out."""

    class Any(Relaying):
        def holds(self, flow, response):
            return True

    driver = drive(Any())
    driver.request(b"", method=method)
    driver.respond(status, b"", {"content-length": "7"} if method == "HEAD" else {})
    assert driver.got.endswith(b"\r\n\r\n")
    assert (b"content-length: 7" in driver.got) == (method == "HEAD")
    driver.request()
    driver.respond(200, b"next")
    assert driver.got.endswith(b"next")


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (200, {"bad name": "1"}),
        (401, {"bad name": "1"}),
        (200, {"content-length": "1", "transfer-encoding": "chunked"}),
        (2000, {}),
        (101, {}),
        (103, {}),
    ],
)
def test_a_malformed_head_is_a_failed_attempt(drive, status, fields):
    """Where mitmproxy would make an error page of it, the next attempt may still be good."""
    policy = Policy()
    driver = drive(policy)
    driver.request()
    driver.respond(status, b"x", fields)
    assert "rules of HTTP" in policy.attempts[0].error
    driver.respond(200, b"good")
    assert driver.answer.body == b"good"


def test_a_malformed_head_passes_where_the_user_wants_it(drive):
    """Without mitmproxy's own check the answer is what it is."""
    driver = drive(validate_inbound_headers=False)
    driver.request()
    driver.respond(200, b"x", {"bad name": "1"})
    assert driver.got.endswith(b"\r\n\r\nx")


def test_relayed_answer_is_checked_for_smuggling(drive):
    """Mitmproxy's own check of an answer's header fields is not got round by holding it."""
    driver = drive(Relaying())
    driver.request()
    driver.respond(401, b"x", {"bad name": "1"})
    assert driver.answer.status == 502


@pytest.mark.parametrize("client", ["h1", "h2"])
def test_trailers_of_a_chunked_answer_are_left_out(drive, client):
    """The HTTP/1.1 of mitmproxy would crash at them, and the client hang."""
    driver = drive(protocols=(client, "h1"))
    driver.request()
    driver.respond(200, b"", {"transfer-encoding": "chunked"}, end=False)
    upstream, _ = driver.requests[-1]
    driver.receive(upstream.conn, b"3\r\none\r\n0\r\nx-trailer: fake\r\n\r\n")
    assert driver.answer.body == b"one"
    driver.request()
    driver.respond(200, b"two")
    assert driver.answer.body == b"two"


# --- connections


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
def test_stale_keep_alive(drive, protocols):
    """A kept connection that turns out to be dead is one failed attempt; the next one gets a new connection."""
    policy = Policy()
    driver = drive(policy, protocols)
    driver.request()
    driver.respond(200, b"one")
    driver.request()
    driver.hang_up()
    driver.respond(200, b"two")
    assert driver.answer.body == b"two"
    assert "closed" in policy.attempts[0].error


def test_401_with_connection_close(drive):
    """A server that closes after its 401 is connected to again."""
    driver = drive()
    driver.request()
    driver.respond(401, b"no", {"connection": "close"})
    assert len(driver.upstreams) == 2
    driver.respond(200, b"yes", {"connection": "close", "content-length": "3"})
    assert driver.answer.body == b"yes"


def test_a_server_that_came_back_serves_the_next_request(drive):
    """A failed connection does not stick to the client's connection, as it does in plain mitmproxy."""
    policy = Relaying()
    driver = drive(policy, ("h2", "h1"))
    driver.refuse.add("a.test")
    driver.request()
    assert driver.answer.status == 502
    driver.refuse.clear()
    driver.request()
    driver.respond(200, b"back")
    assert driver.answer.body == b"back"


def test_multiplexed_streams_do_not_mix(drive):
    """Retries of twenty streams on one connection each end where they belong."""
    driver = drive(None, ("h2", "h2"))
    keys = [driver.request(b"body %d" % n) for n in range(9)]
    for index in range(9):
        driver.respond(401, b"no", index=index)
    for upstream, message in list(driver.requests)[9:]:
        driver.receive(upstream.conn, upstream.peer.respond(message.key, 200, {}, b"re: " + message.body, True))
    assert {key: driver.peer.by_id[key].body for key in keys} == {key: b"re: body %d" % n for n, key in enumerate(keys)}


# --- the client leaves


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
@pytest.mark.parametrize("stage", ["waiting", "held", "peek", "streaming", "second"])
def test_client_that_leaves_takes_its_request_along(drive, protocols, stage):
    """At every stage the server is told, nothing is judged and nothing is sent again."""

    class Peeking(Policy):
        def peeks(self, flow, response):
            return stage == "peek"

        def peek(self, flow, data, ended):
            return None

    policy = Peeking()
    driver = drive(policy, protocols)
    key = driver.request()
    if stage == "second":
        driver.respond(401)
    elif stage != "waiting":
        driver.respond(401 if stage == "held" else 200, b"beg", end=False)
    sent = len(driver.requests)
    driver.leave(key)
    driver.advance(60)
    assert driver.cancelled(-1)
    assert len(driver.requests) == sent
    assert len(policy.attempts) == (stage == "second")
    assert driver.hooks.count("error") == 1


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
@pytest.mark.parametrize("refused", [True, False])
def test_client_that_leaves_while_connecting(drive, protocols, refused):
    """No byte of the request is sent for a client that is gone, and nobody is asked about it."""
    policy = Policy()
    driver = drive(policy, protocols)
    if refused:
        driver.refuse.add("a.test")
    driver.paused.add("connect")
    key = driver.request()
    driver.leave(key)
    driver.resume()
    assert driver.requests == []
    assert policy.attempts == []
    assert driver.hooks.count("error") == 1


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
def test_killed_while_judged(drive, protocols):
    """A flow that is killed in mitmproxy is not sent again and leaves nothing behind."""

    class Killing(Policy):
        def decide(self, attempt):
            attempt.flow.kill()
            attempt.decision = "retry"

    driver = drive(Killing(), protocols)
    driver.request()
    driver.respond(401)
    assert len(driver.requests) == 1
    assert driver.layer.streams == {}
    assert driver.answers == []


def test_killed_as_it_is_relayed(drive):
    """So is one that is killed in the responseheaders hook of its relayed answer."""
    addon = Addon(Relaying())
    addon.responseheaders = lambda flow: flow.kill()
    driver = drive(addon=addon)
    driver.request()
    driver.respond(401)
    assert driver.answers == []
    assert driver.layer.streams == {}


# --- first bytes


class Peeking(Policy):
    """Wants three bytes; those that begin with "err" are a failure."""

    def peeks(self, flow, response):
        return True

    def peek(self, flow, data, ended):
        return None if len(data) < 3 else not data.startswith(b"err")


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
def test_peek(drive, protocols):
    """An answer whose beginning is a failure is judged; one whose beginning is good streams from there on."""
    policy = Peeking()
    driver = drive(policy, protocols)
    driver.request()
    driver.respond(200, b"er", end=False)
    driver.send(b"ror")
    assert driver.answers == []
    driver.send(b"!", end=True)
    assert policy.attempts[0].response.content == b"error!"
    driver.respond(200, b"go", EVENT_STREAM, end=False)
    assert driver.answers == []
    driver.send(b"od")
    assert driver.answer.chunks == [b"go", b"od"]
    driver.send(b"!", end=True)
    assert (driver.answer.body, driver.answer.ended) == (b"good!", True)


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
@pytest.mark.parametrize(("body", "judged"), [(b"ok", False), (b"error", True), (b"", False)])
def test_peek_of_an_answer_that_ends(drive, protocols, body, judged):
    """An answer that is over before it is clear is relayed; one that is a failure in one piece is judged."""
    policy = Peeking()
    policy.decide = lambda attempt: None
    driver = drive(policy, protocols)
    driver.request()
    driver.respond(200, body)
    assert len(policy.attempts) == judged
    assert (driver.answer.body, driver.answer.ended) == (body, True)


def test_peek_at_the_end_of_an_answer(drive):
    """A verdict that comes only with the end of the answer counts."""

    class Late(Peeking):
        ended = False

        def peek(self, flow, data, ended):
            self.calls = getattr(self, "calls", 0) + 1
            return None if self.calls == 1 else False

    policy = Late()
    driver = drive(policy)
    driver.request()
    driver.respond(200, b"x", end=False)
    driver.send(b"", end=True)
    assert policy.attempts[0].response.content == b"x"
    assert policy.attempts[0].complete


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
def test_an_answer_without_a_body_is_looked_into_as_well(drive, protocols):
    """Over HTTP/2 its head is all of it; that it is empty may be what makes it a failure."""

    class Empty(Peeking):
        def peek(self, flow, data, ended):
            return False if ended and not data else super().peek(flow, data, ended)

    policy = Empty()
    driver = drive(policy, protocols)
    driver.request()
    driver.respond(200, b"", EVENT_STREAM)
    assert policy.attempts[0].complete
    driver.respond(200, b"good", EVENT_STREAM)
    assert (driver.answer.body, driver.answer.ended) == (b"good", True)


def test_peek_has_an_end(drive):
    """An answer that stays unclear for too long is relayed."""
    policy = Policy()
    policy.peeks, policy.peek = lambda *_: True, lambda *_: None
    driver = drive(policy)
    driver.request()
    driver.respond(200, b"x" * (policy.peek_limit + 1), EVENT_STREAM, end=False)
    assert driver.answer.body == b"x" * (policy.peek_limit + 1)
    driver.send(b"", end=True)


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
def test_peek_that_breaks_off_is_a_failed_attempt(drive, protocols):
    """The client has seen nothing yet, so it may be sent again."""
    policy = Peeking()
    driver = drive(policy, protocols)
    driver.request()
    driver.respond(200, b"x", end=False)
    driver.break_off()
    assert policy.attempts[0].response is None
    assert policy.attempts[0].error
    driver.respond(200, b"fine")
    assert driver.answer.body == b"fine"


def test_who_reset_the_answer_is_said(drive):
    """The reset of either side is the client's in mitmproxy's words."""
    policy = Policy()
    policy.decide = lambda attempt: None
    driver = drive(policy, ("h1", "h2"))
    driver.request()
    driver.break_off()
    assert "reset by server" in policy.attempts[0].error
    assert "client" not in policy.attempts[0].error


def test_connections_that_serve_a_client_of_http2_once_are_closed(drive):
    """Of HTTP/1.1 none is used twice for a client of HTTP/2, and five that stand open are all that mitmproxy has."""

    class Sealing(Policy):
        def seal(self, request):
            return seal.unlabelled(request, attempt())

    driver = drive(Sealing(), ("h2", "h1"))
    for _ in range(6):
        driver.request()
        driver.respond(200, b"ok", EVENT_STREAM)
    assert len(driver.upstreams) == 6
    assert {up.conn.state for up in driver.upstreams} == {connection.ConnectionState.CLOSED}


# --- permit and seal


class Streaming(Policy):
    buffers_body = False


class StreamingAddon(Addon):
    def requestheaders(self, flow):
        super().requestheaders(flow)
        flow.request.stream = True


def refusing(name, how):
    """Return a policy class in which *name* refuses."""

    class Refusing(Policy):
        pass

    def method(self, *args):
        if how == "raises":
            raise ValueError(SECRET)
        return "not there"

    setattr(Refusing, name, method)
    return Refusing


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
@pytest.mark.parametrize(("name", "how"), [("permit", "refuses"), ("permit", "raises"), ("seal", "raises")])
def test_refused_request_never_leaves(drive, protocols, name, how, streamed, caplog):
    """No byte goes to a server that the policy does not trust, or without its secret; that is final."""
    policy = refusing(name, how)()
    driver = drive(policy, protocols, addon=(StreamingAddon if streamed else Addon)(policy))
    policy.buffers_body = not streamed
    key = driver.request(b"bo", whole=False, headers={"content-length": "4"})
    driver.more(key, b"dy", end=True)
    assert [up.peer.messages for up in driver.upstreams] == [[]]
    assert getattr(driver.upstreams[0].peer, "buffer", b"") == b""
    assert driver.answer.status == 502
    sentence = {"refuses": "not there", "raises": "so nothing was sent"}[how]
    assert sentence in driver.answer.body.decode()
    assert [(a.final, a.decision) for a in policy.attempts] == ([] if streamed else [(True, "retry")])
    assert ("ValueError" in caplog.text) == (how == "raises")
    assert "fake-access" not in caplog.text


def test_refusal_may_be_replaced(drive):
    """A judge may put its own words for a refused request."""
    policy = refusing("permit", "refuses")()
    policy.decide = lambda attempt: Replying.decide(policy, attempt)
    driver = drive(policy)
    driver.request()
    assert driver.answer.status == 418


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
def test_streamed_request_is_sealed_but_never_held(drive, protocols):
    """A body that is passed on as it comes cannot be sent again, so its answer is the client's."""
    policy = Streaming()
    driver = drive(policy, protocols, addon=StreamingAddon(policy))
    key = driver.request(b"bo", whole=False, headers={"content-length": "4"})
    _, message = driver.requests[0]
    assert message.headers["authorization"] == "fake-access-1"
    driver.more(key, b"dy", end=True)
    assert message.body == b"body"
    driver.respond(401, b"no")
    assert (driver.answer.status, driver.answer.body) == (401, b"no")
    assert policy.attempts == []
    assert driver.flows[0].request.headers["authorization"] == "Bearer [kimi]"


def test_body_without_a_length_is_sent_in_chunks(drive):
    """HTTP/2 needs no length; an HTTP/1.1 server must still see where the body ends."""
    policy = Streaming()
    driver = drive(policy, ("h2", "h1"), addon=StreamingAddon(policy))
    key = driver.request(b"bo", whole=False)
    driver.more(key, b"dy", end=True)
    _, message = driver.requests[0]
    assert (message.chunks, message.ended) == ([b"bo", b"dy"], True)
    driver.respond(200, b"fine")
    driver.request(b"", method="GET")
    assert "transfer-encoding" not in driver.requests[-1][1].headers
    driver.respond(200, b"fine")


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
def test_streamed_request_that_cannot_be_sent(drive, protocols):
    """A streamed request that finds no server gets mitmproxy's 502."""
    policy = Streaming()
    driver = drive(policy, protocols, addon=StreamingAddon(policy))
    driver.refuse.add("a.test")
    driver.request(b"bo", whole=False, headers={"content-length": "4"})
    assert driver.answer.status == 502
    assert policy.attempts == []


# --- bodies


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
@pytest.mark.parametrize("chunked", [True, False])
def test_stream_large_bodies_does_not_touch_a_buffered_body(drive, protocols, chunked):
    """The request hook sees the whole body, and a 401 is answered with the whole of it."""
    policy = Policy()
    driver = drive(policy, protocols, stream_large_bodies="10")
    seen = []
    driver.addon.request = lambda flow: seen.append(flow.request.content)
    key = driver.request(b"a" * 100, whole=False, headers={"Transfer-Encoding": "chunked"} if chunked else LENGTH)
    driver.more(
        key, b"64\r\n" + b"b" * 100 + b"\r\n0\r\n\r\n" if chunked and protocols[0] == "h1" else b"b" * 100, end=True
    )
    assert seen == [b"a" * 100 + b"b" * 100]
    driver.respond(401)
    assert driver.requests[-1][1].body == seen[0]
    assert len(driver.requests) == 2


LENGTH = {"content-length": "200"}


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
@pytest.mark.parametrize("how", ["declared", "counted"])
def test_too_large_body(drive, protocols, how):
    """A body beyond the limit is answered at once; the rest of it disappears, and nothing of it is forwarded."""
    policy = Policy()
    policy.max_body = 150
    driver = drive(policy, protocols)
    key = driver.request(
        b"a" * 100, whole=False, headers=LENGTH if how == "declared" else {"Transfer-Encoding": "chunked"}
    )
    h1_chunks = how == "counted" and protocols[0] == "h1"
    assert len(driver.answers) == (how == "declared")
    driver.more(key, b"32\r\n" + b"b" * 50 + b"\r\n" if h1_chunks else b"b" * 50)
    assert len(driver.answers) == (how == "declared")
    driver.more(key, b"31\r\n" + b"b" * 49 + b"\r\n" if h1_chunks else b"b" * 49)
    assert (driver.answer.status, driver.answer.body, driver.answer.ended) == (400, b"too large", True)
    driver.more(key, b"1\r\nb\r\n0\r\n\r\n" if h1_chunks else b"b", end=True)
    assert driver.hooks.count("response") == 1
    assert "request" not in driver.hooks
    assert driver.upstreams == []
    assert driver.layer.streams == {}
    assert not driver.flows[0].live
    assert (driver.answer.headers.get("connection") == "close") == (protocols[0] == "h1")
    if protocols[0] == "h2":
        driver.request()
        driver.respond(200, b"next")
        assert driver.answer.body == b"next"


@pytest.mark.parametrize("client", ["h1", "h2"])
def test_client_leaves_a_body_that_is_thrown_away(drive, client):
    """The client need not send the rest."""
    policy = Policy()
    policy.max_body = 150
    driver = drive(policy, (client, "h1"))
    key = driver.request(b"a" * 100, whole=False, headers=LENGTH)
    driver.leave(key)
    assert driver.layer.streams == {}
    assert "error" not in driver.hooks


@pytest.mark.parametrize(("users", "status"), [("100", 413), ("160", 400), ("1m", 400)])
def test_smaller_limit_wins(drive, users, status):
    """Mitmproxy's body_size_limit holds as well."""
    policy = Policy()
    policy.max_body = 150
    driver = drive(policy, body_size_limit=users)
    driver.request(b"a" * 90, headers={"Transfer-Encoding": "chunked"}, whole=False)
    driver.more(None, b"46\r\n" + b"b" * 70 + b"\r\n")
    assert driver.answer.status == status
    assert driver.upstreams == []


def test_length_that_makes_no_sense_is_counted(drive):
    """Where an addon has spoilt the length, the bytes are counted as they come."""
    policy = Policy()
    policy.max_body = 3
    addon = Addon(policy)
    attach = addon.requestheaders

    def requestheaders(flow):
        attach(flow)
        flow.request.headers["content-length"] = "many"

    addon.requestheaders = requestheaders
    driver = drive(addon=addon)
    driver.request(b"body")
    assert driver.answer.status == 400


@pytest.mark.parametrize("client", ["h1", "h2"])
def test_answer_set_in_requestheaders_goes_out_at_once(drive, client):
    """An addon's refusal does not wait for the body, nor fall over stream_large_bodies, nor over `max_body`."""
    policy = Streaming()
    addon = Addon(policy)
    attach = addon.requestheaders

    def requestheaders(flow):
        attach(flow)
        flow.response = http.Response.make(407, b"who are you")

    addon.requestheaders = requestheaders
    driver = drive(addon=addon, protocols=(client, "h1"), stream_large_bodies="10")
    key = driver.request(b"a" * 100, whole=False, headers=LENGTH)
    assert (driver.answer.status, driver.answer.ended) == (407, True)
    driver.more(key, b"a" * 100, end=True)
    assert driver.layer.streams == {}
    driver = drive(addon=addon, protocols=(client, "h1"))
    driver.request(b"", method="GET")
    assert driver.answer.status == 407
    assert "connection" not in driver.answer.headers


def test_request_killed_in_requestheaders(drive):
    """A killed request gets no answer."""
    addon = Addon(Policy())
    attach = addon.requestheaders
    addon.requestheaders = lambda flow: (attach(flow), flow.kill())
    driver = drive(addon=addon)
    driver.request()
    assert driver.answers == []


def test_request_killed_as_it_is_answered_early(drive):
    """Nor does one that is killed in the responseheaders hook of an early answer."""
    policy = Policy()
    policy.max_body = 1
    addon = Addon(policy)
    addon.responseheaders = lambda flow: flow.kill()
    driver = drive(addon=addon)
    driver.request()
    assert driver.answers == []


# --- limits


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
@pytest.mark.parametrize("policy", [Policy, Relaying])
def test_first_byte_limit(drive, protocols, policy):
    """A server that is silent for too long has failed; the clock starts anew with each attempt."""
    policy = policy()
    policy.limits, policy.max_attempts = Limits(first_byte=100), 2
    driver = drive(policy, protocols)
    driver.advance(50)
    driver.request()
    driver.advance(99)
    assert policy.attempts == []
    driver.advance(1)
    assert (policy.attempts[0].error, policy.attempts[0].silent_for) == ("no answer within 100 s", 100)
    assert driver.cancelled()
    if type(policy) is Policy:
        driver.advance(99)
        driver.respond(200, b"late", end=False)
        driver.advance(1000)
        driver.send(b"r", end=True)
        assert driver.answer.body == b"later"
        assert len(policy.attempts) == 1
    else:
        assert driver.answer.status == 502


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
def test_first_byte_limit_of_a_streamed_request(drive, protocols):
    """It is counted from the end of the upload, and ends in mitmproxy's 502."""
    policy = Streaming()
    policy.limits = Limits(first_byte=10)
    driver = drive(policy, protocols, addon=StreamingAddon(policy))
    key = driver.request(b"bo", whole=False, headers={"content-length": "4"})
    driver.advance(100)
    driver.more(key, b"dy", end=True)
    driver.advance(9)
    assert driver.answers == []
    driver.advance(1)
    assert driver.answer.status == 502
    assert b"no answer within 10 s" in driver.answer.body
    assert driver.cancelled()


class Cutting(Policy):
    limits = Limits(idle=10)
    words = b"data: sorry\n\n"

    def cut(self, flow, limit):
        self.limit = limit
        return self.words


@pytest.mark.parametrize("words", [b"data: sorry\n\n", b""])
@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
@pytest.mark.parametrize("broken", ["idle", "upstream"])
@pytest.mark.parametrize("store", [True, False])
def test_cut_answer_ends_in_good_order(drive, protocols, broken, words, store):
    """An answer that stops in the middle ends with the policy's words and a proper end of the message."""
    policy = Cutting()
    policy.words = words
    driver = drive(policy, protocols, store_streamed_bodies=store)
    driver.request()
    driver.respond(200, b"one", EVENT_STREAM, end=False)
    driver.advance(9)
    driver.send(b"two")
    driver.advance(9)
    assert driver.answer.body == b"onetwo"
    if broken == "idle":
        driver.advance(1)
        assert driver.cancelled()
    else:
        driver.break_off()
    assert policy.limit == broken
    assert driver.answer.body == b"onetwo" + words
    assert driver.answer.ended
    assert not driver.answer.reset
    assert driver.hooks.count("response") == 1
    assert "error" not in driver.hooks
    assert (driver.flows[0].response.raw_content == b"onetwo" + words) == store
    driver.request()
    driver.respond(200, b"next")
    assert driver.answer.body == b"next"


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
@pytest.mark.parametrize("broken", ["idle", "upstream"])
@pytest.mark.parametrize("why", ["no words", "raises", "length"])
def test_cut_answer_that_cannot_end_is_reset(drive, protocols, broken, why, caplog):
    """Without words, or where a length was promised, only a broken stream tells the truth."""
    policy = Cutting()
    if why == "no words":
        policy.words = None
    elif why == "raises":
        policy.cut = None
    driver = drive(policy, protocols)
    driver.request()
    driver.respond(200, b"one", {"content-length": "10"} if why == "length" else EVENT_STREAM, end=False)
    driver.advance(10) if broken == "idle" else driver.break_off()
    assert driver.cancelled() or broken == "upstream"
    assert (driver.answer.body, driver.answer.ended, driver.answer.reset) == (b"one", False, True)
    assert driver.hooks.count("error") == 1
    assert ("raised" in caplog.text) == (why == "raises")


class Breaking(Passing):
    """A sink that cannot go on from the second piece, or the end, and has no words for it."""

    def __call__(self, data):
        self.over = self.broken = bool(self._seen)
        self._seen += data
        return [] if self.broken else [data]


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
@pytest.mark.parametrize("where", ["middle", "end"])
@pytest.mark.parametrize("stored", [False, True])
def test_an_answer_that_cannot_be_read_and_nobody_told_is_reset(drive, protocols, where, stored):
    """The client has a part, and must not take it for all; the service is left, and the flow is one with an error."""

    class Broken(Addon):
        def responseheaders(self, flow):
            super().responseheaders(flow)
            flow.response.stream = Breaking(self.policy)

    driver = drive(addon=Broken(Policy()), protocols=protocols, store_streamed_bodies=stored)
    driver.request()
    driver.respond(200, b"one", EVENT_STREAM, end=False)
    driver.send(b"two" if where == "middle" else b"", end=where == "end")
    if where == "middle" and stored:
        driver.send(b"", end=True)
    assert (driver.answer.body, driver.answer.ended, driver.answer.reset) == (b"one", False, True)
    assert driver.hooks.count("error") == 1
    assert driver.flows[0].error.msg == replay_stream.CUT


class Collecting(Addon):
    """Has every answer read whole."""

    def responseheaders(self, flow):
        pass


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
def test_an_answer_that_is_read_whole_has_an_end(drive, protocols, monkeypatch):
    """What grows without an end is cancelled at its bound, and the client is told; the next request is served."""
    monkeypatch.setattr(replay_stream, "COLLECTED_BYTES", 10)
    driver = drive(addon=Collecting(Policy()), protocols=protocols)
    driver.request()
    driver.respond(200, b"ten bytes!", end=False)
    assert not driver.cancelled()
    driver.send(b"and one more")
    driver.send(b"and one more")
    assert driver.cancelled()
    assert driver.answer.status == 502


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
def test_what_the_client_does_not_want_is_cancelled(drive, protocols):
    """Once the client has everything its answer ends in good order, and the server is told to stop."""
    policy = Policy()
    policy.wants_no_more = lambda seen: seen.endswith(b"b")
    driver = drive(policy, protocols)
    driver.request()
    driver.respond(200, b"a", EVENT_STREAM, end=False)
    assert not driver.cancelled()
    driver.send(b"b")
    assert driver.cancelled()
    assert driver.answer.body == b"ab"
    assert driver.answer.ended


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
def test_what_was_peeked_may_be_all_the_client_wants(drive, protocols):
    """An answer that is over with the bytes that were looked at first is cancelled as well."""
    policy = Peeking()
    policy.wants_no_more = lambda seen: b"fine" in seen
    driver = drive(policy, protocols)
    driver.request()
    driver.respond(200, b"fine", EVENT_STREAM, end=False)
    assert driver.cancelled()
    assert driver.answer.body == b"fine"
    assert driver.answer.ended


class Patient(Policy):
    """A control that keeps a waiting client waiting."""

    limits = Limits(idle=100, keep_alive=15)

    def ping(self, flow):
        return b": ping\n\n"


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
def test_a_silent_answer_keeps_its_client_waiting(drive, protocols):
    """Each keep-alive interval without a byte of the answer brings the client a word, and nothing else does."""
    driver = drive(Patient(), protocols)
    driver.request()
    driver.advance(20)
    driver.respond(200, b"a", EVENT_STREAM, end=False)
    driver.advance(14)
    assert driver.answer.body == b"a"
    driver.advance(1)
    assert driver.answer.body == b"a: ping\n\n"
    driver.advance(15)
    assert driver.answer.body == b"a: ping\n\n: ping\n\n"
    driver.send(b"b")
    driver.advance(14)
    assert driver.answer.body == b"a: ping\n\n: ping\n\nb"
    driver.advance(86)
    assert driver.answer.reset


@pytest.mark.parametrize("last", [b"", None])
def test_a_client_need_not_be_kept_waiting(drive, last):
    """No word, and one that cannot be had, change nothing."""

    class Silent(Patient):
        def ping(self, flow):
            if last is None:
                raise ValueError
            return last

    driver = drive(Silent())
    driver.request()
    driver.respond(200, b"a", EVENT_STREAM, end=False)
    driver.advance(40)
    driver.send(b"b", end=True)
    assert driver.answer.body == b"ab"


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
def test_idle_limit_before_the_client_saw_anything(drive, protocols):
    """While the answer is peeked into, silence is a failed attempt."""

    class Slow(Peeking):
        limits = Limits(idle=10)

    policy = Slow()
    driver = drive(policy, protocols)
    driver.request()
    driver.respond(200, b"x", end=False)
    driver.advance(10)
    assert policy.attempts[0].error == "no further byte of the answer within 10 s"
    driver.respond(200, b"fine")
    assert driver.answer.body == b"fine"


def test_idle_limit_of_a_collected_answer(drive):
    """An answer that mitmproxy collects ends in its 502."""
    policy = Cutting()
    addon = Addon(policy)
    addon.responseheaders = lambda flow: None
    driver = drive(addon=addon)
    driver.request()
    driver.respond(200, b"x", end=False)
    driver.advance(10)
    assert driver.answer.status == 502
    assert driver.cancelled()


def test_answer_before_the_end_of_an_upload_breaks_as_in_mitmproxy(drive):
    """While the client still sends, a broken answer is not ended in good order."""
    policy = Cutting()
    policy.buffers_body = False
    driver = drive(policy, addon=StreamingAddon(policy))
    driver.request(b"bo", whole=False, headers={"content-length": "4"})
    driver.respond(200, b"early", EVENT_STREAM, end=False)
    driver.advance(100)
    assert not driver.cancelled()
    driver.break_off()
    assert driver.answer.reset


def test_wakeups_are_few(drive):
    """A lively stream asks for no more wakeups than a silent one."""
    policy = Cutting()
    driver = drive(policy)
    driver.request()
    driver.respond(200, b"one", EVENT_STREAM, end=False)
    for _ in range(1000):
        driver.advance(0.1)
        driver.send(b"x")
    assert driver.asked <= 12
    driver.send(b"", end=True)


def test_limits_of_zero_are_none(drive):
    """No limit, no wakeup."""
    policy = Policy()
    policy.limits = Limits(first_byte=0, idle=0)
    driver = drive(policy)
    driver.request()
    driver.respond(200, b"one", EVENT_STREAM, end=False)
    assert driver.asked == 0


def test_wakeup_that_was_overtaken_is_ignored(drive):
    """An earlier limit asks for an earlier wakeup; the old one then means nothing."""
    policy = Policy()
    policy.limits = Limits(first_byte=20, idle=100)
    driver = drive(policy)
    driver.request()
    driver.respond(401, b"x", end=False)
    driver.advance(3)
    assert len(policy.attempts) == 1
    driver.respond(200, b"one", EVENT_STREAM, end=False)
    driver.advance(99)
    assert driver.answer.body == b"one"


# --- other flows


def test_upgraded_stream_is_left_alone(drive):
    """After a 101 neither limits nor ids of ours matter, on a second attempt either."""
    policy = Policy()
    policy.limits = Limits(first_byte=5, idle=5)
    policy.holds = lambda flow, response: response.status_code in {101, 401}
    driver = drive(policy)
    driver.request(b"", {"Upgrade": "own", "Connection": "upgrade"}, "GET")
    driver.respond(401)
    driver.respond(101, b"", {"upgrade": "own", "connection": "upgrade"}, end=False)
    assert driver.got.startswith(b"HTTP/1.1 101")
    driver.advance(100)
    upstream, _ = driver.requests[-1]
    driver.receive(upstream.conn, b"from server")
    assert driver.got.endswith(b"from server")
    driver.receive(driver.client, b"from client")
    assert upstream.peer.raw.endswith(b"from client")
    driver.hang_up()
    driver.layer.streams.clear()  # mitmproxy drops the stream of a tunnel with its connection


@pytest.mark.parametrize("protocols", PROTOCOLS, ids="-".join)
def test_flow_without_a_control_is_mitmproxys(drive, protocols):
    """Nothing changes for a flow that nobody attached a control to."""
    driver = drive(addon=object(), protocols=protocols)
    driver.request()
    driver.respond(401, b"no")
    assert (driver.answer.status, driver.answer.body) == (401, b"no")
    assert "replay_attempt" not in driver.hooks
    driver.refuse.add("a.test")
    driver.request()
    if protocols == ("h2", "h1"):
        assert driver.answer.status == 502


def test_connect_is_mitmproxys(drive):
    """A tunnel passes through."""
    driver = drive(addon=object(), connection_strategy="lazy")
    driver.receive(driver.client, b"CONNECT a.test:443 HTTP/1.1\r\n\r\n")
    assert driver.got == b"HTTP/1.1 200 Connection established\r\n\r\n"
    driver.receive(driver.client, b"hello")
    driver.layer.streams.clear()  # as above


@pytest.mark.parametrize("upstream", ["h1", "h2"])
def test_client_replay(monkeypatch, upstream):
    """A flow that mitmproxy replays is held, judged and sent again like any other."""
    from mitmproxy.addons.clientplayback import MockServer
    from mitmproxy.proxy.layers.http import HTTPMode
    from mitmproxy.test import tflow, tutils

    policy = Policy()
    flow = tflow.tflow(req=tutils.treq(host="a.test", port=80, content=b"body"))
    flow.request.headers = http.Headers(host="a.test", content_length="4")
    flow.is_replay = "request"
    driver = Driver(Addon(policy), upstream=upstream, mode=HTTPMode.transparent)
    monkeypatch.setattr(replay_stream, "clock", lambda: driver.now)
    driver.layer.context.server.address = ("a.test", 80)
    driver.layer.connections[driver.client] = MockServer(flow, driver.layer.context.fork())
    driver.start()
    driver.respond(401, b"no")
    driver.respond(200, b"yes")
    assert flow.response.status_code == 200
    assert [m.headers["authorization"] for _, m in driver.requests] == ["fake-access-1", "fake-access-2"]
    assert driver.layer.streams == {}


# --- the addon's side


@pytest.mark.parametrize("name", ["holds", "peeks", "peek", "judge", "too_large"])
def test_control_that_raises(drive, name, caplog):
    """A faulty policy costs the replay, not the connection, and its exception's words are not logged."""

    class Faulty(Peeking):
        max_body = 3 if name == "too_large" else 100

        def holds(self, flow, response):
            return name == "judge"

    def boom(self, *args):
        raise ValueError(SECRET)

    async def judge(self, attempt):
        attempt.decision = "retry"
        boom(self)

    setattr(Faulty, name, judge if name == "judge" else boom)
    driver = drive(Faulty())
    driver.request()
    if name != "too_large":
        driver.respond(401, b"answer")
    assert driver.answer.status == (413 if name == "too_large" else 401)
    assert driver.answer.body == (b"" if name == "too_large" else b"answer")
    assert caplog.text.count("raised ValueError") == 1
    assert "boom" in caplog.text
    assert "fake-access" not in caplog.text


async def test_attempt_is_judged_once():
    """Two addons may both have it judged; a flow that lost its control is relayed."""
    from mitmproxy.test import tflow

    policy, flow = Policy(), tflow.tflow()
    replay.attach(flow, policy)
    attempt = replay.Attempt(flow, 1)
    await replay.judge(attempt)
    await replay.judge(attempt)
    assert policy.attempts == [attempt]
    lost = replay.Attempt(flow.copy(), 1)
    await replay.judge(lost)
    assert lost.decision == "relay"


def test_judge_that_takes_the_answer_away_relays_it(drive):
    """The held answer stands in for one that the judge lost."""

    class Losing(Policy):
        def decide(self, attempt):
            attempt.response = None

    driver = drive(Losing())
    driver.request()
    driver.respond(401, b"kept")
    assert driver.answer.body == b"kept"


def test_control_is_not_copied_or_saved():
    """A copy of a flow, and its saved state, know nothing of the control."""
    from mitmproxy.test import tflow

    flow, policy = tflow.tflow(), Policy()
    assert replay.control_of(flow) is None
    replay.attach(flow, policy)
    assert replay.control_of(flow) is policy
    assert replay.control_of(flow.copy()) is None
    assert "control" not in repr(flow.get_state())


# --- any history


class Scene:
    """A driver, and what its servers may still do; an action that makes no sense now does nothing."""

    def __init__(self, protocols):
        self.driver = Driver(Addon(self.policy()), client=protocols[0], upstream=protocols[1])
        self.driver.start()
        self.keys, self.stage = [], {}

    @staticmethod
    def policy():
        class Any(Peeking):
            limits = Limits(first_byte=5, idle=4)

            def peeks(self, flow, response):
                return response.status_code == 203

            def decide(self, attempt):
                choice = ("retry", "relay", "reply")[(attempt.number + len(self.attempts)) % 3]
                attempt.decision = choice
                if choice == "reply":
                    attempt.response = http.Response.make(418, b"ours")

            def cut(self, flow, limit):
                return b"cut" if limit == "idle" else None

        return Any()

    def act(self, action, number):
        driver, client = self.driver, self.driver.client
        open_client = client.state is connection.ConnectionState.OPEN
        waiting = not driver.h2_client and len(driver.answers) < len(self.keys)
        if action == "request" and open_client and not waiting and len(self.keys) < 4:
            self.keys.append(driver.request(b"x" * number))
        elif action == "leave" and open_client and self.keys:
            with contextlib.suppress(StreamClosedError):  # that one is over
                driver.leave(self.keys[number % len(self.keys)])
        elif action in {"refuse", "admit"}:
            (driver.refuse.add if action == "refuse" else driver.refuse.discard)("a.test")
        elif action == "pause":
            driver.paused |= {"replay_attempt", "connect"} if number % 2 else {"requestheaders", "response"}
        elif action == "resume":
            driver.resume()
        elif action == "advance":
            driver.advance(number)
        elif driver.requests:
            self.serve(action, number)

    def serve(self, action, number):
        driver = self.driver
        index = number % len(driver.requests)
        upstream, message = driver.requests[index]
        stage = self.stage.get(id(message), "new")
        if upstream.conn.state is not connection.ConnectionState.OPEN or message.reset or stage == "over":
            return
        if action in {"401", "200", "203"} and stage == "new" and message.ended:
            whole = number % 3 == 0
            self.stage[id(message)] = "over" if whole else "open"
            driver.respond(int(action), b"error" if number % 2 else b"g", {"x-a": "b"}, end=whole, index=index)
        elif action in {"data", "end"} and stage == "open":
            self.stage[id(message)] = "over" if action == "end" else "open"
            driver.send(b"more", end=action == "end", index=index)
        elif action in {"break", "hang up"}:
            self.stage[id(message)] = "over"
            (driver.break_off if action == "break" else driver.hang_up)(index)


ACTIONS = {
    "the client": ("request", "request", "leave"),
    "mitmproxy": ("refuse", "admit", "pause", "resume", "advance"),
    "a server": ("401", "200", "203", "data", "end", "break", "hang up"),
}


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(PROTOCOLS),
    st.lists(
        st.tuples(st.sampled_from([action for actions in ACTIONS.values() for action in actions]), st.integers(0, 9)),
        min_size=3,
        max_size=30,
    ),
)
def test_no_history_leaves_anything_behind(protocols, history):
    """Whatever client, servers, clock and hooks do in whatever order: no crash, no leak, no attempt too many."""
    scene = Scene(protocols)
    driver = scene.driver
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay_stream, "clock", lambda: driver.now)
        scene.act("request", 1)
        for action, number in history:
            scene.act(action, number)
        driver.finish()
    assert len(driver.requests) <= 3 * len(scene.keys)
    assert len(driver.answers) <= len(scene.keys)
    assert not any(flow.live for flow in driver.flows)
