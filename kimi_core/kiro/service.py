"""What all requests to Kiro share: the accounts and their tokens, who is busy, the model lists, what is known of usage.

The document of the accounts is the truth and is looked at for each choice; who has how many requests in flight, and
which conversation is on which account, is known to this process alone. What a request does not wait for runs beside it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path

from kimi_core.errors import StoreError, UpstreamError
from kimi_core.headers import Headers
from kimi_core.kiro import health, identity, models, pool, profiles, sources, usage
from kimi_core.kiro.accounts import Account, Accounts, Registry
from kimi_core.kiro.auth import Tokens
from kimi_core.kiro.beside import Beside, complain
from kimi_core.kiro.catalog import Catalog
from kimi_core.kiro.constants import Endpoints
from kimi_core.kiro.debug import Previews
from kimi_core.kiro.events import Failure
from kimi_core.kiro.failures import AnswerFailed
from kimi_core.kiro.health import Event, Obstacle, Outcome
from kimi_core.kiro.identity import KiroIdentity
from kimi_core.kiro.management import Caller
from kimi_core.kiro.notebook import LINGER, Alteration, Notebook
from kimi_core.kiro.profile import Place, needs_discovery, remembered
from kimi_core.kiro.recall import TurnMemory
from kimi_core.kiro.refusals import Suspended
from kimi_core.kiro.stores import Surroundings
from kimi_core.kiro.sync import Importer, Person, identify
from kimi_core.kiro.verdict import Finding, Kind
from kimi_core.kiro.whose import Asker
from kimi_core.outbound import Outbound
from kimi_core.settings import Settings


class Service:
    """The Kiro side of this process."""

    def __init__(
        self,
        settings: Settings,
        outbound: Outbound,
        folder: Path,
        *,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        tokens: Tokens | None = None,
        around: Surroundings | None = None,
        linger: float = LINGER,
    ) -> None:
        self.settings = settings
        self.endpoints = Endpoints.from_env(environ)
        self.origin = identity.ORIGINS[settings.kiro_identity]
        """What every message of a user says that it comes from."""
        self.clock = clock
        self.sleep = sleep
        self.around = around or Surroundings(environ)
        self.registry = Registry(folder)
        self.tokens = tokens or Tokens(
            self.registry, self._refresh_headers, outbound, self.endpoints, clock=clock, around=self.around
        )
        self._asker = Asker(self.endpoints, self.identity_for, outbound)
        self.caller = Caller(self.tokens, self.endpoints, self.identity_for, outbound)
        self.catalogs = models.Catalogs(folder)
        self.conversations = pool.Conversations()
        self.turns = TurnMemory()
        self.previews = Previews(environ)
        self.in_flight: Counter[str] = Counter()
        self._freed = asyncio.Event()
        self._notebook = Notebook(self.registry, linger)
        self._identities: dict[str, KiroIdentity] = {}  # by machine id
        self._usage_asked: dict[str, float] = {}  # account -> when its usage was asked for last, in vain or not
        self._beside = Beside()

    # --- accounts ------------------------------------------------------------------------------------------------

    def accounts(self) -> Accounts:
        """Return what is stored, with what is noted and not written yet; not to be altered.

        Raises AccountsDamaged, StoreError.
        """
        return self._notebook.accounts()

    def identity_for(self, account: Account) -> KiroIdentity:
        """Return the identity that requests of *account* carry."""
        found = self._identities.get(account.machine_id)
        if found is None:
            settings = self.settings
            versions = identity.Versions.chosen(settings.kiro_cli_version, settings.kiro_ide_version)
            found = identity.build(settings.kiro_identity, versions, account.machine_id)
            self._identities[account.machine_id] = found
        return found

    def pick(
        self, *, conversation: str, model: str, tried: AbstractSet[str], listed_only: bool = False
    ) -> Account | None:
        """Return the account for the next attempt, None where there is none now. Raises StoreError."""
        stored = self.accounts()
        return pool.choose(
            stored.accounts,
            self.clock(),
            strategy=self.settings.kiro_strategy or stored.strategy,
            active=stored.active_account_id,
            conversation=self.conversations.get(conversation),
            model=model,
            in_flight=self.in_flight,
            tried=tried,
            catalogs={
                account.id: known.by_id.keys()
                for account in stored.accounts
                if (known := self.catalogs.known(account.id))
            },
            listed_only=listed_only,
            concurrency=self.settings.kiro_concurrency,
        )

    async def wait_for_one(
        self, *, conversation: str, model: str, tried: AbstractSet[str], deadline: float
    ) -> Account | None:
        """Return like `pick`, but wait until *deadline* while an account is only busy."""
        while True:
            self._freed.clear()
            account = self.pick(conversation=conversation, model=model, tried=tried)
            left = deadline - self.clock()
            if account is not None or left <= 0 or not self._somebody_is_busy(tried):
                return account
            try:
                await asyncio.wait_for(self._freed.wait(), min(left, pool.BUSY_WAIT))
            except TimeoutError:
                continue

    def begin(self, account_id: str) -> None:
        """Count a request on the account."""
        self.in_flight[account_id] += 1
        self.note(account_id, Event.begun)

    def release(self, account_id: str) -> None:
        """Count it out again, and let one that waits try."""
        self.in_flight[account_id] -= 1
        if self.in_flight[account_id] <= 0:
            del self.in_flight[account_id]
        self._freed.set()

    def note(self, account_id: str, outcome: Outcome) -> None:
        """Store what happened to an account, beside the request."""
        now = self.clock()
        self.change(account_id, lambda account: health.apply(account, outcome, now))

    def served(self, account_id: str, place: Place) -> None:
        """Store that an account has served, and where, beside the request."""
        now = self.clock()
        self.change(account_id, lambda account: remembered(health.apply(account, Event.served, now), place))

    def change(self, account_id: str, change: Callable[[Account], Account]) -> None:
        """Store a change of an account, beside the request."""
        self._note(lambda stored: stored.alter(account_id, change))

    def spent(self, account_id: str, credits_: float) -> None:
        """Count what an answer cost, so that usage need not be asked for each time."""
        now = int(self.clock() * 1000)
        self.change(account_id, lambda account: usage.spent(account, credits_, now))

    def activate(self, account_id: str) -> None:
        """Make the account that serves the active one, as other tools show it.

        Where the user has chosen another one before that is written, the user's word counts.
        """
        try:
            before = self.accounts().active_account_id
        except StoreError:  # of a document that cannot be read no account is the active one
            return
        if before == account_id:
            return

        def alter(stored: Accounts) -> None:
            if stored.active_account_id == before and stored.get(account_id) is not None:
                stored.active_account_id = account_id

        self._note(alter)

    async def ready(self, account_id: str) -> Account:
        """Return the account with a token to use now, and with its profile where its login has one of its own.

        Raises NoAccount, AccountDead, AuthUnavailable, StoreError; UpstreamError and AnswerFailed where the profile
        cannot be found: the account then waits like one that fails.
        """
        account = await self.tokens.fresh(account_id)
        if not needs_discovery(account):
            return account
        try:
            with self._noting_locks(account_id):
                found = await profiles.discover(self.caller, account)
        except Suspended:
            raise
        except (AnswerFailed, UpstreamError):  # asked again at every request it would keep each waiting for minutes
            self.note(account_id, Finding(Kind.transient, Failure("profiles")))
            raise
        if not found:
            return account
        arn = found[0].arn

        def alter(stored: Accounts) -> None:
            now = stored.get(account_id)
            if now is not None:
                stored.put(profiles.with_profile(now, arn))

        await self.registry.aupdate(alter)
        return profiles.with_profile(account, arn)

    # --- what is known beside --------------------------------------------------------------------------------------

    def catalog(self) -> Catalog:
        """Return the models of all usable accounts; the dated fallback where none is known."""
        return self.catalogs.joined(account.id for account in self.accounts().accounts if account.enabled)

    async def fetch_models(self, account_id: str) -> Catalog:
        """Ask for the models of an account now."""
        now = self.clock()
        with self._noting_locks(account_id):
            return await self.catalogs.refresh(account_id, lambda: models.fetch(self.caller, account_id, now), now)

    async def fetch_usage(self, account_id: str) -> usage.Usage:
        """Ask for the usage of an account now, and store it, and whose the account is."""
        return (await self.learn_usage(account_id))[1]

    async def learn_usage(self, account_id: str) -> tuple[str, usage.Usage]:
        """Do as `fetch_usage` does; return the account's id, too: of a user who had one already it is that one's."""
        self._usage_asked[account_id] = self.clock()
        with self._noting_locks(account_id):
            found = await usage.fetch(self.caller, account_id, int(self.clock() * 1000))

        def alter(stored: Accounts) -> str:
            kept = identify(stored, account_id, Person(found.user_id, found.email)) if found.user_id else account_id
            account = stored.get(kept)
            if account is not None:
                stored.put(usage.noted(account, found))
            return kept

        return await self.registry.aupdate(alter), found

    @contextmanager
    def _noting_locks(self, account_id: str) -> Iterator[None]:
        """Note where the service says, on a call of our own, that it has locked the account."""
        try:
            yield
        except Suspended as error:
            if error.failure is not None:
                self.note(account_id, Finding(Kind.suspended, error.failure))
            raise

    def want_models(self, account_id: str) -> None:
        """See to it that an account's model list is no older than it should be, without waiting."""
        if self.catalogs.due(account_id, self.clock()):
            self._beside.run(f"models {account_id}", lambda: self.fetch_models(account_id))

    async def settled_models(self, account_id: str, seconds: float) -> None:
        """Ask for an account's model list and wait for it, so many seconds at the most; a failure is logged."""
        self.want_models(account_id)
        await self._beside.wait(f"models {account_id}", seconds)

    def want_import(self) -> bool:
        """Take over logins of other programs, without waiting; tell whether there are any to look at.

        An API key in the environment is one that the user gave us; the others are taken over by option only.
        """
        kinds = tuple(sources.NAMES) if self.settings.kiro_sync else (sources.ENVIRONMENT,)
        found = sources.discover(self.around, kinds)
        if found:
            importer = Importer(self.registry, self.tokens, self._asker, clock=self.clock)
            self._beside.run("import", lambda: importer.run(found))
        return bool(found)

    def usage_due(self, account: Account, *, forced: bool = False) -> bool:
        """Tell whether it is time to ask for an account's usage; *forced* where the user wants the newest."""
        return usage.due(account, self._usage_asked.get(account.id, 0.0), self.clock(), forced=forced)

    def want_usage(self, account: Account) -> None:
        """See to it that an account's usage is no older than it should be, without waiting."""
        if self.usage_due(account):
            self._beside.run(f"usage {account.id}", lambda: self.fetch_usage(account.id))

    def renew_beside(self, account_id: str, rejected: str) -> None:
        """Have a refused token renewed where the request has no attempt left to wait for it."""
        self._beside.run(f"renew {account_id}", lambda: self.tokens.renew(account_id, rejected))

    async def settle(self) -> None:
        """Wait for everything that runs beside."""
        await self._beside.settle()

    def close(self) -> None:
        """Cancel what runs beside, and write what is noted."""
        self._beside.close()
        try:
            self._notebook.flush()
        except StoreError as error:
            complain(error)

    # --- parts -----------------------------------------------------------------------------------------------------

    def _refresh_headers(self, account: Account) -> Headers:
        return self.identity_for(account).headers("refresh", invocation="")

    def _somebody_is_busy(self, tried: AbstractSet[str]) -> bool:
        now, busy = self.clock(), {Obstacle.busy, Obstacle.probing}
        limit = self.settings.kiro_concurrency
        return any(
            health.obstacle(account, now, in_flight=self.in_flight[account.id], concurrency=limit) in busy
            for account in self.accounts().accounts
            if account.id not in tried
        )

    def _note(self, alter: Alteration) -> None:
        """Have *alter* written with whatever else is noted in the next moment; reads see it at once."""
        self._notebook.add(alter)
        self._beside.run("store", self._notebook.write)
