"""What is left of an account's plan: credits, the plan's name, when it starts anew (kiro.md §8).

The answer is read tolerantly, in its present form and the older one. Who the user is stands in it too: only e-mail
and user id are kept, by which an account is recognised.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kimi_core.errors import UpstreamError
from kimi_core.kiro.accounts import Account
from kimi_core.kiro.expiry import milliseconds
from kimi_core.kiro.identity import KiroIdentity, Name
from kimi_core.kiro.management import Caller, Question
from kimi_core.kiro.records import UsageRecord
from kimi_core.plain import line

RED = 0.10  # as Kimi's usage: red with so much left or less …
YELLOW = 0.30  # … and yellow
LIFE = 300.0  # seconds that an account's usage is good for (kiro.md §8)
PAUSE = 30.0  # seconds between two questions for the usage of one account, whoever wants it (kiro.md §8)
TOO_LARGE = 1e15  # no number of credits is; sums of such numbers stay finite
DAY = 86_400_000  # milliseconds
RESOURCES = ("CREDIT", "AGENTIC_REQUEST", "VIBE", "SPEC")  # what a plan may count, the one that matters first
COUNTED: Mapping[Name, str] = {"cli": "CREDIT", "ide": "AGENTIC_REQUEST"}  # what each client asks for
ACTIVE = "ACTIVE"


@dataclass(frozen=True, slots=True)
class Pot:
    """One part of the credits: the plan's own, a trial, a bonus. `ends_at` in milliseconds, None = with the plan."""

    name: str
    used: float
    limit: float
    ends_at: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Credits of all pots that count, and the plan; moments in milliseconds since 1970.

    `overage` tells whether the account goes on, at a price, when the credits are used up. `unit` is the service's.
    """

    pots: tuple[Pot, ...]
    plan: str | None
    resets_at: int | None
    fetched_at: int
    unit: str = "credits"
    overage: bool = False
    email: str = ""
    user_id: str = ""

    @property
    def used(self) -> float:
        """Credits that are gone."""
        return round(sum(pot.used for pot in self.pots), 6)

    @property
    def limit(self) -> float:
        """Credits there were."""
        return round(sum(pot.limit for pot in self.pots), 6)

    @property
    def exhausted(self) -> bool:
        """Whether there was something, nothing is left, and nothing may be bought on top."""
        return 0 < self.limit <= self.used and not self.overage

    def record(self) -> UsageRecord:
        """Return what the accounts' document keeps of it."""
        return UsageRecord(
            used=self.used, limit=self.limit, fetched_at=self.fetched_at, plan=self.plan, resets_at=self.resets_at
        )


def left(used: float, limit: float) -> float:
    """Return the part that is left, 0 to 1; nothing of no credits at all."""
    return min(1.0, max(0.0, (limit - used) / limit)) if limit > 0 else 0.0


def severity(part: float) -> str:
    """Return how a rest is shown: red, yellow or green."""
    return "red" if part <= RED else "yellow" if part <= YELLOW else "green"


def due(account: Account, asked: float, now: float, *, forced: bool = False) -> bool:
    """Tell whether it is time to ask for the usage of *account*, which was *asked* for last then, in vain or not.

    *forced* where the user wants the newest. Moments are unix seconds.
    """
    fetched = account.usage.fetched_at / 1000 if account.usage else 0.0
    old = not 0 <= now - fetched < LIFE
    return (old or forced) and not 0 <= now - max(fetched, asked) < PAUSE


def noted(account: Account, usage: Usage) -> Account:
    """Return *account* with what *usage* tells: credits, quota state, and who it is where that was not known.

    The service's refusals know more than its count, which lags behind: an account that waits for its reset goes on
    waiting, unless the count is that of a new period or of a larger plan.
    """
    known = {"email": account.email or usage.email, "user_id": account.user_id or usage.user_id}
    found: dict[str, Any] = {"usage": usage.record(), "quota_updated_at": usage.fetched_at, **known}
    waits = account.quota_state == "exhausted" and (account.cooldown_until or 0) > usage.fetched_at
    if usage.exhausted:
        found["quota_state"] = "exhausted"
    elif not waits:
        found["quota_state"] = "available"
    elif _begun_anew(account.usage, usage):
        found |= {"quota_state": "available", "cooldown_until": None, "last_error": None}
    return account.model_copy(update=found)


def spent(account: Account, cost: float, now_ms: int) -> Account:
    """Return *account* after an answer that cost so many credits (a meteringEvent); the next fetch sets it right.

    Without a fetch there is no limit to compare with, and after the reset the old count means nothing: both are left
    alone.
    """
    known = account.usage
    if known is None or not 0 < cost < TOO_LARGE or (known.resets_at is not None and known.resets_at <= now_ms):
        return account
    return account.changed(usage=known.changed(used=round(known.used + cost, 6)))


