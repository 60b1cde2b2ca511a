"""Accounts of opencode's Kiro plugins: multi-kiro.json, and the older kiro.db (kiro.md §10)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import ValidationError

from kimi_core.kiro.accounts import Account, AuthMethod, new_id
from kimi_core.kiro.expiry import milliseconds
from kimi_core.kiro.stores import Row, Surroundings, Token, Unreadable, database, read_json, sso_method, table, text

KIND: Final = "opencode"
DATABASE_KIND: Final = "opencode-db"
FILE, DATABASE = "multi-kiro.json", "kiro.db"
KEPT = ("label", "email", "region", "oidc_region", "client_id", "client_secret", "profile_arn", "start_url")
COUNTED = ("request_count", "last_used")


def folder(around: Surroundings) -> Path:
    """Return opencode's folder for settings."""
    return (around.roaming if around.platform == "win32" else around.config) / "opencode"


def paths(around: Surroundings) -> tuple[Path, ...]:
    """Return where multi-kiro.json is."""
    return (folder(around) / FILE,)


def database_paths(around: Surroundings) -> tuple[Path, ...]:
    """Return where kiro.db is."""
    return (folder(around) / DATABASE,)


def read(path: Path) -> tuple[Token, ...]:
    """Return the accounts in multi-kiro.json. Raises Unreadable, also where its accounts are no list."""
    data = read_json(path)
    if data is None:
        return ()
    rows = data.get("accounts", [])
    if not isinstance(rows, list):
        raise Unreadable(f"{path} holds no list of accounts.")
    return _tokens(path, [row for row in rows if isinstance(row, dict)])


def read_database(path: Path) -> tuple[Token, ...]:
    """Return the accounts in kiro.db. Raises Unreadable."""
    if not path.exists():
        return ()
    with database(path) as connection:
        rows = table(connection, "accounts")
    renamed = [row | {"request_count": row.get("used_count")} for row in rows]
    return _tokens(path, renamed)


def _tokens(path: Path, rows: list[Row] | list[dict[str, object]]) -> tuple[Token, ...]:
    found = []
    for number, row in enumerate(rows):
        if not (text(row, "access_token") and text(row, "refresh_token")):
            continue
        try:
            found.append(Token(str(row.get("id") or number), _account(row)))
        except ValidationError:
            raise Unreadable(f"{path}: account {number} is not what it should be.") from None
    return tuple(found)


def _account(row: Row) -> Account:
    """Return the account in *row*: its login and its counters. Its health is not taken: it is tried anew."""
    fields: dict[str, object] = {name: row[name] for name in KEPT if row.get(name)}
    fields |= {name: int(found) for name in COUNTED if isinstance(found := row.get(name), int | float) and found > 0}
    fields |= {"access_token": row["access_token"], "refresh_token": row["refresh_token"]}
    moment = milliseconds(row.get("expires_at"))
    return Account.model_validate({"id": new_id(), "auth_method": _method(row), "expires_at": moment} | fields)


def _method(row: Row) -> AuthMethod:
    """Return who renews it: SSO where there is a registration; without one only the desktop service can."""
    if not text(row, "client_id"):
        return "desktop"
    return "builder" if row.get("auth_method") == "builder" else sso_method(text(row, "start_url"))
