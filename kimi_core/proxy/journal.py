"""The last exchanges and today's totals, in memory: what the status page shows of what passes.

An exchange costs one entry in a table, and is counted when it ends; what is shown of it is made of the facts in its
`Story` when somebody looks. Nothing here is written to disk, and nothing grows: both lists are bounded.
"""

from __future__ import annotations

import math
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from kimi_core import later
from kimi_core.exchange import Story

if TYPE_CHECKING:
    from kimi_core.page import state
else:
    state = later.module("kimi_core.page.state")

KEPT = 50  # exchanges that are listed after their end
MOST_RUNNING = 1000  # exchanges under way that are known of; more at once than any machine's clients make
RUNNING_SHOWN = 20  # of those the newest are listed
NAME = 40  # characters of a client's name, and of any other word that is shown
READ = 400  # characters of a User-Agent that are looked at; browsers' are the longest, and shorter
CLIENT_LEFT = "client_left"

_COMMENT = re.compile(r"\([^()]*\)")
_NOT_SHOWN = re.compile(r"[^A-Za-z0-9 ._+/@:-]")
# what mitmproxy says of a flow that broke off -> its code here; the first word that occurs decides
_FAULTS = (("client", CLIENT_LEFT), ("killed", "killed"), ("", "connection_lost"))


@dataclass(frozen=True, slots=True)
class Arrival:
    """What is known of a request when it comes; `at` in unix seconds, `user_agent` the client's own."""

    at: float
    user_agent: str | None
    provider: str
    operation: str


@dataclass(frozen=True, slots=True)
class End:
    """How an exchange ended: the answer's status, None for none; when its head came; mitmproxy's word for a fault."""

    status: int | None
    attempts: int = 1
    answered_at: float | None = None
    fault: str | None = None
    reason: str | None = None


@dataclass(slots=True)
class _Open:
    arrival: Arrival
    story: Story


@dataclass(frozen=True, slots=True)
class _Closed:
    """An exchange that is over; `duration` is in seconds."""

    arrival: Arrival
    told: Mapping[str, Any]
    end: End
    reason: str | None
    duration: float


def client_name(user_agent: str | None) -> str:
    """Return the program and its version from a User-Agent (RFC 9110 §10.1.5): ``opencode/1.18.33``, "unknown".

    The first product counts; a version that stands apart from it is added. Nothing but letters, digits and a few signs
    is let through.
    """
    words = _NOT_SHOWN.sub("", _COMMENT.sub(" ", (user_agent or "")[:READ])).split()
    if not words:
        return "unknown"
    name = " ".join(words[:2]) if len(words) > 1 and words[1][0].isdigit() else words[0]
    return name[:NAME]


def local_day(moment: float) -> date:
    """Return the day of *moment* (unix seconds) by this machine's zone."""
    return datetime.fromtimestamp(moment, UTC).astimezone().date()


