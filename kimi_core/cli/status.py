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
    """Show logins, the files they are in, and whether a proxy is running.

    Asks nobody but this machine. The exit code is 3 where the login of the region in use is missing or dead.
    """
    proxy = probe(app.configuration)
    reports = {name: provider.status(app) for name, provider in PROVIDERS.items()}
    code = max((report.code for report in reports.values()), default=ExitCode.OK)
    data = {name: report.data for name, report in reports.items()} | {"proxy": proxy.data}
    view = Group(*(report.view for report in reports.values()), proxy.view)
    return app.out.show(Report(data, view, code))
