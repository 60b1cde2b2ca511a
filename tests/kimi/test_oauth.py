"""Device flow and refresh calls against the fake login service and against answers that it would never give."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core import calls
from kimi_core.calls import excerpt
from kimi_core.device_flow import DeviceCode
from kimi_core.errors import AuthUnavailable, LoginDead, LoginDenied, LoginError, LoginExpired, PageElsewhere
from kimi_core.headers import Headers
from kimi_core.kimi import oauth
from kimi_core.kimi.constants import REGIONS, Site
from kimi_core.kimi.oauth import browsable, device_flow, refresh, request_code
from kimi_core.tokens import OAuthToken
from tests.servers.oauth import CLIENT_ID, DEVICE_GRANT, DEVICE_PATH, TOKEN_PATH, FakeOAuth

SITE = REGIONS["cn"]
HEADERS = Headers([("X-Msh-Platform", "kimi_cli"), ("Accept", "*/*"), ("User-Agent", "fake/1")])
TOKEN = OAuthToken("fake-access-0", "fake-refresh-0", 900.0, 900.0, "kimi-code")


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Flow:
    """One device flow with what it told its callbacks."""

    def __init__(self, transport: httpx.AsyncBaseTransport, site: Site = SITE) -> None:
        self.clock = Clock()
        self.transport = transport
        self.site = site
        self.codes: list[DeviceCode] = []
        self.waits: list[tuple[float, float]] = []

    async def run(self) -> OAuthToken:
        async with httpx.AsyncClient(transport=self.transport) as client:
            return await device_flow(
                client,
                self.site,
                HEADERS,
                on_code=self.codes.append,
                on_wait=lambda left, pace: self.waits.append((left, pace)),
                clock=self.clock,
                sleep=self.clock.sleep,
            )


@pytest.fixture
def fake() -> FakeOAuth:
    """Return the login service."""
    return FakeOAuth()


def flow_with(fake: FakeOAuth) -> Flow:
    """Return a flow against *fake*."""
    return Flow(httpx.ASGITransport(fake))


def answers(*given_answers: httpx.Response | Exception) -> httpx.MockTransport:
    """Return a transport that gives these answers, then the last one for ever."""
    queue = list(given_answers)

    def handle(request: httpx.Request) -> httpx.Response:
        answer = queue.pop(0) if len(queue) > 1 else queue[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, content=answer.content)

    return httpx.MockTransport(handle)


async def refreshed(transport: httpx.AsyncBaseTransport, clock: Clock | None = None) -> OAuthToken:
    """Refresh TOKEN by *transport*."""
    clock = clock or Clock()
    async with httpx.AsyncClient(transport=transport) as client:
        return await refresh(client, SITE, HEADERS, TOKEN, clock=clock, sleep=clock.sleep)


async def test_a_login_that_is_approved_at_once(fake: FakeOAuth) -> None:
    """The first poll comes without a pause; the token counts from the clock given."""
    flow = flow_with(fake)
    token = await flow.run()
    assert fake.valid(token.access_token)
    assert token.expires_at == 1900.0
    assert flow.clock.slept == []
    assert flow.codes[0].user_code == "FAKE-0001"
    assert flow.codes[0].url.endswith("?user_code=FAKE-0001")
    assert "fake-device" not in repr(flow.codes[0])


async def test_the_requests_are_those_of_the_recordings(fake: FakeOAuth) -> None:
    """Form fields in the clients' order, the header fields given and no others, the body fields at the end."""
    await flow_with(fake).run()
    start, poll = fake.requests(DEVICE_PATH)[0], fake.requests(TOKEN_PATH)[0]
    assert start.form == [("client_id", CLIENT_ID)]
    assert poll.form == [
        ("client_id", CLIENT_ID),
        ("device_code", "fake-device-code-1"),
        ("grant_type", DEVICE_GRANT),
    ]
    names = ["host", "x-msh-platform", "accept", "user-agent", "content-length", "content-type"]
    assert [name for name, _ in start.headers] == names
    assert start.header("content-length") == "46"
    assert start.header("content-type") == "application/x-www-form-urlencoded"


