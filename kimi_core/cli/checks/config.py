"""mitmproxy's configuration file, and the variables that move the services."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kimi_core.cli.checks.check import Check, Finding, NothingToJudge, ok, problem, warning
from kimi_core.cli.checks.machine import Machine
from kimi_core.cli.configuration import CONFIG_NAMES, load, stored
from kimi_core.errors import ConfigError
from kimi_core.kimi.constants import REGIONS, site_for
from kimi_core.kiro.constants import Endpoints
from kimi_core.settings import Settings

_UNKNOWN = re.compile(r"There is no option (\w+)\.")


@dataclass(frozen=True, slots=True)
class File:
    """The configuration file, if there is one, and the sentence that refuses it."""

    path: Path
    exists: bool
    problem: str = ""


def gather_file(machine: Machine) -> File:
    """Read the file as the commands and the addon do."""
    confdir = machine.configuration.confdir
    paths = [confdir / name for name in CONFIG_NAMES]
    path = next((path for path in paths if path.exists()), paths[0])
    try:
        load(confdir)
    except ConfigError as error:
        return File(path, exists=True, problem=str(error))
    return File(path, path.exists())


def judge_file(found: File) -> Finding:
    """Judge the configuration file."""
    if found.problem:
        unknown = _UNKNOWN.search(found.problem)
        close = difflib.get_close_matches(unknown[1], Settings.model_fields, n=1) if unknown else []
        meant = f"; {close[0]} may be meant" if close else ""
        return problem(
            found.problem, f"Mend {found.path}{meant}. Until then neither mitmproxy nor kimi-mitm starts with it."
        )
    if not found.exists:
        return ok(f"There is no {found.path}; the defaults hold.")
    return ok(f"{found.path} holds options that all make sense.")


@dataclass(frozen=True, slots=True)
class Scripts:
    """The scripts that mitmproxy loads at each start, and where it would look for them now."""

    path: Path
    given: Sequence[str]
    gone: Sequence[str]
    relative: Sequence[str]


def gather_scripts(machine: Machine) -> Scripts:
    """Look for each script. Raises NothingToJudge where none is named, or the file cannot be read."""
    confdir = machine.configuration.confdir
    try:
        given = stored(confdir).get("scripts")
    except ConfigError as error:
        raise NothingToJudge("The configuration file cannot be read: see config.file.") from error
    if not isinstance(given, list) or not given:
        raise NothingToJudge("No scripts are named in mitmproxy's configuration file.")
    names = [str(name) for name in given]
    found = {name: Path(name).expanduser() for name in names}
    gone = [name for name, path in found.items() if path.is_absolute() and not path.is_file()]
    relative = [name for name, path in found.items() if not path.is_absolute()]
    return Scripts(confdir / CONFIG_NAMES[0], names, gone, relative)


def judge_scripts(found: Scripts) -> Finding:
    """Judge where scripts lead."""
    if found.gone:
        return problem(
            f"{found.path} names scripts that are not there: {', '.join(found.gone)}.",
            "Correct the paths: mitmproxy does not start without its scripts.",
        )
    if found.relative:
        return warning(
            f"{found.path} names scripts by a relative path: {', '.join(found.relative)}.",
            "Write the whole path: a relative one counts from the folder in which mitmproxy is started.",
        )
    return ok("The scripts that mitmproxy loads are there.")


def gather_variables(machine: Machine) -> Sequence[str]:
    """Return a sentence for each variable that names an address which cannot be used."""
    found = []
    for read in (lambda: site_for(next(iter(REGIONS)), machine.environ), lambda: Endpoints.from_env(machine.environ)):
        try:
            read()
        except ConfigError as error:
            found.append(str(error))
    return found


def judge_variables(problems: Sequence[str]) -> Finding:
    """Judge the variables that move the services."""
    if problems:
        return problem(
            " ".join(problems),
            "Unset the variable that holds it; docs/options.md and docs/kiro.md list them (KIMI_CODE_BASE_URL …).",
        )
    return ok("No variable names an address that cannot be used.")


CHECKS = (
    Check("config.file", "mitmproxy's configuration file", gather_file, judge_file),
    Check("config.scripts", "Scripts in it", gather_scripts, judge_scripts),
    Check("config.variables", "Variables that move the services", gather_variables, judge_variables),
)
