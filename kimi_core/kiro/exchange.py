"""One chat request on its way to Kiro: translated once, sent by one account after the other until one serves it.

A failed attempt is named (`verdict`), the account bears what is its fault (`health`), and the next attempt is chosen:
the same account where a refresh, its other place or a pause may help, else another one. There are as many attempts as
accounts and one more, and one deadline; an attempt on the same account is made only where enough are left to ask every
other account as well. After the first byte of an answer there is no further attempt.
"""

from __future__ import annotations

import logging
import re
import uuid
from dataclasses import replace
from urllib.parse import urlsplit

from kimi_core.conversation import conversation_key
from kimi_core.errors import AuthError, AuthUnavailable, BadRequest, KimiMitmError, StoreError
from kimi_core.exchange import (
    Answer,
    AnswerHead,
    Attempt,
    Converter,
    Exchange,
    Headers,
    Limits,
    Reply,
    RequestHead,
    Retry,
    Route,
    Story,
    Verdict,
    reply_for,
)
from kimi_core.kiro import answer as answers
from kimi_core.kiro import health, pool, profile, request, verdict
from kimi_core.kiro.accounts import Account
from kimi_core.kiro.catalog import ModelInfo
from kimi_core.kiro.converter import ChatStream, Peek, collect, first_failure
from kimi_core.kiro.events import Failure
from kimi_core.kiro.health import Event
from kimi_core.kiro.profile import Place
from kimi_core.kiro.refusals import AllUnavailable, Unreachable
from kimi_core.kiro.request import RequestOptions, Translated
from kimi_core.kiro.service import Service
from kimi_core.kiro.verdict import Action, Finding, Kind
from kimi_core.routing import authority
from kimi_core.wire.chat_chunks import ChunkWriter, Completion

logger = logging.getLogger(__name__)

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

_LABEL = re.compile(r"[^\x21-\x7e]+")


def label(account: Account) -> str:
    """Return an account's label as part of a header field: visible ASCII, no blanks."""
    return _LABEL.sub("_", account.label or account.id)[:80] or account.id