@pytest.mark.parametrize("status", [400, 200, 503])
async def test_pending_is_pending_whatever_the_status(fake: FakeOAuth, status: int) -> None:
    """The body decides; three polls at the pace of the code, with a live countdown between."""
    fake.poll_status = status
    fake.polls.extend(["authorization_pending"] * 3)
    flow = flow_with(fake)
    assert fake.valid((await flow.run()).access_token)
    assert flow.clock.slept == [1.0] * 15
    assert flow.waits[:2] == [(1800.0, 5.0), (1799.0, 5.0)]


async def test_slow_down_slows_for_good(fake: FakeOAuth) -> None:
    """Five seconds more from then on (RFC 8628 §3.5)."""
    fake.polls.extend(["slow_down", "authorization_pending", "slow_down"])
    flow = flow_with(fake)
    await flow.run()
    assert sum(flow.clock.slept) == 10 + 10 + 15
    assert [pace for _, pace in flow.waits] == [10.0] * 20 + [15.0] * 15


@pytest.mark.parametrize(
    ("interval", "pace"), [(0, 1.0), (-3, 5.0), (0.2, 1.0), (7, 7.0), (None, 5.0), (True, 5.0), ("5", 5.0), (1e9, 5.0)]
)
async def test_the_interval_is_at_least_a_second(fake: FakeOAuth, interval: Any, pace: float) -> None:
    """max(interval, 1); five seconds where it is missing or nonsense."""
    fake.device_answer = {"interval": interval}
    fake.polls.append("authorization_pending")
    flow = flow_with(fake)
    await flow.run()
    assert flow.waits[0][1] == pace


@pytest.mark.parametrize(
    ("code", "error"),
    [("expired_token", LoginExpired), ("access_denied", LoginDenied), ("unknown_thing", LoginError)],
)
async def test_other_error_codes_end_the_login(fake: FakeOAuth, code: str, error: type[LoginError]) -> None:
    """Expired, denied and unknown codes are errors of their own."""
    fake.polls.extend(["authorization_pending", code])
    with pytest.raises(error) as caught:
        await flow_with(fake).run()
    assert type(caught.value) is error
    assert error is not LoginError or "HTTP 400, unknown_thing: the fake says" in str(caught.value)


async def test_a_code_that_nobody_approves_runs_out(fake: FakeOAuth) -> None:
    """Polling ends with the life of the code, to the second."""
    fake.device_answer = {"expires_in": 12}
    fake.polls.extend(["authorization_pending"] * 99)
    flow = flow_with(fake)
    with pytest.raises(LoginExpired):
        await flow.run()
    assert flow.clock.now == 1012.0
    assert len(fake.requests()) == 3


async def test_one_failed_poll_in_a_row_is_tolerated(fake: FakeOAuth) -> None:
    """A single 502 between good polls does no harm, however often; and it is the next poll that shows it."""
    fake.failures.append(502)
    fake.polls.append("authorization_pending")
    flow = flow_with(fake)
    assert fake.valid((await flow.run()).access_token)


@pytest.mark.parametrize("failure", [502, 599, 429, (500, b"<html>oops</html>")])
async def test_two_failed_polls_in_a_row_end_the_login(fake: FakeOAuth, failure: Any) -> None:
    """The second failure is the message."""
    fake.failures.extend([failure, failure])
    with pytest.raises(LoginError, match="ended the login"):
        await flow_with(fake).run()


async def test_failures_that_are_not_in_a_row_do_not_add_up() -> None:
    """A good answer between two failures starts the count again; no answer at all counts as a failure."""
    code = httpx.Response(
        200, json={"device_code": "d", "user_code": "u", "verification_uri_complete": "https://kimi.com/"}
    )
    pending = httpx.Response(400, json={"error": "authorization_pending"})
    lost = httpx.ReadTimeout("fake")
    good = httpx.Response(200, json=TOKEN.to_json())
    flow = Flow(answers(code, lost, pending, lost, good))
    assert (await flow.run()).access_token == "fake-access-0"
    assert flow.codes[0].expires_in == 1800.0
    with pytest.raises(LoginError, match="could not be reached: ReadTimeout: fake"):
        await Flow(answers(code, lost)).run()


async def test_an_unreadable_poll_shows_a_safe_excerpt(fake: FakeOAuth) -> None:
    """A body that is no JSON ends the login and is shown shortly, without anything like a secret."""
    fake.failures.append((403, b"Blocked: eyJhbGciOiJIUzI1NiJ9.payload.sig \x1b[31m" + b"please call us " * 50))
    with pytest.raises(LoginError) as caught:
        await flow_with(fake).run()
    text = str(caught.value)
    assert "HTTP 403, Blocked: […]" in text
    assert "eyJ" not in text
    assert "\x1b" not in text
    assert len(text) < 200


