"""Redacted previews of what goes to Kiro and what comes back, for a log that the user asked for.

``DEBUG_KIRO_PAYLOAD=1`` has each request outlined, ``DEBUG_KIRO_STREAM=1`` each frame of an answer: names and sizes,
never a text. What is really on the wire can be looked at in mitmproxy; these are for those who know the switches.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from kimi_core.errors import KimiMitmError
from kimi_core.exchange import Converter
from kimi_core.kiro.preview import preview
from kimi_core.plain import line
from kimi_core.wire.eventstream import Decoder

logger = logging.getLogger(__name__)

PAYLOAD = "DEBUG_KIRO_PAYLOAD"
STREAM = "DEBUG_KIRO_STREAM"
NAMES = (":event-type", ":exception-type", ":error-code")


class Previews:
    """What the environment asks for."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._payload = environ.get(PAYLOAD) == "1"
        self._stream = environ.get(STREAM) == "1"

    def request(self, label: str, body: bytes) -> None:
        """Log the outline of a request."""
        if self._payload:
            logger.warning("Kiro request of %s\n%s", label, preview(body))

    def answer(self, label: str, converter: Converter) -> Converter:
        """Return *converter*, with the frames that it is fed logged."""
        return _Watched(label, converter) if self._stream else converter


class _Watched:
    """A converter whose input is outlined on its way in."""

    def __init__(self, label: str, converter: Converter) -> None:
        self._label = label
        self._converter = converter
        self._decoder: Decoder | None = Decoder()

    @property
    def ended(self) -> bool:
        """Whether the client has everything."""
        return bool(getattr(self._converter, "ended", False))

    def feed(self, data: bytes) -> bytes:
        """Log the frames in *data* and pass it on."""
        if self._decoder is not None:
            try:
                for frame in self._decoder.feed(data):
                    name = next((frame.headers[key] for key in NAMES if key in frame.headers), "no name")
                    logger.warning("Kiro frame of %s: %s, %d bytes", self._label, line(str(name)), len(frame.payload))
            except KimiMitmError as error:
                logger.warning("Kiro frame of %s: damaged (%s)", self._label, error.code)
                self._decoder = None
        return self._converter.feed(data)

    def finish(self) -> bytes:
        """Pass it on."""
        return self._converter.finish()

    def fail(self, error: KimiMitmError) -> bytes | None:
        """Pass it on."""
        return self._converter.fail(error)
