import copy

import pytest
from mitmproxy.io import tnetstring
from mitmproxy.test import tflow, tutils

from kimi_core.exchange import RequestHead
from kimi_core.headers import Headers
from kimi_core.proxy import sides
from kimi_core.proxy.sides import SIDES, Kept

SECRETS = {
    "Authorization": "Bearer fake-secret-1",
    "x-api-key": "fake-secret-2",
    "Cookie": "fake-secret-3",
    "X-Custom-Token": "fake-secret-4",
    "Proxy-Authorization": "fake-secret-5",
    "api-key": "fake-secret-6",
    "x-amz-security-token": "fake-secret-7",
}
PLAIN = {"User-Agent": "test/1.0", "x-opencode-kimi-prompt-cache-key": "a", "x-session-id": "ses_1"}
HEAD = RequestHead("POST", "http", "127.0.0.1", 8080, "/kiro/v1/chat/completions", Headers((SECRETS | PLAIN).items()))


def keep(flow, body=b"client's", limit=100):
    """Keep a client's request with *flow*."""
    sides.keep_request(flow, HEAD, "kiro", "chat", body, limit)
    sides.sign(flow)
    return flow


def test_what_the_client_sent_is_kept_without_its_credentials():
    """Head and body are there again, but for whatever may be a credential."""
    flow = keep(tflow.tflow())
    kept = sides.request_of(flow)
    assert (kept.provider, kept.operation, kept.method, kept.body) == ("kiro", "chat", "POST", b"client's")
    assert kept.url == "http://127.0.0.1:8080/kiro/v1/chat/completions"
    assert kept.whole
    assert dict(kept.headers) == PLAIN
    assert not any(secret in str(flow.metadata) for secret in SECRETS.values())
    assert "fake-secret" not in str(flow.get_state())


def test_bodies_are_bounded():
    """No more of a body is kept than the limit allows, and its length is known."""
    kept = sides.request_of(keep(tflow.tflow(), b"x" * 1000, 10))
    assert (kept.body, kept.length, kept.whole) == (b"x" * 10, 1000, False)


def test_a_body_that_went_out_as_it_came_is_kept_once():
    """What the flow has anyway is not kept beside it."""
    flow = tflow.tflow(req=tutils.treq(content=b"same"))
    keep(flow, b"same")
    assert flow.metadata[SIDES]["request"]["body"] is None
    assert sides.request_of(flow).body == b"same"


def test_a_limit_of_nothing_keeps_nothing():
    """With a limit of 0 there is no other side, and nothing to sign."""
    flow = keep(tflow.tflow(), limit=0)
    assert SIDES not in flow.metadata
    assert sides.request_of(flow) is None
    assert not sides.untouched(flow)


def test_both_sides_survive_a_file_and_a_copy():
    """What is kept is saved with the flow, and a copy shares it instead of doubling it."""
    flow = keep(tflow.tflow())
    sides.keep_answer(flow, "application/x", b"frames", 9)
    sides.keep_cut(flow, 7)
    copied = flow.copy()
    assert copied.metadata[SIDES]["answer"]["body"] is flow.metadata[SIDES]["answer"]["body"]
    loaded = tflow.tflow()
    loaded.metadata = tnetstring.loads(tnetstring.dumps(flow.get_state()))["metadata"]
    loaded.request = flow.request
    for each in (copied, loaded):
        assert sides.request_of(each) == sides.request_of(flow)
        assert sides.answer_of(each) == sides.WireAnswer("application/x", b"frames", 9)
        assert sides.full_length(each) == 7
        assert sides.untouched(each)
    sides.forget(flow)
    assert sides.answer_of(flow) is sides.full_length(flow) is None


def test_metadata_is_searched_without_its_bodies():
    """A filter on metadata does not print megabytes."""
    body = Kept(b"words of the user")
    assert str({"body": body}) == "{'body': <17 bytes>}"
    assert str(body) == "<17 bytes>"
    assert copy.deepcopy(body) is body


@pytest.mark.parametrize(
    "edit",
    [
        lambda request: setattr(request, "content", b"other"),
        lambda request: setattr(request, "path", "/other"),
        lambda request: setattr(request, "host", "other.example"),
        lambda request: request.headers.update({"x-more": "1"}),
        lambda request: setattr(request, "method", "PUT"),
    ],
)
def test_an_edited_request_is_known(edit):
    """Whatever a user changes in a flow's request is noticed; a length that is set anew is no change."""
    flow = keep(tflow.tflow())
    flow.request.headers["content-length"] = "7"
    assert sides.untouched(flow)
    edit(flow.request)
    assert not sides.untouched(flow)


@pytest.mark.parametrize(
    "found",
    [1, "x", {}, {"request": 1, "answer": 1, "cut": "x"}, {"request": {"body": 1}, "answer": {"body": None}},
     {"request": {"provider": "kiro", "headers": [1]}}],
)  # fmt: skip
def test_a_file_may_hold_anything(found):
    """Metadata that is not ours is nothing, and no fault."""
    flow = tflow.tflow()
    flow.metadata[SIDES] = found
    assert sides.request_of(flow) is None
    assert sides.answer_of(flow) is None
    assert sides.full_length(flow) is None
    assert not sides.untouched(flow)
