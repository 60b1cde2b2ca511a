"""The refresh in a process of its own (`kimi_core.detached`), so that killing the proxy cannot lose a rotated token.

What needs httpx is imported once it is clear, under the lock, that a refresh is due.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from kimi_core import detached
from kimi_core.kiro.accounts import Account
from kimi_core.kiro.auth_errors import ERRORS
from kimi_core.kiro.rotation import LOCK_WAIT, Job, Refresh, do

MODULE = "kimi_core.kiro.refresher"
LIFETIME = 2 * LOCK_WAIT + 60  # seconds after which the process ends: the wait, the work, the disk's and our own slack

logger = logging.getLogger(__name__)

type Refresher = Callable[[Job], Awaitable[str]]


async def in_process(job: Job) -> str:
    """Do *job* in this process. Returns and raises what `rotation.do` does."""
    return await do(job, http_refresh(job))


async def in_child(job: Job) -> str:
    """Do *job* in a process of its own, or here where none can be started. Returns and raises what that does."""
    try:
        return str(await detached.run(MODULE, job.to_json(), ERRORS))
    except detached.NotStarted as error:
        logger.warning("No process for the refresh could be started (%s); it runs in this one.", error)
        return await in_process(job)


def http_refresh(job: Job) -> Refresh:
    """Return the call to the login services that `rotation.do` takes."""

    async def refresh(account: Account) -> Account:
        calls = importlib.import_module("kimi_core.kiro.refresh")
        outbound = importlib.import_module("kimi_core.outbound")
        async with outbound.Outbound.from_json(dict(job.outbound)).client() as client:
            new: Account = await calls.refresh(client, account, job.endpoints, job.headers)
            return new

    return refresh


def main() -> None:
    """Be the process that does one job."""

    async def work(order: dict[str, Any], tell: detached.Tell) -> str:
        job = Job.from_json(order)
        return await do(job, http_refresh(job), tell=tell)

    detached.serve(work, LIFETIME)


if __name__ == "__main__":
    main()
