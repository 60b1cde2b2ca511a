"""One client request on its way to Kimi: what is sent, and what a refused answer means.

A 401 is healed once by a refresh, a connection that broke before any answer once by sending again; every other
failure is named (kimi.md §7) and passed on. Quota and permission answers never cause a refresh.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus

from kimi_core.errors import BadRequest, KimiMitmError, LoginDead, UpstreamError
from kimi_core.exchange import (
    Answer,
    AnswerHead,
    Attempt,
    Converter,
    Exchange,
    Limits,
    Relay,
    Reply,
    Retry,
    Route,
    Story,
    Verdict,
    reply_for,
)
from kimi_core.headers import Headers
from kimi_core.kimi import body as rewriting
from kimi_core.kimi.account import Account
from kimi_core.kimi.answer import ChatStream, JsonAnswer, MessagesStream
from kimi_core.kimi.body import BodyOptions
from kimi_core.kimi.memory import ReasoningMemory
from kimi_core.kimi.verdict import Finding, Reason, classify
from kimi_core.tokens import OAuthToken

logger = logging.getLogger(__name__)

QUOTA_PATIENCE = 3.0  # seconds that a client without quota waits to hear when to come back; an answer takes a fraction
FAILURE = 400  # from here on a status is a failure
STREAMED = frozenset({"files"})  # operations whose request bodies are passed on as they come
REASON = "x-kimi-mitm-reason"


class Unreachable(UpstreamError):
    """No answer came from the service, twice."""

    code = "kimi_unreachable"
    retryable = True
    hint = "This may pass; try again later."


class Silent(UpstreamError):
    """The service sent no answer, or nothing more, within the limit that the user set."""

    code = "kimi_silent"
    status = 504
    retryable = True
    hint = "This may pass; try again later."


class StillRefused(LoginDead):
    """A token that was refreshed a moment ago is refused as well."""

    code = "login_refused"


class KimiExchange(Exchange):
    """One request of a client; see `kimi_core.exchange.Exchange`."""

    def __init__(
        self,
        account: Account,
        route: Route,
        attempt: Attempt,
        token: OAuthToken | None,
        *,
        memory: ReasoningMemory,
        options: BodyOptions,
        limits: Limits,
        max_body: int,
        client: Headers,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.attempt = attempt
        self.limits = limits
        self.max_body = max_body
        self.buffers_body = route.operation not in STREAMED
        self.story = Story("kimi", facts={} if route.operation == "chat" else {"operation": route.operation})
        self._account = account
        self._route = route
        self._token = token
        self._memory = memory
        self._options = options
        self._client = client
        self._clock = clock
        self._refreshed = False
        self._resent = False

    # --- the request ---------------------------------------------------------------------------------------------

    async def prepare(self, body: bytes) -> Attempt | Reply:
        """Rewrite a chat request; leave every other body, and those of a client's own account, alone."""
        if self._route.operation == "chat" and self._token is not None:
            try:
                done = rewriting.rewrite(
                    body,
                    self._client,
                    catalog=self._account.cache.catalog,
                    options=self._options,
                    memory=self._memory,
                )
            except BadRequest as error:
                return self.refuse(error)
            self.story.facts.update(done.facts)
            self.story.repairs.update(done.repairs)
            self._memory = self._memory.scope(done.conversation)
            self.attempt = self.attempt.carrying(done.body)
        return self.attempt

    # --- the answer ----------------------------------------------------------------------------------------------

    def holds(self, head: AnswerHead) -> bool:
        """Hold every failure: a 401 to heal it, the others to say what they mean."""
        return head.status >= FAILURE and self._token is not None

    def converter(self, head: AnswerHead) -> tuple[AnswerHead, Converter] | None:
        """Return what watches the answer as it streams past."""
        if head.status == HTTPStatus.UNAUTHORIZED and not self.buffers_body and self._token:
            self._account.reject(self._token.access_token)
        if self._route.operation == "models" and head.status == HTTPStatus.OK:
            return head, JsonAnswer(on_body=lambda body: self._account.cache.offer(body, self._clock()))
        if self._route.operation not in {"chat", "messages"}:
            return None
        streamed = (head.headers.get("content-type") or "").startswith("text/event-stream")
        if streamed and "content-length" in head.headers:  # events are changed and added: it holds no more
            head = replace(head, headers=head.headers.without("content-length"))
        if self._route.operation == "messages":
            return head, MessagesStream(self.story) if streamed else JsonAnswer(self.story, dialect="anthropic")
        return head, ChatStream(self.story, self._memory) if streamed else JsonAnswer(self.story, self._memory)

    async def judge(self, answer: Answer) -> Verdict:
        """Heal what can be healed once; name the rest."""
        if answer.head is None:
            return self._broken(answer)
        finding = classify(answer.head.status, answer.body)
        self.story.facts["reason"] = str(finding.reason)
        if finding.refreshes:
            return await self._renew(answer)
        return Relay(await self._explain(finding), why=f"{answer.head.status} {finding.reason}")

    def refuse(self, error: KimiMitmError) -> Reply:
        """Return *error* in this client's dialect."""
        self.story.facts["reason"] = error.code
        return reply_for(error, self._route.dialect)

    def silence(self, seconds: float) -> KimiMitmError:
        """Return the error for an answer that stayed silent for *seconds*."""
        return Silent(f"Kimi sent nothing for {seconds:g} s.")

    def _broken(self, answer: Answer) -> Verdict:
        if answer.silent_for:
            return self.refuse(self.silence(answer.silent_for))
        if self._resent or answer.final:
            why = (answer.error or "no answer").removesuffix(".")  # a word of mitmproxy's, or a sentence of our own
            return self.refuse(Unreachable(f"Kimi cannot be reached: {why}."))
        self._resent = True
        return Retry(self.attempt, why=answer.error or "connection lost")

    async def _renew(self, answer: Answer) -> Verdict:
        assert answer.head is not None
        assert self._token is not None
        if self._refreshed or answer.final:
            return self.refuse(StillRefused("Kimi refuses the access token although it was just refreshed."))
        self._refreshed = True
        try:
            self._token = await self._account.session.renew(self._token.access_token)
        except KimiMitmError as error:
            return self.refuse(error)
        self.story.facts.pop("reason", None)
        secrets = {"authorization": f"Bearer {self._token.access_token}"}
        self.attempt = replace(self.attempt, secrets=secrets)
        return Retry(self.attempt, why=f"{answer.head.status}, token refreshed")

    async def _explain(self, finding: Finding) -> Headers:
        fields = [(REASON, str(finding.reason))]
        if finding.reason is Reason.model:
            self._account.want_models()
        if finding.quota:
            await self._account.settled_usage(QUOTA_PATIENCE)
            wait = self._quota_wait()
            if wait is not None:
                fields.append(("retry-after", str(wait)))
        return Headers(fields)

    def _quota_wait(self) -> int | None:
        """Return the seconds until the quota that is used up comes back, where the last usage answer tells."""
        now = self._clock()
        resets = self._account.usage.exhausted(now) if self._account.usage else None
        return max(1, round(resets - now)) if resets else None
