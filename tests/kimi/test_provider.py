import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.errors import ConfigError, LoginDead, NotLoggedIn, StoreDamaged
from kimi_core.exchange import Limits, Reply, RequestHead
from kimi_core.headers import Headers
from kimi_core.kimi.constants import LABEL, OWN_KEY_LABEL
from kimi_core.kimi.provider import Kimi
from kimi_core.kimi.session import SessionStatus
from kimi_core.outbound import Outbound
from kimi_core.settings import Settings
from tests.kimi.stand_ins import NOW, FakeSession

CHAT = RequestHead("POST", "https", "api.kimi.com", 443, "/coding/v1/chat/completions", Headers())


def _kimi(tmp_path, environ=None, session=None, **settings):
    environ = {"KIMI_SHARE_DIR": str(tmp_path / "share"), "KIMI_CODE_HOME": str(tmp_path / "code")} | (environ or {})
    kimi = Kimi(Settings(**settings), Outbound(), tmp_path, environ=environ, clock=lambda: NOW)
    for served in kimi.served:
        served.account.session = session or FakeSession()
        served.account.want_models = lambda: None
    return kimi


@pytest.fixture(scope="module")
def kimi(tmp_path_factory):
    """The provider with default settings."""
    return _kimi(tmp_path_factory.mktemp("kimi"))


@pytest.mark.parametrize(
    ("method", "path", "operation", "dialect"),
    [
        ("POST", "/coding/v1/chat/completions", "chat", "openai"),
        ("POST", "/coding/v1/chat/completions?x=1", "chat", "openai"),
        ("GET", "/coding/v1/chat/completions", "other", "openai"),
        ("GET", "/coding/v1/models", "models", "openai"),
        ("GET", "/coding/v1/usages", "usages", "openai"),
        ("POST", "/coding/v1/search", "search", "openai"),
        ("POST", "/coding/v1/fetch", "fetch", "openai"),
        ("POST", "/coding/v1/files", "files", "openai"),
        ("GET", "/coding/v1/files/f1", "other", "openai"),
        ("POST", "/coding/v1/messages?beta=true", "messages", "anthropic"),
        ("POST", "/coding/v1/messages/count_tokens", "messages", "anthropic"),
        ("GET", "/coding/v1/me", "other", "openai"),
        ("POST", "/coding/v2/anything", "other", "openai"),
        ("GET", "/coding/", "other", "openai"),
    ],
)
@pytest.mark.parametrize("host", ["api.kimi.com", "api.kimi.ai", "API.Kimi.COM"])
def test_endpoints(kimi, method, path, operation, dialect, host):
    """Every path under /coding/ of both hosts is served, each endpoint by its own name and dialect."""
    route = kimi.route(RequestHead(method, "https", host, 443, path, Headers()), local=False)
    assert (route.operation, route.dialect, route.path) == (operation, dialect, path)
    assert (route.scheme, route.host, route.port) == ("https", host.lower(), 443)


@pytest.mark.parametrize(
    ("host", "port", "path"),
    [
        ("api.kimi.com", 443, "/"),
        ("api.kimi.com", 443, "/coding"),
        ("api.kimi.com", 443, "/v1/chat/completions"),
        ("api.kimi.com", 443, "/coding/../v1/x"),
        ("api.kimi.com", 443, "/coding/v1/%2e%2e/x"),
        ("api.kimi.com", 443, "/coding//v1/chat/completions"),
        ("api.kimi.com", 443, "/coding/v1/a\\b"),
        ("api.kimi.com", 443, "/coding/v1/a%2Fb"),
        ("api.kimi.com", 8443, "/coding/v1/models"),
        ("api.kimi.com.", 443, "/coding/v1/models"),
        ("api.kimi.com.evil.test", 443, "/coding/v1/models"),
        ("xapi.kimi.com", 443, "/coding/v1/models"),
        ("evil@api.kimi.com", 443, "/coding/v1/models"),
        ("www.kimi.com", 443, "/coding/v1/models"),
        ("auth.kimi.com", 443, "/coding/v1/models"),
        ("аpi.kimi.com", 443, "/coding/v1/models"),  # the first letter is Cyrillic
    ],
)
def test_what_is_not_served(kimi, host, port, path):
    """Other hosts, ports and paths, and paths that two servers may read differently, are nobody's."""
    assert kimi.route(RequestHead("GET", "https", host, port, path, Headers()), local=False) is None


def test_dots_inside_a_query_are_no_path(kimi):
    """What stands in the query is no path and may hold anything."""
    head = dataclasses.replace(CHAT, path="/coding/v1/models?next=/../x")
    assert kimi.route(head, local=False).path == head.path


@given(st.text(max_size=40), st.text(max_size=40))
def test_only_exact_hosts_are_ever_served(kimi, host, path):
    """Whatever host and path a request names, the route's host is one of the service's own, or there is none."""
    route = kimi.route(RequestHead("GET", "https", host, 443, "/coding/" + path, Headers()), local=False)
    assert route is None or (route.host in {"api.kimi.com", "api.kimi.ai"} and host.lower() == route.host)


