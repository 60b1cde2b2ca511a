"""``kimi-mitm run``: one client through the proxy, which is started for it where none is running."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import click

from kimi_core.cli import background, child, invocation, lease
from kimi_core.cli.app import App
from kimi_core.cli.background import NotStarted
from kimi_core.cli.certificates import PATIENCE, bundle, cache_dir, mitmproxy_ca
from kimi_core.cli.completion import programs
from kimi_core.cli.configuration import LOOPBACK, Configuration
from kimi_core.cli.environment import proxied
from kimi_core.cli.hosting import ProxyCommand, begin, order, with_proxy_options
from kimi_core.cli.output import ExitCode
from kimi_core.cli.probe import ask
from kimi_core.cli.records import SHARED, Files, Running, known
from kimi_core.errors import KimiMitmError
from kimi_core.kimi.constants import sites
from kimi_core.kiro.constants import Endpoints
from kimi_core.proxy.key import client_key
from kimi_core.store import state_dir


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asks of the proxy beside the configuration; no port = any."""

    web: bool
    no_browser: bool
    port: int | None


@dataclass(frozen=True, slots=True)
class Way:
    """A proxy to go through; `hold` keeps it, where it ends with its users."""

    url: str
    web_url: str | None = None
    hold: lease.Hold | None = None


# \b keeps click from joining the lines
HELP = """Run COMMAND with its requests going through the proxy.

\b
kimi-mitm run -- opencode
kimi-mitm run --web -- claude
kimi-mitm run --set kimi_identity=own -- python script.py

COMMAND alone gets the variables that this takes (HTTPS_PROXY, a certificate, and others); nothing of your own
settings is changed. A proxy that is running is used. Otherwise one is started, at the port that the configuration
names or at any other that is free, and it ends with the last COMMAND that uses it.

The exit code is that of COMMAND: 128 + n where signal n ended it, 127 where there is no such program, 126 where it
cannot be run, and 125 where there is no proxy for it.
"""


@click.command(cls=ProxyCommand, help=HELP, context_settings={"allow_interspersed_args": False})
@with_proxy_options
@click.argument(
    "command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND [ARGUMENT]...", shell_complete=programs
)
def run(app: App, *, command: tuple[str, ...], web: bool, no_browser: bool, port: int | None) -> int:
    """Run COMMAND through the proxy."""
    try:
        with way(app, Wish(web=web, no_browser=no_browser, port=port)) as found:
            if web and found.web_url:
                app.out.errors.print(f"The traffic shows at {found.web_url}", markup=False, soft_wrap=True)
            return child.run(command, environment(app, found.url))
    except child.CannotRun as error:
        app.out.errors.print(str(error), style="red", markup=False, soft_wrap=True)
        return error.code
    except KimiMitmError as error:
        app.out.fail(error)
        return ExitCode.NO_PROXY


def environment(app: App, url: str) -> dict[str, str]:
    """Return the environment of a client of the proxy at *url*. Raises CaMissing, StoreError, ConfigError."""
    environ = app.world.environ
    ca = mitmproxy_ca(app.configuration.confdir.absolute(), patience=PATIENCE)
    return proxied(
        url,
        bundle(ca, cache_dir(environ), environ),
        ca,
        environ,
        served=served(app.configuration, environ),
        key=client_key(app.configuration.settings.kimi_client_key, app.folder),
    )


def served(configuration: Configuration, environ: Mapping[str, str]) -> frozenset[str]:
    """Return the hosts whose requests are the reason to go through the proxy."""
    settings = configuration.settings
    kimi = {site.host for site in sites(settings.kimi_region, environ)}
    kiro = {urlsplit(url).hostname or "" for url in Endpoints.from_env(environ).served()}
    # with the fakes of a test, or a mirror on this machine, it is the user's exceptions that count
    return frozenset((kimi | (kiro if settings.kiro_enabled else set()) | {*settings.openai_hosts}) - {"", "localhost"})


@contextmanager
def way(app: App, wish: Wish) -> Iterator[Way]:
    """Give a proxy that is running, or one that is started now; let go of it in the end.

    Raises NotStarted, StoreError.
    """
    found = _there(app, wish) or _started(app, wish)
    try:
        yield found
    finally:
        if found.hold:
            found.hold.release()


def _there(app: App, wish: Wish) -> Way | None:
    """Return a proxy that is running and is what the user wants."""
    there = list(known(state_dir(app.world.environ)))
    wanted = order(app, [], web=wish.web, no_browser=wish.no_browser).digest
    for _, running in there:
        if _fits(app, wish, running, wanted) and ask(running.url)[0] == "running":
            hold = lease.join(Path(running.lease)) if running.lease else None
            if hold or not running.lease:
                return Way(running.url, running.web_url, hold)
    port = wish.port or app.configuration.port
    if _plain(app, wish) and port not in {running.port for _, running in there}:
        url = f"http://{LOOPBACK}:{port}" if wish.port else app.configuration.proxy_url
        return Way(url) if ask(url)[0] == "running" else None
    return None


def _plain(app: App, wish: Wish) -> bool:
    return not wish.web and not app.configuration.overrides


def _fits(app: App, wish: Wish, running: Running, wanted: str) -> bool:
    """Tell whether a proxy of ours serves: started with the same words, or started to stay while nothing is asked."""
    if wish.port not in {None, running.port} or running.lease == lease.NAMELESS:
        return False
    same_ca = running.confdir == str(app.configuration.confdir.absolute())
    return running.order == wanted or (_plain(app, wish) and not running.lease and same_ca)


def _started(app: App, wish: Wish) -> Way:
    wanted = wish.port or app.configuration.port
    port = background.free_port(wanted)
    if wish.port and port != wish.port:
        raise NotStarted(f"Port {wish.port} is taken by another program.")
    try:
        return _start(app, wish, port if port == wanted else 0)
    except NotStarted:
        if port == wanted != background.free_port(wanted) and not wish.port:
            return _start(app, wish, 0)  # somebody else took it a moment before
        raise


def _start(app: App, wish: Wish, port: int) -> Way:
    name = f"{SHARED}-{int(app.world.clock() * 1000)}-{os.getpid()}"
    files = Files(state_dir(app.world.environ), name)
    pipe = lease.offer(files.lease)
    listener = invocation.only_here(app.configuration, port)
    try:
        running = begin(app, files, order(app, listener, web=wish.web, no_browser=wish.no_browser, pipe=pipe))
    except BaseException:
        pipe.hold.release()
        files.lease.unlink(missing_ok=True)
        raise
    finally:
        os.close(pipe.reader)
    return Way(running.url, running.web_url, pipe.hold)
