import asyncio
import json
import logging
import re
import threading
from types import SimpleNamespace

import pytest
from mitmproxy import connection, contentviews, exceptions, tls
from mitmproxy.addonmanager import AddonManager
from mitmproxy.addons.upstream_auth import UpstreamAuth
from mitmproxy.proxy import context, mode_specs, server_hooks
from mitmproxy.proxy.tunnel import TunnelLayer
from mitmproxy.test import taddons, tflow, tutils

from kimi_core.errors import NotLoggedIn
from kimi_core.exchange import Reply, reply_for
from kimi_core.headers import Headers
from kimi_core.proxy import addon as module
from kimi_core.proxy import connecting, guard, journal, record, replay, rounds
from kimi_core.proxy.addon import KimiMitm, addons
from kimi_core.proxy.control import ExchangeControl
from kimi_core.proxy.passing import RefusedControl
from tests.proxy.conftest import start
from tests.proxy.stand_ins import SECRET, FakeExchange, FakeProvider


def _flow(path="/coding/v1/chat/completions", host="api.kimi.com", port=443, scheme="https", headers=()):
    flow = tflow.tflow(req=tutils.treq(method=b"POST", path=path.encode("utf-8", "surrogateescape"), headers=Headers()))
    flow.request.scheme = scheme
    flow.request.data.host = host
    flow.request.data.port = port
    flow.request.headers.clear()
    for name, value in headers:
        flow.request.headers.add(name, value)
    flow.client_conn.sockname = ("127.0.0.1", 8080)
    flow.client_conn.peername = ("127.0.0.1", 50000)
    flow.client_conn.proxy_mode = mode_specs.ProxyMode.parse("regular")
    flow.response = flow.error = None
    return flow


def _local(path, host="127.0.0.1", headers=()):
    return _flow(path, host, 8080, "http", headers)


def _provide(addon, opened):
    addon.reception.providers = (provider := FakeProvider(opened),)
    return provider


def _error(flow):
    return json.loads(flow.response.content)["error"]


async def test_a_request_from_head_to_record(world):
    """One request: opened, rewritten, streamed, and told in the flow, without a secret at any point."""
    _, addon = world
    exchange = FakeExchange()
    _provide(addon, exchange)
    flow = _flow(headers=[("Authorization", "Bearer dummy")])
    await addon.requestheaders(flow)
    assert isinstance(replay.control_of(flow), ExchangeControl)
    assert flow.request.headers["authorization"] == "Bearer [kimi]"
    assert module._shared.recorder.running == 1
    flow.request.content = b"{}"
    await addon.request(flow)
    assert flow.request.content == b'{"rewritten":true}'
    flow.response = tutils.tresp(headers=Headers())
    flow.response.timestamp_end = None
    addon.responseheaders(flow)
    assert flow.response.stream(b"abc") == [b"abc"]
    addon.response(flow)
    addon.error(flow)
    assert flow.comment == "fake · m"
    assert flow.response.data.content == b"abc"
    assert module._shared.recorder.running == 0
    assert exchange.over == 1
    assert SECRET not in str(flow.get_state())


async def test_a_collected_answer_is_replaced_before_it_is_sent(world):
    """An answer that is read whole leaves as what the exchange made of it."""
    _, addon = world
    exchange = FakeExchange()
    exchange.whole = True
    _provide(addon, exchange)
    flow = _flow()
    await addon.requestheaders(flow)
    await addon.request(flow)
    flow.response = tutils.tresp(headers=Headers(), content=b"x")
    flow.response.timestamp_end = None
    addon.responseheaders(flow)
    addon.response(flow)
    assert flow.response.content == b"<x>"


async def test_requests_of_others_are_left_alone(world):
    """A request to another host is not touched."""
    _, addon = world
    provider = _provide(addon, FakeExchange())
    flow = _flow(host="example.test", headers=[("Authorization", "Bearer theirs")])
    before = flow.request.get_state()
    await addon.requestheaders(flow)
    await addon.request(flow)
    flow.response = tutils.tresp()
    addon.responseheaders(flow)
    addon.response(flow)
    assert flow.request.get_state() == before
    assert provider.heads == []
    assert flow.comment == ""


