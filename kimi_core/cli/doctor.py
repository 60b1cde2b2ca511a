"""``kimi-mitm doctor``: what is wrong on this machine, in plain words, and the command that mends it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text

from kimi_core.cli.app import App, AppCommand
from kimi_core.cli.checks.check import AnyCheck, State
from kimi_core.cli.checks.clients import client as client_of
from kimi_core.cli.checks.machine import Machine
from kimi_core.cli.checks.run import Result, run
from kimi_core.cli.checks.table import CHECKS
from kimi_core.cli.configuration import Configuration, load
from kimi_core.cli.output import ExitCode, Report, whole
from kimi_core.cli.probe import configured, recorded
from kimi_core.errors import ConfigError

COLOURS = {State.ok: "green", State.warning: "yellow", State.problem: "red", State.skipped: "dim"}
GAP = "  "  # between two columns
INDENT = " " * (max(map(len, State)) + 2)  # what to do stands below the id
WORST_FIRST = (State.problem, State.warning, State.ok)


class DoctorCommand(AppCommand):
    """A command that runs although mitmproxy's configuration file is broken: to say so is what it is for."""

    def configuration(self, confdir: Path, settings: Sequence[str]) -> Configuration:
        """Return the configuration, or without a file that cannot be used the defaults; `settings` count in both."""
        try:
            return load(confdir, settings)
        except ConfigError:
            return load(confdir, settings, names=())


@click.command(cls=DoctorCommand)
@click.option(
    "--only",
    multiple=True,
    metavar="ID",
    help="Run this check, or this group of checks, alone; may be given several times.",
)
@click.option(
    "--client",
    metavar="COMMAND",
    help="Look at what this client needs: opencode, claude, curl, node, python, requests, or a command.",
)
@click.option("--offline", is_flag=True, help="Ask no service, only this machine.")
@click.option("--all", "everything", is_flag=True, help="Show the checks that were skipped, too, and why.")
def doctor(app: App, *, only: tuple[str, ...], client: str | None, offline: bool, everything: bool) -> ExitCode:
    """Find out what is wrong, and how to mend it.

    Looks at the logins, the proxy, mitmproxy, the variables and certificates that a client started in this shell would
    have, opencode's configuration and the files. With a Kimi login it asks Kimi for the usage and the models, unless
    --offline is given. Nothing is changed, except that a login that is due is renewed.

    Each check has an id, which docs/troubleshooting.md explains, and ends as ok, warning, problem or skipped. The exit
    code is 1 if there is a problem; warnings do not count.
    """
    chosen = _chosen(only)
    machine = Machine(_where_it_is(app), offline=offline)
    if client is not None:
        machine = replace(machine, client=client_of(client, machine.which))
    with app.out.busy("Looking at this machine …"):
        results = list(run(chosen, machine))
    width = app.out.console.width
    return app.out.show(_report(results, width, everything=everything or bool(only)))


def _chosen(only: Iterable[str]) -> list[AnyCheck]:
    """Return the checks that *only* names by id or group, all for none. Raises ConfigError for a name of neither."""
    wanted = set(only)
    unknown = wanted - {name for check in CHECKS for name in (check.id, check.group)}
    if unknown:
        known = ", ".join(check.id for check in CHECKS)
        raise ConfigError(f"There is no check {min(unknown)!r}; there are: {known}.")
    return [check for check in CHECKS if not wanted or {check.id, check.group} & wanted]


def _where_it_is(app: App) -> App:
    """Return *app* for a proxy that runs elsewhere, where none is at the port of the configuration."""
    configuration = app.configuration
    if configured(configuration).state == "none":
        for proxy in recorded(app.world.environ):
            return replace(app, configuration=replace(configuration, host=proxy.host, port=proxy.port))
    return app


def _report(results: Sequence[Result], width: int, *, everything: bool) -> Report:
    """Return what was found, told in *width* columns; what was skipped is told to programs, and to who asks for it."""
    states = Counter(result.finding.state for result in results)
    worst = next((state for state in WORST_FIRST if states[state]), State.ok)
    data = {"state": str(worst), "checks": [_object(result) for result in results]}
    code = ExitCode.FAILED if worst is State.problem else ExitCode.OK
    shown = [result for result in results if everything or result.finding.state is not State.skipped]
    return Report(data, Group(*_told(shown, width), Text(), _summary(states)), code)


def _object(result: Result) -> dict[str, Any]:
    return {
        "id": result.check.id,
        "title": result.check.title,
        "state": str(result.finding.state),
        "message": result.finding.message,
        "fix": result.finding.fix or None,
        "seconds": round(result.seconds, 3),
    }


def _told(results: Sequence[Result], width: int) -> Iterator[RenderableType]:
    """Yield what is said of each check; what to do stands on a line that is not broken, so that it can be copied."""
    widest = max((len(result.check.id) for result in results), default=0)
    margin = len(INDENT) + widest + len(GAP)
    for result in results:
        finding = result.finding
        first, *others = wrapped(finding.message, width, margin)
        style = "dim" if finding.state is State.skipped else ""
        state = (f"{finding.state:<{len(INDENT)}}", COLOURS[finding.state])
        name = (f"{result.check.id:<{widest}}{GAP}" if first else result.check.id, "dim")
        yield whole(Text.assemble(state, name, (first[margin:], style)))
        yield from (whole(Text(line, style=style)) for line in others)
        if finding.fix:
            yield whole(Text(f"{INDENT}To do: {finding.fix}", style="bold"))


def wrapped(message: str, width: int, margin: int) -> list[str]:
    """Return *message* in lines of *width* columns that begin at *margin*.

    A word is never broken, for it may be a path that is to be copied: one that is longer than the room stands on a line
    of its own that begins below the ids.
    """
    lines = [""]
    for word in message.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if lines[-1] and cell_len(longer) > width - margin:
            lines.append(word)
        else:
            lines[-1] = longer
    room = width - margin
    placed = [" " * (margin if cell_len(line) <= room else len(INDENT)) + line for line in lines]
    return placed if cell_len(lines[0]) <= room else ["", *placed]


def _summary(states: Counter[State]) -> Text:
    found = [
        (states[State.problem], "problem", "red"),
        (states[State.warning], "warning", "yellow"),
    ]
    parts = [(f"{count} {name}{'' if count == 1 else 's'}", colour) for count, name, colour in found if count]
    text = Text.assemble(*(piece for part in parts for piece in (part, ", ")))
    return text.append(f"{states[State.ok]} ok, {states[State.skipped]} skipped (--all says why).")
