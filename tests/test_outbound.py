import asyncio
import base64
import logging
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import trustme

from kimi_core.errors import ConfigError
from kimi_core.outbound import Outbound


def test_certificates_are_always_verified():
    """Every client of ours verifies certificates and names."""
    context = Outbound().ssl_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_an_own_ca_takes_the_place_of_the_bundled_ones(tmp_path):
    """A trusted CA that the user names is what is trusted, as on mitmproxy's own legs."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    context = Outbound(ca_file=str(tmp_path / "ca.pem")).ssl_context()
    assert len(context.get_ca_certs()) == 1
    assert context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_a_ca_that_cannot_be_read_is_named(tmp_path, content):
    """A missing or broken CA file is one clear error."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"ca\.pem"):
        Outbound(ca_file=str(path)).ssl_context()


def test_the_cas_are_read_once(tmp_path, monkeypatch):
    """Clients that trust the same share a context, also those that are made side by side; others have their own."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    outbound = Outbound(ca_file=str(tmp_path / "ca.pem"))
    read, make = [], ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", lambda **places: read.append(places) or make(**places))
    with ThreadPoolExecutor(8) as pool:
        contexts = set(pool.map(lambda _: outbound.ssl_context(), range(8)))
    assert len(contexts) == len(read) == 1
    assert Outbound().ssl_context() not in contexts


async def test_the_environment_is_not_asked(monkeypatch):
    """HTTPS_PROXY of a client's shell points back at this proxy, so it is not read."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    async with Outbound().client() as client:
        assert client.trust_env is False
        assert not client.follow_redirects
        assert client._mounts == {}


async def test_a_client_is_made_beside_the_event_loop(monkeypatch):
    """Reading the CAs, which takes a while, stops no stream; what goes wrong there reaches whoever asked."""
    where = []

    def refuse(_):
        where.append(threading.current_thread())
        raise ConfigError("The trusted CA cannot be read.")

    monkeypatch.setattr(Outbound, "ssl_context", refuse)
    with pytest.raises(ConfigError):
        async with Outbound().client():
            pass
    assert where != [threading.main_thread()]


async def test_the_upstream_proxy_is_used_with_its_password():
    """Calls of ours go through the upstream proxy and log in there."""
    asked = asyncio.Queue()

    async def proxy(reader, writer):
        await asked.put(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Outbound(f"http://127.0.0.1:{port}", "fake-user:fake-password").client() as client:
        with pytest.raises(Exception, match="407"):
            await client.get("https://auth.kimi.com/")
    head = (await asked.get()).decode()
    assert head.startswith("CONNECT auth.kimi.com:443")
    assert base64.b64encode(b"fake-user:fake-password").decode() in head


def test_settings_travel_to_another_process():
    """The fields survive a round trip."""
    outbound = Outbound("http://p:1", "u:p", "/ca", "/dir")
    assert Outbound.from_json(outbound.to_json()) == outbound


@pytest.mark.parametrize("library", ["httpx", "httpcore"])
def test_libraries_do_not_log_what_we_send(library):
    """The HTTP libraries are kept from logging each step of a login call."""
    assert logging.getLogger(library).level == logging.WARNING
