"""A device code and the waiting for its approval (RFC 8628 §3.2-§3.5), whatever the service's calls look like."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from kimi_core.errors import LoginDenied, LoginError, LoginExpired, PageElsewhere

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"  # RFC 8628 §3.4
DEFAULT_INTERVAL = 5.0  # RFC 8628 §3.2
MIN_INTERVAL = 1.0
SLOW_DOWN = 5.0  # seconds added for good, RFC 8628 §3.5
COUNTDOWN = 1.0  # seconds between two calls of `on_wait`
TOLERATED = 1  # failed polls in a row that do not end the login
MAX_SECONDS = 86400.0  # a day: more than that in an answer is a mistake, and the default stands
RAN_OUT = "The code ran out before it was approved."

type Clock = Callable[[], float]
type Sleep = Callable[[float], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """What the user needs for the approval.

    `url` has the code in it, `verification_uri` (maybe empty) asks for it; both are on a site that logins of the
    provider belong on. `expires_in` and `interval` are seconds.
    """

    device_code: str = field(repr=False)
    user_code: str
    url: str
    verification_uri: str
    expires_in: float
    interval: float

    @classmethod
    def read(
        cls,
        data: Mapping[str, Any],
        browsable: Callable[[str], bool],
        life: float,
        *,
        spelled: Callable[[str], str] = str,
    ) -> Self | None:
        """Return the code in an answer (RFC 8628 §3.2), None where a part of it is missing.

        *life* in seconds stands in for a life that the answer does not say; *spelled* turns the RFC's names into the
        service's. Raises PageElsewhere where a page is not *browsable*.
        """
        code, user_code, url, page = (
            printable(data, spelled(name))
            for name in ("device_code", "user_code", "verification_uri_complete", "verification_uri")
        )
        if not (code and user_code and url):
            return None
        for shown in filter(None, (url, page)):
            if not browsable(shown):
                raise PageElsewhere(shown)
        expires_in = _seconds(data, spelled("expires_in"), life) or life
        interval = max(_seconds(data, spelled("interval"), DEFAULT_INTERVAL), MIN_INTERVAL)
        return cls(code, user_code, url, page, expires_in, interval)


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
    clock: Clock = time.time,
    sleep: Sleep = asyncio.sleep,
) -> T:
    """Call *poll* every *interval* seconds until it gives a result, and return that.

    Between polls *on_wait* is called about every second with the seconds left until *deadline* (by *clock*) and the
    present pace. Raises LoginExpired at the deadline, LoginError after failed polls in a row, and what *poll* raises.
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
            raise LoginExpired(RAN_OUT)


def undecided(error: str) -> Pending | None:
    """Return how to go on after the *error* of a poll (RFC 8628 §3.5), None where it is none of these.

    Raises LoginDenied, and LoginExpired where the code ran out.
    """
    match error:
        case "authorization_pending":
            return Pending()
        case "slow_down":
            return Pending(slower=SLOW_DOWN)
        case "expired_token":
            raise LoginExpired(RAN_OUT)
        case "access_denied":
            raise LoginDenied("The login was refused in the browser.")
    return None


def printable(data: Mapping[str, Any], name: str) -> str:
    """Return a text of an answer that is safe to print on a terminal, or an empty one."""
    value = data.get(name)
    return value if isinstance(value, str) and value.isprintable() else ""


def _seconds(data: Mapping[str, Any], name: str, default: float) -> float:
    value = data.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_SECONDS:
        return float(value)
    return default
