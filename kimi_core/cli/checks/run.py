"""Runs checks side by side, each for so long and no longer.

Each check has a thread of its own that the program does not wait for at its end: a file system that hangs, or a host
that never answers, costs one finding and no patience.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kimi_core.cli.checks.check import AnyCheck, Finding, skipped, warning
from kimi_core.cli.checks.machine import Machine
from kimi_core.errors import KimiMitmError

OFFLINE = "It asks a service, and --offline was given."


@dataclass(frozen=True, slots=True)
class Result:
    """One check and what came of it; `seconds` is how long it took."""

    check: AnyCheck
    finding: Finding
    seconds: float


def run(
    checks: Sequence[AnyCheck], machine: Machine, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Result]:
    """Yield the result of each of *checks*, in their order, as soon as those before it are there."""
    started = clock()
    waiting = [(check, _start(check, machine, clock)) for check in checks]
    for check, answer in waiting:
        try:
            finding, seconds = answer.get(timeout=max(0.0, started + check.seconds - clock()))
        except queue.Empty:
            finding = warning(f"There was no answer within {check.seconds:g} s.", f"kimi-mitm doctor --only {check.id}")
            seconds = check.seconds
        yield Result(check, finding, seconds)


def _start(check: AnyCheck, machine: Machine, clock: Callable[[], float]) -> queue.SimpleQueue[tuple[Finding, float]]:
    answer: queue.SimpleQueue[tuple[Finding, float]] = queue.SimpleQueue()

    def work() -> None:
        began = clock()
        answer.put((_find(check, machine), clock() - began))

    threading.Thread(target=work, name=f"doctor {check.id}", daemon=True).start()
    return answer


def _find(check: AnyCheck, machine: Machine) -> Finding:
    if check.network and machine.offline:
        return skipped(OFFLINE)
    try:
        return check.find(machine)
    except KimiMitmError as error:
        return warning(f"It could not be looked at: {error}", error.hint)
    except Exception as error:  # noqa: BLE001 - one check that fails must not cost the others
        # the message is withheld: nobody knows what it quotes
        return warning(f"It could not be looked at ({type(error).__name__}).")
