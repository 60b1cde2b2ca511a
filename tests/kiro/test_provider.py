import json

import pytest

from kimi_core.errors import AuthUnavailable
from kimi_core.exchange import Reply, RequestHead
from kimi_core.headers import Headers
from kimi_core.kiro.catalog import Catalog, ModelInfo
from kimi_core.kiro.exchange import KiroExchange
from kimi_core.kiro.provider import Kiro
from tests.kiro.pool_accounts import NOW, ms
from tests.kiro.service_stand_ins import World, social


@pytest.fixture
def world(tmp_path):
    """A service with two accounts."""
    return World(tmp_path, social("a"), social("b", cooldown_until=ms(60)))


@pytest.fixture
def kiro(world):
    """The provider."""
    return Kiro(world.service)


def _head(path, method="POST", host="runtime.us-east-1.kiro.dev", port=443, scheme="https"):
    return RequestHead(method, scheme, host, port, path, Headers())


@pytest.mark.parametrize(
    "host",
    [
        "runtime.us-east-1.kiro.dev",
        "Runtime.EU-central-1.kiro.dev",
        "q.us-east-1.amazonaws.com",
        "q.eu-central-1.amazonaws.com",
    ],
)
@pytest.mark.parametrize(
    ("method", "path", "operation"),
    [
        ("POST", "/v1/chat/completions", "chat"),
        ("POST", "/v1/chat/completions?x=1", "chat"),
        ("GET", "/v1/models", "models"),
        ("GET", "/v1/models/auto", "models"),
        ("POST", "/v1/models", "other"),
        ("GET", "/v1/anything", "other"),
    ],
)
def test_openai_paths_on_the_services_hosts(kiro, host, method, path, operation):
    """OpenAI-style paths on every host of the service are Kiro's."""
    route = kiro.route(_head(path, method, host), local=False)
    assert (route.operation, route.host, route.path, route.scheme) == (operation, host.lower(), path, "https")


@pytest.mark.parametrize(
    "head",
    [
        _head("/"),
        _head("/generateAssistantResponse"),
        _head("/ListAvailableModels?origin=KIRO_CLI", "GET"),
        _head("/v1/../x"),
        _head("/v1/models", host="runtime.us-east-1.kiro.dev."),
        _head("/v1/models", host="runtime.ap-south-1.kiro.dev"),
        _head("/v1/models", host="example.test"),
        _head("/v1/models", port=8443),
    ],
)
def test_native_traffic_and_other_hosts_are_left_alone(kiro, head):
    """What the service's own clients send, and what goes elsewhere, is not touched."""
    assert kiro.route(head, local=False) is None


@pytest.mark.parametrize(
    ("path", "upstream"),
    [("/kiro/v1/chat/completions", "/v1/chat/completions"), ("/kiro/x", None), ("/v1/models", None)],
)
def test_local_endpoint(kiro, path, upstream):
    """On the proxy's own port /kiro/v1/ stands for the service."""
    route = kiro.route(_head(path, host="127.0.0.1", port=8080, scheme="http"), local=True)
    assert (route and route.path) == upstream


def test_plain_http_is_routed_so_that_it_is_refused(kiro):
    """A plain request for the service is ours to refuse, not to pass on."""
    assert kiro.route(_head("/v1/models", port=80, scheme="http"), local=False).scheme == "https"


async def test_opening(kiro):
    """A chat is an exchange; an endpoint that Kiro has not is a 404 that says what there is."""
    head = _head("/v1/chat/completions")
    assert isinstance(await kiro.open(head, kiro.route(head, local=False)), KiroExchange)
    head = _head("/v1/embeddings")
    reply = await kiro.open(head, kiro.route(head, local=False))
    assert reply.status == 404
    assert "chat/completions" in json.loads(reply.body)["error"]["message"]


async def _models(kiro, path="/v1/models"):
    head = _head(path, "GET")
    reply = await kiro.open(head, kiro.route(head, local=False))
    assert isinstance(reply, Reply)
    return reply, json.loads(reply.body)


async def test_models_are_those_of_the_accounts(kiro, world, monkeypatch):
    """The list is that of the accounts; one that was never fetched is waited for, one that is there is not."""
    waited, wanted = [], []

    async def settled(account_id, _seconds):
        waited.append(account_id)
        world.service.catalogs._lists[account_id] = Catalog((ModelInfo("m-1", max_input=1000),), fetched_at=NOW)

    monkeypatch.setattr(world.service, "settled_models", settled)
    monkeypatch.setattr(world.service, "want_models", wanted.append)
    _, listing = await _models(kiro)
    assert [item["id"] for item in listing["data"]] == ["m-1"]
    _, item = await _models(kiro, "/v1/models/m-1")
    assert item["id"] == "m-1"
    reply, error = await _models(kiro, "/v1/models/unknown")
    assert (reply.status, error["error"]["code"]) == (404, "model_not_found")
    assert (waited, wanted) == (["a"], ["a", "a"])


