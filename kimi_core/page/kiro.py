"""What the page shows of Kiro: each account with its health, why it is so, what to do next, and its credits."""

from __future__ import annotations

from kimi_core.blocks.kiro import blocks
from kimi_core.blocks.place import Place
from kimi_core.kiro.accounts import Account, Accounts
from kimi_core.kiro.catalog import Catalog
from kimi_core.kiro.condition import Condition, condition, handle, method, name
from kimi_core.kiro.sources import NAMES
from kimi_core.kiro.usage import left
from kimi_core.page.state import Level, Login, Meter, Provider, Token, Usage

TITLE = "Kiro"
HINTS = ("kimi-mitm login kiro", "kimi-mitm accounts sync")
LEVELS = {"green": Level.good, "yellow": Level.warn, "red": Level.bad, "dim": Level.idle}


def provider(stored: Accounts, now: float, strategy: str, catalog: Catalog, place: Place) -> Provider:
    """Return Kiro's part of the page at *now*; the active account comes first, the others in their order."""
    active = stored.active_account_id
    accounts = sorted(stored.accounts, key=lambda account: account.id != active)
    several = (f"Accounts are chosen by the strategy {strategy}.",) if len(accounts) > 1 else ()
    return Provider(
        "kiro",
        TITLE,
        logins=tuple(_login(account, now, in_use=account.id == active) for account in accounts),
        notes=several,
        hints=() if accounts else HINTS,
        blocks=blocks(catalog, place),
    )


def damaged(problem: str) -> Provider:
    """Return Kiro's part of the page where the document of the accounts cannot be read; *problem* says why."""
    return Provider("kiro", TITLE, problem=problem)


def _login(account: Account, now: float, *, in_use: bool) -> Login:
    found = condition(account, now)
    return Login(
        id=f"kiro-{handle(account)}",
        name=name(account),
        state=found.state,
        level=LEVELS[found.colour],
        meaning=found.meaning,
        in_use=in_use,
        facts=_facts(account),
        token=_token(account),
        usage=_usage(account),
        back_at=_seconds(account.cooldown_until) if found.seconds else None,
        problem=_problem(account, found),
        next=found.next,
        requests=account.request_count,
        last_used=_seconds(account.last_used),
    )


def _facts(account: Account) -> tuple[str, ...]:
    shared = f"read from {NAMES[account.source.kind]}" if account.source else ""
    return tuple(fact for fact in (method(account), account.region, f"id {handle(account)}", shared) if fact)


def _token(account: Account) -> Token | None:
    if account.auth_method == "api_key":
        return None  # a key has no end
    renews = account.renewable and not account.held_back and account.enabled and account.state == "ok"
    return Token(_seconds(account.refreshed_at), _seconds(account.expires_at), renews=renews)


def _problem(account: Account, found: Condition) -> str | None:
    """Return what went wrong the last time; nothing for an account that serves well."""
    if account.last_error is None or found.state == "ready":
        return None
    times = account.consecutive_failures
    return f"{account.last_error}, {times} times in a row" if times > 1 else account.last_error


def _usage(account: Account) -> Usage | None:
    known = account.usage
    if known is None:
        return None
    part, rest = left(known.used, known.limit), max(known.limit - known.used, 0.0)
    meter = Meter("Credits", part, f"{_credits(rest)} of {_credits(known.limit)} left", _seconds(known.resets_at))
    return Usage((meter,), _seconds(known.fetched_at), known.plan)


def _credits(amount: float) -> str:
    """Return a number of credits to the hundredth: ``1,000``, ``613.58``."""
    return f"{amount:,.2f}".rstrip("0").rstrip(".")


def _seconds(moment: int | None) -> float | None:
    """Return unix seconds for the document's milliseconds; 0 and None mean never."""
    return moment / 1000 if moment else None
