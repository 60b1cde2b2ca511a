from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.exchange import Story
from kimi_core.page.state import Outcome
from kimi_core.proxy import journal
from kimi_core.proxy.journal import Arrival, End, Recorder, client_name

FACTS = {"model": "k3", "effort": "high", "account": "work", "in": 900, "out": 40, "cached": 800, "credits": 0.5}


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    """Return a clock at 1000 s."""
    return Clock()


@pytest.fixture
def recorder(clock):
    """Return a recorder whose days are those of its clock."""
    return Recorder(clock, day=lambda moment: date.fromordinal(1 + int(moment // 86400)))


def arrival(at=1000.0, provider="kimi", operation="chat", user_agent="opencode/1.18.33 ai-sdk"):
    """Return a request of opencode."""
    return Arrival(at, user_agent, provider, operation)


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        (None, "unknown"),
        ("", "unknown"),
        ("curl/8.14.1", "curl/8.14.1"),
        ("opencode/1.18.33 ai-sdk/provider-utils/3.0.9 runtime/bun", "opencode/1.18.33"),
        ("OpenAI/Python 3.1.0", "OpenAI/Python 3.1.0"),
        ("claude-cli/2.0.14 (external, cli)", "claude-cli/2.0.14"),
        ("Mozilla/5.0 (X11; Linux (x)) Gecko", "Mozilla/5.0"),
        ("<script>alert(1)</script>", "scriptalert"),
        ("(nothing else)", "unknown"),
        ("x" * 500, "x" * 40),
    ],
)
def test_clients_are_named_by_their_first_product(user_agent, name):
    """The name and version stay; comments, further products and odd signs go."""
    assert client_name(user_agent) == name


def test_an_exchange_from_beginning_to_end(recorder, clock):
    """While it runs its row grows with its story; when it has ended it has its numbers, as numbers."""
    story = Story("kimi")
    recorder.begin("a", arrival(), story)
    (row,) = recorder.journal().running
    assert (row.outcome, row.model, row.duration, row.at) == (Outcome.running, None, None, 1000.0)
    story.facts.update(FACTS)
    assert recorder.journal().running[0].model == "k3"
    clock.now = 1012.5
    recorder.end("a", End(200, attempts=2, answered_at=1000.75))
    seen = recorder.journal()
    assert seen.running == ()
    assert seen.running_count == 0
    (row,) = seen.ended
    assert (row.client, row.provider, row.model, row.effort, row.account) == (
        "opencode/1.18.33", "kimi", "k3", "high", "work"
    )  # fmt: skip
    assert (row.outcome, row.status, row.reason, row.attempts) == (Outcome.ok, 200, None, 2)
    assert (row.first_byte, row.duration) == (0.75, 12.5)
    assert (row.tokens_in, row.tokens_out, row.cached, row.credits) == (900, 40, 800, 0.5)
    (total,) = seen.today
    assert (total.provider, total.exchanges, total.failed, total.tokens_in, total.credits) == ("kimi", 1, 0, 900, 0.5)


@pytest.mark.parametrize(
    ("facts", "end", "outcome", "reason"),
    [
        ({}, End(200), Outcome.ok, None),
        ({"reason": "quota"}, End(403), Outcome.failed, "quota"),
        ({"error": "overload"}, End(200), Outcome.failed, "overload"),
        ({}, End(500), Outcome.failed, None),
        ({}, End(None, fault="Connection killed."), Outcome.failed, "killed"),
        ({}, End(None, fault="server closed connection"), Outcome.failed, "connection_lost"),
        ({}, End(200, fault="Client disconnected."), Outcome.left, "client_left"),
        ({}, End(200, fault="stream reset by client (CANCEL)"), Outcome.left, "client_left"),
        ({"finish": "stop"}, End(200, fault="Client disconnected."), Outcome.ok, None),
        ({"finish": "stop"}, End(200, fault="server closed connection"), Outcome.failed, "connection_lost"),
    ],
)
def test_what_became_of_it(recorder, facts, end, outcome, reason):
    """Failures carry the reason code; a client that has everything may go, one that goes before is nobody's fault."""
    recorder.begin("a", arrival(), Story("kimi", facts))
    recorder.end("a", end)
    seen = recorder.journal()
    assert (seen.ended[0].outcome, seen.ended[0].reason) == (outcome, reason)
    assert seen.today[0].failed == (outcome is Outcome.failed)


def test_what_was_answered_here_is_listed_too(recorder, clock):
    """A refusal has its code; an answer out of what is known is a good one."""
    recorder.answered(arrival(), End(401, answered_at=1000.0, reason="not_logged_in"))
    recorder.answered(arrival(provider="kiro", operation="models"), End(200, answered_at=999.0))
    newest, oldest = recorder.journal().ended
    assert (oldest.outcome, oldest.status, oldest.reason) == (Outcome.failed, 401, "not_logged_in")
    assert (newest.outcome, newest.operation, newest.first_byte) == (Outcome.ok, "models", 0.0)
    assert [total.provider for total in recorder.journal().today] == ["kimi", "kiro"]


def test_both_lists_are_bounded_and_begin_with_the_newest(recorder):
    """However much passes, only so many rows are kept and shown."""
    for number in range(journal.MOST_RUNNING + 5):
        recorder.begin(str(number), arrival(at=float(number)), Story("kimi"))
    seen = recorder.journal()
    assert seen.running_count == journal.MOST_RUNNING
    assert [row.at for row in seen.running[:2]] == [journal.MOST_RUNNING + 4, journal.MOST_RUNNING + 3]
    assert len(seen.running) == journal.RUNNING_SHOWN
    for number in range(journal.MOST_RUNNING + 5):
        recorder.end(str(number), End(200))
    seen = recorder.journal()
    assert len(seen.ended) == journal.KEPT
    assert seen.ended[0].at == journal.MOST_RUNNING + 4
    assert seen.today[0].exchanges == journal.MOST_RUNNING  # the forgotten ones are nothing


def test_totals_begin_anew_with_the_day(recorder, clock):
    """What was yesterday's counts no more; the list of exchanges stays."""
    recorder.answered(arrival(), End(200))
    clock.now += 86400
    assert recorder.journal().today == ()
    assert len(recorder.journal().ended) == 1
    recorder.answered(arrival(), End(200))
    assert recorder.journal().today[0].exchanges == 1


def test_days_are_this_machines_own():
    """The day of a moment follows the machine's zone."""
    assert journal.local_day(0.0) in {date(1969, 12, 31), date(1970, 1, 1)}


@given(
    st.dictionaries(
        st.sampled_from([*FACTS, "answered by", "reason", "error"]),
        st.none() | st.text() | st.integers() | st.floats() | st.booleans() | st.lists(st.text()),
    )
)
def test_facts_of_any_type_make_a_row_of_the_right_types(facts):
    """A fact that is no number, or no word, is left out: the page is never given anything else."""
    recorder = Recorder(lambda: 1.0)
    recorder.begin("a", arrival(at=0.5), Story("kimi", facts))
    recorder.end("a", End(200))
    (row,) = recorder.journal().ended
    for name in ("tokens_in", "tokens_out", "cached"):
        assert getattr(row, name) is None or type(getattr(row, name)) is int
    assert row.credits is None or (type(row.credits) is float and row.credits - row.credits == 0)
    for name in ("model", "effort", "account", "reason"):
        value = getattr(row, name)
        assert value is None or (type(value) is str and 0 < len(value) <= journal.NAME)


def test_what_a_client_chose_is_not_kept(recorder):
    """Of an exchange that is over a few words are; what its story says later changes nothing."""
    story = Story("kimi")
    story.facts.update(model="m" * 100_000, error="none" * 100_000)
    recorder.begin("a", arrival(), story)
    recorder.end("a", End(404))
    story.facts["model"] = "another"
    (entry,) = recorder.journal().ended
    assert entry.model == "m" * journal.NAME
    (closed,) = recorder._ended
    assert len(repr(closed)) < 1000
