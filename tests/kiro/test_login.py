"""Device flow at AWS SSO-OIDC: registration kept and renewed, regions tried, codes waited for."""

import asyncio
import json

import httpx
import pytest

from kimi_core.errors import ConfigError, LoginDenied, LoginError, PageElsewhere
from kimi_core.kiro.accounts import Registry
from kimi_core.kiro.auth_errors import CodeExpired
from kimi_core.kiro.constants import Endpoints
from kimi_core.kiro.login import GOOD_FOR, Sso, browsable, device_login
from kimi_core.kiro.refresh import refresh
from tests.kiro.stand_ins import HEADERS, NOW
from tests.servers.aws import BUILDER_START, FakeAws

OWN_START = "https://fake.awsapps.com/start"


class Bench:
    """The fake services, a clock that a sleep moves, and what the user is shown."""

    def __init__(self, folder):
        self.now = NOW
        self.fake = FakeAws(clock=lambda: self.now)
        self.registry = Registry(folder / "data")
        self.slept = []
        self.codes = []
        self.waits = []
        self.hosts = []
        self.known_in = None

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    async def route(self, scope, receive, send):
        host = dict(scope["headers"])[b"host"].decode()
        self.hosts.append(host)
        self.fake.start_urls = {BUILDER_START}
        if self.known_in and self.known_in in host:
            self.fake.start_urls |= {OWN_START}
        await self.fake(scope, receive, send)

    async def login(self, transport=None, **options):
        async with httpx.AsyncClient(transport=transport or httpx.ASGITransport(self.route)) as client:
            sso = Sso(client, Endpoints(), self.registry, lambda: self.now, self.sleep)
            return await device_login(
                sso, on_code=self.codes.append, on_wait=lambda *left: self.waits.append(left), **options
            )

    def registered(self):
        return len(self.fake.requests("/client/register"))


@pytest.fixture
def bench(tmp_path):
    """Return a bench."""
    return Bench(tmp_path)


async def test_a_builder_id_login(bench):
    """A code is shown, waited for, and becomes an account that can be renewed at the same service."""
    bench.fake.polls.extend(["authorization_pending", "slow_down", "authorization_pending"])
    one = await bench.login()
    assert (one.auth_method, one.region, one.oidc_region) == ("builder", "us-east-1", "us-east-1")
    assert (one.start_url, one.profile_arn) == (BUILDER_START, None)
    assert bench.fake.valid(one.access_token)
    assert bench.codes[0].user_code.startswith("FAKE-")
    assert "fake-device-code" not in repr(bench.codes)
    assert sum(bench.slept) == pytest.approx(1 + 6 + 6)
    assert bench.waits[-1][1] == 6.0
    async with httpx.AsyncClient(transport=httpx.ASGITransport(bench.fake)) as client:
        again = await refresh(client, one, Endpoints(), HEADERS, clock=lambda: bench.now)
    assert bench.fake.valid(again.access_token)
    assert one.client_secret_expires_at == int((NOW + bench.fake.client_life) * 1000)
    assert bench.registry.load().accounts == []


async def test_a_registration_is_used_again(bench):
    """The second login registers nothing; the registration is kept in the document."""
    await bench.login()
    await bench.login()
    assert bench.registered() == 1
    assert set(bench.registry.load().registrations) == {"us-east-1"}


async def test_a_registration_that_ends_soon_is_renewed(bench):
    """A login dies with its registration, so that one with less than a month left is made anew."""
    bench.fake.client_life = GOOD_FOR / 1000 - 1
    first = await bench.login()
    second = await bench.login()
    assert bench.registered() == 2
    assert first.client_id != second.client_id


async def test_a_registration_that_the_service_forgot_is_renewed(bench):
    """The service's word goes before ours about how long a registration is good."""
    first = await bench.login()
    bench.fake.clients.clear()
    second = await bench.login()
    assert first.client_id != second.client_id
    assert bench.fake.valid(second.access_token)


async def test_an_organisations_region_is_found(bench):
    """The regions are tried until one knows the start URL; the API's region is the one that serves it."""
    bench.known_in = "eu-west-1"
    one = await bench.login(start_url=OWN_START, regions=("us-east-1", "eu-west-1", "us-west-2"))
    assert (one.auth_method, one.oidc_region, one.region) == ("idc", "eu-west-1", "eu-central-1")
    assert one.start_url == OWN_START
    assert set(bench.hosts) == {"oidc.us-east-1.amazonaws.com", "oidc.eu-west-1.amazonaws.com"}


