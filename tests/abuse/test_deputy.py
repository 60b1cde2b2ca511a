"""A proxy that adds logins must not be talked into adding them elsewhere."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.documents import Declined, fetch
from kimi_core.errors import AuthUnavailable
from kimi_core.exchange import AnswerHead, RequestHead
from kimi_core.headers import Headers
from kimi_core.kimi import oauth
from kimi_core.kimi.constants import REGIONS
from kimi_core.kimi.provider import Kimi
from kimi_core.kiro.provider import Kiro
from kimi_core.kiro.service import Service
from kimi_core.outbound import Outbound
from kimi_core.proxy import replay
from kimi_core.proxy.control import ExchangeControl
from kimi_core.proxy.passing import RefusedControl
from kimi_core.settings import Settings
from kimi_core.tokens import OAuthToken
from tests.abuse.flows import error, flow
from tests.proxy.stand_ins import FakeExchange, FakeProvider

KIMI, KIRO = "api.kimi.com", "runtime.us-east-1.kiro.dev"
PATHS = {KIMI: "/coding/v1/chat/completions", KIRO: "/v1/chat/completions"}
TOKEN = OAuthToken("fake-access-1", "fake-refresh-1", 0.0, 900.0)


@pytest.fixture(scope="module")
def providers(tmp_path_factory):
    """Both services as they are by default."""
    folder = tmp_path_factory.mktemp("data")
    settings, outbound = Settings(), Outbound()
    return Kimi(settings, outbound, folder, environ={}), Kiro(Service(settings, outbound, folder))


def routed(providers, *, host, path, port=443, scheme="https", local=False):
    """Return the routes that a request gets."""
    head = RequestHead("POST", scheme, host, port, path, Headers())
    return [route for provider in providers if (route := provider.route(head, local=local))]


def test_the_real_hosts_are_served(providers):
    """What the refusals below are measured by."""
    for host, path in PATHS.items():
        assert [route.host for route in routed(providers, host=host, path=path)] == [host]
        assert [route.host for route in routed(providers, host=host.upper(), path=path)] == [host]


@pytest.mark.parametrize("real", PATHS)
@pytest.mark.parametrize(
    "trick",
    [
        "{}.", ".{}", "{}.evil.test", "evil-{}", "evil.test.{}", "{}@evil.test", "evil.test@{}", "user:pw@{}",
        "{}:443", "{}\x00.evil.test", "{}%2eevil.test", "{}/", "{}\\evil.test", " {}", "{}\t", "[{}]", "{}%25lo",
        "[::ffff:127.0.0.1]", "127.0.0.1", "{}#", "{}?",
    ],
)  # fmt: skip
def test_hosts_that_only_look_like_it(providers, real, trick):
    """A trailing dot, a user, a port, a zone, a suffix: none of them is the service."""
    assert routed(providers, host=trick.format(real), path=PATHS[real]) == []


@pytest.mark.parametrize(
    "host",
    [
        "аpi.kimi.com", "api.kimı.com", "api.ｋimi.com", "api。kimi。com", "xn--pi-7kc.kimi.com", "api.kimi.com\u200b",
        "api.KİMİ.com", "runtıme.us-east-1.kiro.dev",
    ],
)  # fmt: skip
def test_names_in_other_scripts(providers, host):
    """Letters that look alike, or that some program folds to the right ones, are other letters."""
    for path in PATHS.values():
        assert routed(providers, host=host, path=path) == []


@given(host=st.text(max_size=30))
def test_no_other_name_is_the_service(providers, host):
    """Only exact names, in any case of letters, get a route."""
    if host.lower() not in {host for provider in providers for host, _ in provider.origins()}:
        assert not any(routed(providers, host=host, path=path) for path in PATHS.values())


@pytest.mark.parametrize("port", [0, 1, 22, 80, 444, 8443, 65535])
def test_other_ports_of_the_real_hosts(providers, port):
    """Another port is another server."""
    for host, path in PATHS.items():
        assert routed(providers, host=host, path=path, port=port) == []


@pytest.mark.parametrize("local", [True, False], ids=["local", "direct"])
@pytest.mark.parametrize(
    "tail",
    [
        "../", "..", "../../other", "./v1", "v1/../../x", "v1/..;/x", "v1/.;x/", "/v1/x", "v1//x", "v1\\x", "%2e%2e/x",
        "v1/%2E%2e/x", "v1%2fx", "v1%5cx", "v1/%00", "v1/x%25%32%65", "v1/x y", "v1/x\r\nHost: evil", "v1/x\x00",
        "v1/x#/../..", "v1/x?a=b c", "v1/x?a\r\nX: y", "v1/x?a\x00",
    ],
)  # fmt: skip
def test_paths_that_two_programs_read_differently(providers, local, tail):
    """What one server takes for another folder, or for the end of the line, belongs to nobody."""
    for host, folder in ((KIMI, "/kimi/" if local else "/coding/"), (KIRO, "/kiro/" if local else "/v1/")):
        assert routed(providers, host=host, path=folder + tail, local=local) == []


@pytest.mark.parametrize(
    "path", ["/CODING/v1/models", "/coding", "/codings/v1/models", "/x/coding/v1/models", "/KIMI/v1/models"]
)
def test_other_folders(providers, path):
    """Paths are compared as they are."""
    assert routed(providers, host=KIMI, path=path) == routed(providers, host=KIMI, path=path, local=True) == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_the_clients_to_follow(world, status):
    """A redirect is passed on: no second request is made here, and what the client sends next is judged anew."""
    _, addon = world
    exchange = FakeExchange()
    exchange.holds = lambda head: head.status == 401
    addon.reception.providers = (FakeProvider(exchange),)
    made = flow()
    await addon.requestheaders(made)
    control = replay.control_of(made)
    assert isinstance(control, ExchangeControl)
    head = AnswerHead(status, Headers([("location", "https://evil.test/coding/v1/x")]))
    assert not control.exchange.holds(head)
    next_one = flow(host="evil.test")
    await addon.requestheaders(next_one)
    assert replay.control_of(next_one) is None


class Seen:
    """A service that says always the same, and notes what it was asked."""

    def __init__(self, status, **headers):
        self.answer, self.requests = (status, headers), []

    def __call__(self, request):
        self.requests.append(request)
        status, headers = self.answer
        return httpx.Response(
            status, headers={name.replace("_", "-"): value for name, value in headers.items()}, json={}
        )

    def client(self):
        """Return a client of the program's own kind that asks this service."""
        made = Outbound().new_client()
        made._transport, made._mounts = httpx.MockTransport(self), {}
        return made


