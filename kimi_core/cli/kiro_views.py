"""Kiro's accounts, usage and models as people read them, and the same as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kimi_core.blocks.kiro import efforts
from kimi_core.cli import formats
from kimi_core.kimi.usage import span
from kimi_core.kiro.accounts import Account, Accounts
from kimi_core.kiro.catalog import FALLBACK_DATE, Catalog
from kimi_core.kiro.condition import Condition, condition, handle, method, name
from kimi_core.kiro.models import modalities
from kimi_core.kiro.sources import NAMES
from kimi_core.kiro.usage import left, severity

BAR = 20  # columns of a usage bar
NOBODY = (
    "No Kiro account. Log in with: kimi-mitm login kiro, or take over that of another program: kimi-mitm accounts sync"
)
MINUTE = 60  # seconds

# --- accounts ---------------------------------------------------------------------------------------------------------


def account_object(account: Account, active: str | None, now: float) -> dict[str, Any]:
    """Return an account for scripts, without its secrets; names of health as other tools have them, times in ms."""
    found = condition(account, now)
    kept = (
        "id", "label", "email", "auth_method", "region", "profile_arn", "enabled", "is_healthy",
        "consecutive_failures", "cooldown_until", "last_error", "quota_state", "request_count", "last_used",
        "expires_at", "added_at",
    )  # fmt: skip
    return {
        "name": name(account),
        "active": account.id == active,
        **{field: None if field in account.unknown else getattr(account, field) for field in kept},
        "unknown": list(account.unknown),
        "usage": usage_object(account),
        "shared_with": NAMES[account.source.kind] if account.source else None,
        "state": found.state,
        "problem": _problem(account, found),
        "next": found.next,
    }


def accounts_object(stored: Accounts, now: float) -> dict[str, Any]:
    """Return all accounts for scripts."""
    return {
        "strategy": stored.strategy,
        "active_account_id": stored.active_account_id,
        "accounts": [account_object(account, stored.active_account_id, now) for account in stored.accounts],
    }


def accounts_view(stored: Accounts, now: float, strategy: str) -> RenderableType:
    """Return one entry per account: who, how it is, what is wrong with it, and what to do next."""
    if not stored.accounts:
        return Text(NOBODY)
    entries = [_entry(account, stored.active_account_id, now) for account in stored.accounts]
    return Group(*entries, Text(f"Accounts are chosen by the strategy {strategy}.", style="dim"))


def account_view(account: Account, active: str | None, now: float) -> RenderableType:
    """Return the entry of one account."""
    return _entry(account, active, now)


def _entry(account: Account, active: str | None, now: float) -> RenderableType:
    found = condition(account, now)
    head = Text.assemble(
        (name(account), "bold"),
        "  ",
        (f"{found.meaning}{_back(found)}", found.colour),
        ("  (active)" if account.id == active else "", "dim"),
    )
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("", "id", f"{handle(account)}  {_origin(account)}")
    grid.add_row("", "requests", f"{account.request_count}{_last_used(account, now)}")
    if account.usage is not None:
        grid.add_row("", "credits", _credits(account, now))
    if problem := _problem(account, found):
        grid.add_row("", "problem", problem)
    if found.next:
        grid.add_row("", "next", Text(found.next, style="bold"))
    return Group(head, grid, Text())


def _problem(account: Account, found: Condition) -> str | None:
    """Return what went wrong the last time, as the document has it; nothing for an account that serves well."""
    if account.last_error is None or found.state == "ready":
        return None
    times = account.consecutive_failures
    return f"last_error={account.last_error}" + (f", {times} times in a row" if times > 1 else "")


def _back(found: Condition) -> str:
    return f" (in {span(found.seconds)})" if found.seconds else ""


def _origin(account: Account) -> str:
    shared = f"read from {NAMES[account.source.kind]}" if account.source else ""
    return ", ".join(part for part in (method(account), account.region, shared) if part)


def _last_used(account: Account, now: float) -> str:
    return f", the last one {span(now - account.last_used / 1000)} ago" if account.last_used else ""


def _credits(account: Account, now: float) -> str:
    known = account.usage
    assert known is not None
    rest = max(known.limit - known.used, 0.0)
    plan = f"{known.plan}: " if known.plan else ""
    return f"{plan}{rest:g} of {known.limit:g} left{_resets(known.resets_at, now)}"


def _resets(moment: int | None, now: float) -> str:
    return f", begins anew in {span(moment / 1000 - now)}" if moment and moment / 1000 > now else ""


# --- usage ------------------------------------------------------------------------------------------------------------


def usage_object(account: Account) -> dict[str, Any] | None:
    """Return the credits of an account for scripts, times in ms; None where they were never asked for."""
    known = account.usage
    if known is None:
        return None
    fields = {field: getattr(known, field) for field in ("used", "limit", "plan", "resets_at", "fetched_at")}
    return {**fields, "left": left(known.used, known.limit)}


def usage_view(accounts: Sequence[Account], problems: dict[str, str], now: float) -> RenderableType:
    """Return a bar per account, with its plan and the reset; *problems* by account id stand below."""
    table = Table.grid(padding=(0, 2))
    for account in accounts:
        known = account.usage
        if known is None:
            table.add_row(Text(name(account), style="bold"), "", Text("not known", style="dim"))
            continue
        part = left(known.used, known.limit)
        colour = severity(part)
        bar = ProgressBar(total=1.0, completed=part, width=BAR, complete_style=colour, finished_style=colour)
        age = now - known.fetched_at / 1000
        old = f" ({span(age)} ago)" if account.id in problems and age >= MINUTE else ""
        table.add_row(Text(name(account), style="bold"), bar, Text(f"{_credits(account, now)}{old}", style=colour))
    told = [
        Text(f"{name(account)}: {problems[account.id]}", style="yellow")
        for account in accounts
        if account.id in problems
    ]
    return Group(table, *told)


# --- models -----------------------------------------------------------------------------------------------------------


def models_view(catalog: Catalog, names: Iterable[str] = ()) -> RenderableType:
    """Return the models as a table; for the fallback list with the day that it is of."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("id", "name", "context", "output", "inputs", "efforts", "rate"):
        number = title in ("context", "output", "rate")
        table.add_column(
            title,
            justify="right" if number else "left",
            overflow="fold",
            no_wrap=number or title == "id",
            min_width=len(title),
        )
    for model in catalog.models:
        table.add_row(
            Text(model.id, style="bold"),
            model.name or "—",
            formats.thousands(model.max_input),
            formats.thousands(model.max_output),
            " ".join(modalities(model)),
            " ".join(efforts(model)) or "—",
            "—" if model.rate is None else f"{model.rate:g}",
        )
    whose = ", ".join(names)
    said = f"Of {whose}." if whose else f"Not asked of any account: the list of {FALLBACK_DATE}."
    return Group(table, Text(said, style="dim"))
