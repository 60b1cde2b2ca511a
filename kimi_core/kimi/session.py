"""Who owns the login: hands out tokens that are fresh, renews rejected ones, never loses what is stored.

The store is the truth; it is looked at on every call, so that a login or logout of another process is seen at once.
Refreshes run elsewhere (`refresher`) under the store's lock; here callers share one flight.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kimi_core.errors import (
    AuthError,
    AuthUnavailable,
    ConfigError,
    KimiMitmError,
    LoginDead,
    NotLoggedIn,
    StoreBusy,
    StoreDamaged,
    StoreError,
)
from kimi_core.headers import Headers
from kimi_core.kimi.constants import Site
from kimi_core.kimi.logins import REJECTED, StoredLogin
from kimi_core.kimi.refresher import Refresher, in_child
from kimi_core.kimi.rotation import LOCK_WAIT, Job
from kimi_core.store import Kept
from kimi_core.tokens import OAuthToken, SingleFlight, digest

if TYPE_CHECKING:
    from kimi_core.outbound import Outbound

PATIENCE = 10.0  # seconds that a caller waits for a refresh while the token at hand is still good
USABLE = 30.0  # seconds of life below which a token is not handed out in place of a fresh one
COOL_DOWN = 15.0  # seconds after a failed refresh in which the token at hand is used without another try
WARN_EVERY = 300.0  # seconds between two warnings of the same kind
ROUNDS = 3  # flights that `renew` joins or starts before it gives up
TICK = 60.0  # seconds between two looks of the timer, as in kimi-cli (kimi.md §1.5)
JUMP = 120.0  # seconds of wall time for one tick that mean the machine was asleep, as in kimi-cli

logger = logging.getLogger(__name__)


class Identifies(Protocol):
    """The part of an identity that is needed here."""

    def headers(self, operation: str) -> Headers:
        """Return the header fields for *operation*."""
        ...


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """What may be shown of a login.

    `state` is "ok", "expired" (the access token has run out; the next request renews it), "dead" (the login service
    turned it down), "none" or "damaged"; `issued_at` and `expires_at` are those of the access token in unix seconds,
    where there is one; `problem` is a sentence, or None.
    """

    slot: str
    path: Path
    state: str
    expires_at: float | None = None
    problem: str | None = None
    issued_at: float | None = None


class Session:
    """The login of one site in *folder*."""

    def __init__(
        self,
        site: Site,
        identity: Identifies,
        outbound: Outbound,
        *,
        folder: Path,
        clock: Callable[[], float] = time.time,
        refresher: Refresher = in_child,
        patience: float = PATIENCE,
    ) -> None:
        self.site = site
        self._identity = identity
        self._outbound = outbound
        self._folder = folder.absolute()
        self._clock = clock
        self._refresher = refresher
        self._patience = patience
        self._login = StoredLogin(self._folder, site.slot)
        self._kept = Kept(self._login.document, self._login.token)
        self._flight: SingleFlight[OAuthToken] = SingleFlight()
        self._next_try = 0.0
        self._warned: dict[str, float] = {}

    async def fresh(self) -> OAuthToken:
        """Return a token to use now, refreshed ahead of time where it is due.

        Where the refresh fails or is slow and the present token is still good, that is returned. Raises NotLoggedIn,
        LoginDead, AuthUnavailable, StoreDamaged, StoreError, and ConfigError for a trusted CA that cannot be read.
        """
        now = self._clock()
        kept = self._kept.get()
        if kept is not None and not kept.stale(now):
            return kept
        token = self._stored()
        spare = token.remaining(now) > USABLE
        if spare and now < self._next_try:
            return token
        try:
            async with asyncio.timeout(self._patience if spare else None):
                return await self._renewed(None)
        except TimeoutError:
            self._next_try = now + COOL_DOWN  # the flight goes on, and its landing takes this back
            return self._stored()
        except StoreDamaged:
            raise
        except (AuthUnavailable, LoginDead, StoreError, ConfigError) as error:
            return self._spare(error)

    async def renew(self, rejected: str) -> OAuthToken:
        """Return another access token than *rejected*, which the API refused: from the store, else by one refresh.

        Raises NotLoggedIn, LoginDead, AuthUnavailable, StoreDamaged, StoreError, ConfigError.
        """
        token = self._stored()
        if token.access_token != rejected and token.remaining(self._clock()) > 0:
            return token
        for _ in range(ROUNDS):  # the flight that is joined may be one for another token, or by age only
            try:
                token = await self._renewed(digest(rejected))
            except StoreBusy as error:
                raise AuthUnavailable(str(error)) from error
            if token.access_token != rejected:
                return token
        raise AuthUnavailable("The login service keeps giving the access token that was refused.")

    def save(self, token: OAuthToken) -> Path:
        """Store a new login and return where; a damaged file is put aside first. Raises StoreError.

        Waits for a refresh that is under way, but not for ever: a login must not be lost because a lock is taken, and
        a refresh that finds another login than the one it began with leaves it alone.
        """
        try:
            with self._login.document.lock(LOCK_WAIT):
                self._login.put(token)
        except StoreBusy:
            self._login.put(token)
        self._next_try = 0.0
        return self._login.document.path

    def forget(self) -> bool:
        """Delete the login and what is remembered about it; tell whether there was one. Raises StoreError.

        Waits for a refresh that is under way, but not for one that cannot store its token: it finds the login gone, and
        drops what it has.
        """
        if not self._folder.exists():
            return False
        try:
            with self._login.document.lock(LOCK_WAIT):
                return self._login.remove()
        except StoreBusy:
            return self._login.remove()

    def status(self) -> SessionStatus:
        """Return what may be shown of the login; never raises for what is in the store."""
        path = self._login.document.path
        try:
            token = self._stored()
            rejected_at = self._login.rejected_at(token)
        except NotLoggedIn as error:
            return SessionStatus(self.site.slot, path, "none", problem=error.sentence)
        except StoreError as error:
            return SessionStatus(self.site.slot, path, "damaged", problem=error.sentence)
        issued_at = token.expires_at - token.expires_in
        if rejected_at is not None:
            problem = LoginDead(REJECTED).sentence
            return SessionStatus(self.site.slot, path, "dead", token.expires_at, problem, issued_at)
        state = "ok" if token.remaining(self._clock()) > 0 else "expired"
        return SessionStatus(self.site.slot, path, state, token.expires_at, issued_at=issued_at)

    async def keep_fresh(
        self,
        busy: Callable[[], bool],
        *,
        every: float = TICK,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """Refresh ahead of time for as long as it is not cancelled: every *every* seconds while *busy*.

        A tick that took more than two minutes by the clock means that the machine was asleep: then the token is
        looked after whether busy or not. Failures are logged, each kind once until something works again.
        """
        told = ""
        last = self._clock()
        while True:
            await sleep(every)
            slept = self._clock() - last > JUMP
            if slept or busy():
                try:
                    await self.fresh()
                    told = ""
                except KimiMitmError as error:
                    if error.code != told:
                        logger.warning("The login for %s could not be kept fresh: %s", self.site.slot, error.sentence)
                    told = error.code
            last = self._clock()

    def _stored(self) -> OAuthToken:
        token = self._login.token()
        if token is None:
            raise NotLoggedIn(f"There is no login for {self.site.slot}.")
        return token

    async def _renewed(self, rejected: str | None) -> OAuthToken:
        """Join the flight or start one, and return what is stored when it has landed."""
        job = Job(self.site, self._identity.headers("oauth"), self._outbound.to_json(), self._folder, rejected)

        async def flight() -> OAuthToken:
            token = self._stored()
            if self._login.held_back(token, self._clock()) and not job.done_by(token, self._clock()):
                raise LoginDead(REJECTED)
            # a full disk is told at once, whoever has the lock; no stream waits for a slow one
            await asyncio.to_thread(self._login.document.probe)
            await self._refresher(job)
            self._next_try = 0.0
            return self._stored()

        return await self._flight.run(flight)

    def _spare(self, error: AuthError | StoreError | ConfigError) -> OAuthToken:
        """Return the stored token although its refresh failed with *error*, or raise that."""
        now = self._clock()
        token = self._stored()
        if token.remaining(now) <= 0:
            if isinstance(error, StoreBusy):
                raise AuthUnavailable(str(error)) from error
            raise error
        self._next_try = now + COOL_DOWN
        if now - self._warned.get(error.code, -WARN_EVERY) >= WARN_EVERY:
            self._warned[error.code] = now
            left = f"The present token is good for {token.remaining(now):.0f} s more."
            logger.warning("The login for %s was not renewed: %s %s", self.site.slot, error.sentence, left)
        return token
