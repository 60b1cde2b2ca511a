"""Calls of our own for an account: models, usage, profiles (kiro.md §6.3, §7.4, §8).

The service has moved, and which of its addresses takes which form of a call differs by account. So each operation has
its ways, best first; a refusal that may depend on the way, on the profile or on a parameter has the next one tried,
any other is final. Nothing is asked twice in one form, and the form that worked is remembered.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlencode

from kimi_core import documents
from kimi_core.documents import Declined
from kimi_core.errors import UpstreamError
from kimi_core.kiro import profile
from kimi_core.kiro.accounts import Account
from kimi_core.kiro.constants import Endpoints, arn_region
from kimi_core.kiro.failures import AnswerFailed
from kimi_core.kiro.identity import KiroIdentity, Name
from kimi_core.kiro.verdict import ERRORS, Finding, Kind, classify

if TYPE_CHECKING:
    import httpx

TIMEOUT = 20.0  # seconds for one answer
MAX_TRIES = 6  # requests for one question; there are never more ways that make sense
MAX_PAGES = 20  # of one list; the service's lists have one

type Operation = Literal["models", "usage", "profiles"]
type Service = Literal["management", "q"]


class Tokens(Protocol):
    """Who keeps the accounts' tokens fresh (`auth.Tokens`)."""

    async def fresh(self, account_id: str) -> Account:
        """Return the account with an access token to use now."""
        ...

    async def renew(self, account_id: str, rejected: str) -> Account:
        """Return the account with another access token than *rejected*."""
        ...


class WayOut(Protocol):
    """How calls leave this machine (`outbound.Outbound`)."""

    def client(self) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        """Lend a client."""
        ...


@dataclass(frozen=True, slots=True)
class Way:
    """One form of a call. `rpc`: POST with a target and parameters as JSON; else GET with them in the query."""

    service: Service
    path: str = "/"
    rpc: bool = True
    query_too: bool = False
    """The parameters stand in the query as well, as kiro-cli has it."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: `parameters`, and `lean` ones without those that the service may refuse, where there are any."""

    operation: Operation
    what: str
    """What it is called in error sentences ("The model list")."""
    parameters: Mapping[str, Any]
    lean: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Try:
    """One request to make for a question."""

    way: Way
    arn: str | None
    lean: bool = False


WAYS: Mapping[Name, Mapping[Operation, tuple[Way, ...]]] = {
    "cli": {
        "models": (
            Way("management", query_too=True),
            Way("q", query_too=True),
            Way("management", "/List-Available-Models", rpc=False),
        ),
        "usage": (Way("management"), Way("q"), Way("management", "/Get-Usage-Limits", rpc=False)),
        "profiles": (Way("management"), Way("q")),
    },
    "ide": {
        "models": (
            Way("management", "/List-Available-Models", rpc=False),
            Way("q", "/ListAvailableModels", rpc=False),
        ),
        "usage": (Way("q", "/getUsageLimits", rpc=False), Way("management", "/Get-Usage-Limits", rpc=False)),
        "profiles": (Way("management", "/List-Available-Profiles"), Way("q", "/ListAvailableProfiles")),
    },
}
MESSAGE_FIELDS = ("content-type", "x-amz-target")  # say what a body is; a GET has none