async def test_a_native_client_passes_with_its_own_login_unseen(world):
    """What the service's own client sends to its host goes out as it came, streams, and shows no login in the flow."""
    _, addon = world
    _provide(addon, FakeExchange())
    flow = _flow("/native", headers=[("Authorization", "Bearer fake-native"), ("X-Other", "1")])
    await addon.requestheaders(flow)
    await addon.request(flow)
    control = replay.control_of(flow)
    assert control.permit(flow, flow.server_conn) is None
    assert "fake-native" not in str(flow.get_state())
    assert control.seal(flow.request.copy()).headers["authorization"] == "Bearer fake-native"
    flow.response = tutils.tresp(headers=Headers())
    addon.responseheaders(flow)
    assert flow.response.stream(b"frame") == [b"frame"]
    assert flow.response.stream(b"") == []
    addon.response(flow)
    assert flow.response.data.content == b"frame"
    assert flow.comment == "passed as it came, with the client's own login"
    addon.error(flow)  # the client leaves at the very end
    assert flow.response.data.content == b"frame"


async def test_a_native_cookie_in_several_fields_stays_one_cookie(world):
    """HTTP/2 clients split it, and nothing but "; " puts it together again (RFC 9113 §8.2.3)."""
    _, addon = world
    _provide(addon, FakeExchange())
    flow = _flow("/native", headers=[("Cookie", "a=fake-1"), ("cookie", "b=fake-2")])
    await addon.requestheaders(flow)
    assert "fake-" not in str(flow.get_state())
    assert replay.control_of(flow).seal(flow.request.copy()).headers.get_all("cookie") == ["a=fake-1; b=fake-2"]


async def test_a_native_answer_that_is_cut_says_so(world):
    """Of a long answer to a native client as much is kept as the limit allows, and the comment says so."""
    tctx, addon = world
    tctx.options.kimi_record_limit = 1
    _provide(addon, FakeExchange())
    flow = _flow("/native")
    await addon.requestheaders(flow)
    flow.response = tutils.tresp(headers=Headers())
    addon.responseheaders(flow)
    flow.response.stream(b"x" * 2048)
    addon.response(flow)
    assert len(flow.response.data.content) == 1024
    assert flow.comment.endswith("1.0 KiB of 2.0 KiB kept (kimi_record_limit)")


async def test_a_native_client_without_replay_is_left_alone(world):
    """Where nothing can be sealed a native client's request is not touched at all."""
    _, addon = world
    _provide(addon, FakeExchange())
    replay.uninstall()
    flow = _flow("/native", headers=[("Authorization", "Bearer fake-native")])
    await addon.requestheaders(flow)
    assert flow.request.headers["authorization"] == "Bearer fake-native"
    assert replay.control_of(flow) is None


async def test_a_native_answer_that_is_not_kept(world):
    """With a record limit of 0 nothing of a native answer is kept."""
    tctx, addon = world
    tctx.options.kimi_record_limit = 0
    _provide(addon, FakeExchange())
    flow = _flow("/native")
    await addon.requestheaders(flow)
    flow.response = tutils.tresp(headers=Headers())
    flow.response.data.content = None
    addon.responseheaders(flow)
    flow.response.stream(b"frame")
    addon.response(flow)
    assert flow.response.data.content == b""
    assert flow.comment.endswith("0 B of 5 B kept (kimi_record_limit)")


async def test_what_others_answered_stays_answered(world):
    """An answer that stands already, such as proxyauth's 407, is not bypassed."""
    _, addon = world
    provider = _provide(addon, FakeExchange())
    flow = _flow()
    flow.response = tutils.tresp(status_code=407)
    await addon.requestheaders(flow)
    assert provider.heads == []
    assert flow.response.status_code == 407


@pytest.mark.parametrize(
    ("flow", "code", "status"),
    [
        (_flow(headers=[("Origin", "https://evil.test"), ("Authorization", "Bearer s")]), "from_browser", 403),
        (_flow(scheme="http", port=80), "not_encrypted", 403),
        (_local("/kimi/v1/models", host="evil.test"), "foreign_host", 421),
        (_local("/kimi/v1/models", headers=[("Sec-Fetch-Site", "cross-site")]), "from_browser", 403),
        (_local("/nothing"), "unknown_path", 404),
    ],
)
async def test_refusals(world, flow, code, status):
    """What must not be served is answered at once, and what the client sent as credentials leaves the flow."""
    _, addon = world
    provider = _provide(addon, FakeExchange())
    await addon.requestheaders(flow)
    assert (flow.response.status_code, _error(flow)["code"]) == (status, code)
    assert flow.comment == f"refused: {code}"
    assert provider.heads == []
    assert "Bearer s" not in str(flow.get_state())
    assert isinstance(replay.control_of(flow), RefusedControl)
    await addon.request(flow)
    addon.responseheaders(flow)
    addon.response(flow)


