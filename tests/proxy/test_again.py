from dataclasses import replace

import pytest
from mitmproxy.test import tflow, tutils

from kimi_core.exchange import RequestHead
from kimi_core.headers import Headers
from kimi_core.kimi.constants import OWN_KEY_LABEL
from kimi_core.proxy import again, native, replay, seal, sides
from kimi_core.proxy.again import LABELS, LoginNotKept
from kimi_core.proxy.control import ExchangeControl
from tests.proxy.stand_ins import FakeExchange, FakeProvider, attempt

CLIENT = RequestHead(
    "POST",
    "http",
    "127.0.0.1",
    8080,
    "/kimi/v1/chat/completions",
    Headers([("x-session-id", "ses_1"), ("cookie", "a")]),
)


class Translating(FakeProvider):
    """A provider whose requests go out in a form of its own."""

    def route(self, head, *, local):
        return super().route(head, local=True) if local else None


def sent(body=b"client's", *, limit=100, operation="chat"):
    """Return a flow as it is after it was sent once."""
    flow = tflow.tflow(req=tutils.treq(method=b"POST", headers=Headers([])))
    seal.dress(flow.request, attempt(body=b"rewritten"))
    sides.keep_request(flow, CLIENT, "fake", operation, body, limit)
    sides.sign(flow)
    return flow


def original(flow, provider=FakeProvider):
    """Return what the client of *flow* sent, as far as it is to be served again."""
    return again.original(flow, seal.head_of(flow), (provider(None),))


def test_what_the_client_sent_is_served_again():
    """An untouched flow is served from what its client sent, where it went the last time."""
    found = original(sent())
    assert found.body == b"client's"
    assert list(found.head.headers) == [("x-session-id", "ses_1")]
    assert (found.head.host, found.route.operation, found.route.local) == ("api.kimi.com", "chat", False)
    assert "client's" not in repr(found)


def test_a_flow_in_the_services_own_form_is_routed_as_its_client_asked():
    """Where the flow's own request is nobody's, the provider's local endpoint serves it."""
    found = original(sent(), Translating)
    assert found.head.path == "/kimi/v1/chat/completions"
    assert found.route.local


@pytest.mark.parametrize("provider", [FakeProvider, Translating])
@pytest.mark.parametrize(
    "change",
    [
        lambda flow: setattr(flow.request, "content", b"edited"),
        lambda flow: flow.metadata.clear(),
        lambda flow: flow.metadata[sides.SIDES]["request"].update(provider="gone"),
        lambda flow: flow.metadata[sides.SIDES]["request"].update(length=10**6),
        lambda flow: flow.metadata[sides.SIDES]["request"].update(operation="other"),
    ],
    ids=["edited", "nothing", "provider", "cut", "operation"],
)
def test_every_other_flow_is_taken_as_it_stands(change, provider):
    """An edited flow, and one of which not all is known, is not replaced."""
    flow = sent()
    change(flow)
    assert original(flow, provider) is None


def test_a_request_that_nobody_routes_is_taken_as_it_stands():
    """Where no provider wants it any more there is nothing to restore."""
    provider = FakeProvider(None)
    provider.route = lambda head, *, local: None
    flow = sent()
    assert again.original(flow, seal.head_of(flow), (provider,)) is None


def test_a_native_login_is_known_where_it_went():
    """A client's own login goes again to the place that it went to, and nowhere else."""
    flow = tflow.tflow()
    flow.request.headers["Authorization"] = "Bearer fake-own"
    replay.attach(flow, native.NativeControl(flow, 10))
    head = seal.head_of(flow)
    assert head.headers.get("authorization") == native.LABEL
    found = again.logins(flow, head)
    assert again.with_logins(head, found).headers.get("authorization") == "Bearer fake-own"
    with pytest.raises(LoginNotKept):
        again.logins(flow, replace(head, host="elsewhere.example"))
    with pytest.raises(LoginNotKept):
        again.logins(flow.copy(), head)


def test_a_plan_key_of_the_clients_own_is_known_where_it_went():
    """The same of a key that was left alone on its way to a provider."""
    flow = tflow.tflow()
    exchange = FakeExchange()
    labelled = Headers([("Host", "api.kimi.com"), ("X-Api-Key", OWN_KEY_LABEL)])
    exchange.attempt = attempt(headers=labelled, secrets={"x-api-key": "sk-fake"})
    replay.attach(flow, ExchangeControl(flow, exchange, record_limit=0, on_retry=None))
    head = seal.head_of(flow)
    assert again.logins(flow, head) == {"X-Api-Key": "sk-fake"}
    with pytest.raises(LoginNotKept):
        again.logins(flow, replace(head, scheme="http"))


def test_without_labels_there_is_nothing_to_know():
    """A flow of ours has no login of its client's."""
    flow = sent()
    assert again.logins(flow, seal.head_of(flow)) == {}
    assert {native.LABEL, OWN_KEY_LABEL} == LABELS
