"""From the bytes of a Kiro answer to the bytes of a chat client: decoder -> events -> answer -> chunks.

Before the head of an answer goes out, its `Opening` tells from its first bytes whether it is one at all. After that
`ChatStream` goes on with what was opened, and converts it as it comes. Both take the two things that come under a 200:
an event stream, and a JSON error document (kiro.md §1.3).

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
from kimi_core.exchange import JSON, Reply, Story, reply_for
from kimi_core.headers import Headers
from kimi_core.kiro import events
from kimi_core.kiro.answer import Answer, AnswerOptions
from kimi_core.kiro.failures import AnswerFailed
from kimi_core.kiro.frames import failure
from kimi_core.kiro.opening import MAX_ERROR, Opening, is_json
from kimi_core.wire.chat import openai_error_event
from kimi_core.wire.chat_chunks import ChunkWriter, Completion
from kimi_core.wire.parts import Part

_LOG = logging.getLogger(__name__)


class ChatStream:
    """A streamed answer in the OpenAI dialect; see `kimi_core.exchange.Converter`.

    *on_end* is called once, when the answer is complete and before its last bytes go out, with what there is to
    remember of it (`Answer.thoughts`, the ids of its calls); it must not raise. *opening* is what was looked at of this
    answer, which is fed from its first byte on all the same.
    """

    def __init__(
        self,
        writer: ChunkWriter,
        options: AnswerOptions,
        story: Story,
        on_end: Callable[[Answer], None] | None = None,
        opening: Opening | None = None,
    ) -> None:
        self._source = _Source(options, story, on_end, opening or Opening())
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
    source = _Source(options, story, on_end, Opening())
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

    def __init__(
        self, options: AnswerOptions, story: Story, on_end: Callable[[Answer], None] | None, opening: Opening
    ) -> None:
        self.answer = Answer(options)
        self._options = options
        self._story = story
        self._on_end = on_end
        self._opening = opening
        self._json: bytearray | None = None  # a JSON error document on its way
        self._begun = False

    def feed(self, data: bytes) -> list[Part]:
        if not self._begun and data:
            self._begun = True
            self._json = bytearray() if is_json(data) else None
        if self._json is not None:
            self._json += data[: MAX_ERROR - len(self._json)]
            return []
        parts: list[Part] = []
        answer = self.answer
        try:
            for event in self._opening.read(data):
                parts += answer.take(event)
        except KimiMitmError as error:
            parts += answer.fail(error)
        return self._ended(parts) if answer.ended else parts

    def finish(self) -> list[Part]:
        if self._json is not None:
            return self._ended(self.answer.take(failure(bytes(self._json))))
        try:
            self._opening.finish()
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


def _unforeseen(error: Exception) -> AnswerFailed:
    """Log where *error* was raised, without its message, which may quote the answer; return the client's error."""
    where = "".join(traceback.format_tb(error.__traceback__))
    _LOG.error("An answer of Kiro could not be converted. %s\n%s", type(error).__name__, where)
    return AnswerFailed("The answer of Kiro could not be converted.")