async def test_a_flow_of_a_foreign_peer_is_refused(world):
    """Even where its connection was let in, a request of another machine is not served."""
    _, addon = world
    _provide(addon, FakeExchange())
    flow = _flow()
    flow.client_conn.peername = ("192.168.1.5", 1)
    await addon.requestheaders(flow)
    assert _error(flow)["code"] == "refused"


async def test_a_replayed_flow_is_served_anew(world):
    """A replay from mitmproxy's own user is served with today's token, whatever its headers say."""
    _, addon = world
    _provide(addon, FakeExchange())
    flow = _flow(headers=[("Authorization", "Bearer [kimi]"), ("Origin", "null")])
    flow.is_replay = "request"
    await addon.requestheaders(flow)
    assert isinstance(replay.control_of(flow), ExchangeControl)


async def test_not_logged_in(world):
    """A refusal of the provider reaches the client and nothing is opened."""
    _, addon = world
    _provide(addon, reply_for(NotLoggedIn("No login."), "openai"))
    flow = _flow()
    await addon.requestheaders(flow)
    assert _error(flow)["code"] == "not_logged_in"
    assert module._shared.recorder.running == 0


@pytest.mark.parametrize("step", ["open", "prepare"])
async def test_what_fails_in_here_goes_nowhere_and_tells_nothing(world, caplog, step):
    """A request that this program fails at is answered; neither its words nor its key leave, or are logged."""
    _, addon = world
    exchange = FakeExchange()
    provider = _provide(addon, exchange)

    async def fail(*_):
        raise RuntimeError(flow.request.text)

    setattr(provider if step == "open" else exchange, step, fail)
    flow = _flow(headers=[("Authorization", "Bearer fake-client-key"), ("Cookie", "fake-cookie")])
    flow.request.content = b"the words of fake-user-1"
    await addon.requestheaders(flow)
    await addon.request(flow)
    assert _error(flow)["code"] == "unforeseen"
    assert "fake-c" not in str(flow.request.headers.fields)
    addon.responseheaders(flow)
    addon.response(flow)
    assert module._shared.recorder.running == 0
    assert "RuntimeError" in caplog.text
    assert "fake-user-1" not in caplog.text


async def test_a_path_of_odd_bytes_is_recorded_like_any_other(world):
    """They are kept as lone surrogates (PEP 383), which UTF-8 has no place for."""
    _, addon = world
    _provide(addon, FakeExchange())
    flow = _flow("/kimi/v1/models?\udcff")
    await addon.requestheaders(flow)
    await addon.request(flow)
    flow.response = tutils.tresp()
    addon.response(flow)
    assert flow.comment
    assert module._shared.recorder.running == 0


async def test_exchanges_under_way_survive_a_reload(world):
    """The addon of a script that was saved anew finishes what the one before has begun, and knows that it did."""
    _, addon = world
    _provide(addon, FakeExchange())
    flow = _flow()
    await addon.requestheaders(flow)
    later = KimiMitm()
    assert module._shared.recorder.running == 1
    flow.response = tutils.tresp()
    later.response(flow)
    assert module._shared.recorder.running == 0


async def test_the_key_of_this_proxy_goes_no_further(world):
    """A service's own client that shows it has it taken out."""
    _, addon = world
    _provide(addon, FakeExchange())
    flow = _flow("/native", headers=[(guard.KEY_HEADER, "fake-client-key")])
    await addon.requestheaders(flow)
    assert guard.KEY_HEADER not in flow.request.headers


async def test_health(world):
    """The proxy's own port answers /health."""
    _, addon = world
    _provide(addon, FakeExchange())
    flow = _local("/health")
    flow.request.method = "GET"
    await addon.requestheaders(flow)
    assert json.loads(flow.response.content)["status"] == "ok"
    assert flow.comment == ""


async def test_the_local_endpoint_leads_to_the_service(world):
    """A request to /kimi/ on the proxy's own port becomes one to the service."""
    _, addon = world
    _provide(addon, FakeExchange())
    flow = _local("/kimi/v1/chat/completions")
    await addon.requestheaders(flow)
    assert (flow.request.scheme, flow.request.host, flow.request.port) == ("https", "api.kimi.com", 443)


