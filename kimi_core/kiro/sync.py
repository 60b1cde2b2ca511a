"""Import of other programs' logins: each becomes an account once, however often it is asked for.

By default a login is forked: its refresh token is spent once, so that there are two chains, the other program's and
ours (whether the service lets both live is up to it). With *shared* nothing is spent: the account refers to the other
program's store. A token that was dealt with before is left alone; so is one whose user has an account already, and one
of which nobody can say whose it is while an account of the same kind is well, for spending it could end that one.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from kimi_core.errors import AuthUnavailable, ConfigError, LoginDead
from kimi_core.kiro import kiro_cli_store, sources
from kimi_core.kiro.accounts import Account, Accounts, Registry
from kimi_core.kiro.records import ForkRecord
from kimi_core.kiro.sources import Place
from kimi_core.kiro.stores import Token
from kimi_core.tokens import digest

type Outcome = Literal["forked", "shared", "known", "older", "unclear", "rejected", "unavailable", "unreadable"]


@dataclass(frozen=True, slots=True)
class Person:
    """Whose login it is, as the service says (kiro.md §8)."""

    user_id: str
    email: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """What became of one login that was found. `text` says what happened and what to do, without a secret."""

    place: str
    path: str
    key: str
    outcome: Outcome
    text: str
    account_id: str | None = None


class Forks(Protocol):
    """The part of `auth.Tokens` that is needed here."""

    async def fork(self, candidate: Account) -> str:
        """Spend the candidate's refresh token once; return the id of the account."""
        ...


type Who = Callable[[Account], Awaitable[Person | None]]


async def nobody_knows(account: Account) -> Person | None:
    """Stand in where nobody can be asked whose login it is."""


@dataclass(frozen=True, slots=True)
class Importer:
    """Imports what `sources.discover` found. *who* asks the service with an access token that is still good."""

    registry: Registry
    forks: Forks
    who: Who = nobody_knows
    clock: Callable[[], float] = time.time

    async def run(
        self, places: Iterable[Place], *, shared: bool = False, new: bool = False, only: frozenset[str] = frozenset()
    ) -> tuple[Line, ...]:
        """Import every login, or those whose key is in *only*; return a line for each.

        *new* takes a login of which nobody can say whose it is for another account. Raises AccountsDamaged, StoreError.
        """
        lines: list[Line] = []
        newest: dict[tuple[str, ...], Token] = {}
        for place in places:
            if place.problem:
                lines.append(_line(place, None, "unreadable", place.problem))
            for token in place.tokens:
                if only and token.key not in only:
                    continue
                if not only and _group(place, token) in newest:
                    lines.append(_line(place, token, "older", OLDER.format(key=token.key)))
                    continue
                newest[_group(place, token)] = token
                lines.append(await self._one(place, token, shared=shared, new=new))
        return tuple(lines)

    async def _one(self, place: Place, token: Token, *, shared: bool, new: bool) -> Line:
        slot = f"{place.kind}:{place.path}:{token.key}"
        secret = token.account.refresh_token or token.account.access_token
        candidate = token.account.model_copy(update={"imported_from": {slot: digest(secret)}})
        if place.kind == sources.ENVIRONMENT:
            shared = True
        elif not candidate.renewable:
            return _line(place, token, "rejected", "It has no refresh token.")
        accounts = self.registry.load()
        if not shared and (record := accounts.forks.get(digest(secret))):
            return _remembered(place, token, record, accounts)
        person = await self._whose(candidate)
        if person is not None:
            candidate = candidate.model_copy(update={"user_id": person.user_id, "email": person.email})
        if shared:
            return await self._shared(place, token, candidate)
        twin = next((account for account in accounts.accounts if account.is_twin_of(candidate)), None)
        if twin is not None and (twin.state != "needs_login" or digest(secret) in twin.chain):
            await self.registry.aupdate(lambda now: _note_known(now, twin.id, candidate, digest(secret), self.clock))
            return _line(place, token, "known", f"It belongs to {twin.label}.", twin.id)
        if person is None and not new and _could_be(candidate, accounts):
            return _line(place, token, "unclear", UNCLEAR)
        return await self._fork(place, token, candidate)

    async def _shared(self, place: Place, token: Token, candidate: Account) -> Line:
        source = place.source(token)
        mark = digest(candidate.refresh_token or candidate.access_token)
        made = candidate.model_copy(update={"source": source, "identity_hash": mark, **NO_TOKENS})
        stored = await self.registry.aupdate(lambda now: _share(now, made, candidate, self.clock))
        if stored.source != source:
            return _line(place, token, "known", f"{stored.label} has a login already, which stays.", stored.id)
        return _line(place, token, "shared", "It is read from there each time.", stored.id)

    async def _fork(self, place: Place, token: Token, candidate: Account) -> Line:
        try:
            account_id = await self.forks.fork(candidate)
        except (LoginDead, ConfigError) as error:  # the latter: an address or region in it is none
            return _line(place, token, "rejected", str(error))
        except AuthUnavailable as error:
            return _line(place, token, "unavailable", f"{error} Nothing was changed; sync again later.")
        account = self.registry.load().get(account_id)
        if account is not None and not account.user_id and (person := await self._whose(account)):
            account_id = await self.registry.aupdate(lambda now: identify(now, account_id, person))
        return _line(place, token, "forked", "The account serves, with a login of its own.", account_id)

    async def _whose(self, account: Account) -> Person | None:
        return await self.who(account) if account.remaining(self.clock()) > 0 else None


