"""The refresh calls: the right service per way of logging in, and what its answers mean."""

import asyncio
import json

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.calls import Reply
from kimi_core.errors import AuthUnavailable, ConfigError
from kimi_core.headers import Headers
from kimi_core.kiro.accounts import Account
from kimi_core.kiro.auth_errors import AccountDead
from kimi_core.kiro.constants import Endpoints
from kimi_core.kiro.refresh import BACK_OFF, DEFAULT_LIFE, is_dead, refresh, tokens_of
from tests.servers.aws import IDP_CLIENT, SOCIAL_ARN, FakeAws

NOW = 1_800_000_000.0
HEADERS = Headers([("user-agent", "Kiro-CLI"), ("content-type", "application/json")])


def account(method="desktop", **fields):
    """Return an account with a fake refresh token."""
    return Account(**({"id": "one", "auth_method": method, "refresh_token": "fake-refresh-0"} | fields))


def sso(**fields):
    """Return an account of an organisation, whose SSO is elsewhere than the API."""
    known = {"client_id": "fake-client-1", "client_secret": "fake-client-secret-1", "region": "us-east-1"}
    return account("idc", **({"oidc_region": "eu-west-2"} | known | fields))


class Wire:
    """Answers in order; remembers requests and pauses."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []
        self.pauses = []

    def handle(self, request):
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def sleep(self, seconds):
        self.pauses.append(seconds)

    async def refresh(self, one, endpoints=None):
        async with httpx.AsyncClient(transport=httpx.MockTransport(self.handle)) as client:
            return await refresh(client, one, endpoints or Endpoints(), HEADERS, clock=lambda: NOW, sleep=self.sleep)


def good(**more):
    """Return a token answer in AWS's spelling."""
    return httpx.Response(200, json={"accessToken": "fake-access-1", "expiresIn": 3600} | more)


@pytest.mark.parametrize(
    ("one", "url", "sent"),
    [
        (
            account(region="eu-central-1"),
            "https://prod.eu-central-1.auth.desktop.kiro.dev/refreshToken",
            {"refreshToken": "fake-refresh-0"},
        ),
        (
            sso(),
            "https://oidc.eu-west-2.amazonaws.com/token",
            {
                "grantType": "refresh_token",
                "clientId": "fake-client-1",
                "clientSecret": "fake-client-secret-1",
                "refreshToken": "fake-refresh-0",
            },
        ),
    ],
)
async def test_each_login_goes_to_its_own_service(one, url, sent):
    """Social logins go to the desktop service, SSO ones to the SSO service of their own region; JSON, no bearer."""
    wire = Wire(good(refreshToken="fake-refresh-1"))
    new = await wire.refresh(one)
    request = wire.requests[0]
    assert (str(request.url), json.loads(request.content)) == (url, sent)
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"] == "Kiro-CLI"
    assert "authorization" not in request.headers
    assert (new.access_token, new.refresh_token) == ("fake-access-1", "fake-refresh-1")
    assert (new.expires_at, new.refreshed_at) == (int((NOW + 3600) * 1000), int(NOW * 1000))


async def test_an_external_provider_gets_a_form():
    """A login of the user's own provider is renewed by a standard form at the issuer's host."""
    fake = FakeAws()
    made = fake.login("idp")
    one = account(
        "external_idp",
        client_id=IDP_CLIENT,
        refresh_token=made["refreshToken"],
        token_endpoint="https://idp.test/idp/token",
        issuer_url="https://idp.test/issuer",
        scopes=("a", "b"),
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(fake)) as client:
        new = await refresh(client, one, Endpoints(), HEADERS)
    assert fake.alive(new.refresh_token)
    assert fake.valid(new.access_token)
    assert fake.seen[0].data["scope"] == "a b"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"token_endpoint": "http://idp.test/token", "issuer_url": "http://idp.test"}, ConfigError),
        ({"token_endpoint": "https://evil.test/token", "issuer_url": "https://idp.test"}, ConfigError),
        ({"token_endpoint": "https://idp.test/token"}, ConfigError),
        ({}, ConfigError),
        (
            {"token_endpoint": "https://idp.test/token", "issuer_url": "https://idp.test", "client_id": None},
            AccountDead,
        ),
    ],
)
async def test_a_providers_address_is_not_trusted(fields, error):
    """Plain http, another host than the issuer's, or no client: no token is sent anywhere."""
    wire = Wire()
    with pytest.raises(error):
        await wire.refresh(account("external_idp", **({"client_id": IDP_CLIENT} | fields)))
    assert wire.requests == []


@pytest.mark.parametrize("one", [account("api_key"), account(refresh_token=""), sso(client_secret=None)])
async def test_what_cannot_be_renewed_is_not_tried(one):
    """A key, a login without refresh token, and an SSO login without its registration ask nobody."""
    wire = Wire()
    with pytest.raises(AccountDead):
        await wire.refresh(one)
    assert wire.requests == []


async def test_a_region_cannot_be_a_host():
    """A region out of a foreign store that is no region's name gets no token."""
    wire = Wire()
    with pytest.raises(ConfigError):
        await wire.refresh(sso(oidc_region="evil.test/x"))
    assert wire.requests == []


