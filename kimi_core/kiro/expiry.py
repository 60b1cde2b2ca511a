"""One reading for every way in which Kiro's stores and services write a moment (kiro.md §7.1)."""

from __future__ import annotations

from datetime import UTC, datetime

EXPIRED = 0  # milliseconds: what is unreadable counts as run out long ago, never as NaN and never as valid
MILLISECONDS_FROM = 1e11  # a number from here on is in milliseconds; as seconds it would be the year 5138
LATEST = 253_402_300_799_999  # milliseconds: the end of the year 9999, the last that `datetime` knows


def milliseconds(value: object) -> int:
    """Return the moment *value* as milliseconds since 1970, between EXPIRED and LATEST; total.

    Numbers, and texts that are numbers, are milliseconds from 1e11 on and seconds below; other texts are ISO 8601,
    with any number of fractional digits, UTC where no offset is said. Everything else has expired.
    """
    if isinstance(value, str):
        number = _number(value)
        return _clamped(_iso(value) if number is None else _scaled(number))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _clamped(_scaled(value))
    return EXPIRED


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _scaled(number: float) -> float:
    return number if number >= MILLISECONDS_FROM else number * 1000


def _iso(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000
    except (ValueError, OverflowError):
        return EXPIRED


def _clamped(moment: float) -> int:
    if moment >= LATEST:
        return LATEST
    return int(moment) if moment > EXPIRED else EXPIRED  # NaN is neither