async def test_models_without_an_account(tmp_path):
    """Without an account the dated list is shown."""
    _, listing = await _models(Kiro(World(tmp_path).service))
    assert listing["data"]


async def test_models_of_damaged_accounts(kiro, world):
    """Accounts that cannot be read are an error that says so."""
    world.service.registry.document.path.write_text("{oops")
    reply, error = await _models(kiro)
    assert reply.status == 500
    assert error["error"]["code"] == "store_damaged"
    assert kiro.health()["login"] == "damaged"
    assert kiro.start() == "kimi-mitm login kiro"


async def test_health_counts_accounts(kiro):
    """/health tells how many accounts there are and how many could serve now, and no name."""
    assert kiro.health() == {"login": "ok", "accounts": 2, "usable": 1, "strategy": "hybrid"}


async def test_start(kiro, world, tmp_path, monkeypatch):
    """At start the models of the active account are asked for; without one the command is named."""
    wanted = []
    monkeypatch.setattr(world.service, "want_models", wanted.append)
    assert kiro.start() is None
    assert wanted == ["a"]
    world.store(social("b", enabled=False), social("a"))
    assert kiro.start() is None
    assert wanted == ["a", "a"]
    assert Kiro(World(tmp_path / "empty").service).start() == "kimi-mitm login kiro"


async def test_an_api_key_in_the_environment_becomes_an_account(tmp_path):
    """A key in KIRO_API_KEY serves without any command, and is stored nowhere."""
    world = World(tmp_path, environ={"KIRO_API_KEY": "ksk_fake-key"})
    assert Kiro(world.service).start() is None
    await world.service.settle()
    (account,) = world.service.accounts().accounts
    assert account.auth_method == "api_key"
    assert "ksk_fake-key" not in world.service.registry.document.path.read_text()


@pytest.mark.parametrize("wanted", [True, False])
async def test_other_programs_logins_are_taken_over_by_option(tmp_path, wanted):
    """With kiro_sync the logins of other programs are looked for at start, without it they are left alone."""
    folder = tmp_path / ".aws" / "sso" / "cache"
    folder.mkdir(parents=True)
    login = {
        "accessToken": "fake-a",
        "refreshToken": "fake-r",
        "expiresAt": "2000-01-01T00:00:00Z",
        "authMethod": "social",
    }
    (folder / "kiro-auth-token.json").write_text(json.dumps(login))
    world = World(tmp_path / "data", kiro_sync=wanted, home=tmp_path)
    forked = []

    async def fork(candidate):
        forked.append(candidate.auth_method)
        raise AuthUnavailable("Down.")

    world.tokens.fork = fork
    assert Kiro(world.service).start() == (None if wanted else "kimi-mitm login kiro")
    await world.service.settle()
    assert forked == (["desktop"] if wanted else [])


@pytest.mark.parametrize(("busy", "kept"), [(True, frozenset({"a"})), (False, frozenset())])
async def test_accounts_in_use_are_kept_fresh(kiro, world, busy, kept):
    """The timer looks after the accounts that have requests open."""
    world.service.begin("a")
    await kiro.keep_fresh(lambda: busy)
    assert world.tokens.kept == kept
    await world.service.settle()
    kiro.close()


def test_login_hosts_are_private(kiro):
    """The login services are never decrypted, the API is."""
    assert "prod.us-east-1.auth.desktop.kiro.dev" in kiro.private_hosts()
    assert "oidc.us-east-1.amazonaws.com" in kiro.private_hosts()
    assert not kiro.private_hosts() & {host for host, _ in kiro.origins()}


def test_overridden_places(tmp_path):
    """Addresses of the environment are served at their own host and port, plain on this machine only."""
    environ = {"KIRO_RUNTIME_URL": "http://127.0.0.1:9001", "KIRO_Q_URL": "https://localhost:9002"}
    kiro = Kiro(World(tmp_path, environ=environ).service)
    route = kiro.route(_head("/v1/models", "GET", "127.0.0.1", 9001, "http"), local=False)
    assert (route.scheme, route.port) == ("http", 9001)
    assert kiro.route(_head("/v1/models", "GET", "localhost", 9002), local=False).scheme == "https"
