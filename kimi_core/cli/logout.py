"""``kimi-mitm logout``: a stored login goes away on this machine."""

from __future__ import annotations

import click

from kimi_core.cli.app import App, AppCommand
from kimi_core.cli.output import ExitCode
from kimi_core.cli.providers import PROVIDERS


@click.command(cls=AppCommand)
@click.argument("provider", type=click.Choice(list(PROVIDERS)))
@click.option("--account", metavar="ACCOUNT", help="Kiro: which of several accounts, by e-mail, label or id.")
def logout(app: App, provider: str, account: str | None) -> ExitCode:
    """Remove a login of PROVIDER from this machine.

    For Kimi it is that of the region in use, for Kiro that of one account. Nothing is sent: to end the login at the
    service too, remove the device in your account there.
    """
    return app.out.show(PROVIDERS[provider].logout(app, account))
