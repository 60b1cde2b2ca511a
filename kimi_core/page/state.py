"""Everything that the status page shows, as one typed record; the same as JSON.

No field ever holds prompt text or a secret. Moments are unix seconds, lengths of time seconds, parts 0 to 1. What is
not known is None, never a made-up number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from kimi_core.blocks.place import Block


class Outcome(StrEnum):
    """What became of an exchange."""

    running = "running"
    ok = "ok"
    failed = "failed"
    left = "left"
    """The client went away before the answer was complete: nobody's fault."""


class Level(StrEnum):
    """How something stands, for a person's glance."""

    good = "good"
    warn = "warn"
    bad = "bad"
    idle = "idle"


@dataclass(frozen=True, slots=True)
class Entry:
    """One exchange. `at` is when the request came; `first_byte` and `duration` count from there.

    `operation` is the provider's name for the endpoint; `reason` a stable code where it did not go well. `status` is
    None where the client was given none. Tokens are the service's counts; `tokens_in` includes the cached ones.
    """

    at: float
    client: str
    provider: str
    outcome: Outcome
    operation: str = ""
    model: str | None = None
    effort: str | None = None
    account: str | None = None
    status: int | None = None
    reason: str | None = None
    attempts: int = 1
    first_byte: float | None = None
    duration: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cached: int | None = None
    credits: float | None = None


@dataclass(slots=True)
class Total:
    """What one provider did today, the day being that of this machine's clock and zone; the journal counts in it."""

    provider: str
    exchanges: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cached: int = 0
    credits: float = 0.0


@dataclass(frozen=True, slots=True)
class Journal:
    """The exchanges under way and the last ones that ended, each newest first, and the totals of today.

    `running_count` counts also those under way that are too many to be listed.
    """

    running: tuple[Entry, ...] = ()
    ended: tuple[Entry, ...] = ()
    today: tuple[Total, ...] = ()
    running_count: int = 0


@dataclass(frozen=True, slots=True)
class Meter:
    """One limit of a plan: the part of it that is `left`, `text` in words, and when it starts anew."""

    label: str
    left: float
    text: str
    resets_at: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What is known of a plan since `asked_at`; `notes` are plain sentences."""

    meters: tuple[Meter, ...] = ()
    asked_at: float | None = None
    plan: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Token:
    """The life of an access token; `renews` tells whether the proxy can renew it when it runs out."""

    issued_at: float | None = None
    expires_at: float | None = None
    renews: bool = True


@dataclass(frozen=True, slots=True)
class Login:
    """A stored login and how it is: `name` who or where, `meaning` in words, `next` the command (or advice) that mends.

    `facts` are short words that tell it from others; `problem` what went wrong the last time.
    """

    id: str
    name: str
    state: str
    level: Level
    meaning: str
    in_use: bool = False
    facts: tuple[str, ...] = ()
    token: Token | None = None
    usage: Usage | None = None
    back_at: float | None = None
    problem: str | None = None
    next: str | None = None
    requests: int | None = None
    last_used: float | None = None


@dataclass(frozen=True, slots=True)
class Provider:
    """One service: its logins, the one in use first; `hints` are commands to run where nobody is logged in."""

    name: str
    title: str
    logins: tuple[Login, ...] = ()
    notes: tuple[str, ...] = ()
    problem: str | None = None
    hints: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """All that the page shows at the moment `now`."""

    version: str
    now: float
    started_at: float
    listening: str
    providers: tuple[Provider, ...] = ()
    journal: Journal = field(default_factory=Journal)

    def to_json(self) -> dict[str, Any]:
        """Return the record for scripts."""
        return asdict(self)


def total_of(totals: Iterable[Total]) -> Total:
    """Return the sum of all providers' totals."""
    rows = tuple(totals)
    return Total(
        "all",
        sum(row.exchanges for row in rows),
        sum(row.failed for row in rows),
        sum(row.tokens_in for row in rows),
        sum(row.tokens_out for row in rows),
        sum(row.cached for row in rows),
        sum(row.credits for row in rows),
    )
