"""OAuth tokens: their shape on the wire and on disk, when they are due for a refresh, one flight for many callers."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_LIFE = 366 * 86400.0  # seconds; no token lives longer, and a moment beyond the year 9999 cannot be shown
MIN_LIFE = 300.0  # seconds: kimi-cli refreshes when less is left than max(300 s, half of the lifetime) (kimi.md §1.5)
BEARER = "Bearer"  # RFC 6750; what an answer without token_type means (kimi.md §1.4)
LIFE_SHARE = 0.5
MAX_SHARE = 0.75  # of a lifetime so short that the 300 s would make a token due for refresh the moment it is made


def digest(secret: str) -> str:
    """Return the SHA-256 of *secret* in hex: names a token in files and messages without giving it away."""
    return hashlib.sha256(secret.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class OAuthToken:
    """An access token with its refresh token.

    `expires_at` is in unix seconds by this machine's clock, `expires_in` the lifetime in seconds that it was issued
    with. Both tokens are visible ASCII (RFC 6749 appendix A.12, A.17), so that they are legal in a header.
    """

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_at: float
    expires_in: float
    scope: str = ""
    token_type: str = BEARER

    @classmethod
    def from_response(cls, data: Mapping[str, Any], now: float, *, refresh_token: str = "") -> OAuthToken:
        """Return the token of a token endpoint's answer (kimi.md §1.4), received at *now*.

        A lifetime beyond `MAX_LIFE` counts as that. `scope` and `token_type` have defaults; *refresh_token* stands in
        where the answer has none. Raises ValueError that names the field, never its value.
        """
        lifetime = _number(data, "expires_in")
        if lifetime <= 0:
            raise ValueError("expires_in is not above 0")
        return cls(
            access_token=_secret(data, "access_token"),
            refresh_token=_secret({"refresh_token": data.get("refresh_token") or refresh_token}, "refresh_token"),
            expires_at=now + min(lifetime, MAX_LIFE),
            expires_in=min(lifetime, MAX_LIFE),
            scope=_text(data, "scope", ""),
            token_type=_text(data, "token_type", BEARER),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields under the names that kimi-cli's credential files have (kimi.md §1.6)."""
        return {
            "access_token": self.access_token,
            "refresh_token": self.refresh_token,
            "expires_at": self.expires_at,
            "scope": self.scope,
            "token_type": self.token_type,
            "expires_in": self.expires_in,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> OAuthToken:
        """Inverse of `to_json`; other keys are ignored. Raises ValueError that names the field, never its value."""
        return cls(
            access_token=_secret(data, "access_token"),
            refresh_token=_secret(data, "refresh_token"),
            expires_at=_number(data, "expires_at"),
            expires_in=_number(data, "expires_in"),
            scope=_text(data, "scope", ""),
            token_type=_text(data, "token_type", BEARER),
        )

    def remaining(self, now: float) -> float:
        """Return the seconds of life left at *now*; negative once it has expired."""
        return self.expires_at - now

    def stale(self, now: float) -> bool:
        """Tell whether it is time to refresh: less is left than max(300 s, half of the lifetime), as in kimi-cli.

        For lifetimes below 400 s the bound is three quarters: a token just issued is never due.
        """
        bound = max(MIN_LIFE, LIFE_SHARE * self.expires_in)
        return self.remaining(now) < min(bound, MAX_SHARE * self.expires_in)


class SingleFlight[T]:
    """Lets concurrent callers share one running call.

    A caller that is cancelled leaves; the call itself goes on for the others, and to its end even if nobody is left,
    because what it does (spend a refresh token) must not be cut in the middle.
    """

    def __init__(self) -> None:
        self._running: asyncio.Task[T] | None = None

    async def run(self, make: Callable[[], Awaitable[T]]) -> T:
        """Return the result of the running call, or of *make* where none is running; its exception likewise."""
        if self._running is None:

            async def call() -> T:
                return await make()

            self._running = asyncio.create_task(call())
            self._running.add_done_callback(self._landed)
        return await asyncio.shield(self._running)

    def _landed(self, task: asyncio.Task[T]) -> None:
        self._running = None
        if not task.cancelled():
            task.exception()  # seen here, so that asyncio does not complain when all callers have left


def _secret(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    if not (isinstance(value, str) and value and value.isascii() and value.isprintable()):
        raise ValueError(f"{name} is missing or no plain text")
    return value


def _text(data: Mapping[str, Any], name: str, default: str) -> str:
    value = data.get(name)
    return value if isinstance(value, str) and value else default


def _number(data: Mapping[str, Any], name: str) -> float:
    value = data.get(name)
    try:
        number = math.nan if isinstance(value, bool | None) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} is missing or no number")
    return number
