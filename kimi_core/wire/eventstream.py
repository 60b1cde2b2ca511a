"""AWS event stream (``application/vnd.amazon.eventstream``): frames from bytes, and bytes from frames.

Layout of a frame, integers big-endian (smithy "Amazon Event Stream", kiro.md §1.1)::

    u32 total length | u32 headers length | u32 CRC of the 8 bytes before
    headers | payload | u32 CRC of everything before, prelude and its CRC included

Goals of the decoder, in this order:

1. The same frames, and the same error after them, however the bytes were cut into chunks.
2. Nothing unchecked leaves: both checksums, all lengths; an end inside a frame is an error.
3. What a frame announces is checked against the limits as soon as its 12 bytes of prelude are there, before more of it
   is kept. Memory is bounded by one frame and one chunk.
4. Time is linear in the bytes, also for chunks of one byte. A service repeats its header blocks and its lengths, in
   every answer the same, so what was parsed or checked is kept by its bytes, for all decoders: a frame costs a
   checksum, a few slices and two look-ups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from struct import Struct
from typing import NamedTuple
from zlib import crc32

from kimi_core.errors import KimiMitmError
from kimi_core.wire.eventstream_headers import FrameDamaged, Headers, HeaderType, Value, build, parse

CONTENT_TYPE = "application/vnd.amazon.eventstream"

MAX_HEADERS = 128 * 1024  # bytes of a header block; the format's own limit
MAX_PAYLOAD = 24 * 1024 * 1024  # bytes of a payload; the format's own limit
KEPT_PRELUDES = 512  # checked preludes that are remembered: one for each length of a delta
KEPT_BLOCKS = 64  # header blocks that are remembered; Kiro has about twenty event types
KEPT_BLOCK_BYTES = 512  # longer blocks are parsed each time; Kiro's have about a hundred bytes

_PRELUDE = Struct(">III")
_CHECKSUM = Struct(">I")
_read_checksum = _CHECKSUM.unpack_from
_PRELUDE_BYTES = _PRELUDE.size
_CHECKED_PRELUDE = 8  # bytes of the prelude that its checksum covers
_CHECKSUM_BYTES = _CHECKSUM.size
_OVERHEAD = _PRELUDE_BYTES + _CHECKSUM_BYTES  # bytes of the smallest frame


class FrameTooLong(KimiMitmError):
    """A frame announces more than the limits allow."""

    code = "stream_frame_too_long"
    status = 502


class StreamTruncated(KimiMitmError):
    """The stream ended inside a frame."""

    code = "stream_truncated"
    status = 502
    hint = "The connection was lost before the answer was complete; ask again."
    retryable = True


class Frame(NamedTuple):
    """One message: headers as `eventstream_headers` describes them (read-only), payload as it came."""

    headers: Headers
    payload: bytes


class Decoder:
    """Push decoder: `feed` it chunks, iterate over the frames that are complete, `finish` it at the end.

    After an error the stream is over: every later call raises the same error again.
    """

    __slots__ = ("_data", "_error", "_harmless", "_held", "_max_headers", "_max_payload", "_need", "_position")

    def __init__(self, *, max_headers: int = MAX_HEADERS, max_payload: int = MAX_PAYLOAD) -> None:
        self._max_headers = max_headers
        self._max_payload = max_payload
        self._harmless = min(max_headers, max_payload)  # no frame of so few bytes can go beyond either
        self._data = b""  # what is being parsed, from `_position` on
        self._position = 0
        self._held = bytearray()  # an incomplete frame; not empty only while `_data` is used up
        self._need = _PRELUDE_BYTES  # bytes that `_held` must have before there is anything to do
        self._error: KimiMitmError | None = None

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take *data*; return an iterator over the frames that are complete now.

        The iterator raises FrameDamaged or FrameTooLong where the stream goes wrong, after the frames before it.
        Frames that are left in it come first in the next call's.
        """
        held = self._held
        if self._position < len(self._data):
            self._data = self._data[self._position :] + data
            self._position = 0
        elif not held:
            self._data = data
            self._position = 0
        else:
            held += data
            if len(held) >= self._need:
                self._data = bytes(held)
                self._position = 0
                held.clear()
        return self._frames()

    def finish(self) -> None:
        """Say that the stream has ended. Raises StreamTruncated if that was inside a frame.

        Frames that were left in an iterator count as missing.
        """
        if self._error is None and (held := len(self._held) + len(self._data) - self._position):
            needed = max(self._need, _OVERHEAD)
            self._error = StreamTruncated(f"An event stream ended after {held} of {needed} bytes of a frame.")
        if self._error is not None:
            raise self._error

    def _frames(self) -> Iterator[Frame]:
        if self._error is not None:
            raise self._error
        try:
            while (frame := self._next()) is not None:
                yield frame
        except KimiMitmError as error:
            self._error = error
            raise

    def _next(self) -> Frame | None:
        """Return the next frame, or keep what is left of the data and return None."""
        data, start = self._data, self._position
        left = len(data) - start
        if not left:  # used up, or all of it is held
            return None
        if left < _PRELUDE_BYTES:
            self._hold(_PRELUDE_BYTES)
            return None
        prelude = data[start : start + _PRELUDE_BYTES]
        total, header_bytes, prelude_crc = _checked(prelude)
        if total > self._harmless:
            self._check_limits(header_bytes, total - header_bytes - _OVERHEAD)
        if left < total:
            self._hold(total)
            return None
        self._need = _PRELUDE_BYTES
        end = start + total - _CHECKSUM_BYTES
        # the checksum runs on from the prelude's, which covers the first 8 bytes
        actual = crc32(data[start + _CHECKED_PRELUDE : end], prelude_crc)
        (expected,) = _read_checksum(data, end)
        if actual != expected:
            raise _mismatch("", expected, actual, total)
        payload_start = start + _PRELUDE_BYTES + header_bytes
        block = data[start + _PRELUDE_BYTES : payload_start]
        headers = _parsed(block) if header_bytes <= KEPT_BLOCK_BYTES else parse(block)
        self._position = start + total
        return tuple.__new__(Frame, (headers, data[payload_start:end]))  # a third of a frame's time less than Frame()

    def _hold(self, need: int) -> None:
        self._held += self._data[self._position :]
        self._data = b""
        self._position = 0
        self._need = need

    def _check_limits(self, header_bytes: int, payload_bytes: int) -> None:
        if header_bytes > self._max_headers or payload_bytes > self._max_payload:
            raise FrameTooLong(
                f"An event stream frame announces {header_bytes} bytes of headers and {payload_bytes} of payload; "
                f"at most {self._max_headers} and {self._max_payload} are taken."
            )


