"""The refresh in a process of its own (`kimi_core.detached`), so that killing the proxy cannot lose a rotated token.

What needs httpx is imported once it is clear, under the lock, that a refresh is due; most processes find that another
one has done it.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from kimi_core import detached
from kimi_core.kimi.rotation import LOCK_WAIT, Job, Refresh, rotate
from kimi_core.tokens import OAuthToken

MODULE = "kimi_core.kimi.refresher"
LIFETIME = 2 * LOCK_WAIT + 20  # seconds after which the process ends whatever it is doing: the wait, the work, slack

logger = logging.getLogger(__name__)

type Refresher = Callable[[Job], Awaitable[None]]


async def in_process(job: Job) -> None:
    """Do *job* in this process. Raises what `rotate` raises."""
    await rotate(job, http_refresh(job))


async def in_child(job: Job) -> None:
    """Do *job* in a process of its own, or here where none can be started. Raises what `rotate` raises."""
    try:
        await detached.run(MODULE, job.to_json())
    except detached.NotStarted as error:
        logger.warning("No process for the refresh could be started (%s); it runs in this one.", error)
        await in_process(job)


def http_refresh(job: Job) -> Refresh:
    """Return the call to the login service that `rotate` takes."""

    async def refresh(token: OAuthToken) -> OAuthToken:
        oauth = importlib.import_module("kimi_core.kimi.oauth")
        outbound = importlib.import_module("kimi_core.outbound")
        async with outbound.Outbound.from_json(dict(job.outbound)).client() as client:
            new: OAuthToken = await oauth.refresh(client, job.site, job.headers, token)
            return new

    return refresh


def main() -> None:
    """Be the process that does one job."""

    async def work(order: dict[str, Any], tell: detached.Tell) -> str:
        job = Job.from_json(order)
        return await rotate(job, http_refresh(job), tell=tell)

    detached.serve(work, LIFETIME)


if __name__ == "__main__":
    main()
