"""``kimi-mitm start``, ``stop`` and ``logs``: the proxy in the background."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import IO

import click
from rich.console import Group
from rich.text import Text

from kimi_core.cli import background, invocation
from kimi_core.cli.app import App, AppCommand
from kimi_core.cli.background import NotStarted
from kimi_core.cli.configuration import LOOPBACK
from kimi_core.cli.hosting import ProxyCommand, begin, order, with_proxy_options
from kimi_core.cli.output import ExitCode, Report
from kimi_core.cli.probe import ask, is_loopback
from kimi_core.cli.records import STARTED, Files, Running, last_lines, newest_log
from kimi_core.plain import plain
from kimi_core.store import Document, state_dir

LINES = 40  # of the log that `logs` shows
PACE = 0.25  # seconds between two looks for new lines; fast enough for an eye


@click.command(cls=ProxyCommand)
@with_proxy_options
def start(app: App, *, web: bool, no_browser: bool, port: int | None) -> ExitCode:
    """Start the proxy in the background.

    It stays until `kimi-mitm stop`, or until the machine is switched off; `kimi-mitm service` prints what it takes to
    have it started with the machine. Where it runs already, nothing happens.
    """
    files = _files(app)
    with Document(files.record).lock(background.START_PATIENCE):
        running = files.running()
        if running:
            _same(running, web=web, port=port)
            return app.out.show(_report(files, running, "is running already"))
        _free(app, port)
        listener = invocation.listener(app.configuration, port)
        running = begin(app, files, order(app, listener, web=web, no_browser=no_browser))
    return app.out.show(_report(files, running, "is running"))


@click.command(cls=AppCommand)
def stop(app: App) -> ExitCode:
    """Stop the proxy that `kimi-mitm start` has started."""
    running = _files(app).running()
    if running is None:
        return app.out.show(Report({"stopped": False}, Text("No proxy was running that kimi-mitm start had started.")))
    with app.out.busy("Stopping the proxy …"):
        background.stop(running)
    return app.out.show(Report({"stopped": True, "pid": running.pid}, Text("The proxy is stopped.")))


@click.command(cls=AppCommand)
@click.option("-f", "--follow", is_flag=True, help="Go on showing new lines, until Ctrl-C.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=LINES, show_default=True, help="How many lines to show."
)
def logs(app: App, *, follow: bool, lines: int) -> ExitCode:
    """Show what the proxy in the background says, or has said.

    With --json: one object, or with --follow one object a line.
    """
    log = newest_log(state_dir(app.world.environ))
    end = log.stat().st_size if log.exists() else 0
    found = last_lines(log, lines, end)
    if app.out.as_json and not follow:
        app.out.emit({"log": str(log), "lines": found})
        return ExitCode.OK
    for line in found:
        _say(app, line)
    if follow:
        asyncio.run(_follow(app, log, end))
    elif not found:
        app.out.errors.print(f"There is nothing in {log}.", markup=False, soft_wrap=True)
    return ExitCode.OK


# --- parts ------------------------------------------------------------------------------------------------------------


def _files(app: App) -> Files:
    return Files(state_dir(app.world.environ), STARTED)


def _report(files: Files, running: Running, how: str) -> Report:
    data = {"url": running.url, "web_url": running.web_url, "pid": running.pid, "log": str(files.log)}
    lines = [Text.assemble("The proxy ", (how, "bold green"), f" at {running.url}.")]
    if running.web_url:
        lines.append(Text(f"The traffic shows at {running.web_url}"))
    lines.append(Text("What it says: kimi-mitm logs -f   To end it: kimi-mitm stop", style="dim"))
    for line in lines:
        line.no_wrap, line.overflow = True, "ignore"  # an address must not be cut in two
    return Report(data, Group(*lines))


def _same(running: Running, *, web: bool, port: int | None) -> None:
    """Raise NotStarted where the proxy that runs is another one than is asked for."""
    if port not in {None, running.port} or (web and not running.web_url):
        other = "without the web page" if web and not running.web_url else f"at port {running.port}"
        raise NotStarted(f"A proxy is running already, {other}. To start another one, first: kimi-mitm stop")


def _free(app: App, port: int | None) -> None:
    """Raise NotStarted where something else listens at the port that the proxy would have."""
    url = f"http://{LOOPBACK}:{port}" if port else app.configuration.proxy_url
    state = ask(url)[0] if port or is_loopback(app.configuration.host) else "none"
    if state == "running":
        raise NotStarted(
            f"Another proxy of this kind is running at {url}, which kimi-mitm start has not started. Use that one, or "
            "choose another port with --port."
        )
    if state == "foreign":
        raise NotStarted(f"Another program listens at {url}. End it, or choose another port with --port.")


def _say(app: App, line: str) -> None:
    if app.out.as_json:
        app.out.emit({"line": line})
    else:
        app.out.raw(plain(line))


async def _follow(app: App, log: Path, begin: int) -> None:
    async for line in new_lines(log, begin, app.world.sleep):
        _say(app, line)


async def new_lines(log: Path, begin: int, sleep: Callable[[float], Awaitable[None]]) -> AsyncIterator[str]:
    """Yield each line that comes to *log* after offset *begin*, without its end; also when it is turned over."""
    file, rest = _opened(log), b""
    if file is not None:
        file.seek(begin)
    try:
        while True:
            turned = file is None or _replaced(file, log)  # before reading: what was written until then is read
            if file is not None:
                *lines, rest = (rest + file.read()).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace")
            if turned:
                if file is not None:
                    file.close()
                file = _opened(log)
            if not turned or file is None:
                await sleep(PACE)
    finally:
        if file is not None:
            file.close()


def _opened(log: Path) -> IO[bytes] | None:
    try:
        return log.open("rb")
    except FileNotFoundError:
        return None


def _replaced(file: IO[bytes], log: Path) -> bool:
    """Tell whether *log* is another file by now, or shorter than what was read of it."""
    try:
        found = log.stat()
    except FileNotFoundError:
        return True
    return not os.path.samestat(found, os.fstat(file.fileno())) or found.st_size < file.tell()
