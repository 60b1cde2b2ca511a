"""``kimi-mitm login``: the device flow, told step by step."""

from __future__ import annotations

import asyncio

import click

from kimi_core.cli.app import App, AppCommand
from kimi_core.cli.output import ExitCode
from kimi_core.cli.providers import PROVIDERS
from kimi_core.cli.steps import steps_for

with_limit = click.option(
    "--with-limit",
    "output_limit",
    type=click.IntRange(min=1),
    metavar="TOKENS",
    help="Put a limit into opencode's models: the context that the service tells, and TOKENS of output.",
)


@click.command(cls=AppCommand)
@click.argument("provider", type=click.Choice(list(PROVIDERS)))
@click.option("--no-browser", is_flag=True, help="Do not open the page in a browser on this machine.")
@with_limit
def login(app: App, provider: str, *, no_browser: bool, output_limit: int | None) -> ExitCode:
    """Log in to PROVIDER and print the lines that clients need.

    The page can be approved on any machine: none of this needs a browser or a screen here. A login that is stored
    already stays in use until the new one is approved and stored.

    With --json: one object a line; its `event` is code, waiting, slow_down, approved, stored, models or error.
    """
    browse = None if no_browser or not app.world.has_display else app.world.browse
    with steps_for(app.out, browse) as steps:
        asyncio.run(PROVIDERS[provider].login(app, steps, output_limit))
    return ExitCode.OK
