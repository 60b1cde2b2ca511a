"""Content codings undone while they stream (RFC 9110 §8.4.1), with a bound on what comes out.

A few hundred bytes can stand for gigabytes. So every piece is undone in steps of bounded size, and who asks says how
much he takes in all: nothing here ever holds more than `PIECE` bytes beyond that.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

import brotli
import zstandard

PIECE = 1 << 20  # bytes that come out in one step, about
MAX_FED = 16 << 20  # bytes that one fed piece of an answer may stand for: of 64 KiB, 256 times as many
ZSTD_SLICE = 32  # bytes fed at once: a block of 4 bytes stands for 128 KiB at the most (RFC 8878 §3.1.1.2.3)
ZSTD_WINDOW = 8 << 20  # bytes that a decoder must be ready to keep, and no more (RFC 9659)

DAMAGED = (zlib.error, brotli.error, zstandard.ZstdError, EOFError)
"""What the libraries raise on damaged input."""


class TooMuch(ValueError):
    """A piece of a body stands for more than anybody would send."""


class _Coding(Protocol):
    def steps(self, data: bytes) -> Iterator[bytes]:
        """Undo the next piece of a body; give what comes out in steps of about `PIECE`."""
        ...

    @property
    def ended(self) -> bool:
        """Whether what has come is whole."""
        ...


class _Zlib:
    """gzip (also in several members) and deflate, with or without zlib's own wrapping."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._inner = zlib.decompressobj(zlib.MAX_WBITS | 16) if gzip else None
        self._head = b""

    def steps(self, data: bytes) -> Iterator[bytes]:
        if self._inner is None:
            data = self._head = self._head + data
            if len(data) < 2:  # noqa: PLR2004 - the two bytes of RFC 1950's header tell
                return
            self._inner = zlib.decompressobj(zlib.MAX_WBITS if _is_wrapped(data) else -zlib.MAX_WBITS)
        while data:
            yield self._inner.decompress(data, PIECE)
            data = self._inner.unconsumed_tail
            if not data and self._gzip and self._inner.unused_data:  # the next member of RFC 1952 §2.2
                data = self._inner.unused_data
                self._inner = zlib.decompressobj(zlib.MAX_WBITS | 16)

    @property
    def ended(self) -> bool:
        return self._inner is not None and self._inner.eof


def _is_wrapped(data: bytes) -> bool:
    """Tell whether *data* begins with zlib's header (RFC 1950 §2.2); some servers send deflate without it."""
    return data[0] & 0x0F == zlib.DEFLATED and (data[0] << 8 | data[1]) % 31 == 0


class _Brotli:
    def __init__(self) -> None:
        self._inner = brotli.Decompressor()

    def steps(self, data: bytes) -> Iterator[bytes]:
        while out := self._inner.process(data, output_buffer_limit=PIECE):
            yield out
            data = b""

    @property
    def ended(self) -> bool:
        return bool(self._inner.is_finished())


class _Zstandard:
    """Frames, one after the other (RFC 8878 §3)."""

    def __init__(self) -> None:
        self._new = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj
        self._inner = self._new()

    def steps(self, data: bytes) -> Iterator[bytes]:
        at = 0
        while at < len(data):
            if self._inner.eof:
                self._inner = self._new()
            piece = data[at : at + ZSTD_SLICE]
            yield self._inner.decompress(piece)
            at += len(piece) - len(self._inner.unused_data)

    @property
    def ended(self) -> bool:
        return self._inner.eof


_CODINGS: dict[str, Callable[[], _Coding]] = {
    "gzip": lambda: _Zlib(gzip=True),
    "x-gzip": lambda: _Zlib(gzip=True),
    "deflate": lambda: _Zlib(gzip=False),
    "br": _Brotli,
    "zstd": _Zstandard,
}


class Decoder:
    """Undoes one coding, piece by piece."""

    def __init__(self, coding: _Coding) -> None:
        self._coding = coding
        self._begun = False

    def finish(self) -> None:
        """Say that all has come. Raises EOFError in the middle of a coding; nothing at all is an empty body in any."""
        if self._begun and not self._coding.ended:
            raise EOFError("a body ends in the middle of its coding")

    def feed(self, data: bytes) -> bytes:
        """Decode the next piece; b"" where more is needed. Raises TooMuch, and DAMAGED on damaged input."""
        self._begun = self._begun or bool(data)
        out = bytearray()
        for step in self._coding.steps(data):
            out += step
            if len(out) > MAX_FED:
                raise TooMuch(f"{len(data):,} bytes stand for more than {MAX_FED >> 20} MiB")
        return bytes(out)

    def feed_at_most(self, data: bytes, limit: int) -> bytes:
        """Decode the next piece, but not much more than *limit* bytes of it. Raises DAMAGED on damaged input."""
        out = bytearray()
        for step in self._coding.steps(data):
            out += step
            if len(out) > limit:
                break
        return bytes(out)


def decoder_for(encoding: str | None) -> Decoder | None:
    """Return a decoder for a content-encoding; None for none, for identity, and for what is not known here."""
    make = _CODINGS.get((encoding or "").strip().lower())
    return Decoder(make()) if make else None


def decode(data: bytes, encoding: str | None, limit: int) -> bytes:
    """Decode a whole (perhaps cut) body as far as it goes; damaged input comes back as it is.

    What is longer than *limit* is cut after a little more than that.
    """
    decoder = decoder_for(encoding)
    if decoder is None:
        return data
    try:
        return decoder.feed_at_most(data, limit)
    except DAMAGED:
        return data
