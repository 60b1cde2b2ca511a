"""``kimi-mitm login``: the device flow, told step by step."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from kimi_core.cli.app import DEFAULT_PROVIDER, App, AppCommand
from kimi_core.cli.output import ExitCode
from kimi_core.cli.providers import PROVIDERS
from kimi_core.cli.steps import steps_for
from kimi_core.cli.wish import Wish

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
@click.option("--start-url", metavar="URL", help="Kiro: the start page of your organisation's IAM Identity Center.")
@click.option(
    "--region",
    metavar="NAME",
    help="Kimi: the region of the plan (cn, global). Kiro: the AWS region of the start page.",
)
@click.option(
    "--social", type=click.Choice(["google", "github"]), help="Kiro: log in with that account on Kiro's own page."
)
@click.option(
    "--paste",
    is_flag=True,
    help="Kiro, with --social: the browser is on another machine; paste the address that it ends at.",
)
@with_limit
def login(app: App, provider: str, *, no_browser: bool, **wishes: Any) -> ExitCode:
    """Log in to PROVIDER and print the lines that clients need. Kiro: with an AWS Builder ID unless told otherwise.

    The page can be approved on any machine: none of this needs a browser or a screen here. A login that is stored
    already stays in use until the new one is approved and stored.

    With --json: one object a line; its `event` is code, page, waiting, slow_down, unstored, approved, stored, models or
    error.
    """
    wish = Wish(**wishes)
    wish.check(provider, PROVIDERS[provider].wishes)
    browse = None if no_browser or not app.world.has_display else app.world.browse
    with steps_for(app.out, browse, "" if provider == DEFAULT_PROVIDER else provider) as steps:
        asyncio.run(PROVIDERS[provider].login(app, steps, wish))
    return ExitCode.OK
