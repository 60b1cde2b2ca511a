"""``kimi-mitm models``: what the plan has, and the lines that clients need for it."""

from __future__ import annotations

import asyncio

import click

from kimi_core.cli.app import App, AppCommand
from kimi_core.cli.login import with_limit
from kimi_core.cli.output import ASKING, ExitCode
from kimi_core.cli.providers import PROVIDERS
from kimi_core.cli.steps import show_blocks
from kimi_core.errors import ConfigError

ALL = "all"


@click.command(cls=AppCommand)
@click.argument("provider", type=click.Choice(list(PROVIDERS)), default=next(iter(PROVIDERS)))
@click.option(
    "--block",
    type=click.Choice([*dict.fromkeys(name for known in PROVIDERS.values() for name in known.block_names), ALL]),
    help="Print the lines for one client in place of the table; all = for every client.",
)
@with_limit
def models(app: App, provider: str, *, block: str | None, output_limit: int | None) -> ExitCode:
    """Show the models of PROVIDER's plan.

    With --block: the lines that a client needs for them. `kimi-mitm models --block opencode > opencode.json` writes
    opencode's configuration.
    """
    if block is None:
        with app.out.busy(ASKING):
            found = asyncio.run(PROVIDERS[provider].models(app))
        return app.out.show(found)
    if block not in (*PROVIDERS[provider].block_names, ALL):
        raise ConfigError(f"There is no block {block} for {provider}.")
    with app.out.busy(ASKING):
        every = asyncio.run(PROVIDERS[provider].blocks(app, output_limit))
    chosen = [item for item in every if block in (item.name, ALL)]
    if app.out.as_json:
        app.out.emit({"blocks": {item.name: item.text for item in chosen}})
    elif block == ALL:
        show_blocks(app.out, chosen)
    else:
        app.out.raw(chosen[0].text)
        for note in chosen[0].notes:
            app.out.errors.print(note, markup=False, soft_wrap=True)
    return ExitCode.OK
