"""Login through the portal: the address, the way back, the exchange, and the small server that waits."""

import asyncio
import socket
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.errors import LoginDenied, LoginError
from kimi_core.kiro import callback
from kimi_core.kiro.auth_errors import CodeExpired
from kimi_core.kiro.callback import HEAD_LIMIT, MAX_CONNECTIONS, listen
from kimi_core.kiro.constants import Endpoints
from kimi_core.kiro.portal import Callback, begin, exchange, read_callback
from tests.kiro.stand_ins import HEADERS, NOW
from tests.servers.aws import SOCIAL_ARN, FakeAws

FREE = (0,)  # any free port


def attempt(port=3128):
    """Return an attempt with known random parts."""
    return begin(Endpoints(), port, random=lambda size: "s" * 43)


def test_the_address_of_the_portal():
    """PKCE and state are random; the way back is this machine."""
    made = begin(Endpoints(), 3128)
    parts = urlsplit(made.url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    assert (parts.scheme, parts.netloc, parts.path) == ("https", "app.kiro.dev", "/signin")
    assert query["redirect_uri"] == "http://localhost:3128"
    assert (query["code_challenge_method"], query["redirect_from"]) == ("S256", "kirocli")
    assert len(made.verifier) == len(query["code_challenge"]) == 43
    assert made.verifier not in made.url
    assert query["state"] == made.state != begin(Endpoints(), 3128).state
    assert made.verifier not in repr(made)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/oauth/callback?code=c&state={}&login_option=github", Callback("github", "c")),
        ("/signin/callback?code=c&state={}&login_option=Google", Callback("google", "c")),
        (" http://localhost:3128/oauth/callback?code=c&state={}&login_option=google\n", Callback("google", "c")),
        ("/oauth/callback?state={}&login_option=builderid", Callback("builderid")),
        (
            "/oauth/callback?state={}&login_option=awsidc&issuer_url=https://x.test/start&idc_region=eu-west-1",
            Callback("awsidc", None, "https://x.test/start", "eu-west-1"),
        ),
        ("/oauth/callback?code=c&state=other&login_option=github", None),
        ("/oauth/callback?code=c&login_option=github", None),
        ("/other?code=c&state={}&login_option=github", None),
        ("http://[bad/oauth/callback?state={}", None),
        ("/favicon.ico", None),
        ("", None),
    ],
)
def test_the_way_back(address, expected):
    """Only this attempt's own state is listened to, as a path or as the whole address."""
    made = attempt()
    assert read_callback(address.format(made.state), made) == expected


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("error=access_denied", LoginDenied),
        ("error=odd", LoginError),
        ("login_option=external_idp&issuer_url=https://x.test", LoginError),
        ("login_option=github", LoginError),
        ("code=c&login_option=odd", LoginError),
    ],
)
def test_ways_back_without_a_login(query, error):
    """What the portal says about this attempt is told, never taken for a login."""
    made = attempt()
    with pytest.raises(error):
        read_callback(f"/oauth/callback?state={made.state}&{query}", made)


@given(st.text(max_size=200))
def test_any_address_is_read(address):
    """A pasted text that is no address of this login is none, whatever it is."""
    assert read_callback(address, attempt()) is None


def test_no_code_shows():
    """The code is a secret until it is spent."""
    assert "fake-code" not in repr(Callback("github", "fake-code"))


async def signed_in(fake, made):
    """Be the browser at the portal and return the address that it is sent back to."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(fake)) as browser:
        answer = await browser.get(made.url)
    return answer.headers["location"]


async def exchanged(fake, made, found):
    """Spend the code."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(fake)) as client:
        return await exchange(client, Endpoints(), HEADERS, made, found, clock=lambda: NOW)


@pytest.mark.parametrize("option", ["github", "google"])
async def test_a_social_login(option):
    """Code and verifier become an account of the desktop service, with its profile."""
    fake = FakeAws(clock=lambda: NOW)
    fake.portal = {"login_option": option}
    made = begin(Endpoints(), 3128)
    found = read_callback(await signed_in(fake, made), made)
    one = await exchanged(fake, made, found)
    assert (one.auth_method, one.profile_arn, one.region) == ("desktop", SOCIAL_ARN, "us-east-1")
    assert fake.valid(one.access_token)
    assert one.expires_at == int((NOW + 3600) * 1000)
    sent = fake.seen[-1]
    assert sent.path == "/oauth/token"
    assert sent.data["redirect_uri"] == f"http://localhost:3128/oauth/callback?login_option={option}"
    assert sent.header("user-agent") == "fake/1"
    with pytest.raises(LoginError, match="HTTP 401"):
        await exchanged(fake, made, found)


async def test_another_verifier_gets_nothing():
    """A code is worth nothing without the verifier that it was asked for with."""
    fake = FakeAws()
    made = begin(Endpoints(), 3128)
    found = read_callback(await signed_in(fake, made), made)
    with pytest.raises(LoginError):
        await exchanged(fake, begin(Endpoints(), 3128), found)


async def test_an_sso_choice_has_no_code_to_spend():
    """Who chose AWS at the portal goes on with a device code."""
    with pytest.raises(LoginError, match="no code"):
        await exchanged(FakeAws(), attempt(), Callback("builderid"))


async def test_no_network_ends_the_exchange():
    """The failure names the service and no secret."""

    def refuse(request):
        raise httpx.ConnectError("no route")

    async with httpx.AsyncClient(transport=httpx.MockTransport(refuse)) as client:
        with pytest.raises(LoginError, match="could not be reached") as caught:
            await exchange(client, Endpoints(), HEADERS, attempt(), Callback("github", "fake-code-1"))
    assert "fake-code-1" not in str(caught.value)


