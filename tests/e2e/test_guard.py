"""Who may spend the subscription, and where its credentials may go: refused requests never reach the service."""

import contextlib
import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys

import httpx
import pytest
import trustme

from tests.e2e.harness import ADDON, FOREIGN, ROOT, listening, wait_until
from tests.servers.script import Gate, chat_script

CHAT = {"model": "kimi-for-coding", "stream": True, "messages": [{"role": "user", "content": "[[say hello]]"}]}
LOOPBACK = {"0100007F"}
KEY = "fake-client-key-for-tests"
RELOAD_SECONDS = 10.0
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the kernel's tables as Linux has them")
SIOCGIFADDR = 0x8915


def raw(port: int, request: str) -> str:
    """Send bytes as they are to a local port; return the first line of the answer, "" where it was closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request.encode())
        return connection.makefile("rb").readline().decode()


def assert_refused(answer: httpx.Response, status: int, code: str, world) -> None:
    """Assert that the answer is a JSON refusal and that the service saw nothing."""
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == code
    assert not world.kimi.of("chat")


# --- who asks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["local", "proxied"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-origin"},
    ],
    ids=["origin", "null origin", "cross-site", "same-origin"],
)
def test_a_web_page_is_refused(world, proxy, way, headers):
    """A browser's request shows itself by Origin or Sec-Fetch-Site."""
    with proxy.local_client() if way == "local" else proxy.client() as client:
        answer = client.post("chat/completions", json=CHAT, headers=headers)
    assert_refused(answer, 403, "from_browser", world)


def test_what_a_person_types_in_a_browser_is_no_page(proxy):
    """Sec-Fetch-Site: none is what the address bar sends; /health is shown."""
    answer = httpx.get(f"{proxy.url}/health", headers={"Sec-Fetch-Site": "none"}, trust_env=False)
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/kimi/v1/chat/completions", "/health", "/"])
def test_a_rebinding_page_is_refused(world, proxy, path):
    """A page whose name resolves to this machine sends its own name as Host, and gets a 421 on every path."""
    answer = httpx.post(
        f"{proxy.url}{path}", json=CHAT, headers={"Host": f"evil.example:{proxy.port}"}, trust_env=False
    )
    assert_refused(answer, 421, "foreign_host", world)


def test_a_name_of_this_machine_makes_no_endless_loop(world, proxy):
    """A Host that resolves to loopback with our port would make mitmproxy connect to itself, again and again."""
    name = socket.gethostname()
    before = proxy.log().count("server connect")
    answer = httpx.get(f"{proxy.url}/x", headers={"Host": f"{name}:{proxy.port}"}, trust_env=False, timeout=10)
    assert answer.status_code == 421
    absolute = raw(proxy.port, f"GET http://{name}:{proxy.port}/x HTTP/1.1\r\nHost: {name}\r\n\r\n")
    assert " 421 " in absolute
    assert proxy.log().count("server connect") == before


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_names_of_this_machine_are_served(proxy, host):
    """Both usual spellings of the local endpoint work."""
    answer = httpx.get(
        f"{proxy.url}/kimi/v1/models", headers={"Host": f"{host}:{proxy.port}"}, trust_env=False, timeout=20
    )
    assert answer.status_code == 200


@linux
def test_listens_on_this_machine_only(proxy):
    """The listeners are moved to 127.0.0.1, though mitmproxy's own default is every interface."""
    wait_until(lambda: listening(proxy.port) == LOOPBACK, "the listeners' move")


@linux
def test_a_host_that_the_user_chose_stays(start_proxy):
    """--listen-host wins over the move."""
    proxy = start_proxy(listen_host="127.0.0.2", login=False, wait=False)
    wait_until(lambda: listening(proxy.port), "the listener")
    assert listening(proxy.port) == {"0200007F"}


def own_addresses() -> list[str]:
    """Return this machine's IPv4 addresses besides loopback (Linux: SIOCGIFADDR)."""
    import fcntl

    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
                found.append(socket.inet_ntoa(answer[20:24]))
    return [address for address in found if not address.startswith("127.")]


@linux
@pytest.mark.parametrize("allowed", [False, True], ids=["refused", "allowed with the key"])
def test_other_machines_are_turned_away(world, start_proxy, allowed):
    """A peer of another address gets nothing, unless its network is allowed and it has the client key."""
    addresses = own_addresses()
    if not addresses:
        pytest.skip("this machine has no address but loopback")
    options = [f"kimi_allow_clients={addresses[0]}/32", f"kimi_client_key={KEY}"] if allowed else []
    proxy = start_proxy(listen_host="0.0.0.0", options=options, secrets=[KEY])
    body = json.dumps(CHAT)
    # in a process of its own: this one may connect to loopback only
    url = f"http://{addresses[0]}:{proxy.port}/kimi/v1/chat/completions"
    ask = ["curl", "-s", "-m", "20", "--noproxy", "*", "-o", os.devnull, "-w", "%{http_code}", "-d", body]
    statuses = []
    for header in ("X-None: 1", "Authorization: Bearer wrong", f"Authorization: Bearer {KEY}"):
        words = [*ask, "-H", header, url]
        statuses.append(subprocess.run(words, capture_output=True, text=True, check=False).stdout)
    assert statuses == (["401", "401", "200"] if allowed else ["000"] * 3)
    assert len(world.kimi.of("chat")) == (1 if allowed else 0)


