"""Clients that leave, break the rules, or try tricks: they hurt nobody but themselves, and the login goes nowhere."""

import json
import socket
import ssl
import struct
from contextlib import contextmanager

import pytest

from tests.chaos.lab import GOOD, KIMI_HOST, SECONDS
from tests.chaos.raw import END, chunk, head
from tests.e2e.harness import wait_until
from tests.servers.serve import RESET_ON_CLOSE

MIB = 1024 * 1024
BIG = 50 * MIB
EVIL = "evil.example"


@contextmanager
def connected(lab):
    """Yield a bare connection to the proxy."""
    with socket.create_connection(("127.0.0.1", lab.proxy.port), SECONDS) as client:
        yield client


def received(client, until=None):
    """Return what comes until the proxy closes, or *until* has come."""
    got = b""
    while until is None or until not in got:
        try:
            piece = client.recv(65536)
        except ConnectionResetError:
            break
        if not piece:
            break
        got += piece
    return got


def request(lab, *fields, body=None, target="/kimi/v1/chat/completions", content="a question", host=None):
    """Return a chat request as its bytes; with *fields* of its own it has no length but theirs."""
    body = json.dumps(lab.body("kimi", content)).encode() if body is None else body
    lines = [f"POST {target} HTTP/1.1", f"Host: {host or f'127.0.0.1:{lab.proxy.port}'}"]
    lines += ["Content-Type: application/json", *(fields or (f"Content-Length: {len(body)}",)), "", ""]
    return "\r\n".join(lines).encode() + body


def server(lab):
    """Return the service of these requests."""
    return lab.servers["kimi", False]


