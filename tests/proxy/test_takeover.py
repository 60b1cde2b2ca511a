import json

import pytest
from mitmproxy.proxy import mode_specs
from mitmproxy.test import tflow

from kimi_core.errors import NotLoggedIn
from kimi_core.exchange import RequestHead, reply_for
from kimi_core.headers import Headers
from kimi_core.proxy import replay, takeover
from kimi_core.proxy.control import ExchangeControl
from kimi_core.proxy.passing import RefusedControl
from tests.proxy.stand_ins import FakeExchange, FakeProvider

KIMI = FakeProvider(None)
KIMI.name = "kimi"
HOSTS = ["api.openai.com"]


def _head(path="/v1/chat/completions", host="api.openai.com", method="POST", scheme="https", port=443):
    return RequestHead(method, scheme, host, port, path, Headers())


@pytest.mark.parametrize(
    ("head", "concerned"),
    [
        (_head(), True),
        (_head(path="/v1/chat/completions?x=1"), True),
        (_head(host="API.openai.com"), True),
        (_head(host="api.openai.com.evil.test"), False),
        (_head(path="/v1/models"), False),
        (_head(method="GET"), False),
        (_head(scheme="http", port=80), False),
        (_head(port=8443), False),
    ],
)
def test_which_requests_are_looked_into(head, concerned):
    """Only chat requests to exactly the listed hosts, encrypted, are looked into."""
    assert takeover.concerns(head, HOSTS) is concerned


@pytest.mark.parametrize(
    ("body", "rest"),
    [
        (b'{"model":"kimi/k3","n":1e400}', b'{"model":"k3","n":1e400}'),
        (b'{"model":"kimi/kimi-for-coding"}', b'{"model":"kimi-for-coding"}'),
        (rb'{"model":"kimi\/k3"}', b'{"model":"k3"}'),
        (b'{"model":"gpt-5","note":"kimi/"}', None),
        (b'{"model":"kimi"}', None),
        (b'{"model":["kimi/"]}', None),
        (b'{"messages":"kimi/"}', None),
        (b"kimi/ no JSON", None),
        (b"", None),
    ],
)
def test_only_a_model_with_the_prefix_is_claimed(body, rest):
    """A body is claimed by its model's prefix alone, which is taken off; nothing else of it changes."""
    found = takeover.claimed(body, [KIMI])
    assert found == (None if rest is None else (KIMI, rest))


def test_the_head_of_the_local_endpoint():
    """A claimed request is that of the provider's local endpoint."""
    head = takeover.local_head(_head(), KIMI)
    assert head.path == "/kimi/v1/chat/completions"
    assert head.host == "api.openai.com"


async def test_a_reading_control_adds_nothing():
    """What is only read goes out and comes back as it is."""
    flow = tflow.tflow(resp=True)
    control = takeover.ReadingControl(3 << 20)
    assert control.permit(flow, flow.server_conn) is None
    assert control.seal(flow.request) is flow.request
    assert not control.holds(flow, flow.response)
    assert not control.peeks(flow, flow.response)
    assert control.peek(flow, bytearray(b"x"), True) is True
    assert control.cut(flow, "idle") is None
    assert control.ping(flow) == b""
    assert "3 MiB" in json.loads(control.too_large(flow).content)["error"]["message"]
    attempt = replay.Attempt(flow, 1, error="x")
    await control.judge(attempt)
    assert attempt.decision == "relay"


# --- in the addon -------------------------------------------------------------------------------------------------


def _flow(body, headers=()):
    flow = tflow.tflow()
    request = flow.request
    request.method, request.scheme, request.path = "POST", "https", "/v1/chat/completions"
    request.data.host, request.data.port = "api.openai.com", 443
    request.headers.clear()
    for name, value in (("Authorization", "Bearer theirs"), *headers):
        request.headers.add(name, value)
    request.content = body
    flow.client_conn.sockname = ("127.0.0.1", 8080)
    flow.client_conn.proxy_mode = mode_specs.ProxyMode.parse("regular")
    flow.response = flow.error = None
    return flow


async def _through(addon, flow):
    await addon.requestheaders(flow)
    read = isinstance(replay.control_of(flow), takeover.ReadingControl)
    await addon.request(flow)
    return read


@pytest.fixture
async def started(world):
    """The addon with a listed host and a provider."""
    tctx, addon = world
    tctx.options.openai_hosts = HOSTS
    assert r"^api\.openai\.com:443$" in tctx.options.allow_hosts

    def provide(opened):
        provider = FakeProvider(opened)
        provider.name = "kimi"
        addon.reception.providers = (provider,)
        return provider

    return addon, provide


async def test_a_request_for_a_provider_is_taken_over(started):
    """A request whose model names a provider goes there, with the provider's login and without the client's key."""
    addon, provide = started
    provide(exchange := FakeExchange())
    flow = _flow(b'{"model":"kimi/k3"}')
    assert await _through(addon, flow)
    assert isinstance(replay.control_of(flow), ExchangeControl)
    assert exchange.bodies == [b'{"model":"k3"}']
    assert flow.request.host == "api.kimi.com"
    assert flow.request.headers["authorization"] == "Bearer [kimi]"


async def test_every_other_request_passes_as_it_came(started):
    """A request for another model keeps its host, its key and its bytes."""
    addon, provide = started
    provider = provide(FakeExchange())
    flow = _flow(b'{"model":"gpt-5"}')
    before = flow.request.get_state()
    assert await _through(addon, flow)
    assert flow.request.get_state() == before
    assert replay.control_of(flow) is None
    assert provider.heads == []


async def test_a_web_page_cannot_ask_for_it(started):
    """What may not spend the subscription is refused here as well."""
    addon, provide = started
    provider = provide(FakeExchange())
    flow = _flow(b'{"model":"kimi/k3"}', [("Origin", "https://evil.test")])
    await _through(addon, flow)
    assert flow.response.status_code == 403
    assert isinstance(replay.control_of(flow), RefusedControl)
    assert provider.heads == []


async def test_without_a_login_the_client_is_told(started):
    """A provider that cannot serve answers itself, and nothing goes to the other host."""
    addon, provide = started
    provide(reply_for(NotLoggedIn("No login."), "openai"))
    flow = _flow(b'{"model":"kimi/k3"}')
    await _through(addon, flow)
    assert flow.response.status_code == 401
