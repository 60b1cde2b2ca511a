"""A Kiro service in a folder of its own, whose tokens and clock are the test's."""

import json

from kimi_core.exchange import Answer, AnswerHead, RequestHead, Route
from kimi_core.headers import Headers
from kimi_core.kiro.accounts import Account
from kimi_core.kiro.exchange import KiroExchange
from kimi_core.kiro.service import Service
from kimi_core.kiro.stores import Surroundings
from kimi_core.outbound import Outbound
from kimi_core.settings import Settings
from tests.kiro.pool_accounts import NOW

CHAT = '{"model": "claude-sonnet-4.5", "stream": %s, "messages": [{"role": "user", "content": "hi"}]}'
STREAMED, WHOLE = (CHAT % word for word in ("true", "false"))


class FakeTokens:
    """Hands out accounts as they are stored; `renewed` counts, `errors` are raised by account id."""

    def __init__(self, registry):
        self.registry = registry
        self.errors = {}
        self.renewed = []

    async def fresh(self, account_id):
        if account_id in self.errors:
            raise self.errors[account_id]
        return self.registry.load().get(account_id)

    async def renew(self, account_id, rejected):
        self.renewed.append((account_id, rejected))
        account = await self.fresh(account_id)
        return account.model_copy(update={"access_token": f"{rejected}-renewed"})

    async def keep_fresh(self, busy):
        self.kept = busy()


class World:
    """A service with accounts, and a clock that moves when it sleeps."""

    def __init__(self, folder, *accounts, environ=None, home=None, **settings):
        self.now = NOW
        self.pauses = []
        self.service = Service(
            Settings(**settings),
            Outbound(),
            folder,
            environ=environ or {},
            clock=lambda: self.now,
            sleep=self._sleep,
            linger=0.0,
            around=Surroundings(environ or {}, home or folder / "home", "linux"),
        )
        self.tokens = self.service.tokens = FakeTokens(self.service.registry)
        self.service.want_models = self.service.want_usage = lambda _account: None
        self.store(*accounts)

    async def _sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds

    def store(self, *accounts):
        """Store accounts, the first one active."""

        def change(stored):
            stored.accounts[:] = accounts
            stored.active_account_id = accounts[0].id if accounts else None

        self.service.registry.update(change)

    def stored(self, account_id):
        """Return an account as it is stored."""
        return self.service.registry.load().get(account_id)

    def exchange(self, headers=()):
        """Return an exchange for a chat request."""
        fields = Headers([("authorization", "Bearer dummy"), *headers])
        head = RequestHead("POST", "http", "127.0.0.1", 8080, "/kiro/v1/chat/completions", fields)
        route = Route(
            "kiro", "chat", "openai", "https", "runtime.us-east-1.kiro.dev", 443, "/v1/chat/completions", local=True
        )
        return KiroExchange(self.service, head, route)


def social(name="a", **fields):
    """Return a healthy account of a social login."""
    login = {"access_token": f"fake-access-{name}", "refresh_token": f"fake-refresh-{name}", "label": f"label {name}"}
    return Account(id=name, auth_method="desktop", **login | fields)


def refused(status, message="", reason=None, headers=()):
    """Return a held answer with an error document."""
    body = {"__type": "x#FakeException", "message": message, "reason": reason}
    return Answer(AnswerHead(status, Headers(headers)), json.dumps(body).encode())


RATE = refused(429, "Too many requests, please wait before trying again.")
QUOTA = refused(402, reason="MONTHLY_REQUEST_COUNT")
EXPIRED = refused(403, "The bearer token included in the request is invalid")
SUSPENDED = refused(403, "Your account is locked", reason="TEMPORARILY_SUSPENDED")
BROKEN = refused(500, "Internal")
CAPACITY = refused(500, "x", reason="INSUFFICIENT_MODEL_CAPACITY")
INVALID = refused(400, "Improperly formed request.")
PROFILE = refused(400, "profileArn is required for this request.")
UNKNOWN_MODEL = refused(400, "x", reason="INVALID_MODEL_ID")