class Caller:
    """Asks the service for an account. Calls that name no region go to that of the account's profile."""

    def __init__(
        self,
        tokens: Tokens,
        endpoints: Endpoints,
        identity_for: Callable[[Account], KiroIdentity],
        outbound: WayOut,
    ) -> None:
        self._tokens = tokens
        self._endpoints = endpoints
        self._identity_for = identity_for
        self._outbound = outbound
        self._worked: dict[tuple[str, Operation], Try] = {}

    async def ask(
        self, account_id: str, question: Callable[[KiroIdentity], Question], *, region: str | None = None
    ) -> object:
        """Return the parsed answer to *question*, asked as the account's identity.

        A rejected access token is renewed once. Raises what `Tokens` raises; UpstreamError where nothing usable came;
        AnswerFailed, by the kind of the refusal (`verdict`), where the service said no.
        """
        account = await self._tokens.fresh(account_id)
        identity = self._identity_for(account)
        asked = question(identity)
        waiting = self._tries(account, identity, asked)
        renewed = False
        problem: UpstreamError | AnswerFailed = UpstreamError(f"{asked.what} cannot be asked for.")
        async with self._outbound.client() as client:
            for _ in range(MAX_TRIES):
                if not waiting:
                    break
                attempt = waiting[0]
                try:
                    answer = await self._send(client, account, identity, asked, attempt, region)
                except Declined as declined:
                    finding = classify(declined.http_status or 0, declined.headers, declined.body)
                    if finding.kind is Kind.auth and not renewed:
                        renewed = True
                        account = await self._tokens.renew(account_id, account.access_token)
                        continue
                    problem = _refusal(declined, finding)
                    waiting = [other for other in waiting[1:] if may_help(finding.kind, attempt, other)]
                except UpstreamError as error:
                    if error.http_status is not None:
                        raise
                    problem = error  # no connection, or no answer in time: another host may be there
                    waiting = [other for other in waiting if other.way.service != attempt.way.service]
                else:
                    self._worked[account_id, asked.operation] = attempt
                    return answer
        raise problem

    def _tries(self, account: Account, identity: KiroIdentity, asked: Question) -> list[Try]:
        every = list(tries(account, WAYS[identity.name][asked.operation], lean=asked.lean is not None))
        best = self._worked.get((account.id, asked.operation))
        return sorted(every, key=lambda attempt: attempt != best)  # stable: the others keep their order

    async def _send(
        self,
        client: httpx.AsyncClient,
        account: Account,
        identity: KiroIdentity,
        asked: Question,
        attempt: Try,
        region: str | None,
    ) -> object:
        parameters = dict(asked.lean if attempt.lean and asked.lean is not None else asked.parameters)
        if attempt.arn and asked.operation != "profiles":
            parameters["profileArn"] = attempt.arn
        way = attempt.way
        home = region or arn_region(attempt.arn or "") or account.region
        origin = self._endpoints.management(home) if way.service == "management" else self._endpoints.q(home)
        headers = identity.headers(
            asked.operation,
            invocation=str(uuid.uuid4()),
            bearer=f"Bearer {account.access_token}",
            auth_method=account.auth_method,
        )
        in_query = way.query_too or not way.rpc
        query = f"?{urlencode({name: _word(value) for name, value in parameters.items()})}" if in_query else ""
        return await documents.fetch(
            client,
            "POST" if way.rpc else "GET",
            f"{origin}{way.path}{query}",
            headers if way.rpc else headers.without(*MESSAGE_FIELDS),
            what=asked.what,
            seconds=TIMEOUT,
            content=json.dumps(parameters).encode() if way.rpc else None,
        )


async def pages(
    caller: Caller,
    account_id: str,
    question: Callable[[KiroIdentity], Question],
    next_token: Callable[[object], str | None],
    *,
    region: str | None = None,
) -> list[object]:
    """Return every page of the answer to *question*; a token that comes twice ends the list. Raises as `ask`."""
    found: list[object] = []
    seen: set[str] = set()
    token: str | None = None
    for _ in range(MAX_PAGES):

        def page(identity: KiroIdentity, token: str | None = token) -> Question:
            first = question(identity)
            more = {} if token is None else {"nextToken": token}
            return Question(first.operation, first.what, {**first.parameters, **more})

        found.append(await caller.ask(account_id, page, region=region))
        token = next_token(found[-1])
        if token is None or token in seen:
            break
        seen.add(token)
    return found


def tries(account: Account, ways: tuple[Way, ...], *, lean: bool) -> Iterator[Try]:
    """Return what may be tried for *account*, best first: its profile as the host wants it, then the other way."""
    for way in ways:
        for few in (False, True) if lean else (False,):
            for arn in arns(account, way.service):
                yield Try(way, arn, few)


def arns(account: Account, service: Service) -> tuple[str | None, ...]:
    """Return the profile to name at a host (`profile.MATRIX`), and what else it may be; the last resort is none."""
    current, older = (profile.at(account, host).profile_arn for host in profile.HOSTS)
    first, second = (current, older) if service == "management" else (older, current)
    return tuple(dict.fromkeys((first, second, None)))


def may_help(kind: Kind, failed: Try, other: Try) -> bool:
    """Tell whether *other* could work where *failed* was refused as *kind*."""
    match kind:
        case Kind.profile_required | Kind.unauthorized:
            return (other.way, other.arn) != (failed.way, failed.arn)
        case Kind.invalid:
            return other.way != failed.way or other.lean != failed.lean
        case Kind.feature:
            return other.lean and not failed.lean
        case Kind.endpoint:
            return other.way != failed.way
        case _:
            return False


def _refusal(declined: Declined, finding: Finding) -> AnswerFailed:
    """Return the error of a refusal: its kind, in the sentence that holds no credential."""
    return ERRORS[finding.kind](str(declined), finding.failure)


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
