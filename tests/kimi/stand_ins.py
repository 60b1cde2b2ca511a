"""Stand-ins for what talks to the network, with the real thing's signatures."""

import httpx

from kimi_core.kimi.session import SessionStatus
from kimi_core.tokens import OAuthToken

NOW = 1_800_000_000.0


def token(number=1, expires_in=900.0):
    """Return an obviously fake token pair."""
    return OAuthToken(
        f"fake-access-{number}", f"fake-refresh-{number}", NOW + expires_in, expires_in, "kimi-code", "Bearer"
    )


class FakeSession:
    """A login whose tokens are counted; `error` is raised instead of giving one."""

    def __init__(self, error=None):
        self.number = 1
        self.error = error
        self.renewed = []

    async def fresh(self):
        if self.error:
            raise self.error
        return token(self.number)

    async def renew(self, rejected):
        self.renewed.append(rejected)
        if self.error:
            raise self.error
        self.number += 1
        return token(self.number)

    def status(self):
        return SessionStatus("kimi.com", None, "ok", NOW + 900)

    async def keep_fresh(self, busy):
        self.busy = busy


class FakeOutbound:
    """A way out that leads to a handler: request -> response."""

    def __init__(self, handler):
        self.handler = handler

    def client(self):
        return httpx.AsyncClient(transport=httpx.MockTransport(self.handler))
