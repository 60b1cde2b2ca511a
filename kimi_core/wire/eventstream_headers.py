"""The header block of an AWS event stream frame: ten types, in both directions.

Layout of one entry, integers big-endian (smithy "Amazon Event Stream", kiro.md §1.2)::

    u8 name length (1..255) | name, UTF-8 | u8 type | value

A name occurs once per frame; order has no meaning. Values are Python's own: a boolean for types 0 and 1, int for 2–5,
bytes for 6, str for 7, int for 8 (milliseconds since the epoch, which may lie outside of datetime's range), UUID for 9.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from uuid import UUID

from kimi_core.errors import KimiMitmError

type Value = bool | int | bytes | str | UUID
type Headers = Mapping[str, Value]


class HeaderType(IntEnum):
    """The wire types."""

    TRUE = 0
    FALSE = 1
    INT8 = 2
    INT16 = 3
    INT32 = 4
    INT64 = 5
    BYTES = 6
    STRING = 7
    TIMESTAMP = 8
    UUID = 9


class FrameDamaged(KimiMitmError):
    """A frame's checksum, lengths or header block are wrong: nothing after it can be trusted."""

    code = "stream_damaged"
    status = 502
    hint = "Ask again; if it stays, something between here and the service changes its answers."
    retryable = True


_NUMBERS = {
    HeaderType.INT8: struct.Struct(">b"),
    HeaderType.INT16: struct.Struct(">h"),
    HeaderType.INT32: struct.Struct(">i"),
    HeaderType.INT64: struct.Struct(">q"),
    HeaderType.TIMESTAMP: struct.Struct(">q"),
}
_CONSTANTS = {HeaderType.TRUE: True, HeaderType.FALSE: False}
_SIZED = (HeaderType.BYTES, HeaderType.STRING)
_SIZE = struct.Struct(">H")
_UUID_BYTES = 16
MAX_VALUE = 0xFFFF  # bytes of a string or byte array: its length is a u16
MAX_NAME = 0xFF  # bytes of a name: its length is a u8


def parse(block: bytes) -> Headers:
    """Return the headers of *block*, read-only. Raises FrameDamaged."""
    headers: dict[str, Value] = {}
    position, end = 0, len(block)
    try:
        while position < end:
            length = block[position]
            name = _text(block, position + 1, length)
            position += 1 + length
            if not name or name in headers:
                raise FrameDamaged(f"An event stream frame names a header twice or not at all: {name!r}.")
            headers[name], position = _value(block, position)
    except (IndexError, struct.error):
        raise FrameDamaged(f"A header of an event stream frame goes beyond its block of {end} bytes.") from None
    return MappingProxyType(headers)


def _value(block: bytes, position: int) -> tuple[Value, int]:
    """Return the value whose type byte stands at *position*, and where the next header begins."""
    kind = block[position]
    position += 1
    if kind in _CONSTANTS:
        return _CONSTANTS[HeaderType(kind)], position
    if kind in _NUMBERS:
        number = _NUMBERS[HeaderType(kind)]
        return number.unpack_from(block, position)[0], position + number.size
    if kind == HeaderType.UUID:
        return UUID(bytes=_slice(block, position, _UUID_BYTES)), position + _UUID_BYTES
    if kind not in _SIZED:
        raise FrameDamaged(f"An event stream frame has a header of type {kind}; types go from 0 to 9.")
    (length,) = _SIZE.unpack_from(block, position)
    position += _SIZE.size
    read = _text if kind == HeaderType.STRING else _slice
    return read(block, position, length), position + length


def _slice(block: bytes, position: int, length: int) -> bytes:
    piece = block[position : position + length]
    if len(piece) != length:
        raise IndexError
    return piece


def _text(block: bytes, position: int, length: int) -> str:
    try:
        return _slice(block, position, length).decode()
    except UnicodeDecodeError:
        raise FrameDamaged(f"A header of an event stream frame is not UTF-8 at byte {position} of its block.") from None


def build(headers: Mapping[str, Value | tuple[HeaderType, Value]]) -> bytes:
    """Return the header block for *headers*; the opposite of `parse`.

    A plain value gets the type that Python's suggests: str a string, bool true or false, bytes a byte array, int an
    int64, UUID a uuid. A pair ``(type, value)`` says the type. Raises ValueError for what the format cannot hold.
    """
    return b"".join(_entry(name, value) for name, value in headers.items())


def _entry(name: str, value: Value | tuple[HeaderType, Value]) -> bytes:
    kind, plain = value if isinstance(value, tuple) else (_type_of(value), value)
    return _sized_name(name) + bytes([kind]) + _bytes_of(kind, plain)


def _sized_name(name: str) -> bytes:
    raw = name.encode()
    if not 1 <= len(raw) <= MAX_NAME:
        raise ValueError(f"a header name has 1 to {MAX_NAME} bytes, this one {len(raw)}")
    return bytes([len(raw)]) + raw


def _type_of(value: Value) -> HeaderType:
    match value:
        case bool():
            return HeaderType.TRUE if value else HeaderType.FALSE
        case int():
            return HeaderType.INT64
        case str():
            return HeaderType.STRING
        case bytes():
            return HeaderType.BYTES
        case _:
            return HeaderType.UUID


def _bytes_of(kind: HeaderType, value: Value) -> bytes:
    if kind in _CONSTANTS:
        return b""
    if kind in _NUMBERS:
        try:
            return _NUMBERS[kind].pack(value)
        except struct.error as error:
            raise ValueError(f"{value!r} is no {kind.name}: {error}") from None
    if isinstance(value, UUID):
        return value.bytes
    raw = value.encode() if isinstance(value, str) else value
    if not isinstance(raw, bytes) or len(raw) > MAX_VALUE:
        raise ValueError(f"a {kind.name} of at most {MAX_VALUE} bytes is wanted")
    return _SIZE.pack(len(raw)) + raw
