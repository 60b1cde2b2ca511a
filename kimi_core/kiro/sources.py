"""Every place that Kiro logins of other programs are found in, and the environment's API key.

`discover` looks at all of them. A shared account is read again from its place each time it is used (`read`, `view`);
nothing is ever written to another program's store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kimi_core.kiro import ide_store, kiro_cli_store, opencode_store
from kimi_core.kiro.account import LOGIN_FIELDS
from kimi_core.kiro.accounts import Account, new_id
from kimi_core.kiro.records import Source, SourceKind
from kimi_core.kiro.stores import Surroundings, Token, Unreadable
from kimi_core.tokens import digest

API_KEY = "KIRO_API_KEY"
ENVIRONMENT: Final = "environment"
NAMES: Mapping[SourceKind, str] = {  # for people
    opencode_store.KIND: "opencode's multi-kiro.json",
    kiro_cli_store.KIND: "kiro-cli",
    ide_store.KIND: "Kiro IDE",
    opencode_store.DATABASE_KIND: "opencode's kiro.db",
    ENVIRONMENT: API_KEY,
}


@dataclass(frozen=True, slots=True)
class Place:
    """One store that is there: its logins, newest first, or the problem with it."""

    kind: SourceKind
    path: str
    tokens: tuple[Token, ...] = ()
    problem: str | None = None

    def source(self, token: Token) -> Source:
        """Return the reference by which *token* is found here again."""
        return Source(kind=self.kind, path=self.path, key=token.key)


def discover(around: Surroundings, kinds: Iterable[str] = tuple(NAMES)) -> tuple[Place, ...]:
    """Return every store of *kinds* that has logins or cannot be read."""
    wanted = frozenset(kinds)
    places = [_place(kind, str(path), around) for kind, path in _paths(around) if kind in wanted]
    return tuple(place for place in places if place.tokens or place.problem)


def read(source: Source, around: Surroundings) -> Account | None:
    """Return the login that is in *source* now, or None. Raises Unreadable."""
    return next((token.account for token in _tokens(source.kind, source.path, around) if token.key == source.key), None)


def view(account: Account, around: Surroundings) -> Account:
    """Return *account* as it is to be used: a shared one with the login that its source has now.

    Tokens of our own stand in where the source has not moved on since they were made from it, and where it is gone.
    """
    if account.source is None:
        return account
    try:
        found = read(account.source, around)
    except Unreadable:
        return account
    if found is None or (account.refresh_token and account.shared_base == digest(found.refresh_token)):
        return account
    fields = {name: getattr(found, name) for name in LOGIN_FIELDS if name not in KEPT_BY_US}
    return account.model_copy(update=fields | {"expires_at": found.expires_at, "shared_base": None})


def welcomed(account: Account, seen: Account) -> Account:
    """Return a shared account that waits for a login as one that serves, where its program has logged in again.

    *seen* is how it looks in its source now (`view`). The same account where there is nothing new.
    """
    waits = account.source is not None and account.state == "needs_login"
    if not waits or not seen.access_token or seen.held_back:
        return account
    return account.model_copy(update=FORGIVEN)


FORGIVEN: dict[str, Any] = {
    "state": "ok",
    "is_healthy": True,
    "consecutive_failures": 0,
    "cooldown_until": None,
    "last_error": None,
    "rejected_refresh": None,
}
KEPT_BY_US = frozenset({"email", "user_id", "refreshed_at"})  # no store of another program has them


def _paths(around: Surroundings) -> list[tuple[SourceKind, Path | str]]:
    """Return every place with its kind, in the order of import.

    The plugin's accounts come first: it made them from kiro-cli's tokens, which may have been spent for that.
    """
    finders: dict[SourceKind, Callable[[Surroundings], tuple[Path, ...]]] = {
        opencode_store.KIND: opencode_store.paths,
        kiro_cli_store.KIND: kiro_cli_store.paths,
        ide_store.KIND: ide_store.paths,
        opencode_store.DATABASE_KIND: opencode_store.database_paths,
    }
    found: list[tuple[SourceKind, Path | str]] = [
        (kind, path) for kind, paths in finders.items() for path in paths(around)
    ]
    return [*found, (ENVIRONMENT, API_KEY)]


def _place(kind: SourceKind, path: str, around: Surroundings) -> Place:
    try:
        tokens = _tokens(kind, path, around)
    except Unreadable as error:
        return Place(kind, path, problem=str(error))
    return Place(kind, path, tuple(sorted(tokens, key=lambda token: -token.account.expires_at)))


def _tokens(kind: SourceKind, path: str, around: Surroundings) -> tuple[Token, ...]:
    match kind:
        case kiro_cli_store.KIND:
            return kiro_cli_store.read(Path(path))
        case ide_store.KIND:
            return ide_store.read(Path(path), around)
        case opencode_store.KIND:
            return opencode_store.read(Path(path))
        case opencode_store.DATABASE_KIND:
            return opencode_store.read_database(Path(path))
        case _:
            return _api_key(path, around)


def _api_key(variable: str, around: Surroundings) -> tuple[Token, ...]:
    key = around.environ.get(variable, "").strip()
    if not (key and key.isascii() and key.isprintable()):
        return ()
    return (Token(variable, Account(id=new_id(), label=variable, auth_method="api_key", access_token=key)),)
