"""Waiting for the approval of a device code (RFC 8628 §3.4, §3.5), whatever the service's calls look like."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from kimi_core.errors import LoginError, LoginExpired

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"  # RFC 8628 §3.4
DEFAULT_INTERVAL = 5.0  # RFC 8628 §3.2
MIN_INTERVAL = 1.0
SLOW_DOWN = 5.0  # seconds added for good, RFC 8628 §3.5
COUNTDOWN = 1.0  # seconds between two calls of `on_wait`
TOLERATED = 1  # failed polls in a row that do not end the login

type Clock = Callable[[], float]
type Sleep = Callable[[float], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Pending:
    """A poll without a result: go on, `slower` by so many seconds; `failure` where it counts as a failed poll."""

    slower: float = 0.0
    failure: str = ""


async def approval[T](
    poll: Callable[[], Awaitable[T | Pending]],
    *,
    deadline: float,
    interval: float,
    on_wait: Callable[[float, float], None],
    expired: type[LoginExpired] = LoginExpired,
    clock: Clock = time.time,
    sleep: Sleep = asyncio.sleep,
) -> T:
    """Call *poll* every *interval* seconds until it gives a result, and return that.

    Between polls *on_wait* is called about every second with the seconds left until *deadline* (by *clock*) and the
    present pace. Raises *expired* at the deadline, LoginError after failed polls in a row, and what *poll* raises.
    """
    pace = interval
    failures = 0
    while True:
        verdict = await poll()
        if not isinstance(verdict, Pending):
            return verdict
        failures = failures + 1 if verdict.failure else 0
        if failures > TOLERATED:
            raise LoginError(verdict.failure)
        pace += verdict.slower
        due = clock() + pace
        while (wait := min(due, deadline) - clock()) > 0:
            on_wait(deadline - clock(), pace)
            await sleep(min(COUNTDOWN, wait))
        if clock() >= deadline:
            raise expired("The code ran out before it was approved.")
