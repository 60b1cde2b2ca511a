"""What `run` and `start` share: their options, what they order, and what a user sees while the proxy starts."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from kimi_core.cli import background, invocation, records
from kimi_core.cli.app import App, AppCommand
from kimi_core.cli.background import Order
from kimi_core.cli.configuration import LAST_PORT, Configuration, load
from kimi_core.cli.lease import Offer
from kimi_core.cli.probe import is_loopback
from kimi_core.cli.records import Files, Running


class ProxyCommand(AppCommand):
    """A command that starts the proxy: its --set takes every option of mitmproxy's."""

    def configuration(self, confdir: Path, settings: Sequence[str]) -> Configuration:
        """Return what the proxy runs with. Raises ConfigError."""
        return load(confdir, settings, foreign=True)


def with_proxy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give *command* the options `web`, `no_browser` and `port`."""
    for option in (
        click.option("--port", type=click.IntRange(1, LAST_PORT), metavar="PORT", help="Where the proxy listens."),
        click.option("--no-browser", is_flag=True, help="With --web: do not open that page in a browser."),
        click.option("--web", is_flag=True, help="With mitmproxy's web page, on which you see the traffic."),
    ):
        command = option(command)
    return command


def order(
    app: App, listener: Sequence[str], *, web: bool, no_browser: bool, pipe: Offer | None = None
) -> background.Order:
    """Return the order for a proxy that listens as *listener* says (arguments of mitmproxy)."""
    tool = invocation.WEB if web else invocation.DUMP
    page: list[str] = []
    if web:
        page = ["--web-port", str(background.free_port(app.configuration.web_port))]
        page += ["--no-web-open-browser"] if no_browser or not app.world.has_display else []
    return Order(
        [*tool.command(), *invocation.words(app.configuration, invocation.HOSTED)],
        [*listener, *page],
        app.world.environ,
        pipe.reader if pipe else subprocess.DEVNULL,
        pipe.name if pipe else "",
    )


def begin(app: App, files: Files, what: Order) -> Running:
    """Start a proxy while the user sees that something is going on. Raises NotStarted, StoreError."""
    _warn_of_another_way_out(app)
    records.sweep(files.folder, app.world.clock())
    with app.out.busy("Starting the proxy …"):
        return background.start(files, what)


def _warn_of_another_way_out(app: App) -> None:
    """Say that the user's own proxy is not on the way any more, where it is not mitmproxy's upstream either."""
    environ = app.world.environ
    theirs = environ.get("HTTPS_PROXY") or environ.get("https_proxy") or ""
    host = urlsplit(theirs if "//" in theirs else f"//{theirs}").hostname or ""
    if host and not is_loopback(host) and app.configuration.outbound.proxy is None:
        app.out.warn(
            "HTTPS_PROXY names a proxy of your own, which this one does not use. If it is the way to the world, put it "
            "into mitmproxy's configuration: --set mode=upstream:http://HOST:PORT"
        )