async def test_without_replay_the_secret_is_masked_again(world):
    """Where the replay does not fit this mitmproxy, the secret is in the flow only while the request is sent."""
    _, addon = world
    _provide(addon, FakeExchange())
    replay.uninstall()
    flow = _flow()
    await addon.requestheaders(flow)
    await addon.request(flow)
    assert flow.request.headers["authorization"] == SECRET
    flow.response = tutils.tresp(headers=Headers())
    flow.response.timestamp_end = None
    addon.responseheaders(flow)
    assert flow.request.headers["authorization"] == "Bearer [kimi]"


async def test_without_replay_a_killed_flow_is_masked_too(world):
    """The secret leaves the flow on an error as well."""
    _, addon = world
    _provide(addon, FakeExchange())
    replay.uninstall()
    flow = _flow()
    await addon.requestheaders(flow)
    await addon.request(flow)
    addon.error(flow)
    assert flow.request.headers["authorization"] == "Bearer [kimi]"


async def test_a_mitmproxy_that_does_not_fit(place, monkeypatch, caplog):
    """Where an internal is missing the addon says so once and works without replay."""

    def unfit():
        raise replay.ReplayUnavailable(["HttpStream.send_response"])

    monkeypatch.setattr(replay, "install", unfit)
    with taddons.context(UpstreamAuth(), loadcore=True) as tctx, caplog.at_level(logging.WARNING):
        start(tctx, addon := KimiMitm())
        addon.done()
    assert "HttpStream.send_response" in caplog.text


async def test_only_served_hosts_are_decrypted(world):
    """By default the scope is exactly the served hosts; all else is tunnelled."""
    tctx, _ = world
    kimi = [r"^api\.kimi\.com:443$", r"^api\.kimi\.ai:443$"]
    kiro = [f"^{re.escape(host)}:443$" for host in ("runtime.us-east-1.kiro.dev", "q.us-east-1.amazonaws.com")]
    assert tctx.options.allow_hosts[:2] == kimi
    assert set(kiro) < set(tctx.options.allow_hosts)
    assert tctx.options.connection_strategy == "lazy"
    tctx.options.kimi_intercept_all = True
    assert tctx.options.allow_hosts == []
    tctx.options.update(kimi_intercept_all=False, kiro_enabled=False)
    assert tctx.options.allow_hosts == kimi


@pytest.mark.parametrize("chosen", [{"allow_hosts": ["example"]}, {"ignore_hosts": ["example"]}])
async def test_the_users_own_scope_wins(place, chosen):
    """A scope that the user chose is not changed."""
    with taddons.context(UpstreamAuth(), loadcore=True) as tctx:
        tctx.options.update(**chosen)
        start(tctx, addon := KimiMitm())
        assert tctx.options.allow_hosts == chosen.get("allow_hosts", [])
        addon.done()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kimi_allow_clients": ["10.0.0.0/8"]}, "kimi_client_key"),
        ({"kimi_max_body": 0}, "kimi_max_body"),
        ({"kimi_allow_clients": ["everyone"]}, "kimi_allow_clients"),
    ],
)
async def test_options_that_make_no_sense(world, options, said):
    """A bad option is refused by name, and the settings stay as they were."""
    tctx, addon = world
    before = addon.reception.settings
    with pytest.raises(exceptions.OptionsError, match=said):
        tctx.options.update(**options)
    assert addon.reception.settings == before


async def test_a_bad_environment_is_an_options_error(world, monkeypatch):
    """An override that is no https address is named."""
    tctx, _ = world
    monkeypatch.setenv("KIMI_CODE_BASE_URL", "ftp://x/coding/v1")
    with pytest.raises(exceptions.OptionsError, match="https"):
        tctx.options.update(kimi_region="global")


async def test_client_key_from_the_options(world):
    """The key that the option names is asked for."""
    tctx, addon = world
    tctx.options.kimi_client_key = "fake-key"
    _provide(addon, FakeExchange())
    flow = _flow(headers=[("Authorization", "Bearer wrong")])
    await addon.requestheaders(flow)
    assert _error(flow)["code"] == "client_key"


