import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.errors import BadRequest, NotLoggedIn
from kimi_core.exchange import AnswerHead, Attempt, Exchange, reply_for
from kimi_core.headers import Headers

PAIRS = st.lists(st.tuples(st.sampled_from(["A", "a", "B", "x-C", "X-c"]), st.text(max_size=3)), max_size=8)


def test_names_are_found_in_any_spelling_and_kept_in_their_own():
    """Lookup ignores case, repeated fields stay in order, spelling is kept."""
    headers = Headers([("A", "1"), ("b", "2"), ("a", "3")])
    assert headers.get("B") == "2"
    assert headers.get_all("a") == ["1", "3"]
    assert headers.get("c") is None
    assert "A" in headers
    assert "c" not in headers
    assert list(headers) == [("A", "1"), ("b", "2"), ("a", "3")]
    assert len(headers) == 3
    assert headers == Headers([("A", "1"), ("b", "2"), ("a", "3")])
    assert headers != [("A", "1")]
    assert len({headers, Headers(list(headers))}) == 1


def test_a_repr_shows_names_only():
    """Values may be secrets, so no repr holds them."""
    assert repr(Headers([("Authorization", "Bearer fake-access-1")])) == "Headers(['Authorization'])"
    attempt = Attempt("GET", "https", "h", 443, "/", Headers(), {"authorization": "fake-access-1"}, b"prompt")
    assert "fake-access-1" not in repr(attempt)
    assert "prompt" not in repr(attempt)


def test_replacing_keeps_the_place():
    """A replaced field takes the place of the first of its name, new ones go to the end."""
    headers = Headers([("A", "1"), ("b", "2"), ("a", "3")])
    assert list(headers.plus(("a", "9"), ("C", "5"))) == [("a", "9"), ("b", "2"), ("C", "5")]


@given(PAIRS, PAIRS)
def test_a_replaced_field_stands_once(old, new):
    """After `plus` every given name stands exactly once, with its last given value, and all others are as before."""
    out = Headers(old).plus(*new)
    wanted = {name.lower(): value for name, value in new}
    for name, value in wanted.items():
        assert out.get_all(name) == [value]
    assert [pair for pair in out if pair[0].lower() not in wanted] == [p for p in old if p[0].lower() not in wanted]


@given(PAIRS)
def test_removing_leaves_the_rest(pairs):
    """`without` takes every field of a name away, whatever its spelling, and nothing else."""
    assert list(Headers(pairs).without("A", "X-C")) == [pair for pair in pairs if pair[0].lower() == "b"]


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_errors_come_in_the_clients_dialect(dialect):
    """An error is a JSON object of the client's dialect that says what happened and what to do."""
    reply = reply_for(NotLoggedIn("No login."), dialect, Headers([("retry-after", "3")]))
    body = json.loads(reply.body)
    assert body["error"]["message"] == "No login. Run `kimi-mitm login kimi`."
    assert body["error"]["code"] == "not_logged_in"
    assert (body.get("type") == "error") is (dialect == "anthropic")
    assert reply.status == 401
    assert reply.headers.get("x-kimi-mitm-reason") == "not_logged_in"
    assert reply.headers.get("retry-after") == "3"


def test_a_bad_field_is_named():
    """A client's fault names the field."""
    reply = reply_for(BadRequest("Is no list.", "messages"), "openai")
    assert json.loads(reply.body)["error"]["param"] == "messages"


def test_what_a_provider_does_not_need_is_answered_plainly():
    """An exchange that says nothing about them neither peeks nor collects nor keeps anybody waiting."""

    class Plain(Exchange):
        prepare = holds = converter = judge = refuse = silence = None

    exchange, head = Plain(), AnswerHead(200, Headers())
    assert exchange.peek(head, b"", ended=False) is True
    assert not exchange.collects(head)
    assert exchange.collected(head, b"x").body == b"x"
    assert exchange.ping() == b""
    assert exchange.done() is None
