"""HTTP clients for calls of the program's own (OAuth, models, usages).

They go out directly, never through the proxy itself, with verified TLS, and follow the settings that mitmproxy's
own upstream legs follow: the upstream proxy of ``mode: upstream:…`` and the trusted CA options. The environment
(HTTPS_PROXY, SSL_CERT_FILE) is deliberately not read: in a client's shell it points back at this proxy.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import certifi

from kimi_core import later
from kimi_core.errors import ConfigError
from kimi_core.wire import codings

if TYPE_CHECKING:
    import httpx
else:
    httpx = later.module("httpx")

for _library in ("httpx", "httpcore"):  # they would log every step of a login call, header fields and all
    logging.getLogger(_library).setLevel(logging.WARNING)

CONNECT_TIMEOUT = 15.0  # kimi-cli: connect 15 s, read 60 s, total 120 s (utils/aiohttp.py)
READ_TIMEOUT = 60.0

_reading = threading.Lock()  # reading all CAs takes tens of milliseconds: of those who ask side by side one does it


@dataclass(frozen=True, slots=True)
class Outbound:
    """How calls leave this machine.

    `proxy` is a URL (``http://host:port``) or None; `proxy_auth` is ``user:password`` or None; `ca_file` and
    `ca_dir` name extra trust as mitmproxy's ssl_verify_upstream_trusted_ca and …_confdir do (they replace the
    bundled roots there, so they do here).
    """

    proxy: str | None = None
    proxy_auth: str | None = None
    ca_file: str | None = None
    ca_dir: str | None = None

    def to_json(self) -> dict[str, str | None]:
        """Return the fields for another process."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Outbound:
        """Inverse of `to_json`."""
        return cls(**data)

    def ssl_context(self) -> ssl.SSLContext:
        """Return a verifying TLS context, one for all who trust the same, as mitmproxy has for its own legs.

        Raises ConfigError where the CA files cannot be read.
        """
        with _reading:
            return _context(self.ca_file, self.ca_dir)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """Lend a client. It is made in a thread, for that loads httpx or reads all CAs: a stream would stand still.

        Raises ConfigError where the CA files cannot be read.
        """
        async with await asyncio.to_thread(self.new_client) as client:
            yield client

    def new_client(self) -> httpx.AsyncClient:
        """Return a client that follows these settings; the caller closes it. No redirects, no cookies kept.

        Raises ConfigError where the CA files cannot be read.
        """
        proxy = None
        if self.proxy:
            headers = {}
            if self.proxy_auth:
                token = base64.b64encode(self.proxy_auth.encode()).decode()
                headers["Proxy-Authorization"] = f"Basic {token}"
            proxy = httpx.Proxy(self.proxy, headers=headers)
        return httpx.AsyncClient(
            verify=self.ssl_context(),
            proxy=proxy,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT),
        )


@cache
def _context(ca_file: str | None, ca_dir: str | None) -> ssl.SSLContext:
    if not (ca_file or ca_dir):
        return ssl.create_default_context(cafile=certifi.where())
    try:
        return ssl.create_default_context(cafile=ca_file, capath=ca_dir)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"The trusted CA {ca_file or ca_dir} cannot be read: {error}.") from error


async def body_of(response: httpx.Response, limit: int) -> bytes:
    """Read the body of a streamed answer, its content coding undone; of one beyond *limit* a little more than that.

    httpx undoes a coding without a bound: a few bytes can stand for gigabytes. Raises httpx.RequestError.
    """
    decoder = codings.decoder_for(response.headers.get("content-encoding"))
    body = bytearray()
    assert isinstance(response.stream, httpx.AsyncByteStream)  # it is the answer of an AsyncClient
    async for raw in response.stream:
        try:
            body += decoder.feed_at_most(raw, limit - len(body)) if decoder else raw
        except codings.DAMAGED as error:
            raise httpx.DecodingError("the answer's content coding is damaged") from error
        if len(body) > limit:
            break
    return bytes(body)
