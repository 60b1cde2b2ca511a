import json

import pytest

from kimi_core.errors import AuthUnavailable, ConfigError, LoginDead
from kimi_core.exchange import Answer, AnswerHead, Attempt, Limits, Relay, Reply, Retry, Route
from kimi_core.headers import Headers
from kimi_core.kimi.answer import ChatStream, JsonAnswer, MessagesStream
from kimi_core.kimi.body import BodyOptions
from kimi_core.kimi.exchange import KimiExchange
from kimi_core.kimi.memory import ReasoningMemory
from kimi_core.kimi.models import Catalog
from kimi_core.kimi.usage import Row, Usage
from tests.kimi.stand_ins import NOW, FakeSession, token

SSE = Headers([("content-type", "text/event-stream; charset=utf-8")])
BODY = json.dumps({"model": "k3", "messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
EXPIRED = b'{"error":{"message":"Invalid Authentication","type":"invalid_authentication_error"}}'
QUOTA = (
    b'{"error":{"message":"You have reached your usage limit for this billing cycle","type":"access_terminated_error"}}'
)
IDENTITY = b'{"error":{"message":"Kimi is only available for Coding Agents","type":"access_terminated_error"}}'


class FakeAccount:
    """What an exchange asks of its account."""

    def __init__(self):
        self.session = FakeSession()
        self.cache = self
        self.catalog = Catalog()
        self.usage = self.asked = None
        self.wanted = []
        self.rejected = []
        self.offered = []

    async def settled_usage(self, patience):
        self.wanted.append(f"usage within {patience:g} s")
        self.usage = self.asked or self.usage

    def want_models(self):
        self.wanted.append("models")

    def reject(self, access_token):
        self.rejected.append(access_token)

    def offer(self, body, now):
        self.offered.append((body, now))


def _exchange(operation="chat", dialect="openai", held=True):
    route = Route("kimi", operation, dialect, "https", "api.kimi.com", 443, "/coding/v1/x")
    attempt = Attempt("POST", "https", "api.kimi.com", 443, "/coding/v1/x", Headers(), {"authorization": "Bearer old"})
    account = FakeAccount()
    exchange = KimiExchange(
        account,
        route,
        attempt,
        token(1) if held else None,
        memory=ReasoningMemory(),
        options=BodyOptions("plugin", "kimi-cli", "salt", prefer_parent=True, clamp=False),
        limits=Limits(),
        max_body=100,
        client=Headers(),
        clock=lambda: NOW,
    )
    return exchange, account


def _answer(status, body=b"", headers=()):
    return Answer(AnswerHead(status, Headers(headers)), body)


async def test_a_chat_body_is_rewritten_and_told():
    """The body of a chat request is rewritten; facts and repairs go into the story."""
    exchange, _ = _exchange()
    attempt = await exchange.prepare(BODY)
    assert json.loads(attempt.body)["stream_options"] == {"include_usage": True}
    assert exchange.attempt is attempt
    assert exchange.story.facts["model"] == "k3"


async def test_a_bad_chat_body_is_refused():
    """A body that is no chat request gets a 400 that says so; nothing is sent."""
    exchange, _ = _exchange()
    reply = await exchange.prepare(b"[]")
    assert isinstance(reply, Reply)
    assert reply.status == 400
    assert json.loads(reply.body)["error"]["code"] == "bad_request"
    assert exchange.story.facts["reason"] == "bad_request"


@pytest.mark.parametrize("operation", ["models", "messages", "search", "other"])
async def test_other_bodies_are_left_alone(operation):
    """Bodies of other endpoints are not even parsed."""
    exchange, _ = _exchange(operation)
    assert (await exchange.prepare(b"\xff")).body is None
    assert exchange.buffers_body


def test_uploads_are_streamed():
    """A file upload is passed on as it comes."""
    assert not _exchange("files")[0].buffers_body


@pytest.mark.parametrize(
    ("status", "held"), [(200, False), (206, False), (302, False), (400, True), (401, True), (503, True)]
)
def test_failures_are_held(status, held):
    """Every failure is kept back until it is judged; all else streams at once."""
    assert _exchange()[0].holds(AnswerHead(status, Headers())) is held
    assert not _exchange(held=False)[0].holds(AnswerHead(status, Headers()))


async def test_a_401_is_healed_once():
    """A refused token is renewed and the same request sent once more; a second refusal says "log in again"."""
    exchange, account = _exchange()
    verdict = await exchange.judge(_answer(401, EXPIRED))
    assert isinstance(verdict, Retry)
    assert verdict.attempt.secrets == {"authorization": "Bearer fake-access-2"}
    assert "reason" not in exchange.story.facts
    reply = await exchange.judge(_answer(401, EXPIRED))
    assert isinstance(reply, Reply)
    assert reply.status == 401
    assert b"Log in again" in reply.body
    assert account.session.renewed == ["fake-access-1"]


@pytest.mark.parametrize(
    ("error", "status"), [(LoginDead("Refused."), 401), (AuthUnavailable("Down."), 503), (ConfigError("No CA."), 500)]
)
async def test_a_401_that_cannot_be_healed(error, status):
    """Where the refresh fails the client is told why, in its own dialect."""
    exchange, account = _exchange("messages", "anthropic")
    account.session.error = error
    reply = await exchange.judge(_answer(401, EXPIRED))
    assert reply.status == status
    assert json.loads(reply.body)["type"] == "error"


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (403, QUOTA, "quota"),
        (403, IDENTITY, "identity"),
        (401, b'{"error":{"message":"Your current subscription does not have access to k3"}}', "entitlement"),
        (429, b'{"error":{"message":"The engine is currently overloaded"}}', "overload"),
        (500, b"<html>", "transient"),
    ],
)
async def test_other_failures_are_named_and_passed_on(status, body, reason):
    """What no refresh can heal causes none; the answer is relayed with its reason in a header."""
    exchange, account = _exchange()
    verdict = await exchange.judge(_answer(status, body))
    assert isinstance(verdict, Relay)
    assert verdict.extra.get("x-kimi-mitm-reason") == reason
    assert account.session.renewed == []
    assert exchange.story.facts["reason"] == reason


