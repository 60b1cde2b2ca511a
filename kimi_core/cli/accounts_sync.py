"""``kimi-mitm accounts sync``: the logins of other programs, and what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from kimi_core.cli.app import App
from kimi_core.cli.kiro_service import KiroCommand, around, asker, learn, service_of
from kimi_core.cli.output import ASKING, ExitCode, Report
from kimi_core.kiro import sources
from kimi_core.kiro.service import Service
from kimi_core.kiro.sync import Importer, Line

KINDS = {kind.replace("_", "-"): kind for kind in sources.NAMES}  # what --from takes
DONE = frozenset({"forked", "shared", "known", "older"})  # outcomes of an import that need nothing done
OUTCOMES = {  # as people read them; scripts get the names
    "forked": "taken over",
    "shared": "shared",
    "known": "known",
    "older": "left out",
    "unclear": "unclear",
    "rejected": "refused",
    "unavailable": "not now",
    "unreadable": "unreadable",
}
COLOURS = {"forked": "green", "shared": "green", "known": "dim", "older": "dim"}


@click.command(cls=KiroCommand)
@click.option(
    "--from",
    "kinds",
    multiple=True,
    type=click.Choice(list(KINDS)),
    help="Look there only; may be given several times. Otherwise everywhere.",
)
@click.option("--shared", is_flag=True, help="Read the login from the other program each time; spend nothing of it.")
@click.option(
    "--only", multiple=True, metavar="KEY", help="Take over the login with this key only, as the output names it."
)
@click.option("--new", is_flag=True, help="Take logins of which nobody can say whose they are for new accounts.")
def sync(app: App, kinds: tuple[str, ...], *, shared: bool, only: tuple[str, ...], new: bool) -> ExitCode:
    """Take over the logins of other programs.

    Those of kiro-cli, the Kiro IDE and opencode's Kiro plugins, and the key in KIRO_API_KEY. Each login is taken
    over once: its token is spent for a pair of our own, and the other program's file stays as it is. Whether the other
    program's login outlives that is up to Kiro; with --shared it is left alone.
    """
    service = service_of(app)
    wanted = [KINDS[kind] for kind in kinds] or list(sources.NAMES)
    with app.out.busy(ASKING):
        lines = asyncio.run(_sync(app, service, wanted, shared=shared, only=frozenset(only), new=new))
    data = {"lines": [asdict(line) for line in lines]}
    code = ExitCode.OK if any(line.outcome in DONE for line in lines) else ExitCode.FAILED
    return app.out.show(Report(data, _sync_view(lines), code))


async def _sync(
    app: App, service: Service, kinds: Sequence[str], *, shared: bool, only: frozenset[str], new: bool
) -> tuple[Line, ...]:
    places = sources.discover(around(app), kinds)
    importer = Importer(service.registry, service.tokens, asker(app, service), clock=app.world.clock)
    lines = await importer.run(places, shared=shared, new=new, only=only)
    for account_id in dict.fromkeys(line.account_id for line in lines if line.outcome in {"forked", "shared"}):
        if account_id is not None and (error := await learn(service, account_id)):
            app.out.warn(f"What the account has could not be read now: {error.sentence}")
    return lines


def _sync_view(lines: tuple[Line, ...]) -> Group | Text:
    if not lines:
        return Text("No login of another program was found. Log in with: kimi-mitm login kiro")
    table = Table.grid(padding=(0, 2))
    for line in lines:
        table.add_row(
            Text(line.place, style="bold", overflow="fold"),
            Text(OUTCOMES[line.outcome], style=COLOURS.get(line.outcome, "yellow")),
            Text(line.text),
            Text(line.key, style="dim", overflow="fold"),
        )
    return Group(table, Text("\nTo see the accounts: kimi-mitm accounts list"))
