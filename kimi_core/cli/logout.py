"""``kimi-mitm logout``: the stored login of a region goes away on this machine."""

from __future__ import annotations

import click

from kimi_core.cli.app import App, AppCommand
from kimi_core.cli.output import ExitCode
from kimi_core.cli.providers import PROVIDERS


@click.command(cls=AppCommand)
@click.argument("provider", type=click.Choice(list(PROVIDERS)))
def logout(app: App, provider: str) -> ExitCode:
    """Remove the login of PROVIDER for the region in use from this machine.

    Nothing is sent: to end the login at the service too, remove the device in your account there.
    """
    return app.out.show(PROVIDERS[provider].logout(app))
