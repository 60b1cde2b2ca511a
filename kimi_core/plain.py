r"""Texts that others wrote, fit to be shown: nothing in them steers a terminal, forges a line of a log, or hides.

Names of models and plans, labels of accounts and messages of services end up in logs, on terminals and in views. An
escape sequence (ECMA-48) there may rewrite what stands on the screen or set the clipboard, a line break may forge a
line of a log, and a change of direction (UAX #9) may turn a name around. They are written out: ``\x1b``.
"""

from __future__ import annotations

import re

_DIRECTIONS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_STEERING = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff{_DIRECTIONS}]")  # all but tab and line feed
_LINE = 200  # characters of a line; no name is as long


def plain(text: str) -> str:
    """Return *text*, of any number of lines, with what would steer a terminal written out."""
    return _STEERING.sub(_written_out, text)


def line(text: str, limit: int = _LINE) -> str:
    """Return *text* on one line of *limit* characters at the most, with what would steer a terminal written out."""
    if len(text) <= limit and text.isprintable():  # nearly all are: a look at that is a tenth of the rest
        return text
    text = plain(text[: limit + 1]).replace("\n", "\\n").replace("\t", " ")
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
