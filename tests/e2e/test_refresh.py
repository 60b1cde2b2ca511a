"""The login in a running proxy: renewed ahead of time, shared between processes, never lost."""

import asyncio
import time

import pytest

from kimi_core.tokens import OAuthToken
from tests.e2e.harness import Proxy, World, wait_until

CHAT = {"model": "kimi-for-coding", "messages": [{"role": "user", "content": "[[say hello]]"}]}
LIFETIME = 900.0


def store(proxy, *, remaining: float) -> OAuthToken:
    """Store a login whose access token looks *remaining* seconds from its end, though the service still takes it."""
    answer = proxy.world.kimi.oauth.login()
    token = OAuthToken.from_response(answer | {"expires_in": LIFETIME}, time.time() - LIFETIME + remaining)
    proxy.session().save(token)
    return token


def ask(proxy):
    """Send one chat request through *proxy*."""
    with proxy.client() as client:
        return client.post("chat/completions", json=CHAT)


def test_a_stale_token_is_renewed_before_the_request(world, proxy):
    """Less than half of its life is left: one refresh, and the service never sees the old token."""
    old = store(proxy, remaining=200)
    before = world.kimi.oauth.refreshes
    assert ask(proxy).status_code == 200
    (seen,) = world.kimi.of("chat")
    assert seen.bearer != old.access_token
    assert world.kimi.oauth.refreshes == before + 1
    assert ask(proxy).status_code == 200
    assert world.kimi.oauth.refreshes == before + 1, "the new token is fresh"


def test_a_fresh_token_is_used_as_it_is(world, proxy):
    """More than half of its life is left: no refresh."""
    token = store(proxy, remaining=600)
    before = world.kimi.oauth.refreshes
    assert ask(proxy).status_code == 200
    assert world.kimi.of("chat")[0].bearer == token.access_token
    assert world.kimi.oauth.refreshes == before


def test_a_login_service_that_fails_in_passing_stops_nobody(world, proxy):
    """The refresh fails, the token is still good: the request is served with it."""
    token = store(proxy, remaining=200)
    world.kimi.oauth.failures.extend([503] * 3)
    assert ask(proxy).status_code == 200
    assert world.kimi.of("chat")[0].bearer == token.access_token
    world.kimi.oauth.failures.clear()


def test_an_expired_token_and_a_failing_login_service_is_a_passing_error(world, proxy):
    """Nothing can be sent: a 503 that says why, and the login is still there afterwards."""
    store(proxy, remaining=-10)
    world.kimi.oauth.failures.extend([503] * 3)
    answer = ask(proxy)
    world.kimi.oauth.failures.clear()
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "auth_unavailable"
    assert not world.kimi.of("chat")
    wait_until(lambda: ask(proxy).status_code == 200, "the recovery", 40)


def test_a_rejected_refresh_token_is_not_hammered(world, proxy):
    """The login service turned it down: the client is told to log in, and nobody asks again; a new login helps."""
    store(proxy, remaining=-10)
    world.kimi.oauth.revoke()
    before = world.kimi.oauth.rejections
    for _ in range(3):
        answer = ask(proxy)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "login_dead"
        assert "kimi-mitm login kimi" in answer.json()["error"]["message"]
    assert world.kimi.oauth.rejections == before + 1
    proxy.login()
    assert ask(proxy).status_code == 200


def test_a_damaged_store_is_an_error_and_stays_as_it_is(world, proxy):
    """What cannot be read is neither used nor overwritten; logging in again helps."""
    token = OAuthToken.from_response(world.kimi.oauth.login(), time.time())
    path = proxy.session().save(token)
    path.write_text('{"access_token": "fake-acc')
    answer = ask(proxy)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "store_damaged"
    assert path.read_text() == '{"access_token": "fake-acc'
    path.unlink()
    proxy.login()
    assert ask(proxy).status_code == 200


def test_a_login_of_another_process_is_seen_at_once(world, proxy):
    """Logging out and in elsewhere needs no restart here."""
    proxy.session().forget()
    assert ask(proxy).status_code == 401
    proxy.login()
    assert ask(proxy).status_code == 200


def test_two_proxies_on_one_store_share_one_refresh(world, start_proxy, tmp_path):
    """Both meet a rejected token at once: one refresh, both served, the chain intact."""
    data = tmp_path / "shared"
    first = start_proxy(data=data)
    second = start_proxy(data=data, login=False)
    kimi = world.kimi
    before = kimi.oauth.refreshes
    kimi.oauth.reject_access()
    world.background.run(lambda: setattr(kimi.oauth, "gate", asyncio.Event()))

    async def both():
        tasks = [asyncio.create_task(asyncio.to_thread(ask, proxy)) for proxy in (first, second)]
        await asyncio.to_thread(kimi.wait_for_request, "chat", 2)
        world.background.run(kimi.oauth.gate.set)
        return await asyncio.gather(*tasks)

    try:
        answers = asyncio.run(both())
    finally:
        world.background.run(kimi.oauth.gate.set)
        kimi.oauth.gate = None
    assert [answer.status_code for answer in answers] == [200, 200]
    assert kimi.oauth.refreshes == before + 1
    assert kimi.oauth.reuses == 0


def test_a_proxy_that_is_killed_in_the_middle_of_a_refresh_loses_nothing(world, start_proxy, tmp_path):
    """The service has rotated already when the proxy dies: the new token reaches the store all the same."""
    data = tmp_path / "shared"
    first = start_proxy(data=data, faults_expected=True)
    kimi = world.kimi
    kimi.oauth.reject_access()
    world.background.run(lambda: setattr(kimi.oauth, "gate", asyncio.Event()))

    async def killed():
        task = asyncio.create_task(asyncio.to_thread(ask, first))
        assert await asyncio.to_thread(kimi.oauth.holding.wait, 20)
        first.kill()
        world.background.run(kimi.oauth.gate.set)
        return await asyncio.gather(task, return_exceptions=True)

    try:
        asyncio.run(killed())
    finally:
        world.background.run(kimi.oauth.gate.set)
        kimi.oauth.gate = None
    second = start_proxy(data=data, login=False)
    before = kimi.oauth.refreshes
    assert ask(second).status_code == 200
    assert (kimi.oauth.reuses, kimi.oauth.refreshes) == (0, before)


@pytest.fixture(scope="module")
def walled(background, ca, tmp_path_factory):
    """Serve a world whose upstream proxy asks for credentials."""
    with World(background, ca, tmp_path_factory.mktemp("walled"), auth="fake-user:fake-pass") as made:
        yield made


@pytest.mark.parametrize("auth", [None, "fake-user:fake-pass"], ids=["without", "with"])
def test_calls_of_our_own_obey_the_upstream_settings(walled, confdir, tmp_path, auth):
    """The refresh leaves through the same upstream proxy, with the same credentials, as the requests do."""
    options = [f"upstream_auth={auth}"] if auth else []
    proxy = Proxy(walled, tmp_path / "proxy", confdir, options=options, secrets=["fake-pass"] if auth else [])
    store(proxy, remaining=-10)
    walled.reset()
    with proxy:
        status = ask(proxy).status_code
    targets = {connect.target for connect in walled.upstream.connects}
    assert "auth.kimi.com:443" in targets
    if auth:
        assert status == 200
        assert all(connect.authorized for connect in walled.upstream.connects)
    else:
        assert status == 503
        assert not walled.kimi.requests
