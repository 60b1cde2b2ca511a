"""From the bytes of a Kiro answer to the bytes of a chat client: decoder -> events -> answer -> chunks.

Before the head of an answer goes out, `first_failure` tells from its first bytes whether it is one at all. After that
`ChatStream` converts it as it comes. Both take the two things that come under a 200: an event stream, and a JSON error
document (kiro.md §1.3), which no event stream begins like: its first byte would announce a frame of 2 GB.

For ``stream: false`` nothing may go out before it is known whether the answer is good, since status and head depend on
it. So the caller keeps such an answer back to its end (`Exchange.peek` says neither yes nor no), and gives the whole
body to `collect`, which returns the reply, or the failure to be judged like that of any other attempt.

Facts for the flow: ``answered by`` (the serving model, where it is not the one asked for), ``in``, ``cached``, ``out``
(tokens), ``counts`` ("estimated", where a number is not the service's own), ``credits``, ``finish``, ``stop`` (Kiro's
reason), ``unknown events`` (names), ``error`` (a code).
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import NamedTuple

from kimi_core.errors import KimiMitmError
from kimi_core.exchange import JSON, Headers, Reply, Story, reply_for
from kimi_core.kiro import events
from kimi_core.kiro.answer import Answer, AnswerOptions
from kimi_core.kiro.failures import AnswerFailed
from kimi_core.kiro.frames import failure, parse, read_json
from kimi_core.wire.chat import openai_error_event
from kimi_core.wire.chat_chunks import ChunkWriter, Completion
from kimi_core.wire.eventstream import Decoder
from kimi_core.wire.parts import Part

MAX_ERROR = 64 * 1024  # bytes of a JSON error document that are read; they are a few hundred
MAX_PEEK = 256 * 1024  # bytes that show nothing after which an answer counts as begun all the same

_LOG = logging.getLogger(__name__)
_SILENT = (events.Ignored, events.Unknown)
_DOCUMENT = b"{ \t\r\n"  # first bytes of a JSON document; none begins a frame, which would have at least 150 MB


class Peek(NamedTuple):
    """What the first bytes say: fine (True), failed (False, with the failure), or not yet enough (None)."""

    fine: bool | None
    failure: events.Failure | None = None


def first_failure(data: bytes, *, ended: bool = False) -> Peek:
    """Tell from *data*, all that has come of a 200 answer, whether the attempt has failed.

    Frames that show nothing to a client (the initial response, empty text) decide nothing. *ended* says that no more
    will come: an answer that ends before it shows anything has failed, and may be tried again.
    """
    if _is_json(data):
        over = ended or len(data) > MAX_ERROR or read_json(data) is not None
        return Peek(fine=False, failure=failure(data)) if over else Peek(fine=None)
    decoder = Decoder()
    try:
        for event in map(parse, decoder.feed(data)):
            if isinstance(event, events.Failure):
                return Peek(fine=False, failure=event)
            if not _is_silent(event):
                return Peek(fine=True)
        if ended:
            decoder.finish()
    except KimiMitmError as error:
        return Peek(fine=False, failure=events.Failure(type(error).__name__, str(error)))
    if ended:
        return Peek(fine=False, failure=events.Failure("AnswerCut", "The answer ended before it had begun."))
    return Peek(fine=True if len(data) > MAX_PEEK else None)


class ChatStream:
    """A streamed answer in the OpenAI dialect; see `kimi_core.exchange.Converter`.

    *on_end* is called once, when the answer is complete and before its last bytes go out, with what there is to
    remember of it (`Answer.thoughts`, the ids of its calls); it must not raise.
    """

    def __init__(
        self,
        writer: ChunkWriter,
        options: AnswerOptions,
        story: Story,
        on_end: Callable[[Answer], None] | None = None,
    ) -> None:
        self._source = _Source(options, story, on_end)
        self._writer = writer
        self._broken = False
        self.ended = False
        """True once the client has everything: what the service still sends is of use for the facts only."""

    def feed(self, data: bytes) -> bytes:
        """Take what came, return the chunks that it makes."""
        return self._write(self._source.feed, data)

    def finish(self) -> bytes:
        """Say that the answer has ended; return the end of the chunks, or an error event."""
        return self._write(self._source.finish)

    def fail(self, error: KimiMitmError) -> bytes:
        """Say that the line broke; return held text and an error event, or nothing where the end had come."""
        return self._write(self._source.fail, error)

    def _write[*A](self, step: Callable[[*A], list[Part]], *args: *A) -> bytes:
        if self._broken:
            return b""
        try:
            out = b"".join(map(self._writer.write, step(*args)))
        except Exception as error:  # noqa: BLE001 - a converter that raises loses its chunk silently, under a 200
            self._broken = self.ended = True
            return openai_error_event(_unforeseen(error))
        self.ended = self._source.answer.ended
        return out


class Collected(NamedTuple):
    """A whole answer: the reply for the client, and what went wrong in it if something did.

    `failure` is what the service itself reported; an `error` without one is a cut or damaged answer.
    """

    reply: Reply
    error: KimiMitmError | None = None
    failure: events.Failure | None = None


def collect(
    body: bytes,
    completion: Completion,
    options: AnswerOptions,
    story: Story,
    *,
    on_end: Callable[[Answer], None] | None = None,
) -> Collected:
    """Return the reply for a whole answer, *body*; total.

    The reply is a ``chat.completion`` object with status 200, or an error object with the error's status.
    """
    source = _Source(options, story, on_end)
    try:
        for part in source.feed(body):
            completion.take(part)
        for part in source.finish():
            completion.take(part)
        if completion.error is None:
            return Collected(Reply(200, Headers([("content-type", JSON)]), completion.body()))
        return Collected(reply_for(completion.error, "openai"), completion.error, source.answer.failure)
    except Exception as error:  # noqa: BLE001 - the client gets an answer whatever happens
        unforeseen = _unforeseen(error)
        return Collected(reply_for(unforeseen, "openai"), unforeseen)


class _Source:
    """Bytes to parts; raises nothing that an answer's content could cause."""

    def __init__(self, options: AnswerOptions, story: Story, on_end: Callable[[Answer], None] | None) -> None:
        self.answer = Answer(options)
        self._options = options
        self._story = story
        self._on_end = on_end
        self._decoder = Decoder()
        self._json: bytearray | None = None  # a JSON error document on its way
        self._begun = False

    def feed(self, data: bytes) -> list[Part]:
        if not self._begun and data:
            self._begun = True
            self._json = bytearray() if _is_json(data) else None
        if self._json is not None:
            self._json += data[: MAX_ERROR - len(self._json)]
            return []
        parts: list[Part] = []
        answer = self.answer
        try:
            for frame in self._decoder.feed(data):
                parts += answer.take(parse(frame))
        except KimiMitmError as error:
            parts += answer.fail(error)
        return self._ended(parts) if answer.ended else parts

    def finish(self) -> list[Part]:
        if self._json is not None:
            return self._ended(self.answer.take(failure(bytes(self._json))))
        try:
            self._decoder.finish()
        except KimiMitmError as error:
            return self._ended(self.answer.fail(error))
        return self._ended(self.answer.finish())

    def fail(self, error: KimiMitmError) -> list[Part]:
        return self._ended(self.answer.fail(error))

    def _ended(self, parts: list[Part]) -> list[Part]:
        """Note what is known; called where the answer ends, and once more where its bytes do."""
        answer, facts = self.answer, self._story.facts
        usage = answer.tokens.usage()
        told = {
            "answered by": answer.model if answer.model != facts.get("model") else None,
            "in": usage.prompt or None,
            "cached": usage.cached or None,
            "out": usage.completion or None,
            "counts": "estimated" if usage.estimated else None,
            "credits": answer.credits.amount if answer.credits else None,
            "finish": answer.finish_reason,
            "stop": answer.stop_reason,
            "unknown events": ", ".join(answer.unknown) or None,
            "error": answer.error.code if answer.error else None,
        }
        facts.pop("counts", None)  # where the answer was ended here, better numbers may have come since
        facts.update({name: value for name, value in told.items() if value is not None})
        on_end, ended_well = self._on_end, answer.finish_reason is not None
        if on_end is not None and ended_well:
            self._on_end = None
            on_end(answer)
        return parts


def _is_silent(event: events.Event) -> bool:
    """Tell whether *event* shows nothing to a client and ends nothing."""
    return isinstance(event, _SILENT) or (isinstance(event, events.Text) and not event.content)


def _is_json(data: bytes) -> bool:
    return data[:1] in _DOCUMENT and data != b""


def _unforeseen(error: Exception) -> AnswerFailed:
    """Log where *error* was raised, without its message, which may quote the answer; return the client's error."""
    where = "".join(traceback.format_tb(error.__traceback__))
    _LOG.error("An answer of Kiro could not be converted. %s\n%s", type(error).__name__, where)
    return AnswerFailed("The answer of Kiro could not be converted.")
