"""The header fields of mitmproxy's messages: read, written, and found by an index.

mitmproxy makes the name of each field comparable anew at every question, and a request is asked some fifty questions on
its way. `Indexed` answers the same from a list of names that is made once for each state of the fields: to look through
two dozen names takes less than to make a table of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from itertools import compress
from typing import Any, Self

from mitmproxy import http

from kimi_core.headers import Headers

type Fields = tuple[tuple[bytes, bytes], ...]

_ENDS_LINE = re.compile(r"[\r\n\0]")
_LINE_ENDS = re.compile(r"[\r\n\0]+[ \t]*")  # within a value: a folded line, or an attempt at a field of its own


class Indexed(http.Headers):
    """mitmproxy's `Headers` with its answers, found by a list of names.

    `fields` is a tuple, replaced as a whole by whoever changes anything: what was made of it is good for as long as it
    is the same one.
    """

    _known: Fields | None = None  # what the rest was made of
    _names: list[bytes] | None  # lower-cased, one for each field
    _plain: Headers | None

    @classmethod
    def of(cls, fields: Fields, names: list[bytes] | None = None) -> Self:
        """Return headers of *fields*, which are bytes already (mitmproxy looks at each once more), of known *names*."""
        made = cls.__new__(cls)
        vars(made).update(fields=fields, _known=fields, _names=names, _plain=None)
        return made

    def get_all(self, name: str | bytes) -> list[str]:
        """Return the values of *name* in order."""
        key, found = _key(name), zip(self.names(), self.fields, strict=True)
        return [value.decode("utf-8", "surrogateescape") for each, (_, value) in found if each == key]

    def get(self, key: str | bytes, default: Any = None) -> Any:
        """Return the values of *key*, folded into one, or *default*."""
        names, name = self.names(), _key(key)
        if name not in names:
            return default
        if names.count(name) > 1:
            return super().get(key)
        return self.fields[names.index(name)][1].decode("utf-8", "surrogateescape")

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str | bytes) and _key(key) in self.names()

    def names(self) -> list[bytes]:
        """Return the lower-cased name of each field; the list is not to be changed."""
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
        names, fields = list(self.names()), list(self.fields)
        new = {name.lower(): (name, value) for name, value in put.items()}
        gone = {*gone} - new.keys()
        if not gone.isdisjoint(names):
            fields = [field for name, field in zip(names, fields, strict=True) if name not in gone]
            names = [name for name in names if name not in gone]
        for name, pair in new.items():
            if name not in names:
                names.append(name)
                fields.append(pair)
                continue
            first = names.index(name)
            fields[first] = (fields[first][0], pair[1])
            if names.count(name) > 1:
                stays = [place == first or each != name for place, each in enumerate(names)]
                names, fields = list(compress(names, stays)), list(compress(fields, stays))
        return self.of(tuple(fields), names)

    def _forget(self) -> None:
        self._known, self._names, self._plain = self.fields, None, None


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
