"""What mitmproxy calls with every piece of a streamed answer: decode, convert, keep a copy, hand on.

mitmproxy takes an exception in such a callable for its own crash and loses the piece under a 200, and takes an empty
piece for the end of a chunked HTTP/1.1 message. So nothing here raises, and "nothing now" is an empty list.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from typing import cast

from kimi_core.errors import KimiMitmError, UpstreamError
from kimi_core.exchange import Converter, EndsEarly
from kimi_core.proxy.replay import Sink
from kimi_core.wire.codings import Decoder

logger = logging.getLogger(__name__)


class Unreadable(UpstreamError):
    """An answer came that could not be decoded or converted."""

    code = "answer_unreadable"


class Tape:
    """The first bytes of a body, up to a limit; `length` counts all of them."""

    def __init__(self, limit: int) -> None:
        self.length = 0
        self._pieces: list[bytes] = []
        self._left = limit

    def add(self, data: bytes) -> None:
        """Keep what still fits."""
        self.length += len(data)
        if self._left > 0 and data:
            piece = data[: self._left]
            self._pieces.append(piece)
            self._left -= len(piece)

    def feed(self, data: bytes) -> bytes:
        """Keep what still fits and pass it on."""
        self.add(data)
        return data

    def take(self) -> bytes:
        """Return what was kept and keep it no longer, so that it is in memory once."""
        content, self._pieces = b"".join(self._pieces), []
        return content


class AnswerStream(Sink):
    """The callable for `flow.response.stream`; see `replay.Sink`."""

    def __init__(
        self, converter: Converter | None, decoder: Decoder | None, tape: Tape, wire: Tape | None = None
    ) -> None:
        self.tape = tape
        """What the client got."""
        self.wire = wire
        """What the service sent, decoded, where that is to be kept as well."""
        self.over = False
        """True once the client has everything, although the service may still send."""
        self._converter = converter
        self._decoder = decoder
        self._ends = cast("EndsEarly", converter) if hasattr(converter, "ended") else None
        self._steps = [step.feed for step in (decoder, wire, converter) if step is not None]
        self._failed = False

    def __call__(self, data: bytes) -> Sequence[bytes]:
        """Take a piece (b"" = the end), return the pieces for the client."""
        if self._failed:
            return []
        try:
            if data:
                out = data
                for step in self._steps:
                    out = step(out)
            else:
                if self._decoder:
                    self._decoder.finish()
                out = self._converter.finish() if self._converter else b""
        except Exception as error:  # noqa: BLE001 - see the module's head
            _log("An answer could not be converted; the client is told and the rest is dropped.", error)
            out = self.fail(Unreadable("The answer of the service could not be read.")) or b""
        if self._ends is not None and self._ends.ended:
            self.over = True
        if not out:
            return []
        self.tape.add(out)
        return [out]

    def fail(self, error: KimiMitmError) -> bytes | None:
        """End the answer with an error in the client's dialect; return the last bytes for the client.

        None where there is no word for it: then the client's connection has to be broken off (`broken`).
        """
        if self._failed:
            return None if self.broken else b""
        self._failed = self.over = True
        words = None
        try:
            words = self._converter.fail(error) if self._converter else None
        except Exception as broken:  # noqa: BLE001 - see the module's head
            _log("An answer could not be ended properly.", broken)
        self.broken = words is None
        return words


def _log(sentence: str, error: Exception) -> None:
    """Log where *error* was raised, without its message: that may quote the answer."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s %s\n%s", sentence, type(error).__name__, where)
