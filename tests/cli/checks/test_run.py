import threading

import pytest

from kimi_core.cli.checks.check import Check, NothingToJudge, ok
from kimi_core.cli.checks.machine import Machine
from kimi_core.cli.checks.run import run
from kimi_core.errors import StoreBusy, StoreDamaged


def check(gather, **more):
    """Return a check that is well once its facts are there."""
    return Check("fake.check", "Fake", gather, lambda facts: ok(f"It is {facts}."), **more)


def test_checks_run_side_by_side_and_are_told_in_order():
    """Checks wait for one another in no other way than by the order in which they are told."""
    together = threading.Barrier(3, timeout=10)
    results = list(run([check(lambda _: together.wait()) for _ in range(3)], Machine(None)))
    assert sorted(result.finding.message for result in results) == ["It is 0.", "It is 1.", "It is 2."]


def test_a_check_that_hangs_costs_its_own_time_alone():
    """A check that gives no answer in time is a warning, and the others are told."""
    end = threading.Event()
    try:
        late, early = run([check(lambda _: end.wait(), seconds=0.05), check(lambda _: 1)], Machine(None))
    finally:
        end.set()
    assert late.finding.state == "warning"
    assert "0.05 s" in late.finding.message
    assert early.finding.state == "ok"


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (NothingToJudge("There is none."), "skipped", "There is none."),
        (StoreDamaged("It is damaged."), "warning", "It could not be looked at: It is damaged."),
        (StoreBusy("It is busy."), "warning", "It could not be looked at: It is busy."),
        (ValueError("fake-secret-1"), "warning", "It could not be looked at (ValueError)."),
    ],
)
def test_what_a_check_raises_is_its_finding(error, state, message):
    """Errors end one check, in words; the text of an unknown one is withheld."""

    def gather(_):
        raise error

    (result,) = run([check(gather)], Machine(None))
    assert (result.finding.state, result.finding.message) == (state, message)


def test_what_is_gathered_for_several_is_gathered_once():
    """Checks that need the same answer share it, and the exception in its place."""
    machine, asked = Machine(None), []

    def answer():
        asked.append(1)
        return 5

    def refuse():
        asked.append(1)
        raise NothingToJudge("No.")

    assert [result.finding.message for result in run([check(lambda m: m.once("a", answer))] * 4, machine)] == [
        "It is 5."
    ] * 4
    assert [result.finding.state for result in run([check(lambda m: m.once("b", refuse))] * 4, machine)] == [
        "skipped"
    ] * 4
    assert len(asked) == 2


def test_offline_leaves_out_what_asks_a_service():
    """Without the network those checks are skipped that need it."""
    (result,) = run([check(lambda _: 1, network=True)], Machine(None, offline=True))
    assert result.finding.state == "skipped"
