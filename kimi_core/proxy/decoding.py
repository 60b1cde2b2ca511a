"""Content codings of answers, undone while they stream (RFC 9110 §8.4.1).

The identity in use decides what the service may send compressed; the client may not have asked for that, and the
converters read plain bytes: so what arrives encoded leaves decoded.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

import brotli
import zstandard


class Decoder(Protocol):
    """Takes encoded bytes, gives what can be decoded so far. Raises what its library raises on damaged input."""

    def feed(self, data: bytes) -> bytes:
        """Decode the next piece; b"" where more is needed."""
        ...


class _Zlib:
    """gzip (also in several members) and deflate, with or without zlib's own wrapping."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._inner = zlib.decompressobj(zlib.MAX_WBITS | 16) if gzip else None
        self._head = b""

    def feed(self, data: bytes) -> bytes:
        if self._inner is None:
            data = self._head = self._head + data
            if len(data) < 2:  # noqa: PLR2004 - the two bytes of RFC 1950's header tell
                return b""
            self._inner = zlib.decompressobj(zlib.MAX_WBITS if _is_wrapped(data) else -zlib.MAX_WBITS)
        out = self._inner.decompress(data)
        while self._gzip and self._inner.unused_data:  # the next member of RFC 1952 §2.2
            rest = self._inner.unused_data
            self._inner = zlib.decompressobj(zlib.MAX_WBITS | 16)
            out += self._inner.decompress(rest)
        return out


def _is_wrapped(data: bytes) -> bool:
    """Tell whether *data* begins with zlib's header (RFC 1950 §2.2); some servers send deflate without it."""
    return data[0] & 0x0F == zlib.DEFLATED and (data[0] << 8 | data[1]) % 31 == 0


class _Brotli:
    def __init__(self) -> None:
        self._inner = brotli.Decompressor()

    def feed(self, data: bytes) -> bytes:
        return bytes(self._inner.process(data))


class _Zstandard:
    def __init__(self) -> None:
        self._inner = zstandard.ZstdDecompressor().decompressobj()

    def feed(self, data: bytes) -> bytes:
        return self._inner.decompress(data)


DECODERS: dict[str, Callable[[], Decoder]] = {
    "gzip": lambda: _Zlib(gzip=True),
    "x-gzip": lambda: _Zlib(gzip=True),
    "deflate": lambda: _Zlib(gzip=False),
    "br": _Brotli,
    "zstd": _Zstandard,
}


def decoder_for(encoding: str | None) -> Decoder | None:
    """Return a decoder for a content-encoding; None for none, for identity, and for what is not known here."""
    make = DECODERS.get((encoding or "").strip().lower())
    return make() if make else None


def decode(data: bytes, encoding: str | None) -> bytes:
    """Decode a whole (perhaps cut) body as far as it goes; damaged input comes back as it is."""
    decoder = decoder_for(encoding)
    if decoder is None:
        return data
    try:
        return decoder.feed(data)
    except (zlib.error, brotli.error, zstandard.ZstdError, EOFError):
        return data
