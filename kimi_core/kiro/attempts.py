"""Which account is asked next: one request's attempts at Kiro, one after the other until one serves.

There are as many attempts as accounts and one more, and one deadline. An attempt on the same account (after a refresh,
at its other place, after a pause) is made only where enough are left to ask every other account as well. One whose
token was refused when there was none to spare is renewed beside, and asked after all where the others did not need all
that was left: no request fails while there is an attempt left and an account that nothing stands against. Each account
bears what is its own fault and nothing else (`health`).
"""

from __future__ import annotations

import functools
import logging
import re
import secrets
import uuid
from typing import NamedTuple
from urllib.parse import urlsplit

from kimi_core.errors import AuthUnavailable, KimiMitmError, StoreError
from kimi_core.exchange import Attempt
from kimi_core.headers import Headers
from kimi_core.kiro import health, profile
from kimi_core.kiro.accounts import Account
from kimi_core.kiro.profile import Place
from kimi_core.kiro.service import Service
from kimi_core.kiro.translated import Translated
from kimi_core.kiro.verdict import Action, Finding, Kind
from kimi_core.routing import authority

logger = logging.getLogger(__name__)

TRIES = 3  # attempts under one invocation id: what the official clients say of themselves (max=3, kiro.md §3.2)
KEPT_TARGETS = 16  # origins: two hosts in two regions, or what the environment says
ID_BYTES = 16  # of chance, as a UUID has
_LABEL = re.compile(r"[^\x21-\x7e]+")


def label(account: Account) -> str:
    """Return an account's label as part of a header field: visible ASCII, no blanks."""
    return _LABEL.sub("_", account.label or account.id)[:80] or account.id


class _Target(NamedTuple):
    """Where an origin is; `authority` is the Host field's value."""

    scheme: str
    host: str
    port: int
    authority: str


@functools.lru_cache(maxsize=KEPT_TARGETS)
def _target(origin: str) -> _Target:
    parts = urlsplit(origin)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    return _Target(parts.scheme, host, port, authority(parts.scheme, host, port))


def limit(service: Service) -> int:
    """Return how many attempts a request has: one per account, and one more."""
    try:
        return len(service.accounts().accounts) + 1
    except StoreError:
        return 1