async def test_an_approval_without_a_usable_token_is_an_error(fake: FakeOAuth) -> None:
    """A token answer with a field missing names the field."""
    fake.failures.append((200, json.dumps({"access_token": "fake-access", "expires_in": 900}).encode()))
    with pytest.raises(LoginError, match="refresh_token"):
        await flow_with(fake).run()


@pytest.mark.parametrize(
    "answer",
    [
        (500, b""),
        (200, b"<html>portal</html>"),
        (200, b"[]"),
        (200, b'{"device_code": "d", "user_code": "u"}'),
        (200, b'{"device_code": "d", "user_code": "u\\u001b[2J", "verification_uri_complete": "https://x.y"}'),
        (302, b'{"device_code": "d", "user_code": "u", "verification_uri_complete": "https://x.y"}'),
    ],
)
async def test_no_code_no_login(fake: FakeOAuth, answer: tuple[int, bytes]) -> None:
    """Anything but a 200 with the three fields, fit for a terminal, is a failure."""
    fake.device_failures.append(answer)
    with pytest.raises(LoginError, match=f"gave no code .HTTP {answer[0]}"):
        await flow_with(fake).run()


async def test_a_service_out_of_reach_is_named() -> None:
    """A network failure at the start says where it wanted to go."""
    async with httpx.AsyncClient(transport=answers(httpx.ConnectError(""))) as client:
        with pytest.raises(LoginError, match=r"https://auth\.kimi\.com could not be reached: ConnectError\."):
            await request_code(client, SITE, HEADERS)


async def test_a_refresh_sends_the_form_and_returns_the_next_pair(fake: FakeOAuth) -> None:
    """Three fields in the clients' order; the old token is spent."""
    old = OAuthToken.from_response(fake.login(), 0.0)
    clock = Clock()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(fake)) as client:
        new = await refresh(client, SITE, HEADERS, old, clock=clock, sleep=clock.sleep)
    assert fake.requests()[0].form == [
        ("client_id", CLIENT_ID),
        ("grant_type", "refresh_token"),
        ("refresh_token", old.refresh_token),
    ]
    assert fake.valid(new.access_token)
    assert new.refresh_token != old.refresh_token
    assert new.expires_at == 1900.0


async def test_a_refresh_without_a_new_refresh_token_keeps_the_old(fake: FakeOAuth) -> None:
    """Some answers have none: the old one goes on and works again."""
    fake.omit_refresh = True
    token = OAuthToken.from_response(fake.login(), 0.0)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(fake)) as client:
        for _ in range(2):
            new = await refresh(client, SITE, HEADERS, token)
            assert new.refresh_token == token.refresh_token
            assert fake.valid(new.access_token)


GOOD = httpx.Response(200, json=TOKEN.to_json())


@pytest.mark.parametrize("failure", [429, 500, 502, 503, 504, httpx.ConnectError("fake"), httpx.ReadTimeout("fake")])
async def test_passing_failures_get_three_tries(failure: int | Exception) -> None:
    """One second, two seconds, then AuthUnavailable; a third try that works is good."""
    answer = failure if isinstance(failure, Exception) else httpx.Response(failure)
    clock = Clock()
    assert await refreshed(answers(answer, answer, GOOD), clock)
    assert clock.slept == [1.0, 2.0]
    clock = Clock()
    with pytest.raises(AuthUnavailable) as caught:
        await refreshed(answers(answer), clock)
    assert clock.slept == [1.0, 2.0]
    assert "fake-refresh" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(401),
        httpx.Response(403, text="<html>"),
        httpx.Response(400, json={"error": "invalid_grant"}),
        httpx.Response(200, json={"error": "invalid_grant"}),
        httpx.Response(500, json={"error": "invalid_grant"}),
    ],
)
async def test_a_rejection_is_final(answer: httpx.Response) -> None:
    """401, 403 and invalid_grant at any status: no second try, and a text that no client takes for a passing fault."""
    clock = Clock()
    with pytest.raises(LoginDead) as caught:
        await refreshed(answers(answer, GOOD), clock)
    assert clock.slept == []
    assert not any(word in caught.value.sentence.lower() for word in ("429", "500", "overloaded", "terminated"))


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(400, json={"error": "invalid_client", "error_description": "no"}),
        httpx.Response(404),
        httpx.Response(302),
        httpx.Response(200, text="[]"),
        httpx.Response(200, text="[" * 100_000),
        httpx.Response(200, json={**TOKEN.to_json(), "expires_in": 0}),
        httpx.Response(200, content=b" " * (calls.MAX_BODY + 1) + GOOD.content),
    ],
)
async def test_other_answers_fail_without_another_try(answer: httpx.Response) -> None:
    """Other statuses and unusable answers are plain failures; too long a body is not read to its end."""
    clock = Clock()
    with pytest.raises(AuthUnavailable):
        await refreshed(answers(answer, GOOD), clock)
    assert clock.slept == []


