"""The Kiro IDE's token cache: one login, with its client registration and its profile beside it (kiro.md §7.2)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from kimi_core.kiro.accounts import Account, AuthMethod, new_id
from kimi_core.kiro.stores import Row, Surroundings, Token, login, read_json, sso_method, text

KIND: Final = "kiro-ide"
FILE = "kiro-auth-token.json"
PROFILE = Path("User", "globalStorage", "kiro.kiroagent", "profile.json")
KEY = "ide"
METHODS: dict[str, AuthMethod] = {"social": "desktop", "external_idp": "external_idp", "externalidp": "external_idp"}
_HASH = re.compile(r"[0-9A-Za-z]{1,128}")  # it becomes a file name


def paths(around: Surroundings) -> tuple[Path, ...]:
    """Return where the token file is; the same on every platform."""
    return (around.home / ".aws" / "sso" / "cache" / FILE,)


def read(path: Path, around: Surroundings) -> tuple[Token, ...]:
    """Return the login at *path*, none where there is no file. Raises Unreadable."""
    row = read_json(path)
    if row is None or not text(row, "access_token"):
        return ()
    client: Row = {}
    hashed = text(row, "client_id_hash")
    if hashed and _HASH.fullmatch(hashed):
        client = read_json(path.with_name(f"{hashed}.json")) or {}
    method = _method(row)
    fallback = {"profile_arn": _profile(around)} if method in {"idc", "external_idp"} else {}
    return (Token(KEY, Account(id=new_id(), **login(row, method, client=client, fallback=fallback))),)


def _method(row: Row) -> AuthMethod:
    named = METHODS.get((text(row, "auth_method") or "").lower())
    if named is not None:
        return named
    if (text(row, "provider") or "").lower() == "builderid":
        return "builder"
    has_client = text(row, "client_id_hash") is not None
    return ("idc" if text(row, "provider") else sso_method(text(row, "start_url"))) if has_client else "desktop"


def _profile(around: Surroundings) -> str | None:
    if around.platform == "win32":
        base = around.roaming
    elif around.platform == "darwin":
        base = around.home / "Library" / "Application Support"
    else:
        base = around.config
    found = (read_json(base / name / PROFILE) for name in ("Kiro", "kiro"))
    return next((arn for data in found if data and (arn := text(data, "arn"))), None)
