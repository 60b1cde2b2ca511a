"""What the readers of other programs' stores share: what they find, and careful access to their files."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kimi_core.kiro.accounts import Account, AuthMethod
from kimi_core.kiro.constants import BUILDER_START_URL, DEFAULT_REGION, api_region, arn_region
from kimi_core.kiro.expiry import milliseconds

BUSY = 2.0  # seconds to wait for another program's write to its database
WAL_MODE = slice(18, 20)  # bytes of a database's header that are 2 where it has a write-ahead log
MAX_FILE = 4 << 20  # bytes of a JSON file; theirs are a few KiB

type Row = Mapping[str, Any]


class Unreadable(Exception):
    """A store is there and cannot be read; the text names no content of it."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where other programs keep their things: the environment, the home folder, and `sys.platform`."""

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    home: Path = field(default_factory=Path.home)
    platform: str = sys.platform

    def folder(self, variable: str, *below_home: str) -> Path:
        """Return the folder in *variable*, else the one below the home folder."""
        chosen = self.environ.get(variable)
        return Path(chosen) if chosen else self.home.joinpath(*below_home)

    @property
    def roaming(self) -> Path:
        """Windows' folder for settings that follow the user."""
        return self.folder("APPDATA", "AppData", "Roaming")

    @property
    def local(self) -> Path:
        """Windows' folder for data of this machine."""
        return self.folder("LOCALAPPDATA", "AppData", "Local")

    @property
    def config(self) -> Path:
        """The folder for settings anywhere else."""
        return self.folder("XDG_CONFIG_HOME", ".config")


@dataclass(frozen=True, slots=True)
class Token:
    """A login found in a store. `key` tells it from others of the same store; `account` is not registered yet."""

    key: str
    account: Account


def value(row: Row, *names: str) -> Any:
    """Return the first of *names* that *row* has, each in snake_case, also looked for in camelCase; or None."""
    spelled = (row.get(spelling) for name in names for spelling in (name, _camel(name)))
    return next((found for found in spelled if found is not None and found != ""), None)


def text(row: Row, *names: str) -> str | None:
    """Like `value`, for what has to be a text."""
    found = value(row, *names)
    return found if isinstance(found, str) else None


def login(row: Row, method: AuthMethod, *, client: Row, fallback: Row) -> dict[str, Any]:
    """Return fields of an account from a token's *row*, its *client* registration, and what else is known.

    *fallback* may have `profile_arn`, `region`, `start_url`. The API's region is that of the profile, the SSO
    service's is the one that the token names (kiro.md §3.3).
    """
    sso_region = text(row, "region") or text(client, "region") or text(fallback, "region") or DEFAULT_REGION
    arn = text(row, "profile_arn") or (text(fallback, "profile_arn") if method in {"idc", "external_idp"} else None)
    scopes = value(row, "scopes") or value(client, "scopes")
    return {
        "auth_method": method,
        "access_token": text(row, "access_token") or "",
        "refresh_token": text(row, "refresh_token") or "",
        "expires_at": milliseconds(value(row, "expires_at")),
        "region": arn_region(arn or "") or api_region(sso_region),
        "oidc_region": None if method == "desktop" else sso_region,
        "profile_arn": arn,
        "start_url": text(row, "start_url") or text(fallback, "start_url"),
        "client_id": text(row, "client_id") or text(client, "client_id"),
        "client_secret": text(row, "client_secret") or text(client, "client_secret"),
        "client_secret_expires_at": value(client, "client_secret_expires_at", "expires_at"),
        "token_endpoint": text(row, "token_endpoint"),
        "issuer_url": text(row, "issuer_url"),
        "scopes": _scopes(scopes),
    }


def sso_method(start_url: str | None) -> AuthMethod:
    """Return whose SSO login has that start URL: Builder ID has one for all, an organisation its own."""
    return "idc" if start_url and start_url.rstrip("/") != BUILDER_START_URL else "builder"


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in *path*, None where there is no such file. Raises Unreadable."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror}.") from None
    data = json_object(raw) if len(raw) <= MAX_FILE else None
    if data is None:
        raise Unreadable(f"{path} holds no JSON object.")
    return data


def json_object(raw: object) -> dict[str, Any] | None:
    """Return the JSON object in a text or in bytes, None for anything else."""
    if not isinstance(raw, str | bytes):
        return None
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


@contextlib.contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    """Open another program's SQLite database for reading, with what is only in its write-ahead log so far.

    Nothing is ever written to it. SQLite makes an empty log and an index beside a database that has none and leaves
    them there; so a log that is not there, or empty, is not asked for, which works in folders that are read-only, too.
    Raises Unreadable, also for errors inside the block.
    """
    where = "file:" + quote(path.absolute().as_posix()) + "?mode=ro"
    try:
        connection = _open(f"{where}&immutable=1" if _at_rest(path) else where)
        if connection is None:
            raise Unreadable(f"{path} cannot be opened.")
        with contextlib.closing(connection):
            yield connection
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter for names of columns
        # what is not SQLite's own word is Python's on a text that it cannot decode, and quotes it: a login may be in it
        reason = str(error) if hasattr(error, "sqlite_errorname") else "a text in it is no UTF-8"
        raise Unreadable(f"{path} cannot be read: {reason}.") from None


def table(connection: sqlite3.Connection, name: str) -> list[dict[str, Any]]:
    """Return the rows of a table, as dicts; none where there is no such table."""
    known = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)).fetchall()
    if not known:
        return []
    cursor = connection.execute(f'SELECT * FROM "{name}"')  # noqa: S608 - a name of ours, and just found to exist
    columns = [column[0] for column in cursor.description]
    return [dict(zip(columns, row, strict=True)) for row in cursor]


def key_values(connection: sqlite3.Connection, name: str) -> dict[str, Any]:
    """Return the `key` and `value` columns of a table."""
    rows: Iterable[Row] = table(connection, name)
    return {str(row.get("key")): row.get("value") for row in rows}


def _at_rest(path: Path) -> bool:
    """Tell whether the database keeps a write-ahead log, and has everything in its file at the moment."""
    try:
        with path.open("rb") as file:
            header = file.read(WAL_MODE.stop)
        log = path.with_name(f"{path.name}-wal")
        return header[WAL_MODE] == b"\2\2" and not (log.exists() and log.stat().st_size)
    except OSError:
        return False


def _open(uri: str) -> sqlite3.Connection | None:
    """Return a connection that has read the file, or None where SQLite cannot open it. Raises sqlite3.Error."""
    with contextlib.ExitStack() as undo:
        try:
            connection = sqlite3.connect(uri, uri=True, timeout=BUSY, isolation_level=None)
            undo.callback(connection.close)
            connection.execute("PRAGMA query_only = ON")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # now the file itself is opened
        except sqlite3.OperationalError:
            return None
        undo.pop_all()
        return connection


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)


def _scopes(found: object) -> tuple[str, ...] | None:
    if isinstance(found, str):
        return tuple(found.split())
    if isinstance(found, list):
        return tuple(str(scope) for scope in found)
    return None
