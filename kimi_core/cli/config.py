"""``kimi-mitm config``: what a client needs to know, printed, or merged into the file that it reads."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.text import Text

from kimi_core.blocks.place import Block, Place, exports, key_notes
from kimi_core.cli.app import App, AppCommand
from kimi_core.cli.certificates import bundle, cache_dir, mitmproxy_ca
from kimi_core.cli.clients import CLIENTS, Client
from kimi_core.cli.environment import VARIABLES, proxied
from kimi_core.cli.login import with_limit
from kimi_core.cli.output import ExitCode, Report
from kimi_core.cli.providers import PROVIDERS
from kimi_core.cli.run import served
from kimi_core.cli.userfile import Change, apply, plan
from kimi_core.errors import ConfigError, NotLoggedIn

THROUGH_PROXY = (
    "opencode has to go through the proxy for this: start it with `kimi-mitm run -- opencode`, or with the variables "
    "of `kimi-mitm config env`. With --base-url it needs neither, but the proxy has to listen at {url}."
)
AT_PORT = "This works while the proxy listens at {url}: `kimi-mitm start`."
ONE_CLIENT = (
    "Set these for one client, not for your whole session. `kimi-mitm run -- CLIENT` does that without being asked."
)


@dataclass(frozen=True, slots=True)
class Lines:
    """What is printed or merged: `text` for *services*, with `notes` on what else there is to know."""

    text: str
    services: tuple[str, ...]
    notes: tuple[str, ...]


@click.command(cls=AppCommand)
@click.argument("client", type=click.Choice(list(CLIENTS)))
@click.option("--kimi", is_flag=True, help="For Kimi. Without --kimi and --kiro: for those that you are logged in to.")
@click.option("--kiro", is_flag=True, help="For Kiro.")
@click.option(
    "--base-url",
    is_flag=True,
    help="opencode: the proxy's own address in place of the service's. Then HTTPS_PROXY and a certificate are not "
    "needed, but the proxy has to be at the port that the configuration names, which `kimi-mitm run` does not promise; "
    "hence the other way is the default. openai, claude-code and curl always have it: they need an address anyhow.",
)
@with_limit
@click.option("--write", is_flag=True, help="Merge it into the client's file, as said above.")
@click.option("--diff", is_flag=True, help="Show what --write would change, and change nothing.")
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PATH",
    help="The file for --write and --diff, in place of the client's own; openai, curl and env have none of their own.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask before writing. Without a terminal nobody is asked.")
def config(
    app: App,
    client: str,
    *,
    kimi: bool,
    kiro: bool,
    base_url: bool,
    output_limit: int | None,
    write: bool,
    diff: bool,
    file: Path | None,
    yes: bool,
) -> ExitCode:
    """Print what CLIENT needs to know to use your plans.

    It names the models of your plans. Nothing else goes to standard output, so that it can be sent into a file.

    \b
    opencode, opencode-v2  a provider for opencode.json, with an agent for Kiro
    claude-code            the section env of Claude Code's settings.json; Kimi only
    openai                 variables for OpenAI's SDKs and whatever reads them
    curl                   a command that asks one question
    env                    variables that send any client through the proxy

    With --write it is merged into the file that the client reads: opencode's own ($OPENCODE_CONFIG, else
    ~/.config/opencode/opencode.jsonc or .json), Claude Code's own (~/.claude/settings.json). Comments, order and
    indentation stay, as does whatever else is in there; a copy of the old file is put beside it. A file that cannot be
    understood is left alone. Shell files get the lines between two marks, which are found again the next time.
    """  # noqa: D301 - \b is click's
    known = CLIENTS[client]
    if file and not (write or diff):
        raise ConfigError("--file names the file for --write or --diff.")
    if output_limit and not known.limits:
        raise ConfigError(f"There is no limit in the lines for {client}.")
    if base_url and not known.block:
        raise ConfigError("env is about HTTPS_PROXY; for base URLs ask for openai, claude-code or curl.")
    path = _file(app, known, file) if write or diff else None
    asked = [name for name, wanted in (("kimi", kimi), ("kiro", kiro)) if wanted]
    lines = _lines(app, known, asked, local=base_url or not known.two_ways, limit=output_limit)
    if path is None:
        return _print(app, known, lines)
    change = plan(path, lambda text: known.put(text, lines.text))
    return _show(app, change) if diff else _write(app, lines, change, ask=not yes)


# --- what there is to say ---------------------------------------------------------------------------------------------


def _lines(app: App, client: Client, asked: Sequence[str], *, local: bool, limit: int | None) -> Lines:
    if not client.block:
        place = app.place("", "")
        return Lines(_variables(app, place), (), (ONE_CLIENT, *key_notes(place)))
    services = _services(app, client, asked)
    notes = [(AT_PORT if local else THROUGH_PROXY).format(url=app.proxy_url)]
    if len(services) > 1 and not client.many:
        notes.append(f"These are the lines for {services[0]}; --{services[1]} has the others.")
        services = services[:1]
    blocks = asyncio.run(_blocks(app, client, services, local=local, limit=limit))
    notes += [note for block in blocks for note in block.notes]
    text = client.joined(block.text for block in blocks)
    return Lines(text, tuple(services), tuple(dict.fromkeys(notes)))


async def _blocks(app: App, client: Client, services: Sequence[str], *, local: bool, limit: int | None) -> list[Block]:
    every = [await PROVIDERS[name].blocks(app, limit, local=local) for name in services]
    return [block for blocks in every for block in blocks if block.name == client.block]


def _services(app: App, client: Client, asked: Sequence[str]) -> list[str]:
    """Return the services to tell of: those *asked* for, else those that are logged in and not switched off.

    Raises ConfigError where the client cannot have what is asked for, NotLoggedIn where there is nothing to choose.
    """
    able = [name for name, provider in PROVIDERS.items() if client.block in provider.block_names]
    if set(asked) - set(able):
        raise ConfigError(client.lacking)
    if len(asked) > 1 and not client.many:
        raise ConfigError(f"The lines for {client.name} have room for one base URL: choose --kimi or --kiro.")
    chosen = [*asked] or [name for name in able if _used(app, name)]
    if not chosen:
        flags = " or ".join(f"--{name}" for name in able)
        raise NotLoggedIn(
            f"{client.lacking} There is no login to tell of; {flags} prints the lines all the same.".strip()
        )
    return chosen


def _used(app: App, service: str) -> bool:
    on = getattr(app.configuration.settings, f"{service}_enabled", True)
    return on and not PROVIDERS[service].status(app).empty


def _variables(app: App, place: Place) -> str:
    """Return the variables for any client of the proxy. Raises CaMissing before the proxy's first start."""
    configuration, environ = app.configuration, app.world.environ
    ca = mitmproxy_ca(configuration.confdir.absolute())
    every = bundle(ca, cache_dir(environ), environ)
    child = proxied(place.proxy_url, every, ca, environ, served=served(configuration, environ))
    return exports(place, *((one.name, child[one.name]) for one in VARIABLES if one.name in child))