async def test_the_client_key_goes_no_further(world):
    """The header of the client key is for this proxy alone: no provider gets it."""
    tctx, addon = world
    tctx.options.kimi_client_key = "fake-key"
    provider = _provide(addon, FakeExchange())
    flow = _flow(headers=[("X-Kimi-Mitm-Key", "fake-key"), ("Authorization", "Bearer sk-own")])
    await addon.requestheaders(flow)
    (head,) = provider.heads
    assert head.headers.get("x-kimi-mitm-key") is None
    assert head.headers.get("authorization") == "Bearer sk-own"


@pytest.mark.parametrize(("peer", "error"), [("127.0.0.1", None), ("192.168.1.5", "kimi_allow_clients")])
async def test_clients_of_other_machines_are_turned_away(world, peer, error):
    """A client of another machine is refused before a byte of it is read."""
    _, addon = world
    client = connection.Client(peername=(peer, 1), sockname=("127.0.0.1", 8080))
    addon.client_connected(client)
    assert (client.error is None) if error is None else (error in client.error)


@pytest.mark.parametrize(
    ("sni", "address", "tunnelled"),
    [
        ("auth.kimi.com", None, True),
        (None, ("auth.kimi.com", 443), True),
        ("AUTH.Kimi.com", None, True),
        (None, ("auth.kimi.com.", 443), True),
        ("api.kimi.com", ("api.kimi.com", 443), False),
        (None, None, False),
    ],
)
async def test_logins_are_never_decrypted(world, sni, address, tunnelled):
    """What a client sends to the login service stays in its tunnel, even where everything else is decrypted."""
    _, addon = world
    _provide(addon, FakeExchange())
    data = SimpleNamespace(
        client_hello=SimpleNamespace(sni=sni),
        context=SimpleNamespace(server=SimpleNamespace(address=address)),
        ignore_connection=False,
    )
    addon.tls_clienthello(data)
    assert data.ignore_connection is tunnelled


async def test_running_moves_listeners_and_starts_the_timer(world, caplog):
    """At start the listeners go to 127.0.0.1, the timer runs, and a missing login is said once as a warning."""
    tctx, addon = world
    with caplog.at_level(logging.WARNING):
        addon.running()
    assert "Run `kimi-mitm login kimi`" in caplog.text
    assert tctx.options.mode == ["regular@127.0.0.1:8080"]
    (timer,) = (task for task in addon._tasks if task.get_name().startswith("kimi-mitm refresh timer"))
    addon.done()
    await asyncio.gather(timer, return_exceptions=True)
    assert timer.cancelled()


async def test_the_timer_follows_the_options(world, monkeypatch):
    """After an option was changed the providers that serve from now on are kept fresh, and the old ones no more."""
    tctx, addon = world
    kept = []

    async def keep_fresh(provider, busy):
        kept.append(provider)
        try:
            await asyncio.Event().wait()
        finally:
            kept.remove(provider)

    for provider in addon.reception.providers:
        monkeypatch.setattr(type(provider), "keep_fresh", keep_fresh)
    addon.running()
    await asyncio.sleep(0)
    tctx.options.kimi_record_limit = 77
    for _ in range(3):  # the old one is cancelled, the new one begins
        await asyncio.sleep(0)
    assert kept == list(addon.reception.providers)


