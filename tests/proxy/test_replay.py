from __future__ import annotations

import pytest
from mitmproxy import http

from kimi_core.exchange import Limits
from kimi_core.proxy import replay, replay_stream
from tests.proxy.driver import Driver

PROTOCOLS = [("h1", "h1"), ("h1", "h2"), ("h2", "h1"), ("h2", "h2")]
EVENT_STREAM = {"content-type": "text/event-stream"}


class Policy:
    """A control that holds 401s and has everything sent again, up to three times."""

    buffers_body = True
    max_body = 8 * 1024 * 1024
    limits = Limits()
    max_attempts = 3

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

    def peek(self, flow, data):
        raise AssertionError("not asked for")

    async def judge(self, attempt):
        self.attempts.append(attempt)
        self.decide(attempt)

    def decide(self, attempt):
        attempt.decision = "retry"

    def cut(self, flow, limit):
        return None


class Addon:
    """Attaches a policy to every flow and streams every answer."""

    def __init__(self, policy):
        self.policy = policy

    def requestheaders(self, flow):
        replay.attach(flow, self.policy)
        flow.request.headers["authorization"] = "Bearer [kimi]"

    def responseheaders(self, flow):
        flow.response.stream = True
        headers = flow.response.headers
        if not flow.request.is_http2 and "content-length" not in headers:
            headers["transfer-encoding"] = "chunked"


@pytest.fixture(autouse=True)
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
