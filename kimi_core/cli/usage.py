"""``kimi-mitm usage``: what is left of the plan, and when it comes back."""

from __future__ import annotations

import asyncio

import click

from kimi_core.cli.app import App, AppCommand
from kimi_core.cli.output import ASKING, ExitCode
from kimi_core.cli.providers import PROVIDERS


@click.command(cls=AppCommand)
@click.argument("provider", type=click.Choice(list(PROVIDERS)), default=next(iter(PROVIDERS)))
def usage(app: App, provider: str) -> ExitCode:
    """Show what is left of PROVIDER's plan, and when it comes back."""
    with app.out.busy(ASKING):
        found = asyncio.run(PROVIDERS[provider].usage(app))
    return app.out.show(found)
