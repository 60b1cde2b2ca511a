"""The one JSON document that holds all Kiro accounts, and what can be done with them together (kiro.md §10).

Keys that are not known here are kept, and records with values that are not known here stay as they are. Nothing here
shows a secret (`records`), and a document that does not fit is described by the path of the field at fault, without its
value.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, PrivateAttr, ValidationError

from kimi_core.errors import StoreDamaged
from kimi_core.kiro.account import Account, AuthMethod
from kimi_core.kiro.records import ForkRecord, Record, Registration, Tolerant
from kimi_core.store import Document, Kept

__all__ = ("STRATEGIES", "Account", "Accounts", "AccountsDamaged", "AuthMethod", "Registry", "Strategy", "new_id")

FILE = "kiro-accounts.json"
LOCK_WAIT = 10.0  # seconds; holders only read, change and write the document
KEPT_FORKS = 1000  # refresh tokens of others whose fork is remembered

type Strategy = Literal["hybrid", "round-robin", "sticky"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy.__value__)


class Accounts(Record):
    """The document.

    `forks` has the digest of each refresh token that an import has dealt with, oldest first; `registrations` this
    program's own, by region of the SSO service.
    """

    strategy: Strategy = "hybrid"
    active_account_id: str | None = None
    accounts: list[Annotated[Account, Tolerant]] = Field(default_factory=list)
    forks: dict[str, Annotated[ForkRecord, Tolerant]] = Field(default_factory=dict)
    registrations: dict[str, Annotated[Registration, Tolerant]] = Field(default_factory=dict)
    _unknown_here: dict[str, Any] = PrivateAttr(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: object) -> Self:
        """Return the accounts in *data*. Raises StoreDamaged that names *where* and the field, never a value."""
        unknown = {name: data[name] for name in data if name == "strategy" and data[name] not in STRATEGIES}
        try:
            accounts = cls.model_validate({name: value for name, value in data.items() if name not in unknown})
        except ValidationError as error:
            field = ".".join(str(part) for part in error.errors(include_input=False, include_url=False)[0]["loc"])
        else:
            accounts.keep_unknown(unknown)
            return accounts
        raise AccountsDamaged(f"{where} is damaged: {field} is not what it should be.")

    def keep_unknown(self, values: dict[str, Any]) -> None:
        """Have *values*, which a newer version wrote, written back for as long as nobody chooses others."""
        self._unknown_here = values

    @property
    def unknown_strategy(self) -> bool:
        """Whether a strategy is stored that is not known here; the default is used, and that one kept."""
        return bool(self._unknown_here) and "strategy" not in self.model_fields_set

    def to_json(self) -> dict[str, Any]:
        """Return the document; a strategy that is not known here stays until another one is chosen."""
        return super().to_json() | (self._unknown_here if self.unknown_strategy else {})

    def copied(self) -> Self:
        """Return a copy that may be altered; the accounts in it are frozen."""
        lists = {
            "accounts": list(self.accounts),
            "forks": dict(self.forks),
            "registrations": dict(self.registrations),
        }
        return self.model_copy(update=lists)

    def get(self, account_id: str) -> Account | None:
        """Return the account with that id, or None."""
        return next((account for account in self.accounts if account.id == account_id), None)

    def find(self, word: str) -> tuple[Account, ...]:
        """Return the accounts that a person may mean by *word*: that id or label, else ids that begin with it."""
        if not word:
            return ()
        exact = tuple(account for account in self.accounts if word in {account.id, account.label})
        return exact or tuple(account for account in self.accounts if account.id.startswith(word))

    def twin_of(self, new: Account, *, but: str | None = None) -> Account | None:
        """Return the account that *new* is the same as, one that can take a login; the one with id *but* apart."""
        others = (account for account in self.accounts if account.id != but and not account.unknown)
        return next((account for account in others if account.is_twin_of(new)), None)

    def put(self, account: Account) -> bool:
        """Replace the account with the same id; tell whether there is one. A removed account does not come back."""
        for position, old in enumerate(self.accounts):
            if old.id == account.id:
                self.accounts[position] = account
                return True
        return False

    def alter(self, account_id: str, change: Callable[[Account], Account]) -> None:
        """Put what *change* makes of that account in its place, if it is there."""
        for position, old in enumerate(self.accounts):
            if old.id == account_id:
                self.accounts[position] = change(old)
                return

    def upsert(self, new: Account, *, clock: Callable[[], float] = time.time) -> Account:
        """Add *new*, or give its login to the account that it is the same as; return what is stored now.

        The first account becomes the active one.
        """
        old = self.twin_of(new)
        if old is not None:
            merged = old.succeeded_by(new)
            self.put(merged)
            return merged
        founded = new.founded(clock=clock)
        self.accounts.append(founded)
        if self.get(self.active_account_id or "") is None:
            self.active_account_id = founded.id
        return founded

    def remove(self, account_id: str) -> bool:
        """Remove an account; tell whether it was there. The first one left becomes active where it was."""
        left = [account for account in self.accounts if account.id != account_id]
        found = len(left) < len(self.accounts)
        self.accounts = left
        if found and self.active_account_id == account_id:
            self.active_account_id = left[0].id if left else None
        return found

    def note_fork(self, token_digest: str, record: ForkRecord) -> None:
        """Remember what became of the refresh token with that digest."""
        self.forks.pop(token_digest, None)
        self.forks[token_digest] = record
        for oldest in list(self.forks)[:-KEPT_FORKS]:
            del self.forks[oldest]


class AccountsDamaged(StoreDamaged):
    """The document of the accounts does not parse."""

    hint = "The file is kept as it is; `kimi-mitm login kiro` puts it aside and makes a new one."


class Registry:
    """The document in *folder*. The file is the truth: it is looked at on every call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.document = Document(self.folder / FILE)
        self._kept = Kept(self.document, self._read)

    def current(self) -> Accounts:
        """Return what is stored, the same object while the file is the same; not to be altered.

        Empty where there is no file. Raises AccountsDamaged, StoreError.
        """
        return self._kept.get()

    def load(self) -> Accounts:
        """Return what is stored, for the caller to alter; raises like `current`."""
        return self.current().copied()

    def _read(self) -> Accounts:
        try:
            data = self.document.read()
        except StoreDamaged as error:
            raise AccountsDamaged(str(error)) from None
        return Accounts() if data is None else Accounts.from_json(data, self.document.path)

    def update[T](self, change: Callable[[Accounts], T]) -> T:
        """Read, let *change* alter the accounts, and write them, under the lock; return what *change* returns.

        Nothing is written where *change* raises or alters nothing. Raises AccountsDamaged, StoreBusy, StoreError.
        """
        with self.document.lock(LOCK_WAIT):
            return self._changed(change)

    async def aupdate[T](self, change: Callable[[Accounts], T], *, wait: float = LOCK_WAIT) -> T:
        """Like `update`, without keeping others from running while the lock is waited for, *wait* seconds at most."""
        async with self.document.alock(wait):
            return self._changed(change)

    async def aupdate_or_begin[T](self, change: Callable[[Accounts], T], told: Callable[[Path], object]) -> T:
        """Like `aupdate`; where the document is damaged, put it aside first and begin a new one.

        *told* hears where it went, also where the new one cannot be written. For a login that was approved, and for
        nothing less. Raises StoreBusy, StoreError.
        """
        async with self.document.alock(LOCK_WAIT):
            try:
                self._read()
            except AccountsDamaged:
                self.document.probe()  # a file that nothing could take the place of stays where it is
                told(self.document.put_aside())
            return self._changed(change)

    def _changed[T](self, change: Callable[[Accounts], T]) -> T:
        accounts = self._read()
        before = accounts.to_json()
        result = change(accounts)
        after = accounts.to_json()
        if after != before:
            self.document.write(after)
        return result


def new_id() -> str:
    """Return a fresh account id."""
    return str(uuid.uuid4())
