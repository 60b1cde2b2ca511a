"""``GET /usages``: what is left of the plan, read by kimi-cli's rules (kimi.md §5).

Numbers come as decimal text, `limit` is usually 100. Who the user is stands in the answer too; nothing of it is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kimi_core.errors import UpstreamError
from kimi_core.headers import Headers
from kimi_core.kimi.api import get_json
from kimi_core.kimi.constants import Site
from kimi_core.plain import line

if TYPE_CHECKING:
    import httpx

TIMEOUT = 8.0  # seconds for the whole call, as kimi-code has it
RED = 0.10  # kimi-cli's bar: red with so much left or less …
YELLOW = 0.30  # … and yellow
UNITS_PER_CENT = 1_000_000  # the booster's balance is fixed point
HOUR = 60  # minutes
TOO_LARGE = 1e18  # no count, time or sum of money is; the difference of two such is still a finite number
MILLISECONDS = 1e11  # an epoch above this (year 5138 in seconds) is in milliseconds

RESET_AT = ("reset_at", "resetAt", "reset_time", "resetTime")
RESET_IN = ("reset_in", "resetIn", "ttl", "window")
TIME_UNITS = (("MINUTE", "m"), ("HOUR", "h"), ("DAY", "d"), ("WEEK", "w"))  # matched within "TIME_UNIT_MINUTE"
SPANS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


@dataclass(frozen=True, slots=True)
class Row:
    """One limit: what is used of it, in the service's units, and when it starts anew (unix seconds)."""

    label: str
    used: float
    limit: float
    resets_at: float | None = None

    @property
    def left(self) -> float:
        """The part that is left, 0 to 1."""
        return min(1.0, max(0.0, (self.limit - self.used) / self.limit)) if self.limit > 0 else 0.0

    @property
    def exhausted(self) -> bool:
        """Whether there was something and nothing is left."""
        return 0 < self.limit <= self.used

    @property
    def severity(self) -> str:
        """How the row is shown: red, yellow or green."""
        return "red" if self.left <= RED else "yellow" if self.left <= YELLOW else "green"

    def text(self, now: float) -> str:
        """Return ``60% left (resets in 2d 3h)``."""
        resets = f" (resets in {span(self.resets_at - now)})" if self.resets_at is not None else ""
        return f"{self.left:.0%} left{resets}"


@dataclass(frozen=True, slots=True)
class Booster:
    """The prepaid wallet that serves when the plan is used up; `monthly_limit` is None where none is set."""

    cents_left: int
    cents: int
    currency: str = "USD"
    monthly_limit: int | None = None
    monthly_used: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """The plan's limits in the order weekly, rolling windows, total; `parallel` is how many requests at a time."""

    rows: tuple[Row, ...]
    booster: Booster | None
    parallel: int | None
    fetched_at: float

    def exhausted(self, now: float) -> float | None:
        """Return when the plan serves again (unix seconds), None where no row with a known reset is used up.

        Of several rows that are used up the last to start anew decides: until then each request is refused.
        """
        resets = [row.resets_at for row in self.rows if row.exhausted and row.resets_at and row.resets_at > now]
        return max(resets, default=None)

    def to_json(self) -> dict[str, Any]:
        """Return everything for scripts; times in unix seconds, money in cents."""
        names = ("label", "used", "limit", "left", "resets_at", "severity")
        wallet = ("cents_left", "cents", "currency", "monthly_limit", "monthly_used")
        return {
            "rows": [{name: getattr(row, name) for name in names} for row in self.rows],
            "booster": {name: getattr(self.booster, name) for name in wallet} if self.booster else None,
            "parallel": self.parallel,
            "fetched_at": self.fetched_at,
        }


def span(seconds: float) -> str:
    """Return a length of time in its two largest units: ``2d 3h``, ``5m``, ``0s``."""
    rest, parts = max(0, round(seconds)), list[str]()
    for size, unit in SPANS:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"


def parse(data: object, now: float) -> Usage:
    """Return the usage of a parsed answer; rows that say nothing are left out. Raises UpstreamError for no object."""
    if not isinstance(data, Mapping):
        raise UpstreamError("The usage answer has an unknown shape.")
    parallel = _number(_mapping(data.get("parallel")).get("limit"))
    return Usage(
        rows=tuple(_rows(data, now)),
        booster=_booster(_mapping(data.get("boosterWallet"))),
        parallel=None if parallel is None else int(parallel),
        fetched_at=now,
    )


