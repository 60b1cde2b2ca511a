"""A login that the user has approved is stored, be it later: what keeps it from being stored now may pass."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kimi_core.cli.steps import Steps
from kimi_core.errors import StoreError

PAUSE = 5.0  # seconds between two tries; others hold a lock no longer, and the user makes room meanwhile
# ten minutes of pauses, as long as a code is good for: who has not come back by then logs in anew. A store that others
# hold is waited for at each try, which comes on top.
TRIES = 120


async def kept[T](store: Callable[[], Awaitable[T]], steps: Steps, sleep: Callable[[float], Awaitable[object]]) -> T:
    """Return what *store* does, which is tried until it works; the user is told what is in its way.

    Raises the StoreError of the last try, and at once whatever else *store* raises.
    """
    told = ""
    for _ in range(TRIES):
        try:
            return await store()
        except StoreError as error:
            if error.sentence != told:
                told = error.sentence
                steps.unstored(error)
        await sleep(PAUSE)
    return await store()
