"""An HTTP proxy that takes CONNECT for the real host names and leads them to the fakes on loopback.

With ``mitmdump --mode upstream:http://127.0.0.1:PORT`` everything that leaves for api.kimi.com or auth.kimi.com goes
through here, calls of the program's own included, so the tests can use the real names and see who obeys the setting.
"""

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass

from tests.servers.serve import Relay

MAX_HEAD = 16384


@dataclass(frozen=True, slots=True)
class Connect:
    """One CONNECT: its target (``host:port``), whether it carried the right credentials, the status it got."""

    target: str
    authorized: bool
    status: int


class UpstreamProxy(Relay):
    """The proxy. `routes` maps ``host:port`` to a local port; `auth` is ``user:password`` that is asked for.

    `refusals` is how many of the next CONNECTs get a 502 though their target is known.
    """

    def __init__(self, routes: Mapping[str, int], *, auth: str | None = None) -> None:
        super().__init__()
        self.routes = dict(routes)
        self.auth = auth
        self.connects: list[Connect] = []
        self.refusals = 0

    async def target(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int | None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request, *fields = head.rstrip("\r\n").split("\r\n")
        method, name, _ = request.split(" ", 2)
        headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in fields)}
        authorized = self.auth is None or headers.get("proxy-authorization") == _basic(self.auth)
        status = self._status(method, name, authorized=authorized)
        self.connects.append(Connect(name, authorized, status))
        challenge = "Proxy-Authenticate: Basic realm=fake\r\n" if status == 407 else ""
        length = "" if status == 200 else "Content-Length: 0\r\nConnection: close\r\n"
        writer.write(f"HTTP/1.1 {status} Fake\r\n{challenge}{length}\r\n".encode())
        await writer.drain()
        return self.routes[name] if status == 200 else None

    def _status(self, method: str, name: str, *, authorized: bool) -> int:
        if not authorized:
            return 407
        if method != "CONNECT":
            return 405
        if self.refusals:
            self.refusals -= 1
            return 502
        return 200 if name in self.routes else 502


def _basic(auth: str) -> str:
    return "Basic " + base64.b64encode(auth.encode()).decode()
