import ipaddress

import pytest
from mitmproxy import connection
from mitmproxy.proxy import mode_specs
from mitmproxy.test import taddons, tflow

from kimi_core.exchange import Attempt, RequestHead
from kimi_core.headers import Headers
from kimi_core.proxy import guard

API = Attempt("POST", "https", "api.kimi.com", 443, "/coding/v1/x", Headers())
LOCAL = Attempt("POST", "http", "127.0.0.1", 9000, "/v1/x", Headers())


@pytest.fixture
def options():
    """A mitmproxy context with its options."""
    with taddons.context() as context:
        context.options.add_option("keep_host_header", bool, False, "")
        context.options.add_option("ssl_insecure", bool, False, "")
        context.options.add_option("proxy_debug", bool, False, "")
        yield context.options


def _flow(host="127.0.0.1", port=8080, scheme="http", mode="regular", peer="127.0.0.1", headers=()):
    flow = tflow.tflow()
    flow.request.scheme = scheme
    flow.request.data.host = host
    flow.request.data.port = port
    flow.client_conn.sockname = ("127.0.0.1", 8080)
    flow.client_conn.peername = (peer, 50000)
    flow.client_conn.proxy_mode = mode_specs.ProxyMode.parse(mode)
    flow.request.headers.clear()
    for name, value in headers:
        flow.request.headers.add(name, value)
    return flow


def _server(address=("api.kimi.com", 443), sni="api.kimi.com", tls=True, certificates=("certificate",)):
    server = connection.Server(address=address)
    server.sni = sni
    server.timestamp_tls_setup = 1.0 if tls else None
    server.tls = tls
    server.certificate_list = certificates
    return server


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::1%lo", True),
        ("10.0.0.7", True),
        ("::ffff:10.0.0.7", True),
        ("10.0.1.7", False),
        ("192.168.1.2", False),
        ("::ffff:192.168.1.2", False),
        ("fe80::1%eth0", False),
        ("8.8.8.8", False),
        ("", False),
        ("localhost", False),
        ("not an address", False),
    ],
)
def test_peers(address, allowed):
    """This machine may always use the proxy, others only from the listed networks, in every spelling of an address."""
    assert guard.peer_allowed(address, [ipaddress.ip_network("10.0.0.0/24")]) is allowed


@pytest.mark.parametrize(
    ("flow", "own"),
    [
        (_flow(), True),
        (_flow(host="evil.test"), True),
        (_flow(port=9090), False),
        (_flow(scheme="https"), False),
        (_flow(mode="reverse:https://api.kimi.com"), False),
    ],
)
def test_own_port(flow, own):
    """A plain request to the port it arrived on is for the proxy itself, whatever name it used."""
    assert guard.own_port(flow) is own


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "::1"])
def test_loopback_names_are_answered(host):
    """The local endpoint answers under the names of this machine."""
    guard.check_local(RequestHead("GET", "http", host, 8080, "/health", Headers()))


@pytest.mark.parametrize("host", ["evil.test", "127.0.0.1.evil.test", "localhost.", "127.0.0.2.nip.io", "api.kimi.com"])
def test_rebinding_names_are_refused(host):
    """A name that only resolves to this machine (DNS rebinding) is refused."""
    with pytest.raises(guard.ForeignHost):
        guard.check_local(RequestHead("GET", "http", host, 8080, "/kimi/v1/models", Headers()))


def test_other_machines_call_the_proxy_by_its_address():
    """Where other machines may use the proxy, it answers as the address that they reached, and as no other."""
    head = RequestHead("GET", "http", "10.0.0.5", 8080, "/health", Headers())
    guard.check_local(head, "10.0.0.5")
    for own in (None, "10.0.0.6"):
        with pytest.raises(guard.ForeignHost):
            guard.check_local(head, own)


@pytest.mark.parametrize(
    "headers",
    [
        [("Origin", "https://evil.test")],
        [("origin", "null")],
        [("Sec-Fetch-Site", "cross-site")],
        [("Sec-Fetch-Site", "same-origin")],
        [("Sec-Fetch-Site", "same-site")],
    ],
)
def test_web_pages_are_refused(options, headers):
    """What a browser sends on behalf of a page does not reach the subscription."""
    with pytest.raises(guard.FromBrowser):
        guard.check_client(_flow(), Headers(headers), "")


@pytest.mark.parametrize("headers", [[], [("Sec-Fetch-Site", "none")], [("Sec-Fetch-Mode", "cors")]])
def test_programs_are_served(options, headers):
    """Programs, node's fetch with its Sec-Fetch-Mode among them, pass."""
    guard.check_client(_flow(), Headers(headers), "")


@pytest.mark.parametrize(
    ("headers", "good"),
    [
        ([("Authorization", "Bearer fake-key")], True),
        ([("Authorization", "bearer fake-key")], True),
        ([("authorization", "fake-key")], True),
        ([("x-api-key", "fake-key")], True),
        ([("X-Kimi-Mitm-Key", "fake-key"), ("Authorization", "Bearer sk-own")], True),
        ([("Authorization", "Bearer fake-key2")], False),
        ([("Authorization", "Bearer fäke")], False),
        ([], False),
    ],
)
def test_client_key(options, headers, good):
    """Where a client key is set, a request must carry it, in any of the places clients put an API key."""
    if good:
        guard.check_client(_flow(), Headers(headers), "fake-key")
    else:
        with pytest.raises(guard.KeyMissing):
            guard.check_client(_flow(), Headers(headers), "fake-key")