@lru_cache(maxsize=KEPT_PRELUDES)
def _checked(prelude: bytes) -> tuple[int, int, int]:
    """Return the length of a frame, that of its headers, and the checksum of both, which is right. Raises FrameDamaged.

    The checksum is looked at first, so that the other errors tell of the sender and not of the line.
    """
    total, header_bytes, expected = lengths = _PRELUDE.unpack(prelude)
    actual = crc32(prelude[:_CHECKED_PRELUDE])
    if actual != expected:
        raise _mismatch(" prelude", expected, actual, _PRELUDE_BYTES)
    if total - header_bytes < _OVERHEAD:
        raise FrameDamaged(f"An event stream frame of {total} bytes cannot hold {header_bytes} bytes of headers.")
    return lengths


_parsed = lru_cache(maxsize=KEPT_BLOCKS)(parse)


def _mismatch(what: str, expected: int, actual: int, size: int) -> FrameDamaged:
    return FrameDamaged(
        f"The checksum of an event stream frame{what} ({size} bytes) is 0x{actual:08x}, it says 0x{expected:08x}."
    )


def encode(headers: Mapping[str, Value | tuple[HeaderType, Value]], payload: bytes = b"") -> bytes:
    """Return the frame with these headers, in this order; see `eventstream_headers.build` for their types.

    No limit is enforced, so that a test can go beyond it. Raises ValueError for what the format cannot hold.
    """
    block = build(headers)
    lengths = _PRELUDE.pack(len(block) + len(payload) + _OVERHEAD, len(block), 0)[:_CHECKED_PRELUDE]
    message = lengths + _CHECKSUM.pack(crc32(lengths)) + block + payload
    return message + _CHECKSUM.pack(crc32(message))