async def test_an_unknown_start_url_names_the_regions(bench):
    """Where no region knows it, the user is told which were asked, and what to give."""
    with pytest.raises(LoginError, match=r"us-east-1, eu-west-1.*--region"):
        await bench.login(start_url=OWN_START, regions=("us-east-1", "eu-west-1"))


@pytest.mark.parametrize("start_url", ["", "http://fake.awsapps.com/start", "fake.awsapps.com", "https://"])
async def test_what_is_no_start_url_is_refused(bench, start_url):
    """Nothing is asked for what cannot be a start URL."""
    with pytest.raises(ConfigError):
        await bench.login(start_url=start_url)
    assert bench.hosts == []


async def test_what_is_no_region_is_refused(bench):
    """A region becomes part of a host name."""
    with pytest.raises(ConfigError):
        await bench.login(regions=("evil.test/",))


@pytest.mark.parametrize(("code", "error"), [("expired_token", CodeExpired), ("access_denied", LoginDenied)])
async def test_how_a_code_ends(bench, code, error):
    """The user's no and the end of the code are told apart."""
    bench.fake.polls.append(code)
    with pytest.raises(error):
        await bench.login()


async def test_a_code_that_nobody_approves_runs_out(bench):
    """The wait is bounded by the life of the code."""
    bench.fake.polls.extend(["authorization_pending"] * 1000)
    bench.fake.device_answer = {"expiresIn": 20, "interval": 3}
    with pytest.raises(CodeExpired, match="ran out") as caught:
        await bench.login()
    assert "login kiro" in caught.value.sentence
    assert sum(bench.slept) == pytest.approx(20)


@pytest.mark.parametrize("odd", [{"expiresIn": "x", "interval": None}, {"expiresIn": -1, "interval": True}])
async def test_odd_times_have_defaults(bench, odd):
    """A code whose times make no sense is polled at the usual pace."""
    bench.fake.device_answer = odd
    bench.fake.polls.append("authorization_pending")
    await bench.login()
    assert (bench.codes[0].expires_in, bench.codes[0].interval) == (600.0, 5.0)


async def test_one_failed_poll_is_forgiven(bench):
    """A passing failure does not end a login, two in a row do."""
    bench.fake.failures.extend([503])
    await bench.login()
    bench.fake.failures.extend([503, 503])
    with pytest.raises(LoginError, match="HTTP 503"):
        await bench.login()


async def test_an_odd_refusal_ends_the_login(bench):
    """What is no known state of a login ends it with the service's words."""
    bench.fake.failures.append((400, {"error": "odd_thing", "error_description": "so odd"}))
    with pytest.raises(LoginError, match="odd_thing: so odd"):
        await bench.login()


@pytest.mark.parametrize("calls", ["register_failures", "device_failures"])
async def test_a_service_that_gives_no_code(bench, calls):
    """A failure before there is a code is told with its status."""
    getattr(bench.fake, calls).append(500)
    with pytest.raises(LoginError, match="HTTP 500"):
        await bench.login()
    if calls == "device_failures":
        getattr(bench.fake, calls).append((200, {"deviceCode": "fake", "userCode": "a\x1bb"}))
        with pytest.raises(LoginError):
            await bench.login()


async def test_a_service_that_is_not_there(bench):
    """No network before the code ends the login; during the wait one failure is forgiven."""

    def refuse(request):
        raise httpx.ConnectError("no route")

    with pytest.raises(LoginError, match="could not be reached"):
        await bench.login(httpx.MockTransport(refuse))
    count = 0
    answers = {
        "/client/register": {"clientId": "c", "clientSecret": "s", "clientSecretExpiresAt": NOW + 10**7},
        "/device_authorization": {
            "deviceCode": "d",
            "userCode": "U",
            "verificationUriComplete": "https://view.awsapps.com/",
        },
    }

    def flaky(request):
        nonlocal count
        if request.url.path in answers:
            return httpx.Response(200, json=answers[request.url.path])
        count += 1
        if count == 1:
            raise httpx.ReadError("gone")
        return httpx.Response(200, json={"accessToken": "fake-access-1", "refreshToken": "r", "expiresIn": 1})

    assert (await bench.login(httpx.MockTransport(flaky))).access_token == "fake-access-1"


