"""Web pages reach this machine's ports, and must get nothing there: no answer, and no request in the user's name."""

import pytest
from mitmproxy.exceptions import AddonHalt

from kimi_core.proxy import replay
from kimi_core.proxy.passing import RefusedControl
from tests.abuse.flows import error, flow, local
from tests.proxy.stand_ins import FakeExchange, FakeProvider

PAGE = ("Origin", "https://evil.test")
CROSS = ("Sec-Fetch-Site", "cross-site")


@pytest.fixture
def addon(world):
    """The addon with a provider that would serve whatever comes."""
    _, made = world
    made.reception.providers = (FakeProvider(FakeExchange()),)
    return made


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", [PAGE, ("Content-Type", "text/plain")]),
        ("POST", [("Origin", "null"), ("Content-Type", "application/x-www-form-urlencoded")]),
        ("POST", [CROSS, ("Sec-Fetch-Mode", "no-cors"), ("Content-Type", "multipart/form-data; boundary=x")]),
        ("GET", [CROSS, ("Sec-Fetch-Dest", "image")]),
        ("GET", [CROSS, ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")]),
        ("GET", [("Sec-Fetch-Site", "same-site"), ("Sec-Fetch-Dest", "script")]),
        (
            "OPTIONS",
            [PAGE, ("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization")],
        ),
        ("OPTIONS", [PAGE, ("Access-Control-Request-Private-Network", "true")]),
        ("GET", [PAGE, ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Key", "ZmFrZQ==")]),
    ],
    ids=["simple", "form", "upload", "image", "link", "script", "preflight", "private network", "websocket"],
)
@pytest.mark.parametrize("make", [local, flow], ids=["local", "proxied"])
async def test_what_a_page_can_send_is_refused_and_not_readable(addon, make, method, headers):
    """Whatever a page can have a browser send is refused, without a word that would let the page read the refusal."""
    made = make(method=method, headers=headers)
    await addon.requestheaders(made)
    assert error(made)["code"] == "from_browser"
    assert isinstance(replay.control_of(made), RefusedControl)
    assert not [name for name in made.response.headers if name.lower().startswith("access-control-")]
    assert "upgrade" not in made.response.headers


@pytest.mark.parametrize("path", ["/", "/status.json", "/health", "/kimi/v1/chat/completions", "/nowhere"])
@pytest.mark.parametrize(
    "host",
    [
        "evil.test", "127.0.0.1.evil.test", "localhost.", "localhost.evil.test", "2130706433", "127.1", "0x7f.1",
        "0.0.0.0", "[::]", "10.0.0.5", "xn--localhost-.test", "localhost\u200b",
    ],
)  # fmt: skip
async def test_a_bent_name_gets_nothing(addon, path, host):
    """A page whose own name resolves to this machine is told by that name, on every path."""
    made = local(path, host, method="GET")
    await addon.requestheaders(made)
    assert made.response.status_code == 421
    assert error(made)["code"] == "foreign_host"


@pytest.mark.parametrize("path", ["/", "/status.html", "/status.json"])
@pytest.mark.parametrize("dest", ["iframe", "frame", "embed", "object", "script", "empty"])
async def test_the_status_page_is_not_framed_or_read(addon, path, dest):
    """Another site can neither frame the status page nor load it."""
    made = local(path, method="GET", headers=[CROSS, ("Sec-Fetch-Dest", dest), ("Sec-Fetch-Mode", "navigate")])
    with pytest.raises(AddonHalt):
        await addon.requestheaders(made)
    assert error(made)["code"] == "from_browser"


async def test_the_status_page_forbids_frames_copies_and_scripts_of_others(addon):
    """Where it is shown, its own words forbid frames, copies in caches and everything that is not its own."""
    made = local("/", method="GET")
    with pytest.raises(AddonHalt):
        await addon.requestheaders(made)
    headers = made.response.headers
    policy = headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"


async def test_refused_credentials_do_not_stay_in_the_flow(addon):
    """A page that has guessed the key leaves it in no list."""
    made = local(headers=[PAGE, ("Authorization", "Bearer fake-guess"), ("x-api-key", "fake-guess")])
    await addon.requestheaders(made)
    assert "fake-guess" not in str(made.get_state())
