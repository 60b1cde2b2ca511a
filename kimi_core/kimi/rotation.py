"""One refresh of a stored login, from reading it to having its successor on disk, under the lock.

The order is what keeps a login alive when refresh tokens rotate (design §6, kimi.md §1.5, §1.7)::

    lock ─ read ─ newer than what the caller knew? ── yes ─> nothing to do: "adopted"
                  └ marked as rejected? ───────────── yes ─> LoginDead
                  └ can room be taken for its heir? ─ no ──> StoreError, nothing is spent
                  └ refresh ─ rejected ─> wait, read again ─ changed? ─> start over once
                            │                              └ else mark it, LoginDead
                            └ granted ─> write, fsync, rename ─> "refreshed"

A failure leaves the file as it was. Where the successor cannot be written all the same, those who wait are told, and it
is kept, under the lock, until it can be, but no longer than `detached.AFTERLIFE`: the old token is spent. Nothing here
talks HTTP: the refresh itself is given.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kimi_core.detached import Tell
from kimi_core.errors import LoginDead, NotLoggedIn, StoreDamaged, StoreError
from kimi_core.headers import Headers
from kimi_core.kimi.constants import Site
from kimi_core.kimi.logins import REJECTED, StoredLogin
from kimi_core.tokens import OAuthToken, digest

LOCK_WAIT = 100.0  # seconds; one holder needs 3 tries of 30 s, 1 + 2 s between them and 1 s after a rejection at most
SECOND_LOOK = 1.0  # seconds after a rejection until the file is read again, as in kimi-cli
WRITE_PAUSES = (0.5, 1.0, 2.0)  # seconds between tries to store a token that exists nowhere else
NEXT_LOOK = 5.0  # seconds between further ones, of which nobody waits for the end

type Sleep = Callable[[float], Awaitable[object]]
type Refresh = Callable[[OAuthToken], Awaitable[OAuthToken]]


@dataclass(frozen=True, slots=True)
class Job:
    """What a refresh needs to know, without any token.

    `headers` identify the client to the login service; `outbound` is `Outbound.to_json`; `rejected` is the digest of
    an access token that the API refused, None where a refresh is only due by age.
    """

    site: Site
    headers: Headers
    outbound: Mapping[str, Any] = field(repr=False)
    folder: Path
    rejected: str | None = None

    def done_by(self, token: OAuthToken, now: float) -> bool:
        """Tell whether *token* is what this job is for, so that no refresh is needed."""
        if self.rejected is None:
            return not token.stale(now)
        return digest(token.access_token) != self.rejected and token.remaining(now) > 0

    def to_json(self) -> dict[str, Any]:
        """Return the job for another process."""
        return {
            "site": asdict(self.site),
            "headers": list(self.headers),
            "outbound": dict(self.outbound),
            "folder": str(self.folder),
            "rejected": self.rejected,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Job:
        """Inverse of `to_json`."""
        return cls(
            site=Site(**data["site"]),
            headers=Headers((name, value) for name, value in data["headers"]),
            outbound=data["outbound"],
            folder=Path(data["folder"]),
            rejected=data["rejected"],
        )


async def rotate(
    job: Job,
    refresh: Refresh,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Sleep = asyncio.sleep,
    lock_wait: float = LOCK_WAIT,
    tell: Tell | None = None,
) -> str:
    """Do *job*; return "adopted" or "refreshed" once a token that serves it is on disk.

    A new token that cannot be stored is a StoreError; with *tell* that is told, and the token kept until it can be.
    Raises NotLoggedIn, LoginDead, StoreDamaged, StoreBusy, StoreError, and what *refresh* raises.
    """
    login = StoredLogin(job.folder, job.site.slot)
    async with login.document.alock(lock_wait, sleep=sleep):
        try:
            return await _rotate(job, login, refresh, clock, sleep, tell)
        finally:
            login.document.release()


async def _rotate(
    job: Job, login: StoredLogin, refresh: Refresh, clock: Callable[[], float], sleep: Sleep, tell: Tell | None
) -> str:
    token = _stored(login)
    rejected: OAuthToken | None = None
    while not job.done_by(token, clock()):
        if login.held_back(token, clock()):
            raise LoginDead(REJECTED)
        login.document.reserve()
        try:
            new = await refresh(token)
        except LoginDead:
            await sleep(SECOND_LOOK)
            found = _stored(login)
            if rejected is not None or found.refresh_token == token.refresh_token:
                login.document.release()  # on a full disk that is the room for the mark
                login.reject(token, clock())
                raise
            rejected, token = token, found
        else:
            return await _store(login, token, new, sleep, tell)
    return "adopted"


async def _store(login: StoredLogin, old: OAuthToken, new: OAuthToken, sleep: Sleep, tell: Tell | None) -> str:
    """Put *new* on disk; a disk that fails is given a moment, and where nobody waits any time, for the old is spent."""
    for pause in WRITE_PAUSES:
        with suppress(StoreError):
            return _replace(login, old, new)
        await sleep(pause)
    try:
        return _replace(login, old, new)
    except StoreError as error:
        if tell is None:
            raise
        tell(error)
    while True:  # whoever can be told has an end of its own
        await sleep(NEXT_LOOK)
        with suppress(StoreError):
            return _replace(login, old, new)


def _stored(login: StoredLogin) -> OAuthToken:
    token = login.token()
    if token is None:
        raise NotLoggedIn("There is no login for this site.")
    return token


def _replace(login: StoredLogin, old: OAuthToken, new: OAuthToken) -> str:
    """Put *new* in the place of *old*; a login that was made meanwhile without the lock is newer and stays."""
    try:
        found = _stored(login)
    except StoreDamaged:
        found = old
    if found.refresh_token != old.refresh_token:
        return "adopted"
    login.put(new)
    return "refreshed"
