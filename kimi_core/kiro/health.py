"""The health of one account: what stands against using it now, and what an outcome does to it. Pure.

::

                  served                          a fault of the account's (`PENALTIES`, quota)
    healthy ──────────────> healthy     healthy ─────────────────────────────────────────────> cooling
    half-open ────────────> healthy     half-open ───────────────────────────────────────────> cooling, longer
    cooling ──time passes─> half-open   any ──locked by the service──> suspended, until the user enables it

A half-open account takes one request at a time until one is served. Faults of the request or of the model punish
nobody. Requests of a volley that fail together count once: a fault that comes while the account is cooling already
makes the wait longer where it asks for more, and nothing else. What is stored survives a restart; moments are
milliseconds since 1970, *now* is seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from kimi_core.kiro.accounts import Account
from kimi_core.kiro.verdict import Finding, Kind, kind_of


class Event(StrEnum):
    """What happens to an account besides faults. `begun`: a request goes out; `served`: its answer is a good one."""

    begun = "begun"
    served = "served"


type Outcome = Event | Finding


@dataclass(frozen=True, slots=True)
class Penalty:
    """Seconds of the first cool-down, and the most that doubling it at each fault in a row may reach."""

    base: float
    cap: float

    def seconds(self, faults: int) -> float:
        """Return the cool-down after *faults* in a row (1, 2, …)."""
        return min(self.base * 2.0 ** min(faults - 1, MAX_DOUBLINGS), self.cap)


MAX_DOUBLINGS = 32  # beyond every cap; keeps a damaged count from overflowing
PENALTIES: Mapping[Kind, Penalty] = {  # kiro.md §9; kinds that are not here are no fault of the account's
    Kind.rate: Penalty(30, 300),
    Kind.transient: Penalty(10, 300),
    Kind.auth: Penalty(600, 3600),
    Kind.unauthorized: Penalty(600, 600),
    Kind.profile_required: Penalty(600, 600),
}
MIN_COOL_DOWN = 1.0  # seconds; a Retry-After of 0 must not make a loop of requests
LONGEST_WAIT = 40 * 86_400.0  # seconds; quotas come back within a month, and other waits are shorter


class Obstacle(StrEnum):
    """Why an account is not used now; the value is for people."""

    newer = "made by a newer version"
    disabled = "disabled"
    needs_login = "needs a new login"
    suspended = "suspended by the service"
    quota = "credits used up"
    cooling = "cooling down"
    probing = "being tried again"
    busy = "busy"


NEEDS_USER = frozenset({Obstacle.newer, Obstacle.disabled, Obstacle.needs_login, Obstacle.suspended})
_STATES: Mapping[str, Obstacle] = {"needs_login": Obstacle.needs_login, "suspended": Obstacle.suspended}


def cooling(account: Account, now: float) -> float:
    """Return the seconds that the account still has to wait, 0 where it need not.

    A wait beyond any that there is was noted while the clock was ahead: nobody knows when it ends, so it is over.
    """
    wait = (account.cooldown_until or 0) / 1000 - now
    return wait if 0 < wait <= LONGEST_WAIT + 1 else 0.0  # moments are rounded to milliseconds


def half_open(account: Account) -> bool:
    """Tell whether the account has to show with one request that it works again (where it is not cooling)."""
    return not account.is_healthy or account.consecutive_failures > 0 or account.cooldown_until is not None


def obstacle(account: Account, now: float, *, in_flight: int = 0, concurrency: int = 0) -> Obstacle | None:
    """Return what stands against a request more on this account, None for nothing.

    *in_flight* is how many requests it has now; *concurrency* how many it may have, 0 for any number.
    """
    if account.unknown:
        return Obstacle.newer
    if not account.enabled:
        return Obstacle.disabled
    if account.state != "ok":
        return _STATES[account.state]
    if cooling(account, now):
        return Obstacle.quota if _waits_for_credits(account) else Obstacle.cooling
    if in_flight and half_open(account):
        return Obstacle.probing
    return Obstacle.busy if concurrency and in_flight >= concurrency else None


def apply(account: Account, outcome: Outcome, now: float) -> Account:
    """Return the account after *outcome*; the same one where it changes nothing.

    Give a finding once its account is done with: after the refresh, the other place and the pauses that its action
    asks for. `Event.served` is due as soon as the answer has begun well, so that a probe does not last as long as the
    answer.
    """
    if outcome is Event.begun:
        return _with(account, last_used=_ms(now))
    if outcome is Event.served:
        ill = cooling(account, now) or account.state != "ok"
        healed = {} if ill else _healed(account, now)
        return _with(account, request_count=account.request_count + 1, last_used=_ms(now), **healed)
    assert isinstance(outcome, Finding)
    if account.state == "suspended":
        return account
    if outcome.kind is Kind.suspended:
        return _with(account, state="suspended", is_healthy=False, last_error=outcome.label)
    seconds = _seconds(account, outcome, now)
    return account if seconds is None else _punished(account, outcome, now, seconds)


def _seconds(account: Account, finding: Finding, now: float) -> float | None:
    """Return how long the account has to wait for *finding*, None where it is not its fault."""
    if finding.kind is Kind.quota:
        return min(max(_reset(account, finding, now) - now, MIN_COOL_DOWN), LONGEST_WAIT)
    penalty = PENALTIES.get(finding.kind)
    if penalty is None:
        return None
    if finding.kind is Kind.rate and finding.retry_after is not None:
        return max(finding.retry_after, MIN_COOL_DOWN)
    return penalty.seconds(account.consecutive_failures + (0 if cooling(account, now) else 1) or 1)


def _punished(account: Account, finding: Finding, now: float, seconds: float) -> Account:
    still = cooling(account, now)
    until = _ms(now + seconds)
    fields: dict[str, Any] = {}
    if finding.kind is Kind.quota:
        fields = {"quota_state": "exhausted", "quota_updated_at": _ms(now)}
    if not still:
        fields["consecutive_failures"] = account.consecutive_failures + 1
    if not still or until > (account.cooldown_until or 0):
        fields |= {"cooldown_until": until, "last_error": finding.label}
    return _with(account, is_healthy=False, **fields)


def _healed(account: Account, now: float) -> dict[str, Any]:
    """Return what makes the account a healthy one."""
    fields: dict[str, Any] = {"is_healthy": True, "consecutive_failures": 0, "cooldown_until": None, "last_error": None}
    if _waits_for_credits(account):
        fields |= {"quota_state": "available", "quota_updated_at": _ms(now)}
    return fields


def _reset(account: Account, finding: Finding, now: float) -> float:
    """Return when credits begin anew, in seconds: what the usage says, else the next day or month (UTC)."""
    today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if finding.daily:
        return (today + timedelta(days=1)).timestamp()
    known = account.usage.resets_at if account.usage else None
    if known is not None and known / 1000 > now:
        return known / 1000
    return (today.replace(day=28) + timedelta(days=4)).replace(day=1).timestamp()


def remaining_credits(account: Account) -> float:
    """Return the credits that are left as far as is known, 0 where it is not."""
    return max(account.usage.limit - account.usage.used, 0.0) if account.usage else 0.0


def _waits_for_credits(account: Account) -> bool:
    """Tell a wait that the service asked for with a used-up quota from other waits, and from what usage alone says."""
    return account.quota_state == "exhausted" and kind_of(account.last_error) is Kind.quota


def _ms(seconds: float) -> int:
    return math.ceil(seconds * 1000)


def _with(account: Account, **fields: Any) -> Account:
    return account.changed(**fields)