NO_TOKENS = {"access_token": "", "refresh_token": "", "expires_at": 0, "client_secret": None}
OLDER = "A newer login of the same kind was found; take this one too with --only {key}."
UNCLEAR = (
    "Its access token has run out, so nobody can say whose it is, and it may be that of an account that is here. "
    "Use the other program once and sync again, or take it for another account with --new."
)


def identify(accounts: Accounts, account_id: str, person: Person) -> str:
    """Write down whose account it is; where that user has one already, give its login to that one.

    A login that is well stays in place of one that is dead, or another program's. Returns the id of the account that is
    left.
    """
    account = accounts.get(account_id)
    if account is None or account.unknown:
        return account_id
    email = person.email or account.email
    label = email if email and account.label in {account.placeholder, account.email} else account.label
    known = account.model_copy(update={"user_id": person.user_id, "email": email, "label": label})
    twin = accounts.twin_of(known, but=account_id)
    if twin is None:
        accounts.put(known)
        return account_id
    if _is_well(twin) and (known.source is not None or not _is_well(known)):
        accounts.put(twin.model_copy(update={"imported_from": twin.imported_from | known.imported_from}))
    else:
        accounts.put(twin.succeeded_by(known))
    accounts.remove(account_id)
    return twin.id


def _is_well(account: Account) -> bool:
    """Tell whether the account has a login that nobody has turned down."""
    return account.state != "needs_login" and not account.held_back


def _group(place: Place, token: Token) -> tuple[str, ...]:
    """Return what logins have in common that may be generations of one chain: kiro-cli keeps older ones."""
    account = token.account
    if place.kind == kiro_cli_store.KIND:
        return (place.kind, account.auth_method, account.start_url or "")
    return (place.kind, place.path, token.key)


def _could_be(candidate: Account, accounts: Accounts) -> bool:
    """Tell whether *candidate* might be a login of an account that is well."""
    return any(
        account.state == "ok"
        and account.auth_method == candidate.auth_method
        and account.start_url in {None, candidate.start_url}
        for account in accounts.accounts
    )


def _share(accounts: Accounts, made: Account, found: Account, clock: Callable[[], float]) -> Account:
    """Add a shared account; the one that is read from the same place stays, whoever is logged in there now.

    *found* is the login that is there. A login of the same user that is well is not given up for it: return that.
    """
    same = next((account for account in accounts.accounts if account.source == made.source), None)
    if same is None:
        twin = accounts.twin_of(made)
        return twin if twin is not None and _is_well(twin) else accounts.upsert(made, clock=clock)
    whose = {"user_id": made.user_id or same.user_id, "email": made.email or same.email}
    seen = found.model_copy(update={"rejected_refresh": same.rejected_refresh})
    accounts.put(sources.welcomed(same.model_copy(update=whose), seen))
    return same


def _note_known(accounts: Accounts, account_id: str, candidate: Account, mark: str, clock: Callable[[], float]) -> None:
    accounts.note_fork(mark, ForkRecord(outcome="known", at=int(clock() * 1000), account=account_id))
    account = accounts.get(account_id)
    if account is not None:
        merged = account.imported_from | candidate.imported_from
        accounts.put(account.model_copy(update={"imported_from": merged}))


def _remembered(place: Place, token: Token, record: ForkRecord, accounts: Accounts) -> Line:
    if record.outcome == "rejected":
        return _line(place, token, "rejected", "It was turned down before; log in there again, and sync again.")
    if accounts.get(record.account or "") is None:
        return _line(
            place, token, "known", "It was taken over before, and removed since; `kimi-mitm login kiro` brings it back."
        )
    return _line(place, token, "known", "It was taken over before.", record.account)


def _line(place: Place, token: Token | None, outcome: Outcome, text: str, account_id: str | None = None) -> Line:
    name = sources.NAMES[place.kind]
    return Line(name, place.path, token.key if token else "", outcome, text, account_id)
