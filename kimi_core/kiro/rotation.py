"""One refresh of a stored account, from reading it to having its successor on disk; and one fork of another's token.

The order is what keeps an account alive when refresh tokens rotate (kiro.md §7.3)::

    the account's lock ─ read ─ newer than what the caller knew? ── yes ─> nothing to do: "adopted"
                                └ turned down before? ───────────── yes ─> AccountDead
                                └ can room be taken for its heir? ─ no ──> StoreError, nothing is spent
                                └ refresh ─ rejected ─> wait, read again ─ changed? ─> start over once
                                          │                              └ else mark it, AccountDead
                                          └ granted ─> the document's lock, read, merge, write, rename ─> "refreshed"

The lock is the account's own, so that a slow service holds up nobody else. A failure changes no token. Where the
successor cannot be written all the same, those who wait are told, and it is kept, under the lock, until it can be, but
no longer than `detached.AFTERLIFE`: the old token is spent. A fork spends a token that another program had, once: its
digest is remembered, and only a success makes or changes an account.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from kimi_core.detached import Tell
from kimi_core.errors import LoginDead, StoreError
from kimi_core.headers import Headers
from kimi_core.kiro import sources
from kimi_core.kiro.account import LOGIN_FIELDS
from kimi_core.kiro.accounts import Account, Accounts, Registry
from kimi_core.kiro.auth_errors import AccountDead, NoAccount
from kimi_core.kiro.constants import Endpoints
from kimi_core.kiro.records import ForkRecord
from kimi_core.kiro.stores import Surroundings
from kimi_core.store import Document
from kimi_core.tokens import digest

LOCKS = "kiro-locks"  # folder of the locks, one per account or token
LOCK_WAIT = 115.0  # seconds; a holder needs 3 tries of 30 s, 3 s between, 1 s after a rejection, and some for the disk
SECOND_LOOK = 1.0  # seconds after a rejection until the account is read again
WRITE_PAUSES = (0.5, 1.0, 2.0)  # seconds between tries to store a token that exists nowhere else
NEXT_LOOK = 5.0  # seconds between further ones, of which nobody waits for the end
REJECTED = "The login service no longer accepts this login."

type Sleep = Callable[[float], Awaitable[object]]
type Refresh = Callable[[Account], Awaitable[Account]]
type Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Job:
    """What a refresh needs to know. Exactly one of `account_id` (a rotation) and `candidate` (a fork) is set.

    `rejected` is the digest of an access token that the API refused, None where a refresh is only due by age;
    `insist` tries a refresh token that was turned down before. `candidate` is the account as `Account.to_json`, with
    the token to be forked.
    """

    folder: Path
    endpoints: Endpoints
    headers: Headers
    outbound: Mapping[str, Any] = field(repr=False)
    account_id: str | None = None
    rejected: str | None = None
    insist: bool = False
    candidate: Mapping[str, Any] | None = field(default=None, repr=False)

    def done_by(self, account: Account, now: float) -> bool:
        """Tell whether *account* is what this job is for, so that no refresh is needed."""
        if self.rejected is None:
            return not account.due(now)
        return digest(account.access_token) != self.rejected and account.remaining(now) > 0

    def to_json(self) -> dict[str, Any]:
        """Return the job for another process."""
        fields = {name: getattr(self, name) for name in ("account_id", "rejected", "insist", "candidate")}
        places = {"folder": str(self.folder), "endpoints": asdict(self.endpoints)}
        return fields | places | {"headers": list(self.headers), "outbound": dict(self.outbound)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Job:
        """Inverse of `to_json`."""
        made = {
            "folder": Path(data["folder"]),
            "endpoints": Endpoints(**data["endpoints"]),
            "headers": Headers((name, value) for name, value in data["headers"]),
        }
        return cls(**{**data, **made})


async def do(
    job: Job,
    refresh: Refresh,
    *,
    clock: Clock = time.time,
    sleep: Sleep = asyncio.sleep,
    around: Surroundings | None = None,
    lock_wait: float = LOCK_WAIT,
    tell: Tell | None = None,
) -> str:
    """Do *job*; return "adopted" or "refreshed" for a rotation, the account's id for a fork.

    A new pair that cannot be stored is a StoreError; with *tell* that is told, and the pair kept until it can be.
    Raises NoAccount, AccountDead, AccountsDamaged, StoreBusy, StoreError, and what *refresh* raises.
    """
    work = _Work(job, refresh, clock, sleep, around or Surroundings(), tell)
    name = job.account_id or digest(str((job.candidate or {}).get("refresh_token")))
    lock = Document(job.folder / LOCKS / name)
    async with lock.alock(lock_wait, sleep=sleep):
        try:
            return await (work.rotate(job.account_id) if job.account_id else work.fork())
        finally:
            work.registry.document.release()


class _Work:
    """One job, under its lock."""

    def __init__(
        self, job: Job, refresh: Refresh, clock: Clock, sleep: Sleep, around: Surroundings, tell: Tell | None
    ) -> None:
        self.job = job
        self.refresh = refresh
        self.clock = clock
        self.sleep = sleep
        self.around = around
        self.tell = tell
        self.registry = Registry(job.folder)

    async def rotate(self, account_id: str) -> str:
        stored, account = self.look(account_id)
        rejected: Account | None = None
        while not self.job.done_by(account, self.clock()):
            if account.held_back and not self.job.insist:
                await self.bury(stored, account, REJECTED)
                raise AccountDead(REJECTED)
            self.registry.document.reserve()
            try:
                new = await self.refresh(account)
            except LoginDead as error:
                await self.sleep(SECOND_LOOK)
                stored, found = self.look(account_id)
                if rejected is not None or found.refresh_token == account.refresh_token:
                    await self.bury(stored, found, str(error))
                    raise
                rejected, account = account, found
            else:
                return await self.keep(partial(_replace, stored=stored, old=account, new=new))
        return "adopted"

    async def fork(self) -> str:
        candidate = Account.model_validate(dict(self.job.candidate or {}))
        mark = digest(candidate.refresh_token)
        accounts = self.registry.load()
        if mark in accounts.forks:
            return _outcome(accounts.forks[mark])
        own = next((account for account in accounts.accounts if mark in account.chain), None)
        if own is not None:
            return own.id
        self.registry.document.reserve()
        try:
            new = await self.refresh(candidate)
        except LoginDead as error:
            note = ForkRecord(outcome="rejected", at=self.now)
            await self.keep(lambda accounts: accounts.note_fork(mark, note))
            raise AccountDead(str(error)) from None

        def add(accounts: Accounts) -> str:
            added = accounts.upsert(new, clock=self.clock)
            accounts.note_fork(mark, ForkRecord(outcome="forked", at=self.now, account=added.id))
            return added.id

        return await self.keep(add)

    @property
    def now(self) -> int:
        return int(self.clock() * 1000)

    def look(self, account_id: str) -> tuple[Account, Account]:
        """Return the account as it is stored, and as it is to be used (they differ where it is shared)."""
        stored = self.registry.load().get(account_id)
        if stored is None or stored.unknown:
            raise NoAccount("There is no such account any more.")
        return stored, sources.view(stored, self.around)

    async def bury(self, stored: Account, account: Account, error: str) -> None:
        """Remember that the refresh token of *account* was turned down, unless there is another one by now."""
        refused = self.job.rejected is not None
        marked = account.buried(error, self.clock(), refused=refused)
        names = ("rejected_refresh", "rejected_at", "last_error", "state", "is_healthy")

        def change(accounts: Accounts) -> None:
            now = accounts.get(stored.id)
            if now is not None and now.refresh_token == stored.refresh_token:
                accounts.put(now.model_copy(update={name: getattr(marked, name) for name in names}))

        await self.registry.aupdate(change)

    async def keep[T](self, change: Callable[[Accounts], T]) -> T:
        """Put a new pair on disk; a disk that fails is given a moment, and where nobody waits any time."""
        for pause in WRITE_PAUSES:
            with suppress(StoreError):
                return await self.registry.aupdate(change)
            await self.sleep(pause)
        try:
            return await self.registry.aupdate(change)
        except StoreError as error:
            if self.tell is None:
                raise
            self.tell(error)
        while True:  # whoever can be told has an end of its own
            await self.sleep(NEXT_LOOK)
            with suppress(StoreError):
                return await self.registry.aupdate(change)


def _replace(accounts: Accounts, *, stored: Account, old: Account, new: Account) -> str:
    """Give the account its new tokens; a login that was stored meanwhile is newer and stays, so does a removal."""
    now = accounts.get(stored.id) or _heir(accounts, stored)
    if now is None or now.refresh_token != stored.refresh_token:
        return "adopted"
    changed = {name: getattr(new, name) for name in LOGIN_FIELDS if getattr(new, name) != getattr(old, name)}
    health: dict[str, Any] = {"rejected_refresh": None}
    if now.state == "needs_login":
        health |= {"state": "ok", "is_healthy": True, "consecutive_failures": 0, "last_error": None}
    if stored.source is not None:
        own = old.shared_base is not None
        changed |= {"refresh_token": new.refresh_token, "access_token": new.access_token}
        changed |= {"shared_base": old.shared_base if own else digest(old.refresh_token)}
    accounts.put(now.model_copy(update=changed | health | {"expires_at": new.expires_at}))
    return "refreshed"


def _heir(accounts: Accounts, stored: Account) -> Account | None:
    """Return the account that took over the login of *stored* while that was being renewed (`sync.identify`)."""
    if not stored.refresh_token:
        return None
    known = (account for account in accounts.accounts if not account.unknown)
    return next((account for account in known if account.refresh_token == stored.refresh_token), None)


def _outcome(record: ForkRecord) -> str:
    """Return the account that an earlier fork of the same token came to."""
    if record.outcome == "rejected" or record.account is None:
        raise AccountDead(REJECTED)
    return record.account
