"""The header fields of mitmproxy's messages: read, written, and found by an index.

mitmproxy compares each field with what is asked for, at every question; a request is asked some fifty questions on its
way. `Indexed` answers the same from a table that is made once for each state of the fields.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Self

from mitmproxy import http

from kimi_core.exchange import Headers

type Fields = tuple[tuple[bytes, bytes], ...]

_ENDS_LINE = re.compile(r"[\r\n\0]")
_LINE_ENDS = re.compile(r"[\r\n\0]+[ \t]*")  # within a value: a folded line, or an attempt at a field of its own


class Indexed(http.Headers):
    """mitmproxy's `Headers` with its answers, and with a table behind them.

    `fields` is a tuple, replaced as a whole by whoever changes anything: what was made of it is good for as long as it
    is the same one.
    """

    _known: Fields | None = None  # what the rest was made of
    _names: Sequence[bytes] | None  # lower-cased, one for each field
    _table: dict[bytes, bytes] | None  # lower-cased name -> its last value
    _repeated: Collection[bytes]  # names that stand more than once
    _plain: Headers | None

    @classmethod
    def of(cls, fields: Fields, names: Sequence[bytes] | None = None) -> Self:
        """Return headers of *fields*, which are bytes already (mitmproxy looks at each once more), of known *names*."""
        made = cls.__new__(cls)
        vars(made).update(fields=fields, _known=fields, _repeated=(), _names=names, _table=None, _plain=None)
        return made

    def get_all(self, name: str | bytes) -> list[str]:
        """Return the values of *name* in order."""
        key = _key(name)
        value = self._look().get(key)
        if value is None:
            return []
        return super().get_all(name) if key in self._repeated else [value.decode("utf-8", "surrogateescape")]

    def get(self, key: str | bytes, default: Any = None) -> Any:
        """Return the values of *key*, folded into one, or *default*."""
        name = _key(key)
        value = self._look().get(name)
        if value is None:
            return default
        return super().get(key) if name in self._repeated else value.decode("utf-8", "surrogateescape")

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str | bytes) and _key(key) in self._look()

    def names(self) -> Sequence[bytes]:
        """Return the lower-cased name of each field."""
        if self._known is not self.fields:
            self._forget()
        if self._names is None:
            self._names = [name.lower() for name, _ in self.fields]
        return self._names

    def plain(self) -> Headers:
        """Return the fields in the project's own words; the same object for as long as they are the same."""
        if self._known is not self.fields:
            self._forget()
        if self._plain is None:
            self._plain = Headers(_decoded(self.fields))
        return self._plain

    def changed(self, gone: Collection[bytes], put: Mapping[bytes, bytes]) -> Self:
        """Return headers without those whose lower-cased names are in *gone*, with one value for each name of *put*.

        That stands in the place and spelling of the first field of that name, at the end where there was none.
        """
        left = {name.lower(): (name, value) for name, value in put.items()}
        gone = {*gone, *left}  # but for the first of each
        names: list[bytes] = []
        fields: list[tuple[bytes, bytes]] = []
        for name, field in zip(self.names(), self.fields, strict=True):
            if name in left:
                names.append(name)
                fields.append((field[0], left.pop(name)[1]))
            elif name not in gone:
                names.append(name)
                fields.append(field)
        return self.of((*fields, *left.values()), [*names, *left])

    def _look(self) -> dict[bytes, bytes]:
        if self._known is not self.fields:
            self._forget()
        if self._table is None:
            names = self.names()
            self._table = dict(zip(names, [value for _, value in self.fields], strict=True))
            if len(self._table) < len(names):
                self._repeated = {name for name, times in Counter(names).items() if times > 1}
        return self._table

    def _forget(self) -> None:
        self._known, self._repeated = self.fields, ()
        self._names = self._table = self._plain = None


def indexed(message: http.Message) -> Indexed:
    """Return *message*'s fields, found by an index from now on; they are the same ones."""
    headers = message.data.headers
    if not isinstance(headers, Indexed):
        headers = message.data.headers = Indexed.of(headers.fields)
    return headers


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
