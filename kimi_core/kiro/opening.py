"""How a Kiro answer under a 200 begins, and whether it is one at all (kiro.md §1.3).

Two things come under a 200: an event stream, and a JSON error document, which no event stream begins like: its first
byte would announce a frame of 2 GB. In an event stream the first frame that shows anything to a client decides. What
was read of it until then is handed on to the converter, so that nothing is read twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from kimi_core.errors import KimiMitmError
from kimi_core.kiro import events
from kimi_core.kiro.frames import failure, parse, read_json
from kimi_core.wire.eventstream import Decoder

MAX_ERROR = 64 * 1024  # bytes of a JSON error document that are read; they are a few hundred
MAX_PEEK = 256 * 1024  # bytes that show nothing after which an answer counts as begun all the same

_DOCUMENT = b"{ \t\r\n"  # first bytes of a JSON document; none begins a frame, which would have at least 150 MB
_SILENT = (events.Ignored, events.Unknown)


class Peek(NamedTuple):
    """What the first bytes say: fine (True), failed (False, with the failure), or not yet enough (None)."""

    fine: bool | None
    failure: events.Failure | None = None


class Opening:
    """The beginning of one answer: first looked at, then read by whoever converts the whole of it."""

    __slots__ = ("_decoder", "_known", "_looked", "_peek")

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._looked = b""  # what was looked at and not read yet …
        self._known: list[events.Event] = []  # … and the events in it
        self._peek = Peek(None)

    def look(self, data: bytes, *, ended: bool = False) -> Peek:
        """Tell from *data*, all that has come of the answer, whether the attempt has failed.

        Frames that show nothing to a client (the initial response, empty text) decide nothing. *ended* says that no
        more will come: an answer that ends before it shows anything has failed, and may be tried again.
        """
        if self._peek.fine is None:
            self._peek = _document(data, ended=ended) if is_json(data) else self._stream(data, ended=ended)
        return self._peek

    def read(self, data: bytes) -> Iterator[events.Event]:
        """Return the events in *data*, a piece of the answer; the pieces come in order, the first of them first.

        Raises FrameDamaged or FrameTooLong after the last good event.
        """
        if self._looked:
            data = self._resume(data)
        new = map(parse, self._decoder.feed(data))
        if not self._known:
            return new
        known, self._known = self._known, []
        return chain(known, new)

    def finish(self) -> None:
        """Say that the answer has ended. Raises StreamTruncated if that was inside a frame."""
        if self._looked:
            self._resume(b"")
        self._decoder.finish()

    def _stream(self, data: bytes, *, ended: bool) -> Peek:
        new, self._looked = data[len(self._looked) :], data
        try:
            for event in map(parse, self._decoder.feed(new)):
                self._known.append(event)
                if isinstance(event, events.Failure):
                    return Peek(fine=False, failure=event)
                if not _is_silent(event):
                    return Peek(fine=True)
            if ended:
                self._decoder.finish()
        except KimiMitmError as error:
            return Peek(fine=False, failure=events.Failure(type(error).__name__, str(error)))
        if ended:
            return Peek(fine=False, failure=events.Failure("AnswerCut", "The answer ended before it had begun."))
        return Peek(fine=True if len(data) > MAX_PEEK else None)

    def _resume(self, data: bytes) -> bytes:
        """Return what of the first piece was not looked at; where it is not what was looked at, all is read anew."""
        looked, self._looked = self._looked, b""
        if data.startswith(looked):
            return data[len(looked) :]
        self._decoder, self._known = Decoder(), []
        return data


def _document(data: bytes, *, ended: bool) -> Peek:
    over = ended or len(data) > MAX_ERROR or read_json(data) is not None
    return Peek(fine=False, failure=failure(data)) if over else Peek(fine=None)


def is_json(data: bytes) -> bool:
    """Tell whether an answer that begins with *data* is a JSON document."""
    return data[:1] in _DOCUMENT and data != b""


def _is_silent(event: events.Event) -> bool:
    """Tell whether *event* shows nothing to a client and ends nothing."""
    return isinstance(event, _SILENT) or (isinstance(event, events.Text) and not event.content)