class Recorder:
    """Is told of each exchange when it begins and when it ends."""

    def __init__(self, clock: Callable[[], float] = time.time, day: Callable[[float], date] = local_day) -> None:
        self._clock = clock
        self._day = day
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._ended: deque[_Closed] = deque(maxlen=KEPT)
        self._minute = -1.0
        self._today = day(clock())
        self._totals: dict[str, state.Total] = {}

    def begin(self, key: str, arrival: Arrival, story: Story) -> None:
        """Note that the exchange *key* is under way; *story* is read as it grows."""
        self._open[key] = _Open(arrival, story)
        if len(self._open) > MOST_RUNNING:
            self._open.popitem(last=False)

    def end(self, key: str, end: End) -> None:
        """Note how the exchange *key* ended; one that was never begun, or has been forgotten, is nothing."""
        known = self._open.pop(key, None)
        if known is not None:
            self._add(known.arrival, known.story.facts, end)

    def answered(self, arrival: Arrival, end: End) -> None:
        """Note a request that was answered here, before there was an exchange: refused, or out of what is known."""
        self._add(arrival, {}, end)

    @property
    def running(self) -> int:
        """How many exchanges are under way."""
        return len(self._open)

    def journal(self) -> state.Journal:
        """Return what there is to show now."""
        self._turn(self._clock())
        newest = list(reversed(self._open.values()))[:RUNNING_SHOWN]
        return state.Journal(
            running=tuple(_under_way(each) for each in newest),
            ended=tuple(_entry(each) for each in reversed(self._ended)),
            today=tuple(replace(self._totals[name]) for name in sorted(self._totals)),  # copies: counting goes on
            running_count=len(self._open),
        )

    def _add(self, arrival: Arrival, facts: Mapping[str, Any], end: End) -> None:
        now = self._clock()
        self._turn(now)
        # nothing that a client chose the length of is kept
        closed = _Closed(arrival, _told(facts), end, _reason(facts, end), max(0.0, now - arrival.at))
        self._ended.append(closed)
        total = self._totals.get(arrival.provider)
        if total is None:
            total = self._totals[arrival.provider] = state.Total(arrival.provider)
        total.exchanges += 1
        total.failed += _outcome(end, closed.reason) == "failed"
        total.tokens_in += _count(facts.get("in")) or 0
        total.tokens_out += _count(facts.get("out")) or 0
        total.cached += _count(facts.get("cached")) or 0
        total.credits += _amount(facts.get("credits")) or 0.0

    def _turn(self, now: float) -> None:
        """Begin the totals anew on a new day."""
        # every zone's day begins with a minute, and to ask for the day costs more than all else here
        minute = now // 60
        if minute == self._minute:
            return
        self._minute = minute
        day = self._day(now)
        if day != self._today:
            self._today = day
            self._totals.clear()


def _reason(facts: Mapping[str, Any], end: End) -> str | None:
    fault = _fault(end.fault)
    if fault == CLIENT_LEFT and facts.get("finish"):
        fault = None  # it had everything: clients close the connection at the last event
    return _word(facts.get("reason")) or _word(facts.get("error")) or end.reason or fault


def _entry(closed: _Closed) -> state.Entry:
    arrival, end = closed.arrival, closed.end
    return state.Entry(
        at=arrival.at,
        client=client_name(arrival.user_agent),
        outcome=state.Outcome(_outcome(end, closed.reason)),
        provider=arrival.provider,
        operation=arrival.operation,
        status=end.status,
        reason=closed.reason,
        attempts=end.attempts,
        first_byte=None if end.answered_at is None else max(0.0, end.answered_at - arrival.at),
        duration=closed.duration,
        **closed.told,
    )


def _under_way(known: _Open) -> state.Entry:
    arrival = known.arrival
    return state.Entry(
        at=arrival.at,
        client=client_name(arrival.user_agent),
        outcome=state.Outcome.running,
        provider=arrival.provider,
        operation=arrival.operation,
        **_told(known.story.facts),
    )


def _told(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a story's facts tell, each value of the type that `Entry` has for it."""
    return {
        "model": _word(facts.get("model")) or _word(facts.get("answered by")),
        "effort": _word(facts.get("effort")),
        "account": _word(facts.get("account")),
        "tokens_in": _count(facts.get("in")),
        "tokens_out": _count(facts.get("out")),
        "cached": _count(facts.get("cached")),
        "credits": _amount(facts.get("credits")),
    }


def _outcome(end: End, reason: str | None) -> str:
    """Return the word of `state.Outcome`."""
    if reason == CLIENT_LEFT:
        return "left"
    bad = end.status is None or end.status >= HTTPStatus.BAD_REQUEST or reason is not None
    return "failed" if bad else "ok"


def _fault(sentence: str | None) -> str | None:
    if sentence is None:
        return None
    return next(code for word, code in _FAULTS if word in sentence.lower())


def _word(value: object) -> str | None:
    return value[:NAME] if isinstance(value, str) and value else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _amount(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