async def test_a_login_without_a_refresh_token_is_none(bench):
    """It could not be renewed, and two such logins could not be told apart."""
    page = "https://view.awsapps.com/"
    answers = {
        "/client/register": {"clientId": "c", "clientSecret": "s", "clientSecretExpiresAt": NOW + 10**7},
        "/device_authorization": {"deviceCode": "d", "userCode": "U", "verificationUriComplete": page},
        "/token": {"accessToken": "fake-access-1", "expiresIn": 1},
    }
    with pytest.raises(LoginError, match="ended the login"):
        await bench.login(httpx.MockTransport(lambda request: httpx.Response(200, json=answers[request.url.path])))


async def test_a_damaged_document_stays_until_the_login_is_stored(bench):
    """The way to the approval needs nothing that is stored, and stores nothing over a damaged file."""
    bench.registry.document.path.parent.mkdir(mode=0o700)
    bench.registry.document.path.write_text("{")
    one = await bench.login()
    assert bench.registry.document.path.read_text() == "{"
    put_aside = []
    stored = await bench.registry.aupdate_or_begin(lambda accounts: accounts.upsert(one), put_aside.append)
    assert [path.read_text() for path in put_aside] == ["{"]
    assert bench.registry.load().accounts == [stored]
    assert await bench.registry.aupdate_or_begin(lambda accounts: len(accounts.accounts), put_aside.append) == 1
    assert len(put_aside) == 1


async def test_a_document_that_is_in_use_is_not_waited_for(bench):
    """The code comes at once; the registration is in the account alone then."""
    with bench.registry.document.lock(1.0):
        async with asyncio.timeout(5.0):  # half of what others wait for it
            one = await bench.login()
    assert one.client_id
    assert bench.registry.load().registrations == {}


async def test_the_registration_asks_for_what_is_needed(bench):
    """Name, scopes and grants are those of the protocol; no secret is in the document's repr."""
    await bench.login()
    sent = bench.fake.requests("/client/register")[0].data
    assert sent["clientName"] == "kimi-mitm"
    assert "fake-client-secret" not in repr(bench.registry.load())
    assert "fake-client-secret" in json.dumps(bench.registry.load().to_json())


@pytest.mark.parametrize(
    ("url", "start", "expected"),
    [
        ("https://device.sso.us-east-1.amazonaws.com/?user_code=A", BUILDER_START, True),
        ("https://view.awsapps.com/start/#/device?user_code=A", BUILDER_START, True),
        ("https://sso.fake.test/device", "https://sso.fake.test/start", True),
        ("https://sso.fake.test/device", BUILDER_START, False),
        ("http://view.awsapps.com/", BUILDER_START, False),
        ("https://ssoins-1.portal.eu-west-1.app.aws/", BUILDER_START, True),
        ("https://evil-bucket.s3.amazonaws.com/", BUILDER_START, False),
        ("https://abc.execute-api.us-east-1.amazonaws.com/", BUILDER_START, False),
        ("https://device.sso.evil.s3.amazonaws.com/", BUILDER_START, False),
        ("https://device.sso.amazonaws.com/", BUILDER_START, False),
        ("https://amazonaws.com.evil.test/", BUILDER_START, False),
        ("https://evilamazonaws.com/", BUILDER_START, False),
        ("https://view.awsapps.com:8443/", BUILDER_START, False),
        ("https://view.awsapps.com@evil.test/", BUILDER_START, False),
        ("https://view.awsapps.com\\@evil.test/", BUILDER_START, False),
        ("https://[bad/", BUILDER_START, False),
        ("https://view.awsapps.com:x/", BUILDER_START, False),
    ],
)
def test_which_page_may_be_opened_unasked(url, start, expected):
    """Only pages of AWS, and of the organisation's own start URL."""
    assert browsable(url, start) is expected


@pytest.mark.parametrize("name", ["verificationUri", "verificationUriComplete"])
async def test_a_page_that_is_not_of_aws_ends_the_login(bench, name):
    """Neither address is shown or opened if it leads elsewhere; the host is named."""
    page = "https://view.awsapps.com/start/#/device"
    code = {"deviceCode": "d", "userCode": "U", "verificationUri": page, "verificationUriComplete": page}
    answers = {
        "/client/register": {"clientId": "c", "clientSecret": "s", "clientSecretExpiresAt": NOW + 10**7},
        "/device_authorization": code | {name: "https://evil-bucket.s3.amazonaws.com/start"},
    }
    with pytest.raises(PageElsewhere, match=r"evil-bucket\.s3\.amazonaws\.com"):
        await bench.login(httpx.MockTransport(lambda request: httpx.Response(200, json=answers[request.url.path])))
    assert bench.codes == []