class KiroExchange(Exchange):
    """One request of a client; see `kimi_core.exchange.Exchange`."""

    buffers_body = True

    def __init__(self, service: Service, head: RequestHead, route: Route) -> None:
        settings = service.settings
        self.story = Story("kiro")
        self.limits = Limits(settings.kiro_first_byte_timeout or None, settings.kiro_idle_timeout or None, KEEP_ALIVE)
        self.max_body = settings.kimi_max_body * MIB
        self.attempt = Attempt(
            head.method,
            route.scheme,
            route.host,
            route.port,
            route.path,
            head.headers.without("authorization", "x-api-key"),
        )
        self._service = service
        self._client = head.headers
        self._deadline = service.clock() + settings.kiro_deadline
        self._conversation = ""
        self._wanted = ""
        self._translated: Translated
        self._model: ModelInfo | None = None
        self._account: Account | None = None
        self._place: Place
        self._invocation = str(uuid.uuid4())
        self._sent = 0
        self._tried: set[str] = set()
        self._helped: set[tuple[str, Action]] = set()  # account and what was done for it once
        self._excused: set[str] = set()  # accounts that could not be helped for want of attempts
        self._paused: dict[str, int] = {}  # account -> pauses made
        self._peeked = Peek(None)
        self._whole: Reply | None = None
        self._served = False

    @property
    def max_attempts(self) -> int:  # type: ignore[override]  # depends on how many accounts there are
        """One attempt per account, and one more."""
        try:
            return len(self._service.accounts().accounts) + 1
        except StoreError:
            return 1

    # --- the request ---------------------------------------------------------------------------------------------

    async def prepare(self, body: bytes) -> Attempt | Reply:
        """Translate the request and choose the first account for it."""
        try:
            self._translate(body)
            attempt = await self._next(None)
        except (BadRequest, StoreError) as error:
            return self.refuse(error)
        if attempt is None:
            return self._nobody()
        return attempt

    def _translate(self, body: bytes) -> None:
        read = request.read(body)
        service, settings = self._service, self._service.settings
        key = conversation_key(self._client, read.values, salt=SALT, prefer_parent=False)
        self._conversation = key.value
        self._wanted = read.model
        _, self._model = service.catalog().resolve(read.model)
        identity = service.identity_for(Account(id="", machine_id=""))
        self._translated = request.translate(
            read,
            model=self._model,
            identity_origin=identity.origin,
            conversation_id=key.value,
            options=RequestOptions(
                reasoning=settings.kiro_reasoning,
                forced_tools=settings.kiro_forced_tools,
                max_weight=settings.kiro_max_weight,
            ),
            recall=service.turns.recall(key.value),
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
        self._peeked = first_failure(bytes(data), ended=ended)
        if self._peeked.fine:
            self._begun_well()
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
        self._begun_well()
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
        stream = ChatStream(writer, self._answer_options(), self.story, self._remember)
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
        assert self._account is not None
        finding = self._finding(answer)
        why = f"{label(self._account)}: {finding.label}"
        try:
            attempt = None if answer.final or self._late() else await self._next(finding)
        except (BadRequest, StoreError) as error:
            return self.refuse(error)
        if attempt is not None:
            return Retry(attempt, why)
        self._done_with(finding)
        return self._failed(finding)

    def refuse(self, error: KimiMitmError) -> Reply:
        """Return *error* in the OpenAI dialect."""
        self.story.facts["reason"] = error.code
        wait = error.retry_after if isinstance(error, AllUnavailable) else None
        extra = Headers([("retry-after", str(wait))] if wait else [])
        return reply_for(error, "openai", extra)

    def silence(self, seconds: float) -> KimiMitmError:
        """Return the error for an answer that stayed silent."""
        return Unreachable(f"Kiro sent nothing for {seconds:g} s.")

    def ping(self) -> bytes:
        """Return an SSE comment."""
        return PING

    def done(self) -> None:
        """Give the account free."""
        if self._account is not None:
            self._leave()

    # --- attempts ------------------------------------------------------------------------------------------------

    async def _next(self, finding: Finding | None) -> Attempt | None:
        """Return the next attempt after *finding* (None: the first), or None where there is none."""
        if finding is not None:
            assert self._account is not None
            if finding.action is Action.fail:
                return None
            attempt = await self._same(finding)
            if attempt is not None:
                return attempt
            self._done_with(finding)
        listed_only = finding is not None and finding.action is Action.listed
        return await self._another(listed_only=listed_only)

    async def _same(self, finding: Finding) -> Attempt | None:
        """Return an attempt more on the same account where that may help and leaves enough for the others."""
        account = self._account
        assert account is not None
        spare = self.max_attempts - self._sent > self._untried()
        action, once = finding.action, (account.id, finding.action)
        if action is Action.refresh and once not in self._helped:
            self._helped.add(once)
            if not spare:
                self._excused.add(account.id)
                self._service.renew_beside(account.id, account.access_token)
                return None
            try:
                return self._attempt(await self._service.tokens.renew(account.id, account.access_token), self._place)
            except (AuthError, StoreError) as error:
                logger.info("Kiro: %s", error)
                return None
        if action is Action.heal and once not in self._helped and spare:
            self._helped.add(once)
            return self._attempt(account, profile.other(account, self._place))
        pause = self._pause(finding)
        if pause is not None and spare:
            await self._service.sleep(pause)
            return self._attempt(account, self._place)
        return None

    def _pause(self, finding: Finding) -> float | None:
        """Return how long to wait before the same account is tried again, None where it is not."""
        assert self._account is not None
        made = self._paused.get(self._account.id, 0)
        if made >= len(finding.pauses) or self._service.clock() + finding.pauses[made] > self._deadline:
            return None
        self._paused[self._account.id] = made + 1
        return finding.pauses[made]

    async def _another(self, *, listed_only: bool = False) -> Attempt | None:
        """Return an attempt on an account that was not tried yet."""
        service = self._service
        model = self._translated.model_id
        while not self._late():
            if listed_only:
                account = service.pick(
                    conversation=self._conversation, model=model, tried=self._tried, listed_only=True
                )
            else:
                account = await service.wait_for_one(
                    conversation=self._conversation, model=model, tried=self._tried, deadline=self._deadline
                )
            if account is None:
                return None
            service.begin(account.id)
            try:
                ready = await service.ready(account.id)
            except (KimiMitmError, StoreError) as error:
                service.release(account.id)
                self._tried.add(account.id)
                self._unready(account, error)
                continue
            self._account = ready
            return self._attempt(ready, profile.first(ready))
        return None

    def _unready(self, account: Account, error: KimiMitmError) -> None:
        """Note why an account could not even be tried; trouble with the network is no fault of its own."""
        if not isinstance(error, AuthUnavailable):
            logger.warning("The Kiro account %s cannot be used: %s", label(account), error.sentence)

    def _attempt(self, account: Account, place: Place) -> Attempt:
        self._account, self._place = account, place
        self._sent += 1
        identity = self._service.identity_for(account)
        origin = urlsplit(place.origin(self._service.endpoints))
        port = origin.port or (443 if origin.scheme == "https" else 80)
        host = origin.hostname or ""
        headers = identity.headers(
            "generate",
            invocation=self._invocation,
            attempt=self._sent,
            bearer=f"Bearer [kiro {label(account)}]",
            auth_method=account.auth_method,
        )
        self.story.facts["account"] = label(account)
        self.attempt = Attempt(
            method="POST",
            scheme=origin.scheme,
            host=host,
            port=port,
            path=identity.path,
            headers=Headers([("host", authority(origin.scheme, host, port)), *headers]),
            secrets={"authorization": f"Bearer {account.access_token}"},
            body=self._translated.body(place.profile_arn),
            label=label(account),
        )
        self._service.previews.request(self.attempt.label, self.attempt.body or b"")
        return self.attempt

    def _untried(self) -> int:
        """Return how many other accounts could still serve."""
        assert self._account is not None
        now, tried = self._service.clock(), self._tried | {self._account.id}
        return sum(
            account.id not in tried and health.obstacle(account, now) is None
            for account in self._service.accounts().accounts
        )

    def _late(self) -> bool:
        return self._service.clock() >= self._deadline

    # --- outcomes ------------------------------------------------------------------------------------------------

    def _finding(self, answer: Answer) -> Finding:
        failure = self._peeked.failure
        if failure is not None:
            self._peeked = Peek(None)
            return verdict.classify_exception(failure.type, failure.message, failure.reason)
        if answer.head is None:
            return verdict.transport(answer.error or "no answer")
        return verdict.classify(answer.head.status, answer.head.headers, answer.body)

    def _begun_well(self) -> None:
        """Credit the account as soon as its answer has begun: a probe must not last as long as the answer."""
        account = self._account
        assert account is not None
        if self._served:
            return
        self._served = True
        place = self._place
        self._service.conversations.bind(self._conversation, account.id)
        self._service.note(account.id, Event.served)
        self._service.change(account.id, lambda stored: profile.remembered(stored, place))
        self._service.activate(account.id)
        self._service.want_models(account.id)
        self._service.want_usage(account)

    def _done_with(self, finding: Finding) -> None:
        """Let the account bear what is its fault, and leave it."""
        account = self._account
        if account is None or account.id in self._tried:
            return
        self._tried.add(account.id)
        if account.id not in self._excused:
            self._service.note(account.id, finding)
        if finding.kind in {Kind.quota, Kind.rate}:
            self._service.want_usage(account)
        self._leave()

    def _leave(self) -> None:
        assert self._account is not None
        self._service.release(self._account.id)
        self._account = None

    def _failed(self, finding: Finding) -> Reply:
        if finding.kind in SHARED_FAULT:
            return self._nobody()
        return self.refuse(finding.error())

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
        if answer.credits is not None and self._account is not None:
            self._service.spent(self._account.id, answer.credits.amount)

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
        fields = [(ACCOUNT, label(self._account))] if self._account else []
        if self._translated.ignored:
            fields.append((IGNORED, ", ".join(self._translated.ignored)))
        return fields

    def _completion_id(self) -> str:
        return f"chatcmpl-{self._invocation}"
