"""One chat request on its way to Kiro: translated once, sent by one account after the other until one serves it.

A failed attempt is named (`verdict`) and the next one is chosen (`attempts`). A client that streams gets its answer as
soon as that has begun well, and from then on there is no further attempt; any other client gets it whole.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from kimi_core.conversation import conversation_key
from kimi_core.errors import KimiMitmError, StoreError
from kimi_core.exchange import (
    Answer,
    AnswerHead,
    Attempt,
    Converter,
    Exchange,
    Limits,
    Reply,
    RequestHead,
    Retry,
    Route,
    Story,
    Verdict,
    reply_for,
)
from kimi_core.headers import Headers
from kimi_core.kiro import answer as answers
from kimi_core.kiro import pool, request, verdict
from kimi_core.kiro.attempts import Attempts, label, limit
from kimi_core.kiro.catalog import ModelInfo
from kimi_core.kiro.converter import ChatStream, collect
from kimi_core.kiro.events import Failure
from kimi_core.kiro.opening import Opening, Peek
from kimi_core.kiro.refusals import AllUnavailable, Silent
from kimi_core.kiro.request import RequestOptions
from kimi_core.kiro.service import Service
from kimi_core.kiro.toolsets import ToolSets
from kimi_core.kiro.translated import Translated
from kimi_core.kiro.verdict import Finding, Kind
from kimi_core.wire.chat_chunks import ChunkWriter, Completion

MIB = 1024 * 1024
SALT = "kiro"  # conversations of Kiro need not be told apart from those of other installations
KEEP_ALIVE = 15.0  # seconds of silence after which a streamed answer gets an SSE comment
PING = b": ping\n\n"
OK = 200
PEEKED = 64 * 1024  # bytes of silent frames after which an answer counts as begun
WHOLE = 16 * MIB  # bytes of an answer that are held for a client that does not stream; the longest are about 1 MiB
EVENT_STREAM = Headers([("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache")])
ACCOUNT = "x-kimi-mitm-account"
IGNORED = "x-kimi-mitm-ignored"
SHARED_FAULT = frozenset({Kind.quota, Kind.rate, Kind.auth, Kind.suspended})  # what "no account is left" says better


_TOOLSETS = ToolSets()  # what they become depends on no account and no setting
_options = lru_cache(maxsize=1)(RequestOptions)  # they are the same for every request


@lru_cache(maxsize=1)
def _limits(first_byte: float, idle: float) -> Limits:
    return Limits(first_byte or None, idle or None, KEEP_ALIVE)


class KiroExchange(Exchange):
    """One request of a client; see `kimi_core.exchange.Exchange`."""

    buffers_body = True

    def __init__(self, service: Service, head: RequestHead, route: Route) -> None:
        settings = service.settings
        self.story = Story("kiro")
        self.limits = _limits(settings.kiro_first_byte_timeout, settings.kiro_idle_timeout)
        self.max_body = settings.kimi_max_body * MIB
        self.attempt = Attempt(
            head.method,
            route.scheme,
            route.host,
            route.port,
            route.path,
            head.headers.without("authorization", "x-api-key", "cookie"),
        )
        self._service = service
        self._client = head.headers
        self._deadline = service.clock() + settings.kiro_deadline
        self._conversation = ""
        self._wanted = ""
        self._translated: Translated
        self._model: ModelInfo | None = None
        self._attempts: Attempts | None = None
        self._opening: Opening
        self._peeked = Peek(None)
        self._whole: Reply | None = None

    @property
    def max_attempts(self) -> int:  # type: ignore[override]  # depends on how many accounts there are
        """One attempt per account, and one more."""
        return limit(self._service)

    # --- the request ---------------------------------------------------------------------------------------------

    async def prepare(self, body: bytes) -> Attempt | Reply:
        """Translate the request and choose the first account for it."""
        try:
            self._translate(body)
            self._attempts = Attempts(self._service, self._translated, self._conversation, self._deadline)
            attempt = await self._attempts.first()
        except (KimiMitmError, StoreError) as error:
            return self.refuse(error)
        return self._nobody() if attempt is None else self._send(attempt)

    def _send(self, attempt: Attempt) -> Attempt:
        self.attempt, self._opening = attempt, Opening()
        self.story.facts["account"] = attempt.label
        return attempt

    def _translate(self, body: bytes) -> None:
        read = request.read(body)
        service, settings = self._service, self._service.settings
        key = conversation_key(self._client, read.values, salt=SALT, prefer_parent=False)
        self._conversation = key.value
        self._wanted = read.request.model
        _, self._model = service.catalog().resolve(self._wanted)
        self._translated = request.translate(
            read,
            model=self._model,
            identity_origin=service.origin,
            conversation_id=key.value,
            options=_options(settings.kiro_reasoning, settings.kiro_forced_tools, settings.kiro_max_weight),
            recall=service.turns.recall(key.value),
            toolsets=_TOOLSETS,
        )
        self.story.facts.update(self._translated.facts)
        self.story.repairs.update(self._translated.repairs)

    # --- the answer ----------------------------------------------------------------------------------------------

    def holds(self, head: AnswerHead) -> bool:
        """Hold every answer but a 200; some of those are failures, too (`peek`)."""
        return head.status != OK

    @property
    def peek_limit(self) -> int:  # type: ignore[override]  # depends on whether the client streams
        """A client that streams gets its answer as soon as it has begun well; any other one when it is whole."""
        return PEEKED if self._translated.wants_stream else WHOLE

    def peek(self, head: AnswerHead, data: bytes | bytearray, *, ended: bool) -> bool | None:
        """Look for an exception among the first frames, and for a JSON error under a 200; a whole answer for any flaw.

        A client that does not stream has seen nothing of an answer until its end, so that any flaw in it leads to the
        next attempt.
        """
        if not self._translated.wants_stream:
            return self._sound(bytes(data)) if ended else None
        if not data and not ended:
            return None
        self._peeked = self._opening.look(bytes(data), ended=ended)
        if self._peeked.fine:
            self._rotation.served()
        return self._peeked.fine

    def _sound(self, body: bytes) -> bool:
        """Tell whether a whole answer is a good one, and keep what it becomes."""
        story = Story("kiro", dict(self.story.facts))
        done = collect(body, self._completion(), self._answer_options(), story, on_end=self._remember)
        if done.error is not None:
            self._peeked = Peek(fine=False, failure=done.failure or Failure(type(done.error).__name__, str(done.error)))
            return False
        self.story.facts.update(story.facts)
        self._whole = done.reply
        self._rotation.served()
        return True

    def converter(self, head: AnswerHead) -> tuple[AnswerHead, Converter] | None:
        """Return the stream of chunks that the client gets."""
        translated = self._translated
        writer = ChunkWriter(
            completion_id=self._completion_id(),
            model=self._wanted,
            created=int(self._service.clock()),
            usage=translated.wants_usage,
        )
        stream = ChatStream(writer, self._answer_options(), self.story, self._remember, self._opening)
        watched = self._service.previews.answer(self.attempt.label, stream)
        return AnswerHead(OK, Headers([*EVENT_STREAM, *self._extra()])), watched

    def collects(self, head: AnswerHead) -> bool:
        """Read an answer whole for a client that does not stream."""
        return not self._translated.wants_stream

    def collected(self, head: AnswerHead, body: bytes) -> Reply:
        """Return one JSON object for a whole answer; one that grew past what is held is read here."""
        reply = self._whole
        if reply is None:
            reply = collect(body, self._completion(), self._answer_options(), self.story, on_end=self._remember).reply
        return replace(reply, headers=reply.headers.plus(*self._extra()))

    def _completion(self) -> Completion:
        return Completion(completion_id=self._completion_id(), model=self._wanted, created=int(self._service.clock()))

    async def judge(self, answer: Answer) -> Verdict:
        """Name what failed, let the account bear its share, and choose the next attempt."""
        attempts, finding = self._rotation, self._finding(answer)
        assert attempts.account is not None
        why = f"{label(attempts.account)}: {finding.label}"
        try:
            attempt = None if answer.final else await attempts.after(finding)
        except StoreError as error:
            return self.refuse(error)
        if attempt is not None:
            return Retry(self._send(attempt), why)
        attempts.give_up(finding)
        return self._nobody() if finding.kind in SHARED_FAULT else self.refuse(finding.error())

    def refuse(self, error: KimiMitmError) -> Reply:
        """Return *error* in the OpenAI dialect."""
        self.story.facts["reason"] = error.code
        wait = error.retry_after if isinstance(error, AllUnavailable) else None
        extra = Headers([("retry-after", str(wait))] if wait else [])
        return reply_for(error, "openai", extra)

    def silence(self, seconds: float) -> KimiMitmError:
        """Return the error for an answer that stayed silent."""
        return Silent(f"Kiro sent nothing for {seconds:g} s.")

    def ping(self) -> bytes:
        """Return an SSE comment."""
        return PING

    def done(self) -> None:
        """Give the account free."""
        if self._attempts is not None:
            self._attempts.leave()

    @property
    def _rotation(self) -> Attempts:
        assert self._attempts is not None  # nothing is answered before it was sent
        return self._attempts

    # --- outcomes ------------------------------------------------------------------------------------------------

    def _finding(self, answer: Answer) -> Finding:
        failure = self._peeked.failure
        if failure is not None:
            self._peeked = Peek(None)
            return verdict.classify_exception(failure.type, failure.message, failure.reason)
        if answer.head is None:
            return verdict.transport(answer.error or "no answer")
        account = self._rotation.account
        token = account.access_token.encode() if account else b""
        body = answer.body.replace(token, "…".encode()) if token else answer.body  # the client reads what it says
        return verdict.classify(answer.head.status, answer.head.headers, body)

    def _nobody(self) -> Reply:
        """Say why no account serves this, one by one, and when to come back."""
        service = self._service
        try:
            stored = service.accounts().accounts
        except StoreError as error:
            return self.refuse(error)
        found = pool.unavailable(
            stored, service.clock(), in_flight=service.in_flight, concurrency=service.settings.kiro_concurrency
        )
        return self.refuse(found.error())

    def _remember(self, answer: answers.Answer) -> None:
        """Keep what the answer thought, and what it cost."""
        self._service.turns.remember(self._conversation, answer)
        account = self._rotation.account
        if answer.credits is not None and account is not None:
            self._service.spent(account.id, answer.credits.amount)

    # --- parts ---------------------------------------------------------------------------------------------------

    def _answer_options(self) -> answers.AnswerOptions:
        translated = self._translated
        return answers.AnswerOptions(
            window=self._model.max_input if self._model else None,
            prompt_tokens=translated.prompt_tokens,
            aliases=translated.tool_aliases,
            stop=translated.stop,
            max_tokens=translated.max_tokens,
            thinking_tags=translated.thinking_tags,
            bare_json=translated.response_format != "text",
            explain=verdict.explain,
        )

    def _extra(self) -> list[tuple[str, str]]:
        fields = [(ACCOUNT, self.attempt.label)]
        if self._translated.ignored:
            fields.append((IGNORED, ", ".join(self._translated.ignored)))
        return fields

    def _completion_id(self) -> str:
        return f"chatcmpl-{self._rotation.id}"
