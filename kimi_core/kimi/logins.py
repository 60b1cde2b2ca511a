"""The stored login of one site: a token file, and a mark beside it when its refresh token has been rejected.

``kimi-<slot>.json`` holds the token under the names of kimi-cli's own files; keys that are not ours are kept.
``kimi-<slot>.rejected.json`` holds ``{"sha256", "at"}``: which refresh token the login service turned down and when
(unix seconds). Every process honours the mark, so that a dead login is not tried again and again.
"""

from __future__ import annotations

from pathlib import Path

from kimi_core.errors import StoreDamaged, StoreError
from kimi_core.store import Document
from kimi_core.tokens import OAuthToken, digest

REJECTION_LIFE = 300.0  # seconds before a rejected refresh token may be tried once more, as in kimi-cli (kimi.md §1.5)
REJECTED = "The login service no longer accepts this login."


class StoredLogin:
    """The files of the login in *slot* below *folder*. Who reads and then writes holds `document`'s lock."""

    def __init__(self, folder: Path, slot: str) -> None:
        self.document = Document(folder / f"kimi-{slot}.json")
        self.mark = Document(folder / f"kimi-{slot}.rejected.json")

    def token(self) -> OAuthToken | None:
        """Return what is stored, or None. Raises StoreDamaged."""
        data = self.document.read()
        if data is None:
            return None
        try:
            return OAuthToken.from_json(data)
        except ValueError as error:
            raise StoreDamaged(f"{self.document.path} is damaged: {error}.") from None

    def put(self, token: OAuthToken) -> None:
        """Store *token* and clear the mark; a damaged file is put aside first, keys of others are kept.

        Raises StoreError; the file is then what it was, so that it can be tried again.
        """
        aside = None
        try:
            self.token()
        except StoreDamaged:
            aside = self.document.put_aside()
        try:
            self.document.write({**(self.document.read() or {}), **token.to_json()})
        except StoreError:
            if aside is not None:
                self.document.put_back(aside)
            raise
        self.mark.remove()

    def rejected_at(self, token: OAuthToken) -> float | None:
        """Return when the refresh token of *token* was turned down (unix seconds), or None."""
        try:
            data = self.mark.read() or {}
        except StoreDamaged:  # it is a hint, and nothing in it is worth keeping
            return None
        at = data.get("at")
        known = data.get("sha256") == digest(token.refresh_token) and isinstance(at, int | float)
        return at if known else None

    def held_back(self, token: OAuthToken, now: float) -> bool:
        """Tell whether *token* must not be refreshed at *now* because it was turned down a short while ago."""
        at = self.rejected_at(token)
        return at is not None and 0 <= now - at < REJECTION_LIFE

    def reject(self, token: OAuthToken, now: float) -> None:
        """Remember that the refresh token of *token* was turned down at *now*."""
        self._drop_damaged_mark()
        self.mark.write({"sha256": digest(token.refresh_token), "at": now})

    def remove(self) -> bool:
        """Delete token and mark; tell whether there was a token file."""
        self.mark.remove()
        return self.document.remove()

    def _drop_damaged_mark(self) -> None:
        try:
            self.mark.read()
        except StoreDamaged:
            self.mark.remove()
