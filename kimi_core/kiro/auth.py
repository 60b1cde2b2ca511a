"""Who owns the accounts' tokens: hands out accounts that are fresh, renews refused ones, never loses what is stored.

The document is the truth; it is read at every call. Refreshes run elsewhere (`refresher`) under the account's lock;
here callers for one account share one flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from kimi_core.errors import AuthError, AuthUnavailable, KimiMitmError, LoginDead, StoreBusy, StoreDamaged, StoreError
from kimi_core.headers import Headers
from kimi_core.kiro import sources
from kimi_core.kiro.accounts import Account, Accounts, Registry
from kimi_core.kiro.auth_errors import AccountDead, AccountNewer, NoAccount
from kimi_core.kiro.constants import Endpoints
from kimi_core.kiro.refresher import Refresher, in_child
from kimi_core.kiro.rotation import REJECTED, Job
from kimi_core.kiro.stores import Surroundings
from kimi_core.tokens import SingleFlight, digest

if TYPE_CHECKING:
    from kimi_core.outbound import Outbound

PATIENCE = 10.0  # seconds that a caller waits for a refresh while the token at hand is still good
USABLE = 30.0  # seconds of life below which a token is not handed out in place of a fresh one
COOL_DOWN = 15.0  # seconds after a failed refresh in which the token at hand is used without another try
WARN_EVERY = 300.0  # seconds between two warnings of the same kind for one account
ROUNDS = 3  # flights that `renew` joins or starts before it gives up
TICK = 60.0  # seconds between two looks of the timer
JUMP = 120.0  # seconds of wall time for one tick that mean the machine was asleep

logger = logging.getLogger(__name__)


class Tokens:
    """The tokens of all accounts in *registry*. *headers* gives the identity's fields for an account's refresh."""

    def __init__(
        self,
        registry: Registry,
        headers: Callable[[Account], Headers],
        outbound: Outbound,
        endpoints: Endpoints,
        *,
        clock: Callable[[], float] = time.time,
        refresher: Refresher = in_child,
        around: Surroundings | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self.registry = registry
        self._headers = headers
        self._outbound = outbound
        self._endpoints = endpoints
        self._clock = clock
        self._refresher = refresher
        self._around = around or Surroundings()
        self._patience = patience
        self._flights: defaultdict[str, SingleFlight[Account]] = defaultdict(SingleFlight)
        self._refused: Counter[tuple[str, str]] = Counter()  # account and token (its digest) that are being renewed
        self._next_try: dict[str, float] = {}
        self._warned: dict[tuple[str, str], float] = {}

    async def fresh(self, account_id: str) -> Account:
        """Return the account with an access token to use now, refreshed ahead of time where it is due.

        Where the refresh fails or is slow and the present token is still good, that is returned; a token that the API
        has refused and that is being renewed is not handed out. Raises NoAccount, AccountDead, AuthUnavailable,
        AccountsDamaged, StoreError.
        """
        account = self._stored(account_id)
        now = self._clock()
        if self._refused and self._refused[account_id, digest(account.access_token)]:
            return await self.renew(account_id, account.access_token)
        if not account.due(now):
            return account
        spare = account.remaining(now) > USABLE
        if spare and now < self._next_try.get(account_id, 0.0):
            return account
        try:
            async with asyncio.timeout(self._patience if spare else None):
                return await self._renewed(account_id, None)
        except TimeoutError:
            self._next_try[account_id] = now + COOL_DOWN  # the flight goes on, and its landing takes this back
            return self._stored(account_id)
        except StoreDamaged:
            raise
        except (AuthUnavailable, LoginDead, StoreError) as error:
            return self._spare(account_id, error)

    async def renew(self, account_id: str, rejected: str) -> Account:
        """Return the account with another access token than *rejected*, which the API refused: stored, else renewed.

        Raises NoAccount, AccountDead, AuthUnavailable, AccountsDamaged, StoreError.
        """
        account = self._stored(account_id)
        if account.auth_method == "api_key":
            if account.access_token == rejected:
                raise AccountDead("The service no longer accepts this API key.")
            return account
        if account.access_token != rejected and account.remaining(self._clock()) > 0:
            return account
        key = (account_id, digest(rejected))
        self._refused[key] += 1
        try:
            return await self._other_than(rejected, account_id)
        finally:
            self._refused[key] -= 1
            self._refused += Counter()  # drops what is zero

    async def _other_than(self, rejected: str, account_id: str) -> Account:
        for _ in range(ROUNDS):  # the flight that is joined may be one for another token, or by age only
            try:
                account = await self._renewed(account_id, digest(rejected))
            except StoreBusy as error:
                raise AuthUnavailable(str(error)) from error
            if account.access_token != rejected:
                return account
        raise AuthUnavailable("The login service keeps giving the access token that was refused.")

    async def insist(self, account_id: str) -> Account:
        """Refresh now, because the user says so, even a login that was turned down before.

        Raises what `renew` raises; an API key is returned as it is. The token of a shared account is its program's, and
        is not spent while it is good.
        """
        account = self._stored(account_id)
        if account.auth_method == "api_key":
            return account
        if account.source is None:
            return await self._renewed(account_id, digest(account.access_token), insist=True)
        await self._look_again()
        due = account.due(self._clock())
        return await self._renewed(account_id, None, insist=True) if due else self._stored(account_id)

    async def fork(self, candidate: Account) -> str:
        """Spend the refresh token of *candidate*, another program's, once, and return the id of the account it made.

        A token that was dealt with before is not spent again. Raises AccountDead, AuthUnavailable, StoreError.
        """
        await self._probe()
        return await self._refresher(self._job(candidate, candidate=candidate.to_json()))

    async def keep_fresh(
        self,
        busy: Callable[[], frozenset[str]],
        *,
        every: float = TICK,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """Refresh ahead of time for as long as it is not cancelled: every *every* seconds the accounts in *busy*.

        A tick that took more than two minutes by the clock means that the machine was asleep: then every account
        that is in use at all is looked after. Failures are logged, each kind once per account until it works again.
        Shared accounts whose program has logged in again come back.
        """
        told: dict[str, str] = {}
        last = self._clock()
        while True:
            await sleep(every)
            with contextlib.suppress(StoreError):  # what cannot be read or stored now is looked at again
                await self._look_again()
            slept = self._clock() - last > JUMP
            for account_id in self._in_use() if slept else busy():
                try:
                    await self.fresh(account_id)
                    told.pop(account_id, None)
                except KimiMitmError as error:
                    if told.get(account_id) != error.code:
                        logger.warning("The Kiro account %s could not be kept fresh: %s", account_id, error.sentence)
                    told[account_id] = error.code
            last = self._clock()

    async def _look_again(self) -> None:
        """Take shared accounts back into service whose program has logged in again. Raises StoreError."""

        def back(accounts: Accounts) -> list[Account]:
            waiting = (one for one in accounts.accounts if one.source is not None and one.state == "needs_login")
            seen = ((one, sources.welcomed(one, sources.view(one, self._around))) for one in waiting)
            return [now for one, now in seen if now is not one]

        if back(self.registry.current()):
            await self.registry.aupdate(lambda accounts: [accounts.put(one) for one in back(accounts)])

    def _in_use(self) -> tuple[str, ...]:
        try:
            accounts = self.registry.current().accounts
        except StoreError:
            return ()
        return tuple(account.id for account in accounts if account.enabled and account.state == "ok")

    def _stored(self, account_id: str) -> Account:
        stored = self.registry.current().get(account_id)
        if stored is None:
            raise NoAccount("There is no such Kiro account.")
        if stored.unknown:
            raise AccountNewer(f"The Kiro account {stored.label or stored.id} was made by a newer version.")
        account = sources.view(stored, self._around)
        if not (account.access_token or account.refresh_token):
            where = sources.NAMES[account.source.kind] if account.source else "it"
            raise NoAccount(f"The Kiro account {account.label} is no longer found in {where}.")
        return account

    async def _probe(self) -> None:
        """Raise StoreError where the disk is full, whoever has the lock; no stream waits for a slow one."""
        await asyncio.to_thread(self.registry.document.probe)

    def _job(
        self,
        account: Account,
        *,
        account_id: str | None = None,
        rejected: str | None = None,
        insist: bool = False,
        candidate: Mapping[str, Any] | None = None,
    ) -> Job:
        headers, outbound = self._headers(account), self._outbound.to_json()
        folder = self.registry.folder
        return Job(folder, self._endpoints, headers, outbound, account_id, rejected, insist, candidate)

    async def _renewed(self, account_id: str, rejected: str | None, *, insist: bool = False) -> Account:
        """Join the flight or start one, and return what is stored when it has landed."""

        async def flight() -> Account:
            account = self._stored(account_id)
            job = self._job(account, account_id=account_id, rejected=rejected, insist=insist)
            told = account.state != "ok" or (rejected is None and account.remaining(self._clock()) > 0)
            if account.held_back and told and not insist and not job.done_by(account, self._clock()):
                raise AccountDead(REJECTED)
            await self._probe()
            await self._refresher(job)
            self._next_try.pop(account_id, None)
            return self._stored(account_id)

        return await self._flights[account_id].run(flight)

    def _spare(self, account_id: str, error: AuthError | StoreError) -> Account:
        """Return the stored account although its refresh failed with *error*, or raise that."""
        now = self._clock()
        account = self._stored(account_id)
        if account.remaining(now) <= 0:
            if isinstance(error, StoreBusy):
                raise AuthUnavailable(str(error)) from error
            raise error
        self._next_try[account_id] = now + COOL_DOWN
        if now - self._warned.get((account_id, error.code), -WARN_EVERY) >= WARN_EVERY:
            self._warned[account_id, error.code] = now
            left = f"The present token is good for {account.remaining(now):.0f} s more."
            logger.warning("The Kiro account %s was not renewed: %s %s", account.label, error.sentence, left)
        return account
