r"""Edit the JSON object of a request body, and lose nothing of what is not edited.

Goals
    Key order, every string and every digit of every number go out as they came in, ``1e400``, ``1.0`` and integers
    of 5000 digits included; where a key stands twice the last one counts, for the reader and for what goes out.
    Nothing but JSON gets in: NaN, Infinity, bad UTF-8 and anything behind the object are errors.

How
    A fast reader decodes the body, and a fast writer writes it again at once: if that gives the very bytes back
    (as it does for what JSON.stringify or httpx wrote), reader and writer together lose nothing of *this* body, and
    the same writer may write it after the edit: all that was not edited keeps its bytes. White space between the
    tokens is no matter: it is left out of the comparison, and of what goes out. So is the choice of ``\u00e9``
    or ``é``, as long as it is the same throughout. The long lists are written element by element, and the pieces kept:
    an element that is not edited is not written a second time.

    Any other body (odd numbers, lone surrogates, a key twice, a mixed style of escapes) takes the exact way: the
    standard decoder, numbers that remember their digits, a writer in Python. It costs about four times as much.

Worst case: linear in the body in either way; memory about four times the body. Nesting is bounded by the
interpreter's own limit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Any, Self

from pydantic_core import PydanticSerializationError, from_json, to_json

from kimi_core.errors import BadRequest

SHORT = 32 * 1024  # bytes: up to here writing twice takes less time than keeping pieces
_SPACE = b" \t\n\r"  # RFC 8259 §2
_INTEGER_DIGITS = 4300  # int() refuses longer ones (CVE-2020-10735); they are kept as text
_escaped = partial(to_json, ensure_ascii=True)
_TOO_DEEP = "The request body is nested too deeply."


def _can_escape() -> bool:
    try:
        _escaped("")
    except TypeError:  # pydantic-core 2.33, the newest that fits mitmproxy 12.2 on Python 3.12
        return False
    return True


CAN_ESCAPE = _can_escape()
"""Does the fast writer know ``\\u00e9``? Where it does not, a body that has any takes the exact way."""


class Number(float):
    """A number that is written again exactly as it was read."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Self:
        """Keep *text*, a JSON number, beside its value."""
        number = super().__new__(cls, text)
        number.text = text
        return number


class Document:
    """A request body under edit. `values` is the decoded object, plain dicts and lists that the caller edits.

    `duplicates` counts the members that were dropped because their key comes again later in the same object.
    The elements of the lists named in `PIECES` are written already: who edits one says so with `touch`.
    """

    __slots__ = ("_fast", "_json", "_pieces", "duplicates", "values")

    PIECES = ("messages", "tools")

    values: dict[str, Any]

    def __init__(self, body: bytes) -> None:
        """Decode *body*, UTF-8 with or without a byte order mark.

        Raises BadRequest with a sentence that says what is wrong. It holds no offsets: a client may take the 500 in
        one for a status, and ask again.
        """
        self.duplicates = 0
        self._json: Callable[[Any], bytes] = to_json
        self._pieces: dict[int, tuple[Any, bytes]] = {}
        try:
            values = from_json(body, allow_inf_nan=False)
        except ValueError:
            values = None
        self._fast = isinstance(values, dict) and self._gives_back(body, values)
        if not self._fast:
            self._pieces.clear()
            values = self._exact(body)
        if not isinstance(values, dict):
            raise BadRequest("The request body is JSON, but not an object.")
        self.values = values

    def _gives_back(self, body: bytes, values: dict[str, Any]) -> bool:
        """Tell whether the fast writer gives *body* back but for white space; of a long one the pieces are kept."""
        if len(body) <= SHORT and to_json(values) == body:
            return True
        if _consists_of(body, self._write(values)):
            return True
        if CAN_ESCAPE and body.isascii() and rb"\u" in body:
            self._json = _escaped
            self._pieces.clear()
            if _consists_of(body, self._write(values)):
                return True
        # white space within strings is struck out too, on both sides: what could be lost (digits, members) has none
        return b"".join(self._write(values)).translate(None, _SPACE) == body.translate(None, _SPACE)

    def _write(self, values: dict[str, Any]) -> Iterator[bytes]:
        """Yield *values* as JSON by the fast writer, in pieces, and keep those of the elements."""
        before = b"{"
        for key, value in values.items():
            yield before + self._json(key) + b":"
            if key in self.PIECES and isinstance(value, list):
                yield from self._write_elements(value)
            else:
                yield self._json(value)
            before = b","
        yield b"}" if values else b"{}"

    def _write_elements(self, elements: list[Any]) -> Iterator[bytes]:
        before = b"["
        for element in elements:
            known = self._pieces.get(id(element))
            if known is None:
                known = self._pieces[id(element)] = (element, self._json(element))
            yield before
            yield known[1]
            before = b","
        yield b"]" if elements else b"[]"

    def touch(self, element: object) -> None:
        """Say that *element* of a list in `PIECES` was, or is going to be, edited."""
        self._pieces.pop(id(element), None)

    def _exact(self, body: bytes) -> Any:
        try:
            text = body.decode("utf-8-sig")
            if not text.strip():
                raise BadRequest("The request body is empty; a JSON object is wanted.")
            decoder = json.JSONDecoder(
                object_pairs_hook=self._last_wins,
                parse_float=Number,
                parse_int=_integer,
                parse_constant=_refuse_constant,
            )
            return decoder.decode(text)
        except UnicodeDecodeError as error:
            raise BadRequest("The request body is not UTF-8.") from error
        except json.JSONDecodeError as error:
            what = error.msg.removesuffix(" at").removesuffix(" starting")
            raise BadRequest(f"The request body is not JSON: {what}.") from error
        except RecursionError as error:
            raise BadRequest(_TOO_DEEP) from error

    def _last_wins(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        self.duplicates += len(pairs) - len(members)
        return members

    def rename(self, old: str, new: str) -> None:
        """Give the member *old* the key *new*, in its place; one that has that key already goes."""
        renamed = {new if key == old else key: value for key, value in self.values.items() if key != new}
        self.values.clear()
        self.values.update(renamed)

    def render(self) -> bytes:
        """Return the object as UTF-8 without white space. Raises BadRequest where it is nested too deeply."""
        if self._fast:
            try:
                if not self._pieces:
                    return self._json(self.values)
                return b"".join(self._write(self.values))
            except PydanticSerializationError:
                pass  # an edit brought a lone surrogate in
        try:
            return dump(self.values).encode()
        except RecursionError as error:
            raise BadRequest(_TOO_DEEP) from error


def _consists_of(body: bytes, pieces: Iterable[bytes]) -> bool:
    """Tell whether *body* is *pieces* and nothing else; no copy is made, and the first difference ends it."""
    at = 0
    for piece in pieces:
        if not body.startswith(piece, at):
            return False
        at += len(piece)
    return at == len(body)


def _integer(text: str) -> int | Number:
    return Number(text) if text == "-0" or len(text) > _INTEGER_DIGITS else int(text)


def _refuse_constant(name: str) -> None:
    raise BadRequest(f"The request body is not JSON: {name} is no JSON number.")


def dump(value: Any) -> str:
    """Return *value* as compact JSON text; a Number keeps its digits, lone surrogates are escaped."""
    match value:
        case str():
            text = encode_basestring(value)
            return text if _encodable(text) else encode_basestring_ascii(value)
        case Number():
            return value.text
        case dict():
            return "{" + ",".join(f"{dump(key)}:{dump(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ",".join(map(dump, value)) + "]"
        case _:
            return json.dumps(value, allow_nan=False)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
