"""Prints coverage per module and fails where branch coverage is below the floor, or where the floor was lowered.

The floor is `fail_under` of [tool.coverage.report] in pyproject.toml: percent of all branches. It only rises: the
highest value that the file ever had in this history is the least it may have now. Run it after `coverage combine`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import coverage

ROOT = Path(__file__).resolve().parent.parent
ROOM = 2.0  # percent above the floor from which on raising it is asked for


def floor_of(pyproject: str) -> float:
    """Return the floor in the text of a pyproject.toml, 0 where it names none."""
    report = tomllib.loads(pyproject).get("tool", {}).get("coverage", {}).get("report", {})
    return float(report.get("fail_under", 0))


def highest_floor_before(root: Path) -> float:
    """Return the highest floor in the git history of *root*, 0 where there is no history (or no git)."""
    if shutil.which("git") is None:
        return 0.0

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    commits = git("log", "--format=%H", "-Gfail_under", "--", "pyproject.toml").split()
    return max((floor_of(git("show", f"{commit}:pyproject.toml")) for commit in commits), default=0.0)


def verdict(taken: int, total: int, floor: float, before: float) -> tuple[bool, list[str]]:
    """Tell whether *taken* of *total* branches hold the *floor*, and the sentences to print.

    *before* is the highest floor there has been, in percent like *floor*.
    """
    percent = 100.0 * taken / total if total else 100.0
    said = [f"Branches taken: {taken} of {total}, {percent:.1f} %; the floor is {floor:g} %."]
    if percent < floor:
        said.append("That is below the floor.")
    if floor < before:
        said.append(f"The floor was {before:g} % before, and it only rises.")
    good = len(said) == 1
    if good and percent >= floor + ROOM:
        said.append("That is well above the floor: raise fail_under in pyproject.toml.")
    return good, said


def branches(data: coverage.Coverage) -> tuple[int, int]:
    """Return how many branches were taken, and how many there are."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "coverage.json")
        data.json_report(outfile=str(path))
        totals = json.loads(path.read_text())["totals"]
    return totals["covered_branches"], totals["num_branches"]


def main() -> int:
    """Print the report; return 1 where the floor does not hold."""
    data = coverage.Coverage(messages=False)
    data.load()
    data.report(file=sys.stdout)
    floor = floor_of((ROOT / "pyproject.toml").read_text())
    good, said = verdict(*branches(data), floor, highest_floor_before(ROOT))
    print("", *said, sep="\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
