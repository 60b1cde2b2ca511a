"""AWS event stream, frame by frame and without trust: what is damaged is told, and decoding goes on behind it.

`wire.eventstream` stops at the first fault, as a proxy must; who looks at a recording wants to see the rest as well.
Layout of a frame, integers big-endian (smithy "Amazon Event Stream")::

    u32 total length | u32 headers length | u32 CRC of the 8 bytes before
    headers | payload | u32 CRC of everything before, prelude and its CRC included
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple
from zlib import crc32

from kimi_core.errors import KimiMitmError
from kimi_core.wire.eventstream import MAX_HEADERS, MAX_PAYLOAD
from kimi_core.wire.eventstream_headers import Headers, parse

_PRELUDE = Struct(">III")
_CHECKSUM = Struct(">I")
PRELUDE_BYTES = _PRELUDE.size
CHECKSUM_BYTES = _CHECKSUM.size
CHECKED = 8  # bytes of the prelude that its checksum covers
SMALLEST = PRELUDE_BYTES + CHECKSUM_BYTES
LARGEST = MAX_HEADERS + MAX_PAYLOAD + SMALLEST
BEGINS = 48  # bytes kept of what has a fault, to be shown
MAX_TRIES = 20_000  # places at which a new beginning is looked for: about 20 ms
_BEGINNING = re.compile(rb"(?=[\x00\x01][\x00-\xff]{3}\x00[\x00-\x02][\x00-\xff]{2})")
"""What the lengths of a frame within the limits look like: 24 MiB of payload, 128 KiB of headers."""


class Found(NamedTuple):
    """A piece of the stream from `offset` on, `length` bytes long.

    `prelude_ok` and `message_ok` say whether the checksums fit, None where one could not be looked at. A piece that
    `is_frame` has the `block` of its headers and its `payload`, as far as they came. A piece with a fault has a
    `problem` and its first bytes, `begins`; behind the last one nothing could be decoded any more.
    """

    offset: int
    length: int
    prelude_ok: bool | None
    message_ok: bool | None
    block: bytes = b""
    payload: bytes = b""
    problem: str = ""
    begins: bytes = b""
    is_frame: bool = True
    is_last: bool = False

    @property
    def good(self) -> bool:
        """True for a frame whose checksums fit."""
        return self.message_ok is True


def walk(data: bytes) -> Iterator[Found]:
    """Yield every piece of *data* in order; together they are all of it. Never raises."""
    position, end, tries = 0, len(data), MAX_TRIES
    while position < end:
        left = end - position
        if left < PRELUDE_BYTES:
            yield _rest(data, position, f"the stream ends after {left} of {PRELUDE_BYTES} bytes of a prelude")
            return
        total, header_bytes, expected = _PRELUDE.unpack_from(data, position)
        actual = crc32(data[position : position + CHECKED])
        problem = _impossible(total, header_bytes)
        if actual != expected:
            problem = f"the prelude's checksum is {actual:08x}, it says {expected:08x}"
        if problem:
            begin, tries = _next_beginning(data, position + 1, tries)
            yield _rest(data, position, problem, begin, prelude_ok=actual == expected)
            position = begin
        elif left < total:
            yield _cut_frame(data, position, total, header_bytes)
            return
        else:
            piece = _frame(data, position, total, header_bytes, expected)
            if not piece.good:  # its length may be what is damaged, or bytes of it are missing
                begin, tries = _behind(data, piece, tries)
                piece = piece._replace(length=begin - position, is_last=begin == end)
            yield piece
            position += piece.length


def _rest(data: bytes, start: int, problem: str, stop: int | None = None, *, prelude_ok: bool | None = None) -> Found:
    """Return what cannot be taken for a frame."""
    stop = len(data) if stop is None else stop
    begins = data[start : min(stop, start + BEGINS)]
    last = stop == len(data)
    return Found(start, stop - start, prelude_ok, None, problem=problem, begins=begins, is_frame=False, is_last=last)


def _cut_frame(data: bytes, start: int, total: int, header_bytes: int) -> Found:
    """Return the frame in which the stream ends; what came of its headers is given only where they are whole."""
    left = len(data) - start
    body = start + PRELUDE_BYTES + header_bytes
    return Found(
        start,
        left,
        prelude_ok=True,
        message_ok=None,
        block=data[start + PRELUDE_BYTES : body],
        payload=data[body : start + total - CHECKSUM_BYTES],
        problem=f"the stream ends after {left:,} of {total:,} bytes of this frame",
        begins=data[start : start + BEGINS],
        is_last=True,
    )


def _frame(data: bytes, start: int, total: int, header_bytes: int, prelude_crc: int) -> Found:
    stop = start + total - CHECKSUM_BYTES
    body = start + PRELUDE_BYTES + header_bytes
    (expected,) = _CHECKSUM.unpack_from(data, stop)
    actual = crc32(data[start + CHECKED : stop], prelude_crc)  # runs on from the prelude's, which covers 8 bytes
    block, payload = data[start + PRELUDE_BYTES : body], data[body:stop]
    if actual == expected:
        return Found(start, total, True, True, block, payload)
    return Found(
        start,
        total,
        prelude_ok=True,
        message_ok=False,
        block=block,
        payload=payload,
        problem=f"the frame's checksum is {actual:08x}, it says {expected:08x}",
        begins=data[start : start + BEGINS],
    )


def _behind(data: bytes, piece: Found, tries: int) -> tuple[int, int]:
    """Return where to go on behind a damaged frame: at its end where a beginning stands there, else at the next."""
    stop = piece.offset + piece.length
    if stop == len(data) or _begins(data, stop):
        return stop, tries
    return _next_beginning(data, piece.offset + PRELUDE_BYTES, tries)


def _begins(data: bytes, at: int) -> bool:
    """Tell whether a sound prelude stands at *at*."""
    if at + PRELUDE_BYTES > len(data):
        return False
    total, header_bytes, expected = _PRELUDE.unpack_from(data, at)
    return crc32(data[at : at + CHECKED]) == expected and not _impossible(total, header_bytes)


def _impossible(total: int, header_bytes: int) -> str:
    if total < SMALLEST + header_bytes:
        return f"{total:,} bytes cannot hold {header_bytes:,} bytes of headers"
    if total > LARGEST or header_bytes > MAX_HEADERS:
        return f"it announces {total:,} bytes, {header_bytes:,} of them headers: beyond the format's limits"
    return ""


def _next_beginning(data: bytes, start: int, tries: int) -> tuple[int, int]:
    """Return where the next sound prelude stands, the end where none was found, and how many tries are left."""
    for match in _BEGINNING.finditer(data, start):
        if tries <= 0:
            break
        tries -= 1
        if _begins(data, match.start()):
            return match.start(), tries
    return len(data), tries


def headers_of(block: bytes) -> Headers | str:
    """Return the headers in *block*, or one sentence on why they cannot be read."""
    try:
        return parse(block)
    except KimiMitmError as error:
        return str(error)