async def test_an_answer_without_refresh_token_keeps_the_old_one():
    """The SSO service may leave it out; a profile that comes along is taken over."""
    new = await Wire(good(profileArn=SOCIAL_ARN)).refresh(account())
    assert (new.refresh_token, new.profile_arn) == ("fake-refresh-0", SOCIAL_ARN)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(400, json={"error": "invalid_grant", "error_description": "Invalid refresh token provided"}),
        httpx.Response(400, json={"__type": "ExpiredTokenException", "message": "x"}),
        httpx.Response(400, json={"message": "Invalid refresh token provided"}),
        httpx.Response(401, json={"message": "nope"}),
        httpx.Response(403, json={"message": "nope"}),
        httpx.Response(401),
        httpx.Response(401, json={"error": "invalid_client"}),
        httpx.Response(400, json={"error": "expired_client"}),
    ],
)
async def test_dead_tokens(answer):
    """What says that the token or its client is no good ends the login, after one try."""
    wire = Wire(answer)
    with pytest.raises(AccountDead) as caught:
        await wire.refresh(account())
    assert wire.pauses == []
    assert "login kiro" in caught.value.sentence
    assert ("registration" in str(caught.value)) == (b"client" in answer.content)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.ConnectError("no route"),
        httpx.ReadTimeout("slow"),
        *(httpx.Response(status) for status in (408, 429, 500, 502, 503, 504)),
    ],
)
async def test_a_passing_failure_is_tried_again(answer):
    """Network trouble and failing services say nothing about the token: two more tries, and then it is kept."""
    wire = Wire(answer, answer, good())
    assert (await wire.refresh(account())).access_token == "fake-access-1"
    assert wire.pauses == list(BACK_OFF)
    wire = Wire(answer, answer, answer)
    with pytest.raises(AuthUnavailable):
        await wire.refresh(account())


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(403, text="<html>proxy login</html>"),
        httpx.Response(400, json={"error": "invalid_request"}),
        httpx.Response(404),
        httpx.Response(200, json={"expiresIn": 3600}),
        httpx.Response(200, text="[" * 100_000),
        httpx.Response(200, json={"accessToken": "fäke"}),
        httpx.Response(302, headers={"location": "https://evil.test"}),
    ],
)
async def test_odd_answers_are_no_verdict_on_the_token(answer):
    """Pages of something in between, unknown refusals and answers without a token leave the login alone."""
    wire = Wire(answer)
    with pytest.raises(AuthUnavailable):
        await wire.refresh(account())
    assert len(wire.requests) == 1


async def test_no_secret_is_in_a_failure():
    """An answer that echoes what was sent is cut out of the sentence."""
    secret = "fake-refresh-0-" + "x" * 40
    wire = Wire(httpx.Response(400, json={"message": f"bad {secret}"}))
    with pytest.raises(AuthUnavailable) as caught:
        await wire.refresh(account(refresh_token=secret))
    assert secret not in str(caught.value)


@pytest.mark.parametrize("life", [None, "3600", 0, -1, True, 10**12, float("inf")])
def test_a_pair_is_not_lost_for_its_lifetime(life):
    """An answer whose lifetime makes no sense still has tokens; the usual hour stands in."""
    found = tokens_of({"access_token": "fake-access-1", "refresh_token": "fake-refresh-1", "expires_in": life}, NOW)
    assert found["expires_at"] == int((NOW + DEFAULT_LIFE) * 1000)
    assert found["refresh_token"] == "fake-refresh-1"


@given(st.integers(100, 599), st.binary(max_size=40))
def test_any_answer_is_judged(status, body):
    """Judging never raises, whatever comes."""
    assert is_dead(Reply(status, body)) in {True, False}


async def test_the_fake_revokes_a_family_on_reuse():
    """The fake service behaves as the tests rely on: one use per token, and the whole login ends on a second."""
    fake = FakeAws()
    first = account(refresh_token=fake.login()["refreshToken"])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(fake)) as client:
        second = await refresh(client, first, Endpoints(), HEADERS)
        third = await refresh(client, second, Endpoints(), HEADERS)
        with pytest.raises(AccountDead):
            await refresh(client, first, Endpoints(), HEADERS)
        with pytest.raises(AccountDead):
            await refresh(client, third, Endpoints(), HEADERS)
    assert (fake.refreshes, fake.reuses, fake.valid(third.access_token)) == (2, 1, False)


async def test_the_fake_knows_tokens_of_another_service():
    """A social token at the SSO service fails, and does not end the login."""
    fake = FakeAws()
    client_fields = fake.register()
    token = fake.login()["refreshToken"]
    wrong = sso(refresh_token=token, client_id=client_fields["clientId"], client_secret=client_fields["clientSecret"])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(fake)) as client:
        with pytest.raises(AccountDead):
            await refresh(client, wrong, Endpoints(), HEADERS)
        await refresh(client, account(refresh_token=token), Endpoints(), HEADERS)
    assert fake.wrong_service == 1


def test_calls_show_no_secret():
    """The description of a call in a traceback has its address only."""

    async def fail():
        async with asyncio.timeout(1):
            await Wire(RuntimeError("boom")).refresh(sso())

    with pytest.raises(RuntimeError) as caught:
        asyncio.run(fail())
    assert "fake-client-secret-1" not in "".join(repr(entry.locals.get("made")) for entry in caught.traceback)