def _begun_anew(old: UsageRecord | None, new: Usage) -> bool:
    return old is not None and (new.limit > old.limit or (new.resets_at or 0) > (old.resets_at or new.resets_at or 0))


# --- asking -----------------------------------------------------------------------------------------------------------


def question(identity: KiroIdentity) -> Question:
    """Return the question for the usage; its lean form serves where the service does not know the parameters."""
    origin = {"origin": identity.origin}
    counted = {"resourceType": COUNTED[identity.name], "isEmailRequired": True}
    return Question("usage", "The usage", {**origin, **counted}, lean=origin)


async def fetch(caller: Caller, account_id: str, now_ms: int) -> Usage:
    """Ask for the usage of an account. Raises as `Caller.ask`."""
    return parse(await caller.ask(account_id, question), now_ms)


# --- the answer -------------------------------------------------------------------------------------------------------


def parse(data: object, now_ms: int) -> Usage:
    """Return the usage in a parsed GetUsageLimits answer. Raises UpstreamError where it tells of no limit."""
    answer = _object(data)
    items = [item for item in _list(answer.get("usageBreakdownList")) if isinstance(item, Mapping)]
    chosen = _chosen(items)
    pots = tuple(_pots(chosen)) if chosen else tuple(_old_pots(answer.get("limits")))
    if not pots:
        raise UpstreamError("The usage answer tells of no limit.")
    subscription, user = _object(answer.get("subscriptionInfo")), _object(answer.get("userInfo"))
    return Usage(
        pots=pots,
        plan=_text(subscription.get("subscriptionTitle")) or _text(subscription.get("type")),
        resets_at=_resets_at(answer, chosen, now_ms),
        fetched_at=now_ms,
        unit=(_text(chosen.get("displayNamePlural")) or "credits").lower(),
        overage=_object(answer.get("overageConfiguration")).get("overageStatus") == "ENABLED",
        email=_text(user.get("email")) or "",
        user_id=_text(user.get("userId")) or "",
    )


def _chosen(items: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the item that counts what requests cost; an unknown kind only where there is no known one."""

    def rank(item: Mapping[str, Any]) -> int:
        kind = item.get("resourceType")
        return RESOURCES.index(kind) if kind in RESOURCES else len(RESOURCES)

    return min(items, key=rank, default={})


def _pots(item: Mapping[str, Any]) -> Iterator[Pot]:
    """Yield the plan's own pot, then trials and bonuses that are active: others can no longer be drawn from."""
    if (pot := _pot("plan", item)) is not None:
        yield pot
    trial = _object(item.get("freeTrialInfo"))
    if trial.get("freeTrialStatus") == ACTIVE and (pot := _pot("free trial", trial, "freeTrialExpiry")) is not None:
        yield pot
    for bonus in _list(item.get("bonuses")):
        fields = _object(bonus)
        name = _text(fields.get("displayName")) or "bonus"
        if fields.get("status") == ACTIVE and (pot := _pot(name, fields, "expiresAt")) is not None:
            yield pot


def _pot(name: str, fields: Mapping[str, Any], ends: str | None = None) -> Pot | None:
    used, limit = (_precise(fields, which) for which in ("currentUsage", "usageLimit"))
    if used is None and limit is None:
        return None
    return Pot(name, used or 0.0, limit or 0.0, _moment(fields.get(ends)) if ends else None)


def _precise(fields: Mapping[str, Any], name: str) -> float | None:
    exact = _number(fields.get(f"{name}WithPrecision"))
    return _number(fields.get(name)) if exact is None else exact


def _old_pots(limits: object) -> Iterator[Pot]:
    """Read the older form: ``limits: [{type, currentUsage, totalUsageLimit}]``; the first that counts."""
    items = [item for item in _list(limits) if isinstance(item, Mapping)]
    ranked = sorted(items, key=lambda item: item.get("type") not in RESOURCES)
    for item in ranked[:1]:
        used, limit = _number(item.get("currentUsage")), _number(item.get("totalUsageLimit"))
        if limit is not None:
            yield Pot("plan", used or 0.0, limit)


def _resets_at(answer: Mapping[str, Any], item: Mapping[str, Any], now_ms: int) -> int | None:
    for source in (item, answer):
        if (moment := _moment(source.get("nextDateReset"))) is not None:
            return moment
    days = _number(answer.get("daysUntilReset"))
    return None if days is None or days <= 0 else now_ms + int(days * DAY)


def _moment(value: object) -> int | None:
    return milliseconds(value) or None


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return line(value.strip()) or None if isinstance(value, str) else None


def _number(value: object) -> float | None:
    """Return a number of sensible size that is not below zero, also where it is written as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < TOO_LARGE else None  # neither infinite nor NaN
