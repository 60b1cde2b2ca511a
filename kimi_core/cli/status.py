"""``kimi-mitm status``: what is stored, where, and what to do next; the services are not asked."""

from __future__ import annotations

import click
from rich.console import Group

from kimi_core.cli.app import App, AppCommand
from kimi_core.cli.output import ExitCode, Report
from kimi_core.cli.probe import probe
from kimi_core.cli.providers import PROVIDERS


@click.command(cls=AppCommand)
def status(app: App) -> ExitCode:
    """Show the logins, their files, and whether a proxy is running.

    Only this machine is asked. The exit code is 3 if the Kimi login of the region in use is dead, if no Kiro account
    can serve, or if there is no login at all.
    """
    proxy = probe(app.configuration, app.world.environ)
    reports = {name: provider.status(app) for name, provider in PROVIDERS.items()}
    used = [report.code for report in reports.values() if not report.empty]
    code = max(used, default=ExitCode.NOT_LOGGED_IN)
    data = {name: report.data for name, report in reports.items()} | {"proxy": proxy.data}
    view = Group(*(report.view for report in reports.values()), proxy.view)
    return app.out.show(Report(data, view, code))
