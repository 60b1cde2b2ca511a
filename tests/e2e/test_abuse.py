"""Requests that no honest client sends, as bytes, to a real proxy: none of them brings a login anywhere."""

import json
import socket

import httpx
import pytest

from tests.e2e.harness import free_port

BODY = json.dumps({"model": "kimi-for-coding", "messages": [{"role": "user", "content": "hi"}]})


def ask(port: int, head: str, body: str = BODY) -> bytes:
    """Send a request as it is written and return all that comes back within a few seconds."""
    with socket.create_connection(("127.0.0.1", port), timeout=8) as connection:
        text = f"{head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
        connection.sendall(text.encode())
        found = b""
        try:
            while piece := connection.recv(65536):
                found += piece
        except TimeoutError:
            pass
    return found


@pytest.mark.parametrize(
    "head",
    [
        "POST http://127.0.0.1:{port}@evil.test/kimi/v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}",
        "POST /kimi/v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}@evil.test",
        "POST /kimi/v1/chat/completions HTTP/1.1\r\nHost: evil.test:{port}",
        "POST /kimi/v1/../../chat HTTP/1.1\r\nHost: 127.0.0.1:{port}",
        "POST /kimi//v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}",
        "POST /kimi/v1/%2e%2e/x HTTP/1.1\r\nHost: 127.0.0.1:{port}",
        "POST /kimi\\v1\\chat\\completions HTTP/1.1\r\nHost: 127.0.0.1:{port}",
        "POST /kimi/v1/chat/completions#/../x HTTP/1.1\r\nHost: 127.0.0.1:{port}",
        "POST http://api.kimi.com/coding/v1/chat/completions HTTP/1.1\r\nHost: api.kimi.com",
        "POST http://api.kimi.com:8443/coding/v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}",
        "POST http://localhost.:{port}/kimi/v1/chat/completions HTTP/1.1\r\nHost: localhost",
        "POST http://[::ffff:127.0.0.1]:{port}/kimi/v1/chat/completions HTTP/1.1\r\nHost: localhost",
        "POST /kimi/v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: https://evil.test",
        "GET /kimi/v1/x HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: null\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ZmFrZWZha2VmYWtlZmFrZQ==",
        "OPTIONS /kimi/v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: https://evil.test",
    ],
)
def test_no_trick_brings_a_login_to_the_service_or_elsewhere(world, proxy, head):
    """Each is refused or fails, and the service sees no request with the login."""
    answer = ask(proxy.port, head.format(port=proxy.port))
    assert not answer.startswith(b"HTTP/1.1 2"), answer[:200]
    assert b"access-control-allow" not in answer.lower()
    assert not world.kimi.of("chat")


def test_a_value_that_would_begin_a_field_stays_one(world, proxy):
    """A carriage return and a folded line in a client's field reach the service as blanks."""
    head = f"POST /kimi/v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{proxy.port}\r\nX-Session-Id: a\r\n b"
    answer = ask(proxy.port, head)
    assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
    (seen,) = world.kimi.of("chat")
    assert not [value for _, value in seen.headers if "\r" in value or "\n" in value]
    assert world.kimi.oauth.valid(seen.bearer)


def test_another_port_of_this_machine_is_named(start_proxy):
    """A request that was meant for the proxy and names a port where nobody listens is told so, in place of a 502."""
    proxy = start_proxy(named=False, login=False)
    port = free_port()
    url = f"{proxy.url}/kimi/v1/chat/completions"
    answer = httpx.post(url, content=BODY, headers={"Host": f"localhost:{port}"}, trust_env=False, timeout=20)
    assert answer.status_code == 421
    assert answer.json()["error"]["code"] == "wrong_port"
    assert str(port) in answer.json()["error"]["message"]
    assert str(proxy.port) in answer.json()["error"]["message"]


def test_a_bomb_is_refused(world, proxy):
    """A megabyte that stands for a gigabyte is refused, and the proxy goes on."""
    import brotli

    bomb = brotli.compress(bytes(400 << 20), quality=1)
    with proxy.local_client() as client:
        answer = client.post("chat/completions", content=bomb, headers={"Content-Encoding": "br"})
        assert answer.status_code == 400
        assert "kimi_max_body" in answer.json()["error"]["message"]
        assert client.get("models").status_code == 200
    assert not world.kimi.of("chat")