def test_allowed_networks_need_a_client_key(start_proxy):
    """kimi_allow_clients without kimi_client_key is refused at start, in one sentence."""
    proxy = start_proxy(options=["kimi_allow_clients=10.0.0.0/8"], login=False, wait=False, faults_expected=True)
    wait_until(lambda: not proxy.running(), "the end of the process")
    assert "kimi_client_key" in proxy.log()


@pytest.fixture(scope="module")
def keyed(start_module_proxy):
    """Return a proxy that asks for a client key, and would stream large bodies."""
    return start_module_proxy(options=[f"kimi_client_key={KEY}", "stream_large_bodies=1k"], secrets=[KEY])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": f"Bearer {KEY}"}, 200),
        ({"x-api-key": KEY}, 200),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"x-api-key": "wrong"}, 401),
        ({}, 401),
    ],
    ids=["bearer", "x-api-key", "wrong bearer", "wrong x-api-key", "none"],
)
@pytest.mark.parametrize("way", ["local", "proxied"])
def test_the_client_key_is_asked_for(world, keyed, way, headers, status):
    """It is taken as a bearer and as x-api-key, and never leaves this machine."""
    with keyed.local_client() if way == "local" else keyed.client() as client:
        answer = client.post("chat/completions", json=CHAT, headers=headers)
    assert answer.status_code == status
    if status == 200:
        assert KEY not in str(world.kimi.of("chat")[0].headers)
    else:
        assert answer.json()["error"]["code"] == "client_key"
        assert not world.kimi.requests or not world.kimi.of("chat")


def test_proxy_authentication_is_not_bypassed(world, start_proxy):
    """Where mitmproxy asks for credentials of its own, the local endpoint and the service stay closed without."""
    proxy = start_proxy(options=["proxyauth=user:pass"])
    with proxy.local_client() as client:
        assert client.post("chat/completions", json=CHAT).status_code == 407
        good = client.post("chat/completions", json=CHAT, headers={"Proxy-Authorization": "Basic dXNlcjpwYXNz"})
        assert good.status_code == 200
    with proxy.client() as client, pytest.raises(httpx.ProxyError, match="407"):
        client.post("chat/completions", json=CHAT)
    assert len(world.kimi.of("chat")) == 1


# --- where it goes ---------------------------------------------------------------------------------------------------


def test_plain_http_to_the_service_is_refused(world, proxy):
    """The login never leaves over an unencrypted connection."""
    with proxy.client() as client:
        answer = client.post("http://api.kimi.com/coding/v1/chat/completions", json=CHAT)
    assert_refused(answer, 403, "not_encrypted", world)


def test_unverified_servers_get_nothing(world, start_proxy):
    """With ssl_insecure nobody knows who is at the other end."""
    proxy = start_proxy(options=["ssl_insecure=true"])
    for client in (proxy.local_client(), proxy.client()):
        with client as opened:
            assert_refused(opened.post("chat/completions", json=CHAT), 403, "not_encrypted", world)


def test_a_server_with_a_wrong_certificate_gets_nothing(start_proxy, world, tmp_path):
    """A certificate that does not verify ends the request before the login is on the wire."""
    other = tmp_path / "other-ca.pem"
    trustme.CA().cert_pem.write_to_path(other)
    proxy = start_proxy(trusted=other)
    with proxy.local_client() as client:
        assert client.post("chat/completions", json=CHAT).status_code == 502
    assert not world.kimi.requests


@pytest.fixture(scope="module")
def wide(start_module_proxy):
    """Return a proxy that decrypts everything."""
    return start_module_proxy(options=["kimi_intercept_all=true"])


def test_a_lying_host_header_gets_no_credentials(world, wide):
    """The tunnel leads to another server; that its requests call it api.kimi.com changes nothing."""
    with wide.client() as client:
        url = f"https://{FOREIGN}/coding/v1/chat/completions"
        client.post(url, json=CHAT, headers={"Host": "api.kimi.com", "Authorization": "Bearer mine"})
    (seen,) = world.foreign.of("chat")
    assert seen.bearer == "mine"
    assert not any(name.lower().startswith("x-msh") for name, _ in seen.headers)
    assert not world.kimi.of("chat")


def test_a_lying_host_header_to_the_service_changes_nothing(world, proxy):
    """The tunnel leads to the service: it is served, under the service's own name."""
    with proxy.client() as client:
        answer = client.post("chat/completions", json=CHAT, headers={"Host": FOREIGN})
    if answer.status_code == 200:
        assert world.kimi.of("chat")[0].header("host") == "api.kimi.com"
    else:
        assert not world.kimi.of("chat")