# the server on loopback


async def send(port, request, host="127.0.0.1"):
    """Send raw bytes to the listener and return its whole answer."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request)
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def get(made, target=None, host=None):
    """Return the request of a browser that comes back."""
    target = target or f"/oauth/callback?code=fake-code&state={made.state}&login_option=github"
    return f"GET {target} HTTP/1.1\r\nHost: {host or f'localhost:{made.port}'}\r\n\r\n".encode()


async def test_the_browser_comes_back():
    """The right request gets a page and ends the wait; the port is free again."""
    async with listen(FREE) as listener:
        made = begin(Endpoints(), listener.port)
        waiting = asyncio.create_task(listener.wait(made))
        await asyncio.sleep(0)
        page = await send(listener.port, get(made))
        assert await waiting == Callback("github", "fake-code")
    assert page.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"fake-code" not in page
    with socket.create_server(("127.0.0.1", made.port)):
        pass


async def test_strangers_are_turned_away_and_the_wait_goes_on():
    """Wrong state, path, method or Host, floods and nonsense neither end nor fool the wait."""
    async with listen(FREE) as listener:
        made = begin(Endpoints(), listener.port)
        waiting = asyncio.create_task(listener.wait(made))
        await asyncio.sleep(0)
        good = get(made)
        strangers = [
            get(made, "/oauth/callback?code=x&state=wrong&login_option=github"),
            get(made, "/favicon.ico"),
            get(made, host="evil.test"),
            get(made, host=f"evil.test:{made.port}"),
            get(made, host="localhost"),
            good.replace(b"GET", b"POST"),
            good.replace(b"\r\n\r\n", b"\r\nHost: evil.test\r\n\r\n"),
            b"\x16\x03\x01 nonsense\r\n\r\n",
        ]
        for stranger in strangers:
            assert (await send(listener.port, stranger)).startswith(b"HTTP/1.1 400")
        assert await send(listener.port, b"GET / HTTP/1.1\r\n" + b"x" * (HEAD_LIMIT + 10)) == b""
        assert not waiting.done()
        await send(listener.port, get(made, host=f"127.0.0.1:{made.port}"))
        assert (await waiting).code == "fake-code"


async def test_a_refusal_ends_the_wait():
    """The user's no is shown in the browser and told here."""
    async with listen(FREE) as listener:
        made = begin(Endpoints(), listener.port)
        waiting = asyncio.create_task(listener.wait(made))
        await asyncio.sleep(0)
        page = await send(listener.port, get(made, f"/oauth/callback?state={made.state}&error=access_denied"))
        assert page.startswith(b"HTTP/1.1 403")
        with pytest.raises(LoginDenied):
            await waiting


async def test_nobody_comes_back():
    """The wait ends, with an open connection that says nothing as well."""
    async with listen(FREE) as listener:
        made = begin(Endpoints(), listener.port)
        waiting = asyncio.create_task(listener.wait(made, seconds=0.2))
        await asyncio.sleep(0)
        _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        with pytest.raises(CodeExpired):
            await waiting
        writer.close()


async def test_a_connection_that_says_nothing_is_closed(monkeypatch):
    """A request has to be there within bounds of time."""
    monkeypatch.setattr(callback, "HEAD_SECONDS", 0.05)
    async with listen(FREE) as listener:
        made = begin(Endpoints(), listener.port)
        waiting = asyncio.create_task(listener.wait(made))
        await asyncio.sleep(0)
        assert await send(listener.port, b"GET / HT") == b""
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_connections_are_counted(monkeypatch):
    """After many connections none is answered any more: nobody guesses states here."""
    monkeypatch.setattr(callback, "MAX_CONNECTIONS", 2)
    async with listen(FREE) as listener:
        made = begin(Endpoints(), listener.port)
        waiting = asyncio.create_task(listener.wait(made, seconds=1.0))
        await asyncio.sleep(0)
        for answered in (True, True, False):
            assert bool(await send(listener.port, get(made, "/x"))) is answered
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert MAX_CONNECTIONS > 2


async def test_a_second_answer_changes_nothing():
    """Two tabs that come back at once give one login."""
    async with listen(FREE) as listener:
        made = begin(Endpoints(), listener.port)
        waiting = asyncio.create_task(listener.wait(made))
        await asyncio.sleep(0)
        await asyncio.gather(send(listener.port, get(made)), send(listener.port, get(made)))
        assert (await waiting).code == "fake-code"


async def test_the_next_free_port_is_taken():
    """A port that another program has is left to it; where none is free, pasting is offered."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with listen((port, 0)) as listener:
            assert listener.port != port
        with pytest.raises(LoginError, match="--paste"):
            async with listen((port,)):
                pass


async def test_a_listener_is_on_loopback_only():
    """No other address of this machine answers."""
    async with listen(FREE) as listener:
        assert {sock.getsockname()[0] for sock in listener._sockets} <= {"127.0.0.1", "::1"}


async def test_without_ipv6_the_other_address_does(monkeypatch):
    """A machine without IPv6 listens on 127.0.0.1 alone."""
    real = socket.create_server

    def only_four(address, **options):
        if options.get("family") == socket.AF_INET6:
            raise OSError("no IPv6")
        return real(address, **options)

    monkeypatch.setattr(callback.socket, "create_server", only_four)
    async with listen(FREE) as listener:
        assert len(listener._sockets) == 1