@pytest.mark.parametrize("host", ["127.0.0.1:8787", "localhost", "[::1]:8787", "api.kimi.com"])
def test_reverse_mode_with_the_clients_host(options, host):
    """In reverse mode with keep_host_header, loopback names and the service's own are served."""
    options.keep_host_header = True
    flow = _flow(host="api.kimi.com", mode="reverse:https://api.kimi.com")
    guard.check_client(flow, Headers([("Host", host)]), "")


@pytest.mark.parametrize("host", ["evil.test", "evil.test:8787", "", "127.0.0.1.evil.test"])
def test_reverse_mode_rebinding(options, host):
    """In reverse mode another name in the Host header is refused."""
    options.keep_host_header = True
    flow = _flow(host="api.kimi.com", mode="reverse:https://api.kimi.com")
    with pytest.raises(guard.ForeignHost):
        guard.check_client(flow, Headers([("Host", host)]), "")


def test_reverse_mode_without_the_clients_host(options):
    """Without keep_host_header a rebinding page cannot be told from a client, so reverse mode is refused."""
    with pytest.raises(guard.ReverseMode):
        guard.check_client(_flow(mode="reverse:https://api.kimi.com"), Headers([("Host", "127.0.0.1")]), "")


@pytest.mark.parametrize(
    ("scheme", "service", "own_leg", "insecure", "good"),
    [
        ("https", "https", False, False, True),
        ("http", "https", False, False, False),
        ("http", "https", True, False, True),
        ("https", "https", False, True, False),
        ("http", "https", True, True, False),
        ("http", "http", False, True, True),
    ],
)
def test_encryption(options, scheme, service, own_leg, insecure, good):
    """Credentials leave only over verified TLS; a service on this machine itself may be plain."""
    options.ssl_insecure = insecure
    head = RequestHead("GET", scheme, "x", 1, "/", Headers())
    if good:
        guard.check_encryption(head, service, own_leg=own_leg)
    else:
        with pytest.raises(guard.NotEncrypted):
            guard.check_encryption(head, service, own_leg=own_leg)


@pytest.mark.parametrize(
    ("server", "attempt", "insecure", "reason"),
    [
        (_server(), API, False, None),
        (_server(address=("API.kimi.com", 443)), API, False, None),
        (_server(sni=None), API, False, None),
        (_server(address=None), API, False, "does not lead"),
        (_server(address=("evil.test", 443)), API, False, "does not lead"),
        (_server(address=("api.kimi.com.", 443)), API, False, "does not lead"),
        (_server(address=("api.kimi.com", 8443)), API, False, "does not lead"),
        (_server(sni="evil.test"), API, False, "another name"),
        (_server(tls=False), API, False, "not encrypted"),
        (_server(certificates=()), API, False, "not encrypted"),
        (_server(), API, True, "not verified"),
        (_server(address=("127.0.0.1", 9000), tls=False), LOCAL, False, None),
        (
            _server(address=("lan.test", 9000), tls=False),
            Attempt("GET", "http", "lan.test", 9000, "/", Headers()),
            False,
            "not encrypted",
        ),
    ],
)
def test_where_a_connection_really_goes(options, server, attempt, insecure, reason):
    """Credentials go only over a verified connection to exactly the attempt's host and port."""
    options.ssl_insecure = insecure
    why = guard.why_not(server, attempt)
    assert (why is None) if reason is None else (reason in why)


@pytest.mark.parametrize(
    ("modes", "host", "port", "moved"),
    [
        (["regular"], "", None, ["regular@127.0.0.1:8080"]),
        (["regular"], "", 9090, ["regular@127.0.0.1:9090"]),
        (["regular@8081"], "", None, ["regular@127.0.0.1:8081"]),
        (["regular@0.0.0.0:8081"], "", None, None),
        (["regular"], "0.0.0.0", None, None),
        (["upstream:http://proxy:3128"], "", None, ["upstream:http://proxy:3128@127.0.0.1:8080"]),
        (["upstream:http://proxy:3128@8082"], "", None, ["upstream:http://proxy:3128@127.0.0.1:8082"]),
        (["reverse:https://api.kimi.com", "socks5"], "", None, None),
        (["wireguard"], "", None, None),
    ],
)
def test_listeners_move_to_loopback(modes, host, port, moved):
    """Listeners go to 127.0.0.1 unless the user chose a host; ports stay."""
    if modes[0].startswith("reverse"):
        moved = ["reverse:https://api.kimi.com@127.0.0.1:8080", "socks5@127.0.0.1:1080"]
        moved[0] = f"{modes[0]}@127.0.0.1:{mode_specs.ProxyMode.parse(modes[0]).listen_port(None)}"
        moved[1] = f"socks5@127.0.0.1:{mode_specs.ProxyMode.parse('socks5').listen_port(None)}"
    assert guard.loopback_modes(modes, host, port) == moved


def test_moved_modes_still_parse():
    """What the listeners are moved to is a mode that mitmproxy understands, on loopback."""
    for mode in guard.loopback_modes(["regular", "upstream:http://p:1@8082", "reverse:https://h:444/"], "", None):
        assert mode_specs.ProxyMode.parse(mode).listen_host() == "127.0.0.1"


@pytest.mark.parametrize(("address", "loopback"), [("localhost", True), ("127.0.0.1", True), ("10.0.0.1", False)])
def test_is_loopback(address, loopback):
    """Loopback is told by the address, and by the one name that always means it."""
    assert guard.is_loopback(address) is loopback


def test_nothing_is_served_while_the_wire_is_logged(options):
    """With proxy_debug mitmproxy logs raw bytes, so no credentials are put among them."""
    guard.check_log()
    options.proxy_debug = True
    with pytest.raises(guard.Logged):
        guard.check_log()