async def test_our_own_calls_follow_no_redirect():
    """Neither the call for models nor the one that spends a refresh token goes on to where an answer points."""
    for status in (301, 302, 307, 308):
        seen = Seen(status, location="https://evil.test/")
        async with seen.client() as client:
            with pytest.raises(Declined):
                await fetch(
                    client,
                    "GET",
                    f"https://{KIMI}/x",
                    Headers([("authorization", "Bearer fake")]),
                    what="It",
                    seconds=5,
                )
            with pytest.raises(AuthUnavailable):
                await oauth.refresh(client, REGIONS["cn"], Headers(), TOKEN)
        assert {request.url.host for request in seen.requests} == {KIMI, "auth.kimi.com"}
        assert len(seen.requests) == 2


async def test_our_own_calls_send_no_cookie_back():
    """A cookie that a service sets is not sent with the next call."""
    seen = Seen(200, set_cookie="fake=1; Path=/; Domain=kimi.com")
    async with seen.client() as client:
        for _ in range(2):
            await fetch(client, "GET", f"https://{KIMI}/x", Headers(), what="It", seconds=5)
    assert "cookie" not in seen.requests[1].headers


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_service_without_encryption_gets_nothing(world, scheme):
    """Plain http to the real host is refused, on whatever port it says it is."""
    _, addon = world
    addon.reception.providers = (FakeProvider(FakeExchange()),)
    made = flow(scheme=scheme)
    await addon.requestheaders(made)
    if scheme == "http":
        assert error(made)["code"] == "not_encrypted"
        assert isinstance(replay.control_of(made), RefusedControl)
    else:
        assert made.response is None