@pytest.mark.parametrize("end", ["server_connected", "tls_established_server", "server_connect_error", None])
@pytest.mark.parametrize("ours", [True, False])
async def test_a_connection_to_a_service_is_made_in_time_or_given_up(world, ours, end):
    """Whoever else is connected to has mitmproxy's own limits; a silent service costs its connection alone."""
    tctx, addon = world
    tctx.options.kimi_first_byte_timeout = 1
    host, port = addon.reception.providers[0].origins()[0]
    server = connection.Server(address=(host if ours else "other.test", port), timestamp_start=1.0)
    client = tflow.tclient_conn()
    data = SimpleNamespace(server=server, conn=server, client=client, context=context.Context(client, tctx.options))
    clocks = module._shared.patience._clocks
    addon.server_connect(data)
    assert (server.id in clocks) is ours
    if ours:
        assert clocks[server.id].when() - asyncio.get_running_loop().time() <= 1
    server.tls = True
    addon.server_connected(data)
    assert (server.id in clocks) is ours  # the handshake is still to come
    server.tls = False
    (getattr(addon, end) if end else addon.server_disconnected)(data)
    assert server.id not in clocks


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("known", [True, False])
async def test_a_connection_through_an_upstream_proxy_is_made_in_time_or_given_up(world, monkeypatch, ours, known):
    """The proxy itself, and then the service behind it; where that handshake cannot be told, it is left alone."""
    tctx, addon = world
    host, port = addon.reception.providers[0].origins()[0]
    client = tflow.tclient_conn()
    client.proxy_mode = mode_specs.ProxyMode.parse("upstream:http://proxy.test:3128")
    outer = connection.Server(address=("proxy.test", 3128))
    data = server_hooks.ServerConnectionHookData(outer, client)
    clocks = module._shared.patience._clocks
    addon.server_connect(data)
    assert outer.id in clocks
    addon.server_connected(data)
    assert outer.id not in clocks
    monkeypatch.setattr(connecting, "sees_tunnels", lambda: known)
    flow = tflow.tflow(
        client_conn=client, server_conn=outer, req=tutils.treq(host=host if ours else "a.test", port=port)
    )
    addon.http_connect_upstream(flow)
    assert (outer.id in clocks) is (ours and known)
    inner = connection.Server(address=(host, port))
    surroundings = context.Context(client, tctx.options)
    TunnelLayer(surroundings, outer, inner)
    addon.tls_established_server(tls.TlsData(connection.Server(address=None), surroundings))
    assert (outer.id in clocks) is (ours and known)
    addon.tls_established_server(tls.TlsData(inner, surroundings))
    assert outer.id not in clocks


@pytest.mark.parametrize("decrypted", [True, False])
async def test_a_tunnel_that_passes_as_it_is_is_left_alone(world, decrypted):
    """Through an upstream proxy no hook tells that it is there, unless its handshake is seen here."""
    _, addon = world
    host, port = addon.reception.providers[0].origins()[0]
    client = tflow.tclient_conn()
    client.proxy_mode = mode_specs.ProxyMode.parse("upstream:http://proxy.test:3128")
    client.tls = decrypted
    outer = connection.Server(address=("proxy.test", 3128))
    data = server_hooks.ServerConnectionHookData(outer, client)
    addon.server_connect(data)
    addon.server_connected(data)
    flow = tflow.tflow(client_conn=client, server_conn=outer, req=tutils.treq(host=host, port=port))
    addon.http_connect(flow)
    addon.http_connect_upstream(flow)
    assert (outer.id in module._shared.patience._clocks) is decrypted
    addon.server_disconnected(data)


@pytest.mark.parametrize(("under_way", "frozen", "freezes"), [(0, 0, 1), (1, 0, 0), (0, 5, 0)])
async def test_what_requests_need_is_loaded_soon_after_the_start(world, monkeypatch, under_way, frozen, freezes):
    """The rest is loaded in a thread once the proxy runs, then frozen: once, and no stream along with it."""
    _, addon = world
    where, calls = [], []
    steps = {name: lambda name=name: calls.append(name) for name in ("collect", "freeze")}
    collector = SimpleNamespace(get_freeze_count=lambda: frozen, **steps)
    monkeypatch.setattr(module, "LOADED_AFTER", 0.0)
    monkeypatch.setattr(module.later, "load", lambda: where.append(threading.current_thread()))
    monkeypatch.setattr(module, "gc", collector)
    monkeypatch.setattr(journal.Recorder, "running", under_way)
    addon.running()
    (loading,) = (task for task in addon._tasks if task.get_name().startswith("kimi-mitm loading"))
    await loading
    assert len(where) == 1
    assert where != [threading.main_thread()]
    assert calls == ["collect", "freeze"] * freezes


async def test_a_login_is_not_missed_where_one_provider_has_one(world, monkeypatch, caplog):
    """Where somebody is logged in somewhere, nothing is said at start."""
    _, addon = world
    monkeypatch.setattr(module.Kiro, "start", lambda self: None)
    with caplog.at_level(logging.WARNING):
        addon.running()
    assert "logged in" not in caplog.text


async def test_retried_attempts_are_shown(world, monkeypatch):
    """A failed attempt is recorded with its number and the reason."""
    _, addon = world
    shown = []

    async def show(flow, response, error, comment, **more):
        shown.append((flow, error, comment, more))

    monkeypatch.setattr(record, "show_attempt", show)
    _provide(addon, FakeExchange())
    flow = _flow()
    await addon.requestheaders(flow)
    await addon.reception._retried(replay.Attempt(flow, 1, error="reset"), "connection lost", 1)
    more = {"exchange": replay.control_of(flow).id, "number": 1}
    assert shown == [(flow, "reset", "fake · attempt 1: connection lost", more)]


