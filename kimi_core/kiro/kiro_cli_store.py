"""kiro-cli's store: where it is, which logins are in it, and which registration belongs to which (kiro.md §7.1)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from kimi_core.kiro.accounts import Account, AuthMethod, new_id
from kimi_core.kiro.stores import Surroundings, Token, database, json_object, key_values, login, sso_method, text

KIND: Final = "kiro-cli"
OVERRIDES = ("KIROCLI_DB_PATH", "KIRO_CLI_DB_FILE")
FILE = "data.sqlite3"
SSO_KEYS = ("kirocli:odic:token", "kirocli:oidc:token", "codewhisperer:odic:token")  # "odic" is how it is spelled
TOKEN_KEYS = ("kirocli:social:token", *SSO_KEYS, "kirocli:external-idp:token")
REGISTRATIONS = ("device-registration", "device_registration")
PROFILE, REGION, START_URL = "api.codewhisperer.profile", "auth.idc.region", "auth.idc.start-url"


def paths(around: Surroundings) -> tuple[Path, ...]:
    """Return every place where the store may be, the likeliest first: an override alone, where there is one."""
    for name in OVERRIDES:
        if chosen := around.environ.get(name):
            return (Path(chosen).expanduser(),)
    if around.platform == "win32":
        folders = [around.local / "Kiro-Cli", around.roaming / "kiro-cli", around.local / "amazon-q"]
        folders.append(around.roaming / "amazon-q")
    elif around.platform == "darwin":
        support = around.home / "Library" / "Application Support"
        folders = [support / "kiro-cli", support / "amazon-q"]
    else:
        data = around.folder("XDG_DATA_HOME", ".local", "share")
        folders = [data / "kiro-cli", data / "amazon-q"]
    return tuple(folder / FILE for folder in folders)


def read(path: Path) -> tuple[Token, ...]:
    """Return the logins in the store at *path*; none where there is no file. Raises Unreadable."""
    if not path.exists():
        return ()
    with database(path) as connection:
        rows, state = key_values(connection, "auth_kv"), key_values(connection, "state")
    found = ((key, json_object(rows.get(key))) for key in TOKEN_KEYS)
    return tuple(Token(key, _account(key, row, rows, state)) for key, row in found if row and text(row, "access_token"))


def _account(key: str, row: Mapping[str, Any], rows: Mapping[str, Any], state: Mapping[str, Any]) -> Account:
    fallback = {
        "profile_arn": _profile(state.get(PROFILE)),
        "region": _plain(state.get(REGION)),
        "start_url": _plain(state.get(START_URL)) if key in SSO_KEYS else None,
    }
    client = _registration(key, rows) if key in SSO_KEYS else {}
    start_url = text(row, "start_url") or fallback["start_url"]
    method = _method(key, start_url)
    if method == "builder":  # what is left in `state` is of another login
        fallback = {}
    return Account(id=new_id(), **login(row, method, client=client, fallback=fallback))


def _method(key: str, start_url: str | None) -> AuthMethod:
    if key in SSO_KEYS:
        return sso_method(start_url)
    return "external_idp" if "external" in key else "desktop"


def _registration(key: str, rows: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the client registration that the token under *key* was made with: the row beside it, in any spelling."""
    program, flow, _ = key.split(":")
    flows = dict.fromkeys((flow, "odic", "oidc"))
    spelled = (f"{program}:{flow}:{word}" for flow in flows for word in REGISTRATIONS)
    return next((row for name in spelled if (row := json_object(rows.get(name)))), {})


def _profile(stored: object) -> str | None:
    data = json_object(stored)
    return text(data, "arn") if data is not None else _plain(stored)


def _plain(stored: object) -> str | None:
    """Return a text that is stored as JSON or bare."""
    raw = stored.decode(errors="replace") if isinstance(stored, bytes) else stored
    return raw.strip().strip('"') or None if isinstance(raw, str) else None
