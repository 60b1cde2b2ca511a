"""A service of canned answers behind a `Caller`, for tests of what asks it."""

import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import httpx

from kimi_core.kiro import identity
from kimi_core.kiro.accounts import Account
from kimi_core.kiro.constants import Endpoints
from kimi_core.kiro.management import Caller


def refusal(status: int, name: str = "", message: str = "", reason: str | None = None) -> httpx.Response:
    """Return an error in the service's form."""
    body = {"__type": f"com.amazon.kiro.runtimeservice#{name}", "message": message, "reason": reason}
    return httpx.Response(status, json=body)


NOT_AUTHORIZED = (403, "AccessDeniedException", "User is not authorized to make this call.")
NO_PROFILE = (400, "ValidationException", "profileArn is required for this request.")
UNKNOWN = (404, "UnknownOperationException", "")
NO_FEATURE = (403, "AccessDeniedException", "no", "FEATURE_NOT_SUPPORTED")
BAD_TOKEN = (403, "AccessDeniedException", "The bearer token included in the request is invalid.")
EXPIRED = (401, "ExpiredTokenException", "expired")


@dataclass
class Service:
    """Answers in order, the last one for ever; is also the tokens' owner and the way out."""

    account: Account
    name: str = "cli"
    answers: deque = field(default_factory=deque)
    seen: list[httpx.Request] = field(default_factory=list)
    renewed: list[str] = field(default_factory=list)

    def caller(self) -> Caller:
        def who(account):
            return identity.build(self.name, machine_id="f" * 64)

        return Caller(self, Endpoints(), who, self)

    async def fresh(self, account_id: str) -> Account:
        assert account_id == self.account.id
        return self.account

    async def renew(self, account_id: str, rejected: str) -> Account:
        self.renewed.append(rejected)
        self.account = self.account.model_copy(update={"access_token": f"fake-access-{len(self.renewed) + 1}"})
        return self.account

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return refusal(*answer) if isinstance(answer, tuple) else httpx.Response(200, json=answer)

    @property
    def told(self) -> list[tuple[str, str, str, str | None]]:
        """Method, host, path and profile of each request."""
        return [(seen.method, seen.url.host, seen.url.path, parameters(seen).get("profileArn")) for seen in self.seen]


def parameters(request: httpx.Request) -> dict[str, Any]:
    """Return the parameters of a call, wherever they stand."""
    return json.loads(request.content) if request.content else dict(parse_qsl(request.url.query.decode()))


def service(*answers: Any, name: str = "cli", **fields: Any) -> Service:
    """Return a service with these answers for an account of these fields."""
    account = Account(**{"id": "a1", "auth_method": "api_key", "access_token": "fake-access-1"} | fields)
    return Service(account, name, deque(answers))