def test_other_hosts_of_a_wide_proxy_are_left_alone(world, wide):
    """What is decrypted but not served passes with the client's own headers."""
    with wide.client() as client:
        client.get(f"https://{FOREIGN}/coding/v1/models", headers={"Authorization": "Bearer mine", "X-Mine": "1"})
    (seen,) = world.foreign.of("models")
    assert (seen.bearer, seen.header("x-mine")) == ("mine", "1")


def test_other_hosts_are_tunnelled_with_their_own_certificate(world, proxy):
    """By default only the served hosts are decrypted: the client sees the other server's real certificate."""
    trust = ssl.create_default_context(cafile=world.ca_file)
    with httpx.Client(proxy=proxy.url, verify=trust, trust_env=False) as client:
        client.get(f"https://{FOREIGN}/coding/v1/models", headers={"Authorization": "Bearer mine"})
    assert world.foreign.of("models")[0].bearer == "mine"
    with httpx.Client(proxy=proxy.url, verify=trust, trust_env=False) as client, pytest.raises(httpx.ConnectError):
        client.get("https://api.kimi.com/coding/v1/models")


@pytest.mark.parametrize(
    ("option", "tunnelled"),
    [("ignore_hosts=^api\\.kimi\\.com:443$", "api.kimi.com"), ("allow_hosts=^other\\.example:443$", "api.kimi.com")],
    ids=["ignore_hosts", "allow_hosts"],
)
def test_the_users_own_scope_wins(world, start_proxy, option, tunnelled):
    """A host that the user has taken out is not decrypted, although it would be served."""
    proxy = start_proxy(options=[option])
    trust = ssl.create_default_context(cafile=world.ca_file)
    with httpx.Client(proxy=proxy.url, verify=trust, trust_env=False) as client:
        answer = client.get(f"https://{tunnelled}/coding/v1/models", headers={"Authorization": "Bearer mine"})
    assert answer.status_code == 401
    assert world.kimi.of("models")[-1].bearer == "mine"


def test_streaming_of_large_bodies_does_not_bypass_the_rewrite(world, keyed):
    """stream_large_bodies would send a big request before it could be rewritten."""
    body = CHAT | {"max_tokens": 7, "messages": [{"role": "user", "content": "x" * 100_000}]}
    with keyed.client() as client:
        answer = client.post("chat/completions", json=body, headers={"Authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200
    seen = world.kimi.of("chat")[0]
    assert seen.json["max_completion_tokens"] == 7
    assert world.kimi.oauth.valid(seen.bearer)


# --- reverse mode ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[False, True], ids=["rewritten host", "kept host"])
def reverse(request, world, start_module_proxy):
    """Return a reverse proxy before the fake, with and without keep_host_header."""
    options = [f"keep_host_header={'true' if request.param else 'false'}"]
    mode = f"reverse:https://localhost:{world.service.port}"
    proxy = start_module_proxy(named=False, mode=[mode], options=options)
    proxy.keeps = request.param
    return proxy


def test_reverse_mode_needs_the_clients_own_host_header(world, reverse):
    """Without it a rebinding page cannot be told from a program, so nothing is served."""
    url = f"{reverse.url}/coding/v1/chat/completions"
    answer = httpx.post(url, json=CHAT, trust_env=False, timeout=20)
    if not reverse.keeps:
        assert_refused(answer, 403, "reverse_mode", world)
        return
    assert answer.status_code == 200
    assert world.kimi.oauth.valid(world.kimi.of("chat")[0].bearer)
    world.reset()
    answer = httpx.post(url, json=CHAT, trust_env=False, headers={"Host": f"evil.example:{reverse.port}"})
    assert_refused(answer, 421, "foreign_host", world)


# --- reload ----------------------------------------------------------------------------------------------------------


def test_a_reload_in_the_middle_of_a_stream_does_no_harm(world, start_proxy, tmp_path):
    """Saving the script while an answer streams makes a new addon; the stream goes on, and so does the service."""
    copy = tmp_path / "addons" / "kimi.py"
    copy.parent.mkdir()
    source = ADDON.read_text()
    shutil.copy(ADDON, copy)
    proxy = start_proxy(scripts=[copy], environ={"PYTHONPATH": str(ROOT)})
    world.kimi.oauth.reject_access()
    gate = Gate()
    world.kimi.queue(chat_script("one", "two", "three", gate=gate))
    with (
        proxy.client() as client,
        client.stream("POST", "chat/completions", json=CHAT) as answer,
    ):
        lines = filter(None, answer.iter_lines())
        next(lines)
        loads = proxy.log().count("Loading script")
        copy.write_text(source + "\n# saved\n")
        wait_until(lambda: proxy.log().count("Loading script") > loads, "the reload", RELOAD_SECONDS)
        gate.open(5)
        rest = list(lines)
    assert [json.loads(line[6:])["choices"][0]["delta"].get("content") for line in rest[:3]] == ["one", "two", "three"]
    assert rest[-1] == "data: [DONE]"
    world.kimi.oauth.reject_access()
    with proxy.client() as client:
        assert client.post("chat/completions", json=CHAT).status_code == 200