# --- what is done with it ---------------------------------------------------------------------------------------------


def _print(app: App, client: Client, lines: Lines) -> ExitCode:
    if app.out.as_json:
        app.out.emit(
            {"client": client.name, "services": lines.services, "block": lines.text, "notes": list(lines.notes)}
        )
        return ExitCode.OK
    app.out.raw(lines.text)
    _tell(app, lines)
    return ExitCode.OK


def _tell(app: App, lines: Lines) -> None:
    for note in lines.notes:
        app.out.errors.print(note, markup=False, soft_wrap=True)


def _file(app: App, client: Client, named: Path | None) -> Path:
    if named is not None:
        return named
    if client.file is None:
        raise ConfigError(f"{client.name} has no file of its own; name one with --file.")
    return client.file(app.world.environ, app.world.home or Path.home())


def _show(app: App, change: Change) -> ExitCode:
    if app.out.as_json:
        app.out.emit({"file": str(change.path), "changed": change.needed, "diff": change.diff()})
    elif change.needed:
        app.out.raw(change.diff())
    else:
        app.out.errors.print(f"Nothing to change in {change.path}.", markup=False, soft_wrap=True)
    return ExitCode.OK


def _write(app: App, lines: Lines, change: Change, *, ask: bool) -> ExitCode:
    if not change.needed:
        return app.out.show(_outcome(change, None, f"Nothing to change: {change.path} has it all."))
    if ask and app.out.is_terminal and sys.stdin.isatty():
        app.out.raw(change.diff())
        if not click.confirm(f"Write this to {change.path}?", default=True):
            app.out.errors.print("Nothing was changed.")
            return ExitCode.FAILED
    backup = apply(change, app.world.clock())
    kept = f" The old file is {backup}." if backup else ""
    code = app.out.show(_outcome(change, backup, f"Wrote {change.path}.{kept}"))
    if not app.out.as_json:
        _tell(app, lines)
    return code


def _outcome(change: Change, backup: Path | None, sentence: str) -> Report:
    data = {"file": str(change.path), "changed": change.needed, "backup": str(backup) if backup else None}
    return Report(data, Text(sentence))
