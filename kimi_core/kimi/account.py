"""One login and what is known of its plan: token, models, usage. The place where background calls are made.

What a request waits for here is the token; models and usage are fetched beside it. Only one that is refused for want of
quota waits a moment for the usage, which tells when to come back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_core.errors import KimiMitmError, UpstreamError
from kimi_core.headers import Headers
from kimi_core.kimi import models, usage
from kimi_core.kimi.constants import Site
from kimi_core.kimi.identity import Identity
from kimi_core.kimi.session import Session
from kimi_core.outbound import Outbound
from kimi_core.store import Document
from kimi_core.tokens import OAuthToken

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

USAGE_AGE = 60.0  # seconds a usage answer is good for (kimi.md §5)
UNAUTHORIZED = 401


class Account:
    """The login of one site, with its catalog and its usage."""

    def __init__(
        self,
        site: Site,
        identity: Identity,
        outbound: Outbound,
        folder: Path,
        *,
        session: Session | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.site = site
        self.identity = identity
        self.session = session or Session(site, identity, outbound, folder=folder, clock=clock)
        self.cache = models.CatalogCache(Document(models.cache_path(folder, site.slot)))
        self.usage: usage.Usage | None = None
        self._outbound = outbound
        self._clock = clock
        self._rejected = ""
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def token(self) -> OAuthToken:
        """Return a token to use now; raises what `Session.fresh` and `Session.renew` raise."""
        token = await self.session.fresh()
        if token.access_token == self._rejected:
            token = await self.session.renew(token.access_token)
        return token

    def reject(self, access_token: str) -> None:
        """Remember that the service refused this token where nobody could wait for a new one (streamed uploads)."""
        self._rejected = access_token

    async def call[T](self, operation: str, ask: Callable[[httpx.AsyncClient, Site, Headers], Awaitable[T]]) -> T:
        """Make a call of our own with a fresh token; on a 401 refresh once and ask once more.

        Raises UpstreamError, ConfigError where the CA files cannot be read, and what `token` raises.
        """
        token = await self.token()
        async with self._outbound.client() as client:
            try:
                return await ask(client, self.site, self._headers(operation, token))
            except UpstreamError as error:
                if error.http_status != UNAUTHORIZED:
                    raise
            token = await self.session.renew(token.access_token)
            return await ask(client, self.site, self._headers(operation, token))

    async def fetch_models(self) -> models.Catalog:
        """Ask for the models now. Raises what `call` raises."""
        fetch = partial(models.fetch, clock=self._clock)
        return await self.cache.refresh(lambda: self.call("models", fetch), self._clock())

    async def fetch_usage(self) -> usage.Usage:
        """Ask for the usage now. Raises what `call` raises."""
        self.usage = await self.call("usages", partial(usage.fetch, clock=self._clock))
        return self.usage

    def want_models(self) -> None:
        """See to it that the model list is no older than it should be, without waiting."""
        if self.cache.due(self._clock()):
            self._beside("models", self.fetch_models())

    def want_usage(self) -> None:
        """See to it that the usage is no older than a minute, without waiting; a clock set back counts as time gone."""
        if self.usage is None or not 0 <= self._clock() - self.usage.fetched_at <= USAGE_AGE:
            self._beside("usage", self.fetch_usage())

    async def settled_usage(self, patience: float) -> None:
        """See to it that the usage is no older than a minute; wait for that, *patience* seconds at the most."""
        self.want_usage()
        asked = self._tasks.get("usage")
        if asked is not None:
            await asyncio.wait({asked}, timeout=patience)

    def close(self) -> None:
        """Cancel what is under way beside the requests."""
        for task in self._tasks.values():
            task.cancel()

    def _headers(self, operation: str, token: OAuthToken) -> Headers:
        return self.identity.compose(operation, Headers(), f"Bearer {token.access_token}").without("connection")

    def _beside(self, name: str, work: Coroutine[object, object, object]) -> None:
        running = self._tasks.get(name)
        if running is not None and not running.done():
            work.close()
            return

        async def attempt() -> None:
            try:
                await work
            except KimiMitmError as error:
                logger.info("Kimi %s could not be read: %s", name, error)

        self._tasks[name] = asyncio.get_running_loop().create_task(attempt(), name=f"kimi-mitm {name}")