async def fetch(
    client: httpx.AsyncClient, site: Site, headers: Headers, *, clock: Callable[[], float] = time.time
) -> Usage:
    """Ask *site* for the usage; *headers* are sent as they are, Authorization included.

    Raises UpstreamError; its `http_status` is 401 where the access token was refused, 404 for a wrong base.
    """
    data = await get_json(client, f"{site.base}/usages", headers, what="The usage", seconds=TIMEOUT)
    return parse(data, clock())


def _rows(data: Mapping[str, Any], now: float) -> Iterator[Row]:
    if row := _row(_mapping(data.get("usage")), "Weekly limit", now):
        yield row
    limits = data.get("limits")
    for number, item in enumerate(limits if isinstance(limits, list) else (), 1):
        if isinstance(item, Mapping):
            detail = _mapping(item.get("detail")) or item
            if row := _row(detail, _limit_label(item, detail, number), now):
                yield row
    if row := _row(_mapping(data.get("totalQuota")), "Total quota", now):
        yield row


def _row(detail: Mapping[str, Any], label: str, now: float) -> Row | None:
    used, limit, remaining = (_number(detail.get(name)) for name in ("used", "limit", "remaining"))
    if used is None and None not in (limit, remaining):
        used = (limit or 0) - (remaining or 0)
    if used is None and limit is None:
        return None
    return Row(_name(detail) or label, used or 0, limit or 0, _resets_at(detail, now))


def _name(item: Mapping[str, Any]) -> str | None:
    return next((line(str(item[key])) for key in ("name", "title") if item.get(key)), None)


def _limit_label(item: Mapping[str, Any], detail: Mapping[str, Any], number: int) -> str:
    """Return what a rolling window is called: its name, else its length, else its number."""
    if name := _name(item) or item.get("scope") or detail.get("scope"):
        return line(str(name))
    sources = (_mapping(item.get("window")), item, detail)
    duration = next((d for s in sources if (d := _number(s.get("duration")))), None)
    if not duration:
        return f"Limit #{number}"
    word = next((str(w) for s in sources if (w := s.get("timeUnit"))), "")
    unit = next((short for name, short in TIME_UNITS if name in word), "s")
    if unit == "m" and duration % HOUR == 0:
        duration, unit = duration / HOUR, "h"
    return f"{duration:g}{unit} limit"


def _resets_at(detail: Mapping[str, Any], now: float) -> float | None:
    for key in RESET_AT:
        if moment := _moment(detail.get(key)):
            return moment
    seconds = next((s for key in RESET_IN if (s := _number(detail.get(key))) is not None), None)
    return None if seconds is None else now + seconds


def _moment(value: object) -> float | None:
    """Return unix seconds for ISO 8601 text or an epoch in seconds or milliseconds; text without a zone is UTC."""
    epoch = _number(value)
    if epoch is not None:
        return epoch / 1000 if epoch > MILLISECONDS else epoch
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)  # takes Z, and cuts the fraction to six digits
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _booster(wallet: Mapping[str, Any]) -> Booster | None:
    balance = _mapping(wallet.get("balance"))
    amount = _number(balance.get("amount")) or 0
    if balance.get("type") != "BOOSTER" or amount <= 0:
        return None
    limit, used = (_mapping(wallet.get(name)) for name in ("monthlyChargeLimit", "monthlyUsed"))
    currency = limit.get("currency") or used.get("currency")
    return Booster(
        cents_left=_cents(_number(balance.get("amountLeft")) or 0),
        cents=_cents(amount),
        currency=currency if isinstance(currency, str) else "USD",
        monthly_limit=_price(limit) if wallet.get("monthlyChargeLimitEnabled") is True else None,
        monthly_used=_price(used),
    )


def _cents(units: float) -> int:
    """Return whole cents; less than one that is not nothing counts as one."""
    cents = units / UNITS_PER_CENT
    return 1 if 0 < cents < 1 else round(cents)


def _price(amount: Mapping[str, Any]) -> int | None:
    cents = _number(amount.get("priceInCents"))
    return None if cents is None else round(cents)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object) -> float | None:
    """Return a number of sensible size, also where it is written as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < TOO_LARGE else None  # neither infinite nor NaN
