"""Kimi's logins, usage and models as people read them, and the login as JSON. Pure."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kimi_core.blocks.kimi import inputs
from kimi_core.cli import formats
from kimi_core.cli.output import whole
from kimi_core.kimi.constants import REGIONS, Site
from kimi_core.kimi.models import Catalog, Model
from kimi_core.kimi.session import SessionStatus
from kimi_core.kimi.usage import Booster, Row, Usage, span

BAR = 28  # columns of a usage bar

# state of a login -> colour, what it means, and what to do next ("" = nothing); {region} is the option's value
_STATES: dict[str, tuple[str, str, str]] = {
    "ok": ("green", "logged in", ""),
    "expired": ("green", "logged in", ""),
    "dead": ("red", "logged out by the service", "kimi-mitm login kimi{region}"),
    "none": ("dim", "not logged in", "kimi-mitm login kimi{region}"),
    "damaged": ("red", "the file is damaged", "kimi-mitm login kimi{region}"),
}
USABLE = ("ok", "expired")


# --- status -----------------------------------------------------------------------------------------------------------


def _region_of(site: Site) -> str | None:
    return next((name for name, home in REGIONS.items() if home == site), None)


def status_object(site: Site, status: SessionStatus, now: float) -> dict[str, Any]:
    """Return the login of a site for scripts, times in unix seconds, without its secrets."""
    region = _region_of(site)
    advice = _STATES[status.state][2].format(region=f" --region {region}" if region else "")
    return {
        "slot": status.slot,
        "region": region,
        "host": site.host,
        "state": status.state,
        "path": str(status.path),
        "expires_at": status.expires_at,
        "expires_in": None if status.expires_at is None else round(status.expires_at - now),
        "problem": status.problem,
        "next": advice or None,
    }


def status_view(data: dict[str, Any]) -> RenderableType:
    """Return the logins, the identity and the client key; *data* is what scripts get."""
    return Group(*(_login_view(login, first=not index) for index, login in enumerate(data["logins"])), _facts(data))


def _login_view(login: dict[str, Any], *, first: bool) -> RenderableType:
    colour, meaning, _ = _STATES[login["state"]]
    use = "  (region in use)" if first else ""
    head = Text.assemble((login["slot"], "bold"), "  ", (meaning, colour), (use, "dim"))
    rows = []
    if login["state"] != "none":
        rows.append(("file", Text(login["path"])))
    if login["state"] == "ok":
        rows.append(("token", Text(f"good for {span(login['expires_in'])}; renewed while in use")))
    if login["state"] == "expired":
        rows.append(("token", Text("has run out; renewed at the next request")))
    if login["state"] == "damaged":
        rows.append(("problem", Text(login["problem"])))
    if login["next"] and (first or login["state"] != "none"):
        rows.append(("next", Text(login["next"], style="bold")))
    widest = max((len(label) for label, _ in rows), default=0)
    lines = [whole(Text.assemble((f"  {label:<{widest}}  ", "dim"), text)) for label, text in rows]
    return Group(head, *lines, Text())


def _facts(data: dict[str, Any]) -> RenderableType:
    identity, key = data["identity"], data["client_key"]
    lines = [Text.assemble(("Identity  ", "bold"), identity["name"])]
    if identity["device_id_file"]:
        known = "" if identity["device_id_exists"] else "  (made at the first request)"
        lines.append(whole(Text(f"  device id  {identity['device_id_file']}{known}")))
    keys = {
        "none": "none is asked of programs on this machine",
        "set": "the value of kimi_client_key",
        "auto": f"in {key['file']}{'' if key['file_exists'] else '  (made when the proxy starts)'}",
    }
    lines.append(whole(Text.assemble(("Client key  ", "bold"), keys[key["mode"]])))
    return Group(*lines, Text())


# --- usage ------------------------------------------------------------------------------------------------------------


def usage_view(usage: Usage, now: float) -> RenderableType:
    """Return a bar for each limit of the plan, and what is beside it."""
    if not usage.rows and not usage.booster:
        return Text("The service tells nothing about the usage of this plan.")
    table = Table.grid(padding=(0, 2))
    for row in usage.rows:
        table.add_row(Text(row.label, style="bold"), _bar(row), _left(row, now))
    parts: list[RenderableType] = [table] if usage.rows else []
    if usage.booster:
        parts.append(_booster_view(usage.booster))
    if usage.parallel is not None:
        parts.append(Text(f"Up to {usage.parallel} requests at a time.", style="dim"))
    return Group(*parts)


def _bar(row: Row) -> ProgressBar:
    return ProgressBar(
        total=1.0, completed=row.left, width=BAR, complete_style=row.severity, finished_style=row.severity
    )


def _left(row: Row, now: float) -> Text:
    return Text(row.text(now), style=row.severity)


def _booster_view(booster: Booster) -> Text:
    text = Text.assemble(
        ("Booster  ", "bold"), f"{_money(booster.cents_left, booster)} of {_money(booster.cents, booster)} left"
    )
    if booster.monthly_used is not None or booster.monthly_limit is not None:
        spent = _money(booster.monthly_used or 0, booster)
        bound = f" of {_money(booster.monthly_limit, booster)}" if booster.monthly_limit is not None else ""
        text.append(f"; this month {spent}{bound} spent")
    return text


def _money(cents: int, booster: Booster) -> str:
    return f"{cents / 100:.2f} {booster.currency}"


# --- models -----------------------------------------------------------------------------------------------------------


def models_view(catalog: Catalog) -> RenderableType:
    """Return a row for each model."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("id", "name", "context", "inputs", "efforts", "default"):
        solid = name in ("id", "context", "default")
        table.add_column(
            name, justify="right" if name == "context" else "left", overflow="fold", no_wrap=solid, min_width=len(name)
        )
    for model in catalog.models:
        table.add_row(
            Text(model.id, style="bold"),
            model.display_name or "—",
            formats.tokens(model.context_length),
            " ".join(inputs(model)),
            _efforts(model),
            model.default_effort or "—",
        )
    return table


def _efforts(model: Model) -> str:
    if model.reasoning is False:
        return "none"
    switch = [] if model.thinking_type == "only" else ["off"]
    return " ".join([*switch, *(model.efforts or ["on"])])
