"""A kiro-cli store made in code: the database, what is only in its write-ahead log, and its rows."""

import contextlib
import json
import sqlite3
import time

SOCIAL_ARN = "arn:aws:codewhisperer:us-east-1:699475941385:profile/EHGA3GRVQMUK"
OWN_ARN = "arn:aws:codewhisperer:eu-central-1:111122223333:profile/FAKEPROFILE1"


def rfc3339(moment):
    """Return a moment as kiro-cli writes it, with nine digits after the point."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + f".{int(moment % 1 * 1e9):09d}Z"


def token(answer=None, *, now, left=3600.0, **fields):
    """Return a row's value: a login with the tokens of a fake service's *answer*."""
    pair = answer or {"accessToken": "fake-access-1", "refreshToken": "fake-refresh-1"}
    row = {"access_token": pair["accessToken"], "refresh_token": pair["refreshToken"]}
    return row | {"expires_at": rfc3339(now + left), "region": "us-east-1"} | fields


def registration(made, *, now, left=80 * 86400.0):
    """Return a registration row's value from a fake service's answer."""
    return {
        "client_id": made["clientId"],
        "client_secret": made["clientSecret"],
        "client_secret_expires_at": rfc3339(now + left),
        "region": "us-east-1",
        "oauth_flow": "DeviceCode",
        "scopes": ["codewhisperer:completions"],
    }


@contextlib.contextmanager
def store(path, auth, state=None):
    """Make the database and keep it open as a running kiro-cli does: the rows are in the write-ahead log alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA wal_autocheckpoint = 0")
        database.execute("CREATE TABLE auth_kv (key TEXT PRIMARY KEY, value TEXT)")
        database.execute("CREATE TABLE state (key TEXT PRIMARY KEY, value BLOB)")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for table, rows in (("auth_kv", auth), ("state", state or {})):
            put(database, table, rows)
        yield database


def put(database, table, rows):
    """Write rows; values that are no text are stored as JSON."""
    for key, value in rows.items():
        text = value if isinstance(value, str | bytes) else json.dumps(value)
        database.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (key, text))
