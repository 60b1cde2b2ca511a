"""The header fields of mitmproxy's messages: read, written, and found by an index.

mitmproxy compares each field with what is asked for, at every question; a request is asked some fifty questions on its
way. `Indexed` answers the same from a table that is made once for each state of the fields.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Self

from mitmproxy import http

from kimi_core.exchange import Headers

type Fields = tuple[tuple[bytes, bytes], ...]

_ENDS_LINE = re.compile(r"[\r\n\0]")
_LINE_ENDS = re.compile(r"[\r\n\0]+[ \t]*")  # within a value: a folded line, or an attempt at a field of its own


class Indexed(http.Headers):
    """mitmproxy's `Headers` with its answers, and with a table behind them.

    `fields` is a tuple, replaced as a whole by whoever changes anything: the table is good for as long as it is the
    same one.
    """

    _known: Fields | None = None  # what the rest was made of
    _table: dict[bytes, list[bytes]]  # lower-cased name -> values in order
    _plain: Headers | None

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """Return headers of *fields*, which are bytes already: mitmproxy looks at each of them once more."""
        made = cls.__new__(cls)
        made.fields = fields
        return made

    def get_all(self, name: str | bytes) -> list[str]:
        """Return the values of *name* in order."""
        return [value.decode("utf-8", "surrogateescape") for value in self._values(name)]

    def get(self, key: str | bytes, default: Any = None) -> Any:
        """Return the values of *key*, folded into one, or *default*."""
        values = self._values(key)
        if not values:
            return default
        return (values[0] if len(values) == 1 else b", ".join(values)).decode("utf-8", "surrogateescape")

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str | bytes) and bool(self._values(key))

    def plain(self) -> Headers:
        """Return the fields in the project's own words; the same object for as long as they are the same."""
        if self._known is not self.fields:
            self._look()
        if self._plain is None:
            self._plain = Headers(_decoded(self.fields))
        return self._plain

    def _values(self, name: str | bytes) -> Sequence[bytes]:
        if self._known is not self.fields:
            self._look()
        return self._table.get(_key(name), ())

    def _look(self) -> None:
        self._known, self._table, self._plain = self.fields, {}, None
        for name, value in self.fields:
            key = name.lower()
            if key in self._table:
                self._table[key].append(value)
            else:
                self._table[key] = [value]


def index(message: http.Message) -> None:
    """Give *message* fields that are found by an index; they are the same ones."""
    if type(message.data.headers) is http.Headers:
        message.data.headers = Indexed.of(message.data.headers.fields)


def headers_of(message: http.Message) -> Headers:
    """Return a message's fields in wire order."""
    headers = message.data.headers
    return headers.plain() if isinstance(headers, Indexed) else Headers(_decoded(headers.fields))


def set_headers(message: http.Message, headers: Headers) -> None:
    """Replace all fields of a message. A value stays on its line, whatever it came from (RFC 9110 §5.5)."""
    pairs = tuple(headers)
    if _ENDS_LINE.search("".join([value for _, value in pairs])):
        pairs = tuple((name, _LINE_ENDS.sub(" ", value)) for name, value in pairs)
    coded = [
        (name.encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape")) for name, value in pairs
    ]
    message.data.headers = Indexed.of(tuple(coded))


def to_bytes(text: str) -> bytes:
    """Return the bytes that mitmproxy made *text* of (PEP 383)."""
    return text.encode("utf-8", "surrogateescape")


@lru_cache(maxsize=256)  # the same few dozen names are asked for in each request
def _key(name: str | bytes) -> bytes:
    return (name if isinstance(name, bytes) else to_bytes(name)).lower()


def _decoded(fields: Fields) -> list[tuple[str, str]]:
    # written out: a call for each of them takes as long as what it does
    return [
        (name.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape")) for name, value in fields
    ]
