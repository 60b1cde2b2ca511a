"""Token counts: exact, from a percentage, estimated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.kiro.events import TokenUsage
from kimi_core.kiro.usage_tokens import Counter, estimate
from kimi_core.wire.parts import Usage


@pytest.mark.parametrize(
    ("percentage", "window", "total"),
    [(1.9546, 1_000_000, 19546), (0.5, 200_000, 1000), (100, 196_000, 196_000), (0, 200_000, 0)],
)
def test_percentage_gives_the_total(percentage, window, total):
    """The total is the percentage of the serving model's window; what was written is taken off for the prompt."""
    counter = Counter(window, 7)
    counter.percentage = percentage
    assert counter.usage() == Usage(total, 0, estimated=True)
    counter.add("a" * 39)
    assert counter.usage() == Usage(max(0, total - 10), 10, estimated=True)


@pytest.mark.parametrize(
    ("tokens", "percentage", "expected"),
    [
        pytest.param(TokenUsage(1, 2, 10, 3, 4), 50, Usage(8, 2, 3, 4), id="all exact"),
        pytest.param(TokenUsage(1, 2), None, Usage(1, 2), id="no cache"),
        pytest.param(TokenUsage(output=2, total=10), None, Usage(8, 2), id="total and output"),
        pytest.param(TokenUsage(output=2), 50, Usage(498, 2), id="output and percentage"),
        pytest.param(TokenUsage(uncached=5), None, Usage(5, 1, estimated=True), id="no output"),
        pytest.param(TokenUsage(output=9), None, Usage(7, 9, estimated=True), id="no prompt"),
        pytest.param(None, None, Usage(7, 1, estimated=True), id="nothing"),
        pytest.param(TokenUsage(output=20, total=10), None, Usage(0, 20), id="nonsense is not negative"),
    ],
)
def test_precedence(tokens, percentage, expected):
    """Exact counts first, then the percentage, then the estimate, which is marked."""
    counter = Counter(1000, 7)
    counter.add("four")
    counter.percentage = percentage
    if tokens:
        counter.learn(tokens)
    assert counter.usage() == expected


def test_percentage_without_a_window_says_nothing():
    """An unknown model's percentage is not multiplied by a guess."""
    counter = Counter(None, 7)
    counter.percentage = 50.0
    assert counter.usage() == Usage(7, 0, estimated=True)


def test_later_counts_add_to_earlier_ones():
    """A later event does not erase what it does not say."""
    counter = Counter(None, 0)
    counter.learn(TokenUsage(1, 2))
    counter.learn(TokenUsage(output=3, cache_read=4))
    assert counter.usage() == Usage(5, 3, cached=4)


def test_full():
    """A window is full from 100 percent on."""
    counter = Counter(None, 0)
    assert not counter.full()
    for percentage, full in ((99.99, False), (100.0, True), (101.0, True)):
        counter.percentage = percentage
        assert counter.full() is full


@given(st.text(), st.text())
def test_estimate_is_additive(one, two):
    """The estimates of two pieces add up to that of the whole."""
    assert estimate(one) + estimate(two) == estimate(one + two)
    assert estimate("word") == 1
    assert estimate("文") == 0.75


@given(st.lists(st.text("a文", max_size=8), max_size=6), st.integers(0, 12))
def test_limit(pieces, limit):
    """As much of the text is admitted as the limit has room for, in any pieces."""
    counter = Counter(None, 0, limit=limit)
    out = ""
    for piece in pieces:
        fits = counter.admit(piece)
        out += fits
        if fits != piece:
            break
    text = "".join(pieces)
    assert text.startswith(out)
    assert counter.written == estimate(out) <= limit
    assert out == text or estimate(text[: len(out) + 1]) > limit
    assert counter.spent == (counter.written >= limit)


def test_what_is_counted_anyway_may_pass_the_limit():
    """Arguments of a tool call that has begun are counted and not cut; then there is room for nothing."""
    counter = Counter(None, 0, limit=1)
    counter.add("far too long")
    assert counter.spent
    assert counter.admit("more") == ""