class Attempts:
    """The attempts of one request, which was translated to *translated* and is part of *conversation*."""

    def __init__(self, service: Service, translated: Translated, conversation: str, deadline: float) -> None:
        self.account: Account | None = None
        """The account that is asked now."""
        self.id = secrets.token_hex(ID_BYTES)
        """Names the answer to the client; the service is never told."""
        self._service = service
        self._translated = translated
        self._conversation = conversation
        self._deadline = deadline
        self._place: Place
        self._sent = 0
        self._calls: dict[str, tuple[str, int]] = {}  # account -> invocation id, attempts under it
        self._tried: set[str] = set()
        self._helped: set[tuple[str, Action]] = set()  # account and what was done for it once
        self._refused: dict[str, str] = {}  # account that could not be helped for want of attempts -> its refused token
        self._excused: set[str] = set()  # accounts whose fault it is not that they could not be helped
        self._paused: dict[str, int] = {}  # account -> pauses made
        self._served = False

    async def first(self) -> Attempt | None:
        """Return the first attempt, None where no account is free. Raises StoreError."""
        return await self._another()

    async def after(self, finding: Finding) -> Attempt | None:
        """Return the attempt after one that ended with *finding*, None where there is none. Raises StoreError."""
        if finding.action is Action.fail or self._late():
            return None
        attempt = await self._same(finding)
        if attempt is not None:
            return attempt
        self.give_up(finding)
        return await self._another(listed_only=finding.action is Action.listed)

    def served(self) -> None:
        """Credit the account as soon as its answer has begun: a probe must not last as long as the answer."""
        account = self.account
        assert account is not None
        if self._served:
            return
        self._served = True
        place = self._place
        stayed = self._service.conversations.get(self._conversation) == account.id
        self._service.conversations.bind(self._conversation, account.id)
        self._service.served(account.id, place)
        if not stayed:  # what goes on where it was says nothing against the account that the user has chosen since
            self._service.activate(account.id)
        self._service.want_models(account.id)
        self._service.want_usage(account)

    def give_up(self, finding: Finding) -> None:
        """Let the account bear what is its fault, and leave it."""
        account = self.account
        if account is None or account.id in self._tried:
            return
        self._tried.add(account.id)
        if finding.action is Action.refresh and (account.id, Action.refresh) not in self._helped:
            self._leave_refused(account)
        elif account.id not in self._excused:
            self._service.note(account.id, finding)
        if finding.kind in {Kind.quota, Kind.rate}:
            self._service.want_usage(account)
        self.leave()

    def leave(self) -> None:
        """Give the account free, if there is one."""
        if self.account is not None:
            self._service.release(self.account.id)
            self.account = None

    # --- parts ---------------------------------------------------------------------------------------------------

    async def _same(self, finding: Finding) -> Attempt | None:
        """Return an attempt more on the same account where that may help and leaves enough for the others."""
        account = self.account
        assert account is not None
        spare = self._left() > self._untried()
        action, once = finding.action, (account.id, finding.action)
        if action is Action.refresh and once not in self._helped and spare:
            self._helped.add(once)
            return await self._renewed(account)
        if action is Action.heal and once not in self._helped and spare:
            self._helped.add(once)
            return self._attempt(account, profile.other(account, self._place))
        pause = self._pause(finding)
        if pause is not None and spare:
            await self._service.sleep(pause)
            return self._attempt(account, self._place)
        return None

    def _leave_refused(self, account: Account) -> None:
        """Leave an account whose token was refused when there was no attempt to spare: it is renewed beside."""
        self._helped.add((account.id, Action.refresh))
        self._excused.add(account.id)
        self._refused[account.id] = account.access_token
        self._service.renew_beside(account.id, account.access_token)

    async def _renewed(self, account: Account) -> Attempt | None:
        """Return an attempt with another token than the refused one, None where there is none to be had."""
        try:
            renewed = await self._service.tokens.renew(account.id, account.access_token)
        except KimiMitmError as error:  # whatever keeps it from being renewed, another account may serve
            logger.info("Kiro: %s", error)
            if isinstance(error, AuthUnavailable | StoreError):  # of the service, or of this machine
                self._excused.add(account.id)
            return None
        if self._late():
            self._excused.add(account.id)
            return None
        return self._attempt(renewed, self._place)

    def _pause(self, finding: Finding) -> float | None:
        """Return how long to wait before the same account is tried again, None where it is not."""
        assert self.account is not None
        made = self._paused.get(self.account.id, 0)
        if made >= len(finding.pauses) or self._service.clock() + finding.pauses[made] > self._deadline:
            return None
        self._paused[self.account.id] = made + 1
        return finding.pauses[made]

    async def _another(self, *, listed_only: bool = False) -> Attempt | None:
        """Return an attempt on an account that was not tried yet; failing that, on one that was left unhelped."""
        attempt = await self._new(listed_only=listed_only)
        if attempt is None and self._refused and self._left() > 0:
            self._tried -= self._refused.keys()
            attempt = await self._new(listed_only=listed_only)
        return attempt

    async def _new(self, *, listed_only: bool) -> Attempt | None:
        service = self._service
        model = self._translated.model_id
        while not self._late():
            if listed_only:
                account = service.pick(
                    conversation=self._conversation, model=model, tried=self._tried, listed_only=True
                )
            else:
                account = await service.wait_for_one(
                    conversation=self._conversation, model=model, tried=self._tried, deadline=self._deadline
                )
            if account is None:
                return None
            service.begin(account.id)
            try:
                ready = await self._ready(account.id)
            except (KimiMitmError, StoreError) as error:
                service.release(account.id)
                self._tried.add(account.id)
                self._unready(account, error)
                continue
            return self._attempt(ready, profile.first(ready))
        return None

    async def _ready(self, account_id: str) -> Account:
        """Return the account with a token to use now, and never again the one that was refused."""
        refused = self._refused.pop(account_id, None)
        if refused is None:
            return await self._service.ready(account_id)
        self._excused.discard(account_id)
        return await self._service.tokens.renew(account_id, refused)

    def _unready(self, account: Account, error: KimiMitmError) -> None:
        """Note why an account could not even be tried; trouble with the network is no fault of its own."""
        if not isinstance(error, AuthUnavailable):
            logger.warning("The Kiro account %s cannot be used: %s", label(account), error.sentence)

    def _attempt(self, account: Account, place: Place) -> Attempt:
        self.account, self._place = account, place
        self._sent += 1
        identity = self._service.identity_for(account)
        target = _target(place.origin(self._service.endpoints))
        name = label(account)
        invocation, number = self._call(account.id)
        headers = identity.headers(
            "generate",
            invocation=invocation,
            attempt=number,
            bearer=f"Bearer [kiro {name}]",
            auth_method=account.auth_method,
        )
        attempt = Attempt(
            method="POST",
            scheme=target.scheme,
            host=target.host,
            port=target.port,
            path=identity.path,
            headers=Headers([("host", target.authority), *headers]),
            secrets={"authorization": f"Bearer {account.access_token}"},
            body=self._translated.body(place.profile_arn),
            label=name,
        )
        self._service.previews.request(name, attempt.body or b"")
        return attempt

    def _call(self, account_id: str) -> tuple[str, int]:
        """Return invocation id and number of the next attempt on an account, as a client of that account has them.

        One id for several accounts would tell the service that they are of one hand, and a fourth of three attempts
        that no client of its own asks.
        """
        invocation, made = self._calls.get(account_id, ("", TRIES))
        if made == TRIES:
            invocation, made = str(uuid.uuid4()), 0
        self._calls[account_id] = invocation, made + 1
        return invocation, made + 1

    def _left(self) -> int:
        """Return how many attempts are left."""
        return limit(self._service) - self._sent

    def _untried(self) -> int:
        """Return how many other accounts could still serve."""
        assert self.account is not None
        now, tried = self._service.clock(), self._tried | {self.account.id}
        return sum(
            account.id not in tried and health.obstacle(account, now) is None
            for account in self._service.accounts().accounts
        )

    def _late(self) -> bool:
        return self._service.clock() >= self._deadline
