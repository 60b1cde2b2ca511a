"""Read and set one member of a JSON object in its text; every other byte stays as it is.

Meant for the one chunk of a stream that is edited: the text is known to be a JSON object, without white space around
it, since a parser has taken it. Time is linear in the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

_decode = json.JSONDecoder().raw_decode
_space = re.compile(r"[ \t\n\r]*")


def get(text: str, key: str) -> str | None:
    """Return the text of the member *key*, None where there is none; of several the last, as parsers take it.

    Raises ValueError where *text* is no JSON object.
    """
    span = _span(text, key)
    return text[span[0] : span[1]] if span else None


def put(text: str, key: str, value: str) -> str:
    """Return *text* with the member *key* set to *value* (JSON text), in its place or at the end.

    Raises ValueError where *text* is no JSON object.
    """
    span = _span(text, key)
    return text[: span[0]] + value + text[span[1] :] if span else add(text, key, value)


def add(text: str, key: str, value: str) -> str:
    """Return *text*, which has no member *key*, with that at the end, set to *value* (JSON text)."""
    comma = "" if text[1:-1].isspace() or len(text) == len("{}") else ","
    return f"{text[:-1]}{comma}{json.dumps(key)}:{value}}}"


def _span(text: str, key: str) -> tuple[int, int] | None:
    return next(((start, end) for name, start, end in reversed(list(_members(text))) if name == key), None)


def _members(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield name, begin and end of the value of each member."""
    at = _skip(text, 0, "{")
    while not text.startswith("}", at):
        name, at = _decode(text, at)
        start = _skip(text, _skip(text, at), ":")
        _, end = _decode(text, start)
        yield name, start, end
        at = _skip(text, end)
        if not text.startswith("}", at):
            at = _skip(text, at, ",")


def _skip(text: str, at: int, sign: str = "") -> int:
    """Return where the next token begins behind *sign*, which must stand here."""
    if not text.startswith(sign, at):
        raise ValueError(f"{sign!r} is missing at {at}.")
    found = _space.match(text, at + len(sign))
    assert found is not None  # the pattern matches nothing, too
    return found.end()