@pytest.mark.parametrize(
    ("rows", "wait"),
    [
        ((Row("Weekly limit", 100, 100, NOW + 3600.4),), "3600"),
        ((Row("Weekly limit", 10, 100, NOW + 3600),), None),
        ((Row("5h limit", 100, 100, NOW + 0.2),), "1"),
        (None, None),
    ],
)
async def test_quota_says_when_it_comes_back(rows, wait):
    """A used-up quota carries Retry-After where the usage tells, for which the client waits a moment."""
    exchange, account = _exchange()
    account.asked = Usage(rows, None, None, NOW) if rows else None
    verdict = await exchange.judge(_answer(403, QUOTA))
    assert verdict.extra.get("retry-after") == wait
    assert account.wanted == ["usage within 3 s"]


async def test_an_unknown_model_has_the_list_looked_at():
    """A model that is not there causes a look at the list."""
    exchange, account = _exchange()
    body = b'{"error":{"message":"Not found the model kimi-x or Permission denied"}}'
    await exchange.judge(_answer(404, body))
    assert account.wanted == ["models"]


@pytest.mark.parametrize(
    ("problem", "told"),
    [("refused", "refused."), ("It was not checked.", "It was not checked."), (None, "no answer.")],
)
async def test_a_lost_connection_is_tried_once_more(problem, told):
    """A connection that broke before any answer is tried again once, then the client is told in one sentence."""
    exchange, _ = _exchange()
    verdict = await exchange.judge(Answer(None, error=problem))
    assert isinstance(verdict, Retry)
    assert verdict.attempt is exchange.attempt
    reply = await exchange.judge(Answer(None, error=problem))
    assert reply.status == 502
    error = json.loads(reply.body)["error"]
    assert error["code"] == "kimi_unreachable"
    assert error["message"].startswith(f"Kimi cannot be reached: {told}")
    assert ".." not in error["message"]


async def test_a_silent_service_is_not_asked_twice():
    """After the first-byte limit nothing is sent again: the request may be under way there."""
    exchange, _ = _exchange()
    reply = await exchange.judge(Answer(None, error="no answer", silent_for=30.0))
    assert reply.status == 504
    assert b"30 s" in reply.body


@pytest.mark.parametrize(
    ("operation", "headers", "kind"),
    [
        ("chat", SSE, ChatStream),
        ("chat", Headers(), JsonAnswer),
        ("models", Headers(), JsonAnswer),
        ("messages", SSE, MessagesStream),
        ("messages", Headers(), JsonAnswer),
    ],
)
def test_answers_are_watched_as_they_pass(operation, headers, kind):
    """Each kind of answer has its own watcher."""
    head = AnswerHead(200, headers)
    relayed, converter = _exchange(operation)[0].converter(head)
    assert relayed is head
    assert isinstance(converter, kind)


@pytest.mark.parametrize("operation", ["chat", "messages"])
def test_a_stream_tells_no_length(operation):
    """Events are changed and added: the length that the service told holds no more; that of JSON does."""
    length = ("content-length", "7")
    relayed, _ = _exchange(operation)[0].converter(AnswerHead(200, SSE.plus(length)))
    assert relayed.headers == SSE
    relayed, _ = _exchange(operation)[0].converter(AnswerHead(200, Headers([length])))
    assert relayed.headers == Headers([length])


@pytest.mark.parametrize("operation", ["files", "search", "usages", "other"])
def test_other_answers_pass_unwatched(operation):
    """Answers of other endpoints pass as they are."""
    assert _exchange(operation)[0].converter(AnswerHead(200, Headers())) is None


def test_a_model_list_that_passes_is_learned_from():
    """The client's own question for models keeps the list fresh."""
    exchange, account = _exchange("models")
    _, converter = exchange.converter(AnswerHead(200, Headers()))
    assert converter.feed(b'{"data":[]}') == b'{"data":[]}'
    assert converter.finish() == b""
    assert account.offered == [(b'{"data":[]}', NOW)]


def test_a_refused_upload_is_remembered():
    """An upload cannot be sent again; that its token was refused is remembered for the next request."""
    exchange, account = _exchange("files")
    exchange.converter(AnswerHead(401, Headers()))
    assert account.rejected == ["fake-access-1"]


async def test_the_rest_of_an_exchange_is_plain():
    """Kimi's answers are judged by their head, streamed byte for byte, and hold nothing that has to be given back."""
    exchange, _ = _exchange()
    head = AnswerHead(200, SSE)
    assert exchange.peek(head, b"", ended=False) is True
    assert not exchange.collects(head)
    assert exchange.collected(head, b"x").body == b"x"
    assert exchange.ping() == b""
    assert exchange.done() is None
