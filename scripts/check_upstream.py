#!/usr/bin/env python3
"""Compare the pinned client versions with the newest released ones (``make check-upstream``).

The registries are asked through their own clients, pip and npm, with whatever the user has configured for them.
Exit code: 0 all pins are the newest, 1 there is a newer release, 2 a registry could not be asked.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kimi_core.kimi.identity import KIMI_CLI_VERSION, KIMI_CODE_VERSION  # noqa: E402 - needs the path above

PATIENCE = 120  # seconds for one question to a registry
CURRENT, NEWER, UNKNOWN = 0, 1, 2

type Runner = Callable[[Sequence[str]], str]


class Unanswered(Exception):
    """A registry could not be asked; the text says why."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One pinned client: the first of `commands` that works prints what `read` takes the newest version from."""

    name: str
    version: str
    commands: tuple[tuple[str, ...], ...]
    read: Callable[[str], str | None]


def _from_pip(text: str) -> str | None:
    """Read ``kimi-cli (1.52.0)``, the first line of ``pip index versions``."""
    found = re.search(r"^\S+ \(([^)\s]+)\)", text, re.MULTILINE)
    return found[1] if found else None


def _from_npm(text: str) -> str | None:
    """Read ``"2.1.0"``, all that ``npm view … version --json`` prints."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, str) and value else None


_PIP_QUESTION = ("index", "versions", "kimi-cli", "--disable-pip-version-check")

PINS = (
    Pin(
        "kimi-cli",
        KIMI_CLI_VERSION,
        # an environment that uv made has no pip of its own
        ((sys.executable, "-m", "pip", *_PIP_QUESTION), ("uvx", "pip", *_PIP_QUESTION)),
        _from_pip,
    ),
    Pin(
        "@moonshot-ai/kimi-code",
        KIMI_CODE_VERSION,
        (("npm", "view", "@moonshot-ai/kimi-code", "version", "--json"),),
        _from_npm,
    ),
)


def run(command: Sequence[str]) -> str:
    """Return what *command* prints. Raises Unanswered where it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except FileNotFoundError as error:
        raise Unanswered(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise Unanswered(f"no answer within {PATIENCE} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise Unanswered(lines[-1].strip() if lines else f"{command[0]} ended with {done.returncode}")
    return done.stdout


def _ask(commands: Iterable[Sequence[str]], runner: Runner) -> str:
    reasons: list[str] = []
    for command in commands:
        try:
            return runner(command)
        except Unanswered as error:
            reasons.append(str(error))
    raise Unanswered("; ".join(reasons))


def order(version: str) -> tuple[tuple[int, ...], bool]:
    """Return a key that sorts versions: numbers by value, and a pre-release before its release."""
    core, *rest = re.split(r"[-+]|(?<=\d)(?=[a-z])", version, maxsplit=1)
    return tuple(int(part) for part in core.split(".") if part.isdecimal()), not rest


def compare(pin: Pin, runner: Runner) -> tuple[int, str]:
    """Return what became of *pin* and a sentence."""
    try:
        newest = pin.read(_ask(pin.commands, runner))
    except Unanswered as error:
        return UNKNOWN, f"{pin.name}: could not be asked ({error})"
    if newest is None:
        return UNKNOWN, f"{pin.name}: the answer holds no version"
    if order(newest) > order(pin.version):
        return NEWER, f"{pin.name}: {pin.version} is pinned, {newest} is out; see AGENTS.md for how to follow"
    return CURRENT, f"{pin.name}: {pin.version} is the newest"


def main(runner: Runner = run) -> int:
    """Compare every pin, print a line for each, return the exit code."""
    results = [compare(pin, runner) for pin in PINS]
    for _, sentence in results:
        print(sentence)
    codes = {code for code, _ in results}
    return NEWER if NEWER in codes else UNKNOWN if UNKNOWN in codes else CURRENT


if __name__ == "__main__":
    sys.exit(main())