@pytest.mark.parametrize(
    ("path", "upstream"),
    [
        ("/kimi/v1/chat/completions", "/coding/v1/chat/completions"),
        ("/kimi/v1/models?x=1", "/coding/v1/models?x=1"),
        ("/kimi/", "/coding/"),
        ("/kimi", None),
        ("/kimi/../x", None),
        ("/coding/v1/models", None),
        ("/health", None),
    ],
)
def test_local_endpoint(kimi, path, upstream):
    """On the proxy's own port /kimi/ stands for the service's /coding/."""
    route = kimi.route(RequestHead("GET", "http", "127.0.0.1", 8080, path, Headers()), local=True)
    assert (route and route.path) == upstream
    assert route is None or (route.local, route.scheme, route.host) == (True, "https", "api.kimi.com")


@pytest.mark.parametrize(
    ("base", "upstream"),
    [
        ("https://gateway.test/coding/v1", "/coding/v1/chat/completions"),
        ("https://gateway.test/v1", "/v1/chat/completions"),
        ("https://gateway.test/api/v2", "/api/v2/chat/completions"),
        ("https://gateway.test", "/chat/completions"),
    ],
)
def test_the_local_endpoint_leads_to_the_base_that_the_environment_names(tmp_path, base, upstream):
    """Whatever path the API's base has, /kimi/v1 on the proxy's own port stands for it, and its chat is rewritten."""
    kimi = _kimi(tmp_path, environ={"KIMI_CODE_BASE_URL": base})
    local = RequestHead("POST", "http", "127.0.0.1", 8080, "/kimi/v1/chat/completions", Headers())
    direct = RequestHead("POST", "https", "gateway.test", 443, upstream, Headers())
    for route in (kimi.route(local, local=True), kimi.route(direct, local=False)):
        assert (route.path, route.operation) == (upstream, "chat")


def test_the_region_decides_where_local_requests_go(tmp_path):
    """With the global region the local endpoint leads to kimi.ai; kimi.com is still served by name."""
    kimi = _kimi(tmp_path, kimi_region="global")
    local = RequestHead("GET", "http", "127.0.0.1", 8080, "/kimi/v1/models", Headers())
    assert kimi.route(local, local=True).host == "api.kimi.ai"
    assert kimi.route(CHAT, local=False).host == "api.kimi.com"
    assert kimi.origins() == [("api.kimi.ai", 443), ("api.kimi.com", 443)]


def test_an_overridden_base_is_served_too(tmp_path):
    """KIMI_CODE_BASE_URL adds a host with its own port, folder and login."""
    environ = {"KIMI_CODE_BASE_URL": "https://localhost:9460/plan/v3", "KIMI_OAUTH_HOST": "https://localhost:9461"}
    kimi = _kimi(tmp_path, environ)
    head = RequestHead("POST", "https", "localhost", 9460, "/plan/v3/chat/completions", Headers())
    route = kimi.route(head, local=False)
    assert (route.operation, route.host, route.port) == ("chat", "localhost", 9460)
    assert kimi.route(dataclasses.replace(head, port=9462), local=False) is None
    local = RequestHead("POST", "http", "127.0.0.1", 8080, "/kimi/v3/chat/completions", Headers())
    assert kimi.route(local, local=True).path == "/plan/v3/chat/completions"


async def test_opening_takes_the_clients_authorization_away(tmp_path):
    """Whatever key the client sent, the flow shows the label and the wire gets the login's token."""
    kimi = _kimi(tmp_path)
    head = dataclasses.replace(
        CHAT, headers=Headers([("Authorization", "Bearer sk-dummy"), ("Host", "api.kimi.com"), ("User-Agent", "x")])
    )
    exchange = await kimi.open(head, kimi.route(head, local=False))
    assert exchange.attempt.headers.get_all("authorization") == [LABEL]
    assert exchange.attempt.secrets == {"authorization": "Bearer fake-access-1"}
    assert exchange.attempt.headers.get("user-agent") == "KimiCLI/1.52.0"
    assert exchange.attempt.headers.get("host") == "api.kimi.com"
    assert "fake-access-1" not in repr(exchange.attempt)


