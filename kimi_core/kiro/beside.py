"""Work that runs beside the requests: nobody waits for it, the same never runs twice at a time, failures are logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine

from kimi_core.errors import KimiMitmError, StoreError

logger = logging.getLogger(__name__)


class Beside:
    """The work of one process, by name."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def run(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """Begin *work*, unless what has that name runs already."""
        running = self._tasks.get(name)
        if running is None or running.done():
            self._tasks[name] = _task(_logged(work), name)

    async def wait(self, name: str, seconds: float) -> None:
        """Wait until what has that name is done, so many seconds at the most."""
        running = self._tasks.get(name)
        if running is not None:
            await asyncio.wait([running], timeout=seconds)

    async def settle(self) -> None:
        """Wait for everything that runs."""
        while running := [task for task in self._tasks.values() if not task.done()]:
            await asyncio.gather(*running, return_exceptions=True)

    def close(self) -> None:
        """Cancel what runs."""
        for task in self._tasks.values():
            task.cancel()


def complain(error: StoreError) -> None:
    """Log that something could not be stored."""
    logger.warning("What is known of a Kiro account could not be stored: %s", error.sentence)


def _task(work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work, name=f"kiro {name}")


async def _logged(work: Callable[[], Awaitable[object]]) -> None:
    try:
        await work()
    except StoreError as error:
        complain(error)
    except KimiMitmError as error:
        logger.info("Kiro: %s", error)
