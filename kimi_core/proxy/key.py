"""The client key: what programs must show before they may spend the subscription."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from kimi_core.store import Document

AUTO = "auto"
FILE = "client-key.json"


def client_key(option: str, folder: Path) -> str:
    """Return the key that the option `kimi_client_key` stands for: itself, none, or (auto) one that is kept.

    With ``auto`` a random key of 32 bytes is made at first use and stored with mode 0600 beside the logins.
    Raises StoreError where it cannot be kept or read.
    """
    if option != AUTO:
        return option
    document = Document(key_path(folder))
    with document.lock(timeout=5.0):
        stored = document.read()
        if stored and isinstance(stored.get("key"), str) and stored["key"]:
            return str(stored["key"])
        key = "km-" + secrets.token_urlsafe(32)
        document.write({"key": key})
        return key


def key_path(folder: Path) -> Path:
    """Return where the key of ``auto`` is kept."""
    return Path(os.fspath(folder)) / FILE
