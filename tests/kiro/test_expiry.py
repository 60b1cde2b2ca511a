"""expires_at in every way in which it was seen, and in every way in which it was not."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.kiro.expiry import EXPIRED, LATEST, milliseconds

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOMENT = 1785542400000  # 2026-08-01T00:00:00Z


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (MOMENT, MOMENT),
        (MOMENT // 1000, MOMENT),
        (MOMENT / 1000, MOMENT),
        (str(MOMENT), MOMENT),
        (str(MOMENT // 1000), MOMENT),
        (f" {MOMENT} ", MOMENT),
        (1e11, 100_000_000_000),
        (1e11 - 1, 99_999_999_999_000),
        ("2026-08-01T00:00:00Z", MOMENT),
        ("2026-08-01T00:00:00.5Z", MOMENT + 500),
        ("2026-08-01T00:00:00.123456789Z", MOMENT + 123),
        ("2026-08-01T02:00:00+02:00", MOMENT),
        ("2026-08-01 00:00:00", MOMENT),
        ("2026-08-01", MOMENT),
        ("9999-12-31T23:59:59-12:00", LATEST),
        (1e400, LATEST),
        (10**400, LATEST),
        ("1e999", LATEST),
    ],
)
def test_moments(value, expected):
    """Seconds, milliseconds, texts of both and RFC 3339 all give the same moment."""
    assert milliseconds(value) == expected


@pytest.mark.parametrize(
    "value",
    [None, True, False, "", "soon", "2026-13-01", "nan", float("nan"), float("-inf"), -5, "-5", [], {}, b"1785542400"],
)
def test_what_is_no_moment_has_expired(value):
    """What cannot be read is a token that ran out, never one that is good for ever."""
    assert milliseconds(value) == EXPIRED


@given(
    st.one_of(
        st.text(), st.integers(), st.floats(), st.none(), st.booleans(), st.binary(), st.from_regex(r"[\d.eE+-]*")
    )
)
def test_any_value_gives_a_moment(value):
    """The parser is total: any value gives whole milliseconds within bounds."""
    moment = milliseconds(value)
    assert type(moment) is int
    assert EXPIRED <= moment <= LATEST


@given(
    st.integers(min_value=100_000_000_000, max_value=95_000_000_000_000_000).map(
        lambda us: EPOCH + timedelta(microseconds=us)
    ),
    st.integers(min_value=0, max_value=9),
)
def test_fractions_of_any_length_are_cut(moment, digits):
    """An RFC 3339 text with up to nine fractional digits is read to the millisecond."""
    whole = moment.replace(microsecond=0)
    fraction = f"{moment.microsecond:06}000"[:digits]
    text = whole.strftime("%Y-%m-%dT%H:%M:%S") + (f".{fraction}" if fraction else "") + "Z"
    expected = whole + timedelta(microseconds=int(f"{fraction:0<6}"[:6]))
    assert abs(milliseconds(text) - (expected - EPOCH) / timedelta(milliseconds=1)) <= 1