def statuses(answer):
    """Return the statuses of the answers in *answer*."""
    return [int(line[9:12]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


# --- leaving ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_may_leave_at_any_byte_of_its_request(lab, how):
    """Nothing of half a request reaches the service."""
    whole = request(lab)
    before = server(lab).served
    for cut in (
        0,
        1,
        5,
        30,
        whole.index(b"\r\n\r\n") + 2,
        whole.index(b"\r\n\r\n") + 4,
        len(whole) // 2,
        len(whole) - 1,
    ):
        with connected(lab) as client:
            client.sendall(whole[:cut])
            if how == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    lab.probe()
    assert server(lab).served == before + 1, "the probe alone"


@pytest.mark.parametrize("stage", ["before the answer", "after the head", "in the answer"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_takes_its_request_along(lab, stage, how):
    """The service sees it leave, whatever it was about to say."""
    gone = []

    async def script(exchange):
        if stage != "before the answer":
            await exchange.send(head(server(lab).kind))
        if stage == "in the answer":
            await exchange.send(chunk(GOOD["kimi"][:200]))
        gone.append(await exchange.reader.read())

    server(lab).scripts.append(script)
    with connected(lab) as client:
        client.sendall(request(lab))
        wait_until(lambda: server(lab).scripts_taken, "the request", SECONDS)
        if stage != "before the answer":
            received(client, b"\r\n\r\n")
        if how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    wait_until(lambda: gone, "that the service is left", SECONDS)


# --- HTTP/1.1 --------------------------------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(lab):
    """Three requests in one segment, the last of them refused, get three answers."""
    with connected(lab) as client:
        client.sendall(request(lab) * 2 + request(lab, "Content-Length: 3", "Connection: close", body=b"{ }"))
        answer = received(client)
    assert statuses(answer) == [200, 200, 400]
    assert answer.count(b"[DONE]") == 2


def test_a_chunked_request_in_single_bytes_arrives_whole(lab):
    """Chunks of one byte, extensions and trailers among them."""
    body = json.dumps(lab.body("kimi", "byte by byte")).encode()
    pieces = b"".join(b"1;fake=1\r\n" + bytes([byte]) + b"\r\n" for byte in body) + b"0\r\nX-Trailer: fake\r\n\r\n"
    with connected(lab) as client:
        client.sendall(request(lab, "Transfer-Encoding: chunked", body=b""))
        for at in range(0, len(pieces), 7):
            client.sendall(pieces[at : at + 7])
        assert statuses(received(client, b"[DONE]")) == [200]


def test_a_client_that_expects_a_word_first_gets_it(lab):
    """Expect: 100-continue is answered before the body is there; a refusal comes in its place."""
    body = json.dumps(lab.body("kimi")).encode()
    with connected(lab) as client:
        client.sendall(request(lab, f"Content-Length: {len(body)}", "Expect: 100-continue", body=b""))
        assert statuses(received(client, b"\r\n\r\n")) == [100]
        client.sendall(body)
        assert b"[DONE]" in received(client, b"[DONE]")
    with connected(lab) as client:
        client.sendall(request(lab, f"Content-Length: {200 * MIB}", "Expect: 100-continue", body=b""))
        assert statuses(received(client, b"kimi_max_body"))[-1] == 400


def test_a_body_of_fifty_megabytes_arrives_whole(lab):
    """It is rewritten, sent, and let go of."""
    before = lab.memory()
    sizes = []

    async def script(exchange):
        sizes.append(len(exchange.body))
        await exchange.send(head(server(lab).kind), chunk(GOOD["kimi"]), END)

    server(lab).scripts.append(script)
    outcome = lab.ask(content="x" * BIG)
    assert outcome.complete
    assert sizes[0] > BIG
    wait_until(lambda: lab.memory() - before < 4 * BIG // 1024, "that it is let go of", SECONDS)


TRICKS = {
    "two lengths": ["Content-Length: 2", "Content-Length: 3"],
    "length and chunks": ["Content-Length: 5", "Transfer-Encoding: chunked"],
    "chunks twice": ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
    "a coding that hides": ["Transfer-Encoding: xchunked"],
    "a length with a sign": ["Content-Length: +5"],
    "a name with a space": ["Content-Length : 5"],
    "a folded line": ["X-Fake: a\r\n b", "Content-Length: 2"],
    "a NUL": ["X-Fake: a\0b", "Content-Length: 2"],
}


@pytest.mark.parametrize("name", TRICKS)
def test_a_request_with_two_meanings_is_served_once_or_refused(lab, name):
    """What follows it on the wire is never taken for a request of its own to the service."""
    before = server(lab).served
    smuggled = request(lab, content="smuggled")
    with connected(lab) as client:
        client.sendall(request(lab, *TRICKS[name], body=b"0\r\n\r\n") + smuggled)
        client.shutdown(socket.SHUT_WR)
        answer = received(client)
    assert all(status in {200, 400, 401, 502} for status in statuses(answer)), answer
    assert server(lab).served - before <= 1


def test_duplicate_fields_change_nothing(lab):
    """Two logins of the client's own, two agents, two types: the service gets one of each, and ours."""
    seen = []

    async def script(exchange):
        seen.append(exchange.asked)
        await exchange.send(head(server(lab).kind), chunk(GOOD["kimi"]), END)

    server(lab).scripts.append(script)
    body = json.dumps(lab.body("kimi")).encode()
    fields = [f"Content-Length: {len(body)}", "Authorization: Bearer a", "authorization: Bearer b", "User-Agent: one"]
    with connected(lab) as client:
        client.sendall(request(lab, *fields, "user-agent: two", "Content-Type: text/plain", body=body))
        assert statuses(received(client, b"[DONE]")) == [200]
    (asked,) = seen
    lowered = asked.lower()
    for name in (b"\r\nauthorization:", b"\r\nuser-agent:", b"\r\nhost:", b"\r\ncontent-length:"):
        assert lowered.count(name) == 1, name
    assert b"bearer a" not in lowered
    assert b"bearer b" not in lowered


TUNNEL = f"CONNECT {KIMI_HOST}:443 HTTP/1.1\r\nHost: {KIMI_HOST}\r\n\r\n".encode()
ENDLESS = {
    "first line": (b"", b"GET /", b"x" * 8000),
    "head": (b"", b"GET / HTTP/1.1\r\n", b"x-fake: " + b"x" * 8000 + b"\r\n"),
    "head in a tunnel": (TUNNEL, b"GET / HTTP/1.1", b"x" * 8000),
    "greeting of TLS in a tunnel": (TUNNEL, b"", b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(0x4000 - 4)),
    "chunk extension": (b"", b"POST / HTTP/1.1\r\nHost: fake\r\nTransfer-Encoding: chunked\r\n\r\n5;", b"x" * 8000),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_what_never_ends_is_not_kept(lab, what):
    """Of a head, or whatever comes in place of one, a client can send as much as it likes: it is cut off."""
    first, begin, more = ENDLESS[what]
    before, open_before = lab.memory(), lab.descriptors()
    with connected(lab) as client:
        if first:
            client.sendall(first)
            assert statuses(received(client, b"\r\n\r\n")) == [200]
        client.sendall(begin)
        with pytest.raises(ConnectionError):
            client.sendall(more * (BIG // len(more)))
        if "head" in what:
            assert statuses(client.recv(MIB)) == [431]
    assert lab.memory() - before < 32 * 1024
    wait_until(lambda: lab.descriptors() <= open_before, "that its connection is let go of", SECONDS)


# --- where a request says it goes ------------------------------------------------------------------------------------

FORMS = {
    "absolute, own port": ("http://127.0.0.1:{port}/kimi/v1/chat/completions", "127.0.0.1:{port}", True),
    "absolute, own port, lying host": ("http://127.0.0.1:{port}/kimi/v1/chat/completions", EVIL, True),
    "absolute, service without TLS": (f"http://{KIMI_HOST}/coding/v1/chat/completions", KIMI_HOST, False),
    "absolute, user in front": (f"http://{KIMI_HOST}@{EVIL}/coding/v1/chat/completions", KIMI_HOST, False),
    "absolute, foreign": (f"http://{EVIL}/kimi/v1/chat/completions", KIMI_HOST, False),
    "origin, service as host": ("/coding/v1/chat/completions", KIMI_HOST, False),
    "origin, foreign host": ("/kimi/v1/chat/completions", EVIL, False),
    "no path at all": ("kimi/v1/chat/completions", "127.0.0.1:{port}", False),
    "an asterisk": ("*", "127.0.0.1:{port}", False),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_that_leads_elsewhere_spends_nothing(lab, name):
    """Where the connection leads decides: only the proxy's own address, by its own name, is served."""
    target, host, served = FORMS[name]
    before = server(lab).served
    with connected(lab) as client:
        port = lab.proxy.port
        client.sendall(request(lab, target=target.format(port=port), host=host.format(port=port)))
        client.shutdown(socket.SHUT_WR)
        found = statuses(received(client))
    assert (server(lab).served - before == 1) == (found == [200])
    assert served or found != [200], found


@pytest.mark.parametrize(
    ("target", "sni", "host"),
    [
        (f"{KIMI_HOST}:443", EVIL, KIMI_HOST),
        (f"{KIMI_HOST}:443", KIMI_HOST, EVIL),
        (f"{EVIL}:443", KIMI_HOST, KIMI_HOST),
        (f"{KIMI_HOST}:80", KIMI_HOST, KIMI_HOST),
        (f"{KIMI_HOST}.:443", KIMI_HOST, KIMI_HOST),
    ],
)
def test_a_tunnel_that_lies_gets_no_login(lab, target, sni, host):
    """CONNECT to one place, TLS for another, a request for a third: the login goes to the service alone, or nowhere."""
    lab.world.upstream.routes[f"{EVIL}:443"] = lab.world.elsewhere.port
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.check_hostname = False
    trust.verify_mode = ssl.CERT_NONE
    body = request(lab, "Connection: close", f"Content-Length: {2}", body=b"{}", target="/coding/v1/usages", host=host)
    with connected(lab) as client:
        client.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {EVIL}\r\n\r\n".encode())
        if statuses(received(client, b"\r\n\r\n")) == [200]:
            try:
                with trust.wrap_socket(client, server_hostname=sni) as inner:
                    inner.sendall(body)
                    received(inner)
            except (OSError, struct.error):
                pass
    assert all(not lab.world.kimi.oauth.valid(seen.bearer) for seen in lab.world.foreign.requests)
