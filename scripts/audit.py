#!/usr/bin/env python3
"""Look at what the program depends on.

Without a network: is what is installed what pyproject.toml asks for, is everything that the program imports declared
there, and is nothing declared that it does not import. With one, and with pip-audit installed: are there known holes in
it. Ends with 1 where something is wrong; that nobody could be asked is told, and is no fault.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ("kimi_core", "addons")
UNDECLARED = {"kimi-mitm"}  # what imports may lead to without a line in pyproject.toml: the program itself
PATIENCE = 120  # seconds for the database of known holes


def declared(root: Path = ROOT) -> list[Requirement]:
    """Return what pyproject.toml asks for."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return [Requirement(line) for line in project["dependencies"]]


def imported(folders: Iterable[Path]) -> set[str]:
    """Return the top-level names that the Python files below *folders* import."""
    found: set[str] = set()
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found


def unsatisfied(wanted: Iterable[Requirement], installed: Mapping[str, str]) -> list[str]:
    """Return a sentence for each requirement that what is installed does not meet."""
    return [
        f"{one} is asked for, {installed.get(canonicalize_name(one.name), 'nothing')} is installed."
        for one in wanted
        if not one.specifier.contains(installed.get(canonicalize_name(one.name), "0.dev0"), prereleases=True)
    ]


def mismatched(wanted: Iterable[Requirement], names: Iterable[str], owners: Mapping[str, list[str]]) -> list[str]:
    """Return a sentence for each import that is not declared and each declaration that nobody imports.

    *names* are imported at the top level; *owners* says which distributions bring each of them.
    """
    used = {name: {canonicalize_name(owner) for owner in owners[name]} for name in names if name in owners}
    known = {canonicalize_name(one.name) for one in wanted}
    undeclared = [name for name, owner in used.items() if not owner & (known | UNDECLARED)]
    unused = known - set[str]().union(*used.values())
    return [f"{name} is imported, and not declared." for name in sorted(undeclared)] + [
        f"{name} is declared, and imported by nothing." for name in sorted(unused)
    ]


def installed_versions(wanted: Iterable[Requirement]) -> dict[str, str]:
    """Return the versions of what is installed of *wanted*, by canonical name."""
    found: dict[str, str] = {}
    for one in wanted:
        try:
            found[canonicalize_name(one.name)] = version(one.name)
        except PackageNotFoundError:
            continue
    return found


def problems() -> list[str]:
    """Return what is wrong with this checkout and its interpreter, asked of nobody else."""
    wanted = declared()
    folders = [ROOT / name for name in PROGRAM]
    return unsatisfied(wanted, installed_versions(wanted)) + mismatched(
        wanted, imported(folders), packages_distributions()
    )


def holes(report: str) -> list[str] | None:
    """Return a line for each known hole in pip-audit's JSON *report*; None where it is no report."""
    try:
        rows = json.loads(report)["dependencies"]
        return [f"{row['name']} {row['version']}: {hole['id']}" for row in rows for hole in row.get("vulns", ())]
    except (ValueError, KeyError, TypeError):
        return None


def ask() -> list[str] | None:
    """Return the known holes in what is installed, None where they cannot be had here."""
    if importlib.util.find_spec("pip_audit") is None:
        return None
    words = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--skip-editable"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return None
    return holes(done.stdout)


def main() -> int:
    """Print what is found."""
    found = problems()
    known = ask()
    for line in [*found, *(known or ())]:
        print(line)
    if known is None:
        print("Known holes: not asked. pip-audit is not installed here, or its database cannot be reached.")
    elif not known:
        print("Known holes: none.")
    if not found:
        print("Dependencies: as declared.")
    return 1 if found or known else 0


if __name__ == "__main__":
    sys.exit(main())