def test_what_mitmproxy_loads():
    """The script hands over one addon, which brings its commands along."""
    (addon,) = addons()
    assert isinstance(addon, KimiMitm)
    with taddons.context(addon) as context:
        known = set(context.master.commands.commands)
    assert {"kimi.status", "kimi.refresh", "kiro.accounts", "kiro.use"} <= known


async def test_a_reply_without_reason_has_no_comment(world):
    """An answer that is no refusal is not called one."""
    _, addon = world
    flow = _flow()
    addon.reception.answer(flow, Reply(200, Headers(), b""))
    assert flow.comment == ""


# --- sent again ----------------------------------------------------------------------------------------------------


async def _once(addon, flow, body=b"{}"):
    """Have *flow* go through once, from its head to its record."""
    flow.live = True
    await addon.requestheaders(flow)
    flow.request.content = body
    await addon.request(flow)
    flow.response = tutils.tresp(headers=Headers())
    flow.response.timestamp_end = None
    addon.responseheaders(flow)
    addon.response(flow)


def _again(flow):
    """Make *flow* what mitmproxy's replay makes of it."""
    flow.is_replay, flow.live = "request", True
    flow.response = flow.error = None


async def test_a_flow_that_is_sent_again_begins_with_its_client(world):
    """A flow that nobody has changed is rewritten anew from what its client sent."""
    _, addon = world
    provider = _provide(addon, FakeExchange())
    flow = _flow(headers=[("x-session-id", "ses_1")])
    await _once(addon, flow, b"client's")
    _again(flow)
    provider.opened = FakeExchange()
    await addon.requestheaders(flow)
    await addon.request(flow)
    assert provider.opened.bodies == [b"client's"]
    assert provider.heads[-1].headers.get("x-session-id") == "ses_1"


async def test_an_edited_flow_is_sent_as_it_is(world):
    """A body that was changed is what is rewritten."""
    _, addon = world
    provider = _provide(addon, FakeExchange())
    flow = _flow()
    await _once(addon, flow, b"client's")
    _again(flow)
    flow.request.content = b"edited"
    provider.opened = FakeExchange()
    await addon.requestheaders(flow)
    await addon.request(flow)
    assert provider.opened.bodies == [b"edited"]


async def test_a_flow_that_is_sent_again_is_guarded(world):
    """Sending again is no way around the guard."""
    tctx, addon = world
    _provide(addon, FakeExchange())
    flow = _flow()
    await _once(addon, flow)
    _again(flow)
    tctx.options.proxy_debug = True
    await addon.requestheaders(flow)
    assert _error(flow)["code"] == "wire_logged"


async def test_a_label_is_never_sent_as_a_login(world):
    """A flow with a native client's label, from a file, is refused; in this process its login is remembered."""
    _, addon = world
    _provide(addon, FakeExchange())
    flow = _flow("/native", headers=[("Authorization", "Bearer fake-native")])
    await _once(addon, flow)
    copy = flow.copy()
    _again(copy)
    await addon.requestheaders(copy)
    assert _error(copy)["code"] == "login_not_kept"
    assert copy.comment == "refused: login_not_kept"
    _again(flow)
    await addon.requestheaders(flow)
    assert flow.request.headers["authorization"] == "[client's own]"
    assert replay.control_of(flow).seal(flow.request.copy()).headers["authorization"] == "Bearer fake-native"


async def test_a_flow_from_a_file_starts_nothing(world):
    """A flow that is only loaded is not live, and nothing is opened for it."""
    _, addon = world
    provider = _provide(addon, FakeExchange())
    flow = _flow()
    flow.live = False
    await addon.requestheaders(flow)
    assert provider.heads == []
    assert module._shared.recorder.running == 0


async def test_what_is_put_into_mitmproxy_comes_and_goes_with_the_addon(world):
    """While the addon is loaded its views are there, once each, and events make short rounds."""
    _, addon = world
    assert "chat answer" in contentviews.registry
    assert AddonManager.trigger_event is rounds.trigger_event
    addon.done()
    assert "chat answer" not in contentviews.registry
    assert AddonManager.trigger_event is rounds.trigger_event.__wrapped__
