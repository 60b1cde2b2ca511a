import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.page import words
from kimi_core.page.state import Outcome
from tests.page.made import NOW, entry


@pytest.fixture
def shanghai(monkeypatch):
    """Put this process into another zone for one test."""
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.skipif(os.name == "nt", reason="zones by variable are POSIX's")
def test_moments_are_local(shanghai):
    """A moment of another day carries its day; the machine-readable one carries the zone."""
    assert words.clock(0, 3600) == "08:00:00"
    assert words.clock(0, 86400 * 2) == "01 Jan 08:00"
    assert words.full(0) == "Thu 01 Jan 1970, 08:00:00"
    assert words.iso(0.5) == "1970-01-01T08:00:00.500+08:00"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-3, "just now"),
        (4.9, "just now"),
        (5, "5s ago"),
        (59.9, "59s ago"),
        (60, "1m ago"),
        (7199, "1h ago"),
        (86400 * 3.5, "3d ago"),
    ],
)
def test_ages(seconds, said):
    """An age is said in its largest unit."""
    assert words.ago(NOW - seconds, NOW) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0s"), (59, "59s"), (125, "2m 5s"), (599, "9m 59s"), (605, "10m"), (7265, "2h 1m"), (200_000, "2d 7h")],
)
def test_lengths_and_what_is_left(seconds, said):
    """A length is said in its two largest units, a long one without seconds; what is over is now."""
    assert words.lasting(seconds) == said
    assert words.age(NOW - seconds, NOW) == words.rest(NOW + seconds, NOW) == said
    assert words.until(NOW + seconds, NOW) == (f"in {said}" if seconds else "now")


@pytest.mark.parametrize(
    ("length", "said"),
    [(None, "–"), (0.004, "0.00 s"), (9.994, "9.99 s"), (12.34, "12.3 s"), (125.9, "2 min 05 s")],
)
def test_durations(length, said):
    """Short ones are told to the hundredth, long ones to the second."""
    assert words.seconds(length) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0"),
        (9_812, "9,812"),
        (48_210, "48.2k"),
        (999_499, "999k"),
        (1_200_000, "1.2M"),
        (3_000_000_000, "3G"),
        (5 * 10**12, "5,000G"),
    ],
)
def test_totals_are_short(number, said):
    """A total has three or four figures."""
    assert words.short(number) == said


def test_counts_costs_and_shares():
    """What is not known is a dash; a share is told where there is something to compare."""
    assert words.count(1_234_567) == "1,234,567"
    assert words.count(None) == words.cost(None) == words.NOTHING
    assert words.cost(0.073) == "0.07"
    assert words.share(50, 200) == "25%"
    assert words.share(0, 200) == words.share(5, 0) == words.share(None, None) == ""


@pytest.mark.parametrize(
    ("advice", "parts"),
    [
        ("kimi-mitm login kimi", ("", "kimi-mitm login kimi", "")),
        ("ask support, then: kimi-mitm accounts enable a", ("ask support, then: ", "kimi-mitm accounts enable a", "")),
        (
            "kimi-mitm login kiro --social google (or github)",
            ("", "kimi-mitm login kiro --social google", "(or github)"),
        ),
        ("log in again elsewhere", ("log in again elsewhere", "", "")),
    ],
)
def test_commands_are_set_apart_from_advice(advice, parts):
    """What can be copied is exactly the command."""
    assert words.parted(advice) == parts


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "200"),
        ({"outcome": Outcome.running, "status": None}, "running"),
        ({"outcome": Outcome.failed, "status": 429, "reason": "rate_limit_exceeded"}, "429 rate limit exceeded"),
        ({"outcome": Outcome.failed, "status": None, "reason": "connection_lost"}, "connection lost"),
    ],
)
def test_status_in_words(fields, said):
    """A status is the number and, where it did not go well, the reason."""
    assert words.status(entry(**fields)) == said


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_no_moment_is_too_odd(moment):
    """A damaged document's moments are shown somehow, not raised."""
    assert words.full(moment)
    assert words.clock(moment, NOW)
    assert words.iso(moment)
