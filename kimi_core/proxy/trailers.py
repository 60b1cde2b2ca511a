"""Trailer fields of chunked HTTP/1.1 bodies are left out, as RFC 9110 §6.5.1 allows.

mitmproxy raises at them: the connection crashes, and who waits for the end of the body hangs. HTTP/2 has its own.
"""

from __future__ import annotations

from h11 import Data, EndOfMessage
from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer
from mitmproxy.proxy.layers.http import _http1


class TrailerlessReader(ChunkedReader):
    """Reads a chunked body, and forgets what comes after it."""

    def __call__(self, buf: ReceiveBuffer) -> Data | EndOfMessage | None:
        """Return what there is by now, None where more is needed. Raises h11's ProtocolError."""
        event = super().__call__(buf)
        return EndOfMessage() if isinstance(event, EndOfMessage) and event.headers else event


def enable() -> None:
    """Have mitmproxy read chunked bodies so."""
    _http1.ChunkedReader = TrailerlessReader  # type: ignore[misc]  # a class of theirs is replaced on purpose


def disable() -> None:
    """Undo `enable`."""
    _http1.ChunkedReader = ChunkedReader  # type: ignore[misc]  # see `enable`
