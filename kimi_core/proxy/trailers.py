"""Trailer fields of chunked HTTP/1.1 bodies are left out, as RFC 9110 §6.5.1 allows, and lines of chunks have an end.

mitmproxy raises at trailers: the connection crashes, and who waits for the end of the body hangs. HTTP/2 has its own.
And it would keep the line of a chunk's size, or trailers, for as long as more of it comes, and quote a broken one.
"""

from __future__ import annotations

from h11 import Data, EndOfMessage, ProtocolError, RemoteProtocolError
from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer
from mitmproxy.proxy.layers.http import _http1

from kimi_core.proxy import heads

ENDLESS = f"a line between its chunks is longer than {heads.HEAD_BYTES >> 10} KiB"
BROKEN = "its chunks break the rules of HTTP"


class TrailerlessReader(ChunkedReader):
    """Reads a chunked body, and forgets what comes after it."""

    def __call__(self, buf: ReceiveBuffer) -> Data | EndOfMessage | None:
        """Return what there is by now, None where more is needed. Raises RemoteProtocolError, which quotes nothing."""
        try:
            event = super().__call__(buf)
        except ProtocolError:
            raise RemoteProtocolError(BROKEN) from None
        if event is None and len(buf) > heads.HEAD_BYTES:
            raise RemoteProtocolError(ENDLESS)
        # not isinstance: these classes are abstract ones, which look among all theirs each time
        return EndOfMessage() if type(event) is EndOfMessage and event.headers else event


def enable() -> None:
    """Have mitmproxy read chunked bodies so."""
    _http1.ChunkedReader = TrailerlessReader  # type: ignore[misc]  # a class of theirs is replaced on purpose


def disable() -> None:
    """Undo `enable`."""
    _http1.ChunkedReader = ChunkedReader  # type: ignore[misc]  # see `enable`
