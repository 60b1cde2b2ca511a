"""What a check is: a question to the machine, and a pure judgement of the answer.

A check gathers facts (files, variables, a socket, a child process), then judges them. The judgement knows nothing but
those facts, so it can be tried with any of them; what gathering takes is bounded by `seconds`. No finding holds a
secret: paths, hosts and labels are what it may name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kimi_core.cli.checks.machine import Machine

SECONDS = 10.0  # for one check, unless it says otherwise; what answers at all on this machine answers within a second


class State(StrEnum):
    """How a check ended, by the name that scripts see."""

    ok = "ok"
    warning = "warning"
    problem = "problem"
    skipped = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: a sentence, and what to do about it ("" = nothing)."""

    state: State
    message: str
    fix: str = ""


def ok(message: str) -> Finding:
    """Return that all is well."""
    return Finding(State.ok, message)


def warning(message: str, fix: str = "") -> Finding:
    """Return that something may go wrong, or is not as it should be, but does not stop anybody."""
    return Finding(State.warning, message, fix)


def problem(message: str, fix: str) -> Finding:
    """Return that something does not work."""
    return Finding(State.problem, message, fix)


def skipped(reason: str) -> Finding:
    """Return that there was nothing to judge, and why."""
    return Finding(State.skipped, reason)


class NothingToJudge(Exception):
    """Raised while facts are gathered: the check has no object; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Check[T]:
    """One check.

    `id` is stable, its part before the dot names the group; `title` is what is looked at. `gather` may take up to
    `seconds`, runs in a thread of its own, and raises NothingToJudge where the question does not arise; `judge` is
    pure. `network`: a service is asked, so that ``--offline`` leaves the check out.
    """

    id: str
    title: str
    gather: Callable[[Machine], T]
    judge: Callable[[T], Finding]
    seconds: float = SECONDS
    network: bool = False

    @property
    def group(self) -> str:
        """The part of the id that checks of one kind share."""
        return self.id.partition(".")[0]

    def find(self, machine: Machine) -> Finding:
        """Gather and judge."""
        try:
            facts = self.gather(machine)
        except NothingToJudge as reason:
            return skipped(str(reason))
        return self.judge(facts)


type AnyCheck = Check[Any]