@pytest.mark.parametrize(
    ("sent", "sealed"),
    [
        ([("Authorization", "Bearer sk-own-1")], {"authorization": "Bearer sk-own-1"}),
        ([("x-api-key", "sk-own-1"), ("Authorization", "Bearer x")], {"x-api-key": "sk-own-1"}),
        ([("Authorization", "Bearer kimi-mitm")], {"authorization": "Bearer fake-access-1"}),
    ],
)
async def test_a_clients_own_key_can_be_left_alone(tmp_path, sent, sealed):
    """With kimi_keep_own_key a plan key of the client's own goes out with the client's own headers, sealed as well."""
    kimi = _kimi(tmp_path, kimi_keep_own_key=True)
    head = dataclasses.replace(CHAT, headers=Headers([*sent, ("User-Agent", "client/1")]))
    exchange = await kimi.open(head, kimi.route(head, local=False))
    assert exchange.attempt.secrets == sealed
    own = "fake-access-1" not in str(sealed)
    assert (exchange.attempt.headers.get("user-agent") == "client/1") is own
    if own:
        assert exchange.attempt.headers.get(next(iter(sealed))) == OWN_KEY_LABEL
        assert await exchange.prepare(b"not even JSON") is exchange.attempt


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NotLoggedIn("Not logged in to kimi.com."), 401, "not_logged_in"),
        (LoginDead("Refused."), 401, "login_dead"),
        (StoreDamaged("Broken."), 500, "store_damaged"),
    ],
)
@pytest.mark.parametrize(("path", "dialect"), [("chat/completions", "openai"), ("messages", "anthropic")])
async def test_without_a_login_nothing_is_forwarded(tmp_path, error, status, code, path, dialect):
    """Without a usable login the client gets an error of ours in its dialect, which names the command to run."""
    kimi = _kimi(tmp_path, session=FakeSession(error))
    head = dataclasses.replace(CHAT, path=f"/coding/v1/{path}")
    reply = await kimi.open(head, kimi.route(head, local=False))
    assert isinstance(reply, Reply)
    assert reply.status == status
    assert reply.headers.get("x-kimi-mitm-reason") == code
    assert b"kimi-mitm login kimi" in reply.body
    assert (b'"type": "error"' in reply.body) is (dialect == "anthropic")


async def test_a_ca_that_cannot_be_read_is_an_answer(tmp_path):
    """What is wrong with the options is told to the client as well; nothing is forwarded with a login of its own."""
    kimi = _kimi(tmp_path, session=FakeSession(ConfigError("The trusted CA /none cannot be read.")))
    reply = await kimi.open(CHAT, kimi.route(CHAT, local=False))
    assert isinstance(reply, Reply)
    assert (reply.status, reply.headers.get("x-kimi-mitm-reason")) == (500, "bad_configuration")


async def test_settings_reach_the_exchange(tmp_path):
    """Limits and sizes of the settings are those of each exchange; headers that the user names pass."""
    kimi = _kimi(
        tmp_path,
        kimi_first_byte_timeout=7,
        kimi_idle_timeout=9,
        kimi_max_body=2,
        kimi_keep_headers=["X-Trace"],
    )
    head = dataclasses.replace(CHAT, headers=Headers([("x-trace", "1"), ("x-other", "2")]))
    exchange = await kimi.open(head, kimi.route(head, local=False))
    assert exchange.limits == Limits(7, 9)
    assert exchange.max_body == 2 * 1024 * 1024
    assert exchange.attempt.headers.get("x-trace") == "1"
    assert exchange.attempt.headers.get("x-other") is None
    assert exchange.story.removed == ["x-other"]


async def test_each_host_uses_its_own_login(tmp_path):
    """A token of one region never goes to the other."""
    kimi = _kimi(tmp_path)
    kimi.served[1].account.session = session = FakeSession()
    session.number = 7
    head = dataclasses.replace(CHAT, host="api.kimi.ai")
    exchange = await kimi.open(head, kimi.route(head, local=False))
    assert exchange.attempt.secrets == {"authorization": "Bearer fake-access-7"}
    assert exchange.attempt.host == "api.kimi.ai"


async def test_health_and_timer_are_those_of_the_region_in_use(tmp_path):
    """/health tells the state of the login in use without secrets; the timer is its session's."""
    kimi = _kimi(tmp_path)
    assert kimi.health() == {"site": "kimi.com", "login": "ok", "expires_at": NOW + 900}

    def busy():
        return True

    await kimi.keep_fresh(busy)
    assert kimi.home.session.busy is busy
    kimi.close()


def test_login_hosts_are_private_unless_they_serve(tmp_path):
    """The login services are never decrypted; a host that is both login and API has to be."""
    assert _kimi(tmp_path).private_hosts() == {"auth.kimi.com", "auth.kimi.ai"}
    shared = {"KIMI_CODE_BASE_URL": "https://localhost:1/coding/v1", "KIMI_CODE_OAUTH_HOST": "https://localhost:2"}
    assert _kimi(tmp_path, shared).private_hosts() == {"auth.kimi.com", "auth.kimi.ai"}


@pytest.mark.parametrize(("state", "command"), [("ok", None), ("none", "kimi-mitm login kimi")])
def test_models_are_asked_for_at_start_where_there_is_a_login(tmp_path, state, command):
    """With a login the model list is asked for at start; without one the command is named."""
    kimi = _kimi(tmp_path)
    wanted = []
    kimi.home.want_models = lambda: wanted.append(1)
    kimi.home.session.status = lambda: SessionStatus("kimi.com", tmp_path, state)
    assert kimi.start() == command
    assert wanted == ([1] if command is None else [])
