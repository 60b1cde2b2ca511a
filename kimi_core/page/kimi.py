"""What the page shows of Kimi: the stored logins, and the plan of the one in use."""

from __future__ import annotations

from collections.abc import Iterable

from kimi_core.blocks.kimi import blocks
from kimi_core.blocks.place import Place
from kimi_core.kimi import usage as plans
from kimi_core.kimi.constants import REGIONS
from kimi_core.kimi.models import Catalog
from kimi_core.kimi.session import SessionStatus
from kimi_core.page.state import Level, Login, Meter, Provider, Token, Usage

TITLE = "Kimi Code"
LOG_IN = "kimi-mitm login kimi"

# state of a login -> how it stands, what it means, whether a new login is what mends it
_STATES: dict[str, tuple[Level, str, bool]] = {
    "ok": (Level.good, "logged in", False),
    "expired": (Level.good, "logged in; the token is renewed at the next request", False),
    "dead": (Level.bad, "logged out by the service", True),
    "none": (Level.idle, "not logged in", True),
    "damaged": (Level.bad, "the file of the login is damaged", True),
}


def provider(statuses: Iterable[SessionStatus], usage: plans.Usage | None, catalog: Catalog, place: Place) -> Provider:
    """Return Kimi's part of the page; the first of *statuses* is the login in use, and *usage* is its plan's.

    Other regions are shown where somebody is or was logged in.
    """
    first, *others = statuses
    logins = (_login(first, usage, in_use=True), *(_login(each, None) for each in others if each.state != "none"))
    nobody = all(login.state == "none" for login in logins)
    return Provider(
        "kimi",
        TITLE,
        logins=() if nobody else logins,
        hints=(_command(first.slot),) if nobody else (),
        blocks=blocks(catalog, place),
    )


def _login(status: SessionStatus, usage: plans.Usage | None, *, in_use: bool = False) -> Login:
    level, meaning, mended = _STATES[status.state]
    return Login(
        id=f"kimi-{status.slot}",
        name=status.slot,
        state=status.state,
        level=level,
        meaning=meaning,
        in_use=in_use,
        token=Token(status.issued_at, status.expires_at, renews=not mended) if status.expires_at else None,
        usage=None if usage is None else _usage(usage),
        problem=status.problem if status.state == "damaged" else None,
        next=_command(status.slot) if mended else None,
    )


def _command(slot: str) -> str:
    region = next((name for name, site in REGIONS.items() if site.slot == slot), None)
    return f"{LOG_IN} --region {region}" if region and region != next(iter(REGIONS)) else LOG_IN


def _usage(usage: plans.Usage) -> Usage:
    notes = [_wallet(usage.booster)] if usage.booster else []
    if usage.parallel is not None:
        notes.append(f"Up to {usage.parallel} requests at a time.")
    return Usage(
        meters=tuple(Meter(row.label, row.left, f"{row.left:.0%} left", row.resets_at) for row in usage.rows),
        asked_at=usage.fetched_at,
        notes=tuple(notes),
    )


def _wallet(booster: plans.Booster) -> str:
    def money(cents: int) -> str:
        return f"{cents / 100:.2f} {booster.currency}"

    spent = f"; {money(booster.monthly_used)} spent this month" if booster.monthly_used is not None else ""
    bound = f" of {money(booster.monthly_limit)}" if spent and booster.monthly_limit is not None else ""
    return f"Booster: {money(booster.cents_left)} of {money(booster.cents)} left{spent}{bound}."
