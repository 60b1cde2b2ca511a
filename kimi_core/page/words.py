"""Times, numbers and codes as the page writes them; `assets/page.js` says times the same way. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from kimi_core.kimi.usage import span
from kimi_core.page.state import Entry, Outcome

NOTHING = "–"
JUST_NOW = 5.0  # seconds; a shorter age is none
AGES = ((86400, "d"), (3600, "h"), (60, "m"))
MINUTE = 60.0
LONG = 600.0  # seconds; from here on nobody wants to know the seconds
TEN = 10.0
THOUSANDS = ((10**9, "G"), (10**6, "M"), (10**4, "k"))  # from ten thousand on a total is said in thousands
LAST_MOMENT = 253402300799.0  # 31 December 9999; a moment beyond it is damage, and no calendar has it

_COMMAND = re.compile(r"(?P<before>.*?)(?P<command>kimi-mitm [^()]+)(?P<after>(?:\(.*\))?)", re.DOTALL)


def iso(moment: float) -> str:
    """Return *moment* (unix seconds) as HTML's ``time`` wants it, in this machine's zone."""
    return _local(moment).isoformat(timespec="milliseconds")


def clock(moment: float, now: float) -> str:
    """Return the local time of *moment*, with its day where that is not today."""
    at = _local(moment)
    today = at.date() == _local(now).date()
    return at.strftime("%H:%M:%S" if today else "%d %b %H:%M")


def full(moment: float) -> str:
    """Return day and time of *moment*, in this machine's zone."""
    return _local(moment).strftime("%a %d %b %Y, %H:%M:%S")


def ago(moment: float, now: float) -> str:
    """Return how long ago *moment* was, in its largest unit: ``3m ago``."""
    seconds = now - moment
    if seconds < JUST_NOW:
        return "just now"
    size, unit = next(((size, unit) for size, unit in AGES if seconds >= size), (1, "s"))
    return f"{int(seconds // size)}{unit} ago"


def until(moment: float, now: float) -> str:
    """Return how long it is to *moment*, in its two largest units: ``in 2d 3h``."""
    return f"in {lasting(moment - now)}" if moment > now else "now"


def age(moment: float, now: float) -> str:
    """Return how long something lasts that began at *moment*: ``2d 3h``."""
    return lasting(now - moment)


def rest(moment: float, now: float) -> str:
    """Return how long something lasts that ends at *moment*: ``14m``."""
    return lasting(moment - now)


def lasting(length: float) -> str:
    """Return a length of time in its two largest units, without the seconds of a long one: ``2m 5s``, ``14m``."""
    return span(length - length % MINUTE if length >= LONG else length)


def seconds(length: float | None) -> str:
    """Return a length of time: ``0.84 s``, ``12.3 s``, ``2 min 05 s``."""
    if length is None:
        return NOTHING
    if length < MINUTE:
        return f"{length:.2f} s" if length < TEN else f"{length:.1f} s"
    minutes, rest = divmod(int(length), int(MINUTE))
    return f"{minutes} min {rest:02} s"


def count(number: float | None) -> str:
    """Return a whole number with its thousands set apart."""
    return NOTHING if number is None else f"{number:,.0f}"


def short(number: int) -> str:
    """Return a total in three or four figures: ``950``, ``9,812``, ``48.2k``, ``1.20M``."""
    for size, unit in THOUSANDS:
        if number >= size:
            scale = 1000 if unit == "k" else size
            return f"{number / scale:.3g}{unit}" if number < 1000 * scale else f"{number / scale:,.0f}{unit}"
    return f"{number:,}"


def cost(amount: float | None) -> str:
    """Return a number of credits."""
    return NOTHING if amount is None else f"{amount:,.2f}"


def share(part: int | None, whole: int | None) -> str:
    """Return which part of *whole* *part* is, in per cent; "" where there is nothing to compare."""
    return f"{part / whole:.0%}" if part and whole else ""


def parted(advice: str) -> tuple[str, str, str]:
    """Return what stands before the command in *advice*, the command, and what stands after it in parentheses."""
    found = _COMMAND.fullmatch(advice)
    return (found["before"], found["command"].rstrip(), found["after"]) if found else (advice, "", "")


def spoken(code: str) -> str:
    """Return a code as words: ``rate limit exceeded``."""
    return code.replace("_", " ")


def status(entry: Entry) -> str:
    """Return what became of an exchange in one word or a few."""
    if entry.outcome is Outcome.running:
        return "running"
    if entry.reason is None:
        return str(entry.status)
    return spoken(entry.reason) if entry.status is None else f"{entry.status} {spoken(entry.reason)}"


def _local(moment: float) -> datetime:
    return datetime.fromtimestamp(min(max(moment, 0.0), LAST_MOMENT - 86400), UTC).astimezone()