async def test_a_try_that_hangs_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """One try is bounded as a whole, however slowly bytes drip."""
    monkeypatch.setattr(oauth, "TRY_TIMEOUT", 0.0)

    async def never(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        return GOOD

    with pytest.raises(AuthUnavailable, match="TimeoutError"):
        await refreshed(httpx.MockTransport(never))


OVERRIDE = Site("127.0.0.1_9", "http://127.0.0.1:9", "http://127.0.0.1:9/coding/v1")
MIRROR = Site("login.example", "https://login.example", "https://api.example/v1")


@pytest.mark.parametrize(
    ("url", "site", "safe"),
    [
        ("https://www.kimi.com/code?user_code=A", SITE, True),
        ("https://kimi.com/", SITE, True),
        ("https://KIMI.com/", SITE, True),
        ("https://auth.kimi.ai:443/x", SITE, True),
        ("https://www.kimi.com/", MIRROR, True),
        ("https://login.example/device", MIRROR, True),
        ("http://127.0.0.1:9/device", OVERRIDE, True),
        ("http://login.example/device", MIRROR, False),
        ("https://login.example.evil/", MIRROR, False),
        ("http://127.0.0.1:10/device", OVERRIDE, False),
        ("https://127.0.0.1:9/device", SITE, False),
        ("http://www.kimi.com/", SITE, False),
        ("https://www.kimi.com:8443/", SITE, False),
        ("https://evilkimi.com/", SITE, False),
        ("https://kimi.com.evil/", SITE, False),
        ("https://kimi.com@evil.example/", SITE, False),
        ("https://user:pw@kimi.com/", SITE, False),
        ("https://evil.example\\.kimi.com/", SITE, False),
        ("https://evil.example/ .kimi.com", SITE, False),
        ("https://www.kimi.com:port/", SITE, False),
        ("https://[kimi.com/", SITE, False),
        ("https://кimi.com/", SITE, False),
        ("javascript:alert(1)//www.kimi.com", SITE, False),
        ("file:///etc/passwd", SITE, False),
        ("--proxy=https://www.kimi.com/", SITE, False),
        ("", SITE, False),
    ],
)
def test_only_the_providers_own_pages_may_be_opened(url: str, site: Site, safe: bool) -> None:
    """Only https on kimi.com, kimi.ai and below, or the overridden origin; nothing that only looks like it."""
    assert browsable(url, site) is safe


@pytest.mark.parametrize("name", ["verification_uri", "verification_uri_complete"])
@pytest.mark.parametrize(
    "url", ["https://evil.example/?user_code=A", "http://www.kimi.com/", "https://kimi.com@evil.example/"]
)
async def test_a_page_that_is_not_the_providers_ends_the_login(name: str, url: str) -> None:
    """Neither address is shown or opened if it leads elsewhere; the host is named."""
    page = "https://www.kimi.com/code"
    fields = {
        "device_code": "fake-device",
        "user_code": "u",
        "verification_uri": page,
        "verification_uri_complete": page,
    }
    flow = Flow(answers(httpx.Response(200, json=fields | {name: url})))
    with pytest.raises(PageElsewhere) as caught:
        await flow.run()
    assert url.split("/")[2] in str(caught.value)
    assert flow.codes == []


@given(st.text(), st.text(st.sampled_from("abcXYZ019._-~+/="), min_size=16))
def test_an_excerpt_is_one_short_line_without_the_secret(text: str, secret: str) -> None:
    """Whatever surrounds it, a credential does not get through."""
    shown = excerpt(f"{text} {secret} {text}")
    assert secret not in shown
    assert len(shown) <= calls.EXCERPT
    assert shown.isprintable()
