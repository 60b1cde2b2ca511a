"""Kimi Code on the command line: where the commands meet the login, the models and the usage."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kimi_core.blocks.kimi import BLOCK_NAMES, blocks, inputs
from kimi_core.blocks.place import Block
from kimi_core.cli import formats
from kimi_core.cli.app import App
from kimi_core.cli.output import ExitCode, Report
from kimi_core.cli.steps import Code, Steps
from kimi_core.cli.wish import Wish
from kimi_core.errors import ConfigError, KimiMitmError
from kimi_core.kimi.account import Account
from kimi_core.kimi.constants import REGIONS, Site, site_for, sites
from kimi_core.kimi.device import Device, device_id_path
from kimi_core.kimi.identity import build, load
from kimi_core.kimi.models import Catalog, Model
from kimi_core.kimi.oauth import DeviceCode, device_flow
from kimi_core.kimi.session import Session, SessionStatus
from kimi_core.kimi.usage import Booster, Row, Usage, span
from kimi_core.proxy.key import AUTO, key_path
from kimi_core.store import Document

BAR = 28  # columns of a usage bar

# state of a login -> colour, what it means, and what to do next ("" = nothing); {region} is the option's value
_STATES: dict[str, tuple[str, str, str]] = {
    "ok": ("green", "logged in", ""),
    "expired": ("green", "logged in", ""),
    "dead": ("red", "logged out by the service", "kimi-mitm login kimi{region}"),
    "none": ("dim", "not logged in", "kimi-mitm login kimi{region}"),
    "damaged": ("red", "the file is damaged", "kimi-mitm login kimi{region}"),
}
_USABLE = ("ok", "expired")


class Kimi:
    """The `Provider` of Kimi Code."""

    wishes = frozenset({"output_limit"})
    block_names: tuple[str, ...] = BLOCK_NAMES

    def status(self, app: App) -> Report:
        """Tell what is stored for every region; the exit code is that of the region in use."""
        settings = app.configuration.settings
        environ = app.world.environ
        every = sites(settings.kimi_region, environ)
        # no request is made, so no device id is needed, and none is made by looking
        nobody = build(settings.kimi_identity, Device.here(), "")
        found = [
            Session(site, nobody, app.configuration.outbound, folder=app.folder, clock=app.world.clock).status()
            for site in every
        ]
        device_id = device_id_path(settings.kimi_identity, environ, app.world.home)
        data = {
            "region": settings.kimi_region,
            "logins": [
                _status_object(site, status, app.world.clock()) for site, status in zip(every, found, strict=True)
            ],
            "identity": {
                "name": settings.kimi_identity,
                "device_id_file": str(device_id) if device_id else None,
                "device_id_exists": bool(device_id and device_id.is_file()),
            },
            "client_key": _key_object(app),
        }
        code = ExitCode.OK if found[0].state in _USABLE else ExitCode.NOT_LOGGED_IN
        empty = all(status.state == "none" for status in found)
        return Report(data, _status_view(data), code, empty=empty)

    async def login(self, app: App, steps: Steps, wish: Wish) -> None:
        """Run the device flow, store the login, then read the models; a failure of the latter loses nothing."""
        account = _account(app)

        def on_code(code: DeviceCode) -> None:
            steps.code(
                Code(
                    code.user_code,
                    code.url,
                    code.verification_uri,
                    code.expires_in,
                    code.interval,
                )
            )

        async with app.configuration.outbound.client() as client:
            token = await device_flow(
                client,
                account.site,
                account.identity.headers("oauth"),
                on_code=on_code,
                on_wait=steps.waiting,
                clock=app.world.clock,
                sleep=app.world.sleep,
            )
        # from here to the end of `save` nothing awaits: Ctrl-C comes before the old login is touched, or after
        put_aside = None
        if (status := account.session.status()).state == "damaged":
            put_aside = Document(status.path).put_aside()
        steps.stored(account.session.save(token), put_aside)
        catalog, problem = await _discover(account)
        lines = _blocks(app, catalog, wish.output_limit)
        steps.models([model.to_json() for model in catalog.models], lines, problem)

    def logout(self, app: App, account: str | None) -> Report:
        """Delete the login of the region in use. Raises ConfigError for an *account*: a region has one login."""
        if account is not None:
            raise ConfigError("Kimi has one login per region; name the region.")
        site = _site(app)
        nobody = build(app.configuration.settings.kimi_identity, Device.here(), "")
        session = Session(site, nobody, app.configuration.outbound, folder=app.folder)
        path = session.status().path
        forgotten = session.forget()
        sentence = (
            f"Logged out of {site.slot}; {path} is gone." if forgotten else f"There was no login for {site.slot}."
        )
        return Report({"slot": site.slot, "path": str(path), "removed": forgotten}, Text(sentence))

    async def usage(self, app: App) -> Report:
        """Ask for the usage."""
        account = _account(app)
        usage = await account.fetch_usage()
        return Report({"slot": account.site.slot, **usage.to_json()}, _usage_view(usage, app.world.clock()))

    async def models(self, app: App) -> Report:
        """Ask for the models."""
        account = _account(app)
        catalog = await account.fetch_models()
        data = {
            "slot": account.site.slot,
            "fetched_at": catalog.fetched_at,
            "models": [model.to_json() for model in catalog.models],
        }
        return Report(data, _models_view(catalog))

    async def blocks(self, app: App, output_limit: int | None, *, local: bool | None = None) -> tuple[Block, ...]:
        """Return the lines for clients; with the models known from before where they cannot be read now."""
        catalog, problem = await _discover(_account(app))
        if problem:
            app.out.warn(f"The models could not be read now: {problem.sentence}")
        return _blocks(app, catalog, output_limit, local=local)


async def _discover(account: Account) -> tuple[Catalog, KimiMitmError | None]:
    try:
        return await account.fetch_models(), None
    except KimiMitmError as error:
        return account.cache.catalog, error


def _site(app: App) -> Site:
    return site_for(app.configuration.settings.kimi_region, app.world.environ)


def _account(app: App) -> Account:
    identity = load(app.configuration.settings.kimi_identity, app.world.environ, app.world.home)
    return Account(_site(app), identity, app.configuration.outbound, app.folder, clock=app.world.clock)


def _blocks(app: App, catalog: Catalog, output_limit: int | None, *, local: bool | None = None) -> tuple[Block, ...]:
    place = app.place("kimi", _site(app).base, local=local)
    return blocks(catalog, place, output_limit)


# --- status -----------------------------------------------------------------------------------------------------------


def _region_of(site: Site) -> str | None:
    return next((name for name, home in REGIONS.items() if home == site), None)


def _status_object(site: Site, status: SessionStatus, now: float) -> dict[str, Any]:
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


def _key_object(app: App) -> dict[str, Any]:
    option = app.configuration.settings.kimi_client_key
    mode = "auto" if option == AUTO else "set" if option else "none"
    path = key_path(app.folder) if option == AUTO else None
    return {"mode": mode, "file": str(path) if path else None, "file_exists": bool(path and path.is_file())}


def _status_view(data: dict[str, Any]) -> RenderableType:
    return Group(*(_login_view(login, first=not index) for index, login in enumerate(data["logins"])), _facts(data))


def _login_view(login: dict[str, Any], *, first: bool) -> RenderableType:
    colour, meaning, _ = _STATES[login["state"]]
    use = "  (region in use)" if first else ""
    head = Text.assemble((login["slot"], "bold"), "  ", (meaning, colour), (use, "dim"))
    grid = _grid()
    if login["state"] != "none":
        grid.add_row("", "file", login["path"])
    if login["state"] == "ok":
        grid.add_row("", "token", f"good for {span(login['expires_in'])}; renewed while in use")
    if login["state"] == "expired":
        grid.add_row("", "token", "has run out; renewed at the next request")
    if login["state"] == "damaged":
        grid.add_row("", "problem", login["problem"])
    if login["next"] and (first or login["state"] != "none"):
        grid.add_row("", "next", Text(login["next"], style="bold"))
    return Group(head, *([grid] if grid.row_count else []), Text())


def _facts(data: dict[str, Any]) -> RenderableType:
    identity, key = data["identity"], data["client_key"]
    lines = [Text.assemble(("Identity  ", "bold"), identity["name"])]
    if identity["device_id_file"]:
        known = "" if identity["device_id_exists"] else "  (made at the first request)"
        lines.append(Text(f"  device id  {identity['device_id_file']}{known}"))
    keys = {
        "none": "none is asked of programs on this machine",
        "set": "the value of kimi_client_key",
        "auto": f"in {key['file']}{'' if key['file_exists'] else '  (made when the proxy starts)'}",
    }
    lines.append(Text.assemble(("Client key  ", "bold"), keys[key["mode"]]))
    return Group(*lines, Text())


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    return grid


# --- usage ------------------------------------------------------------------------------------------------------------


def _usage_view(usage: Usage, now: float) -> RenderableType:
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


def _models_view(catalog: Catalog) -> RenderableType:
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
