"""What a failed answer of Kiro means, and what to do next (kiro.md §9, §3.7), as one table.

Statuses are ambiguous: a used-up plan has been a 400, a 402 and a 429, and a 403 may be a stale token, a wrong profile
or a locked account. So the service's reason code decides first, then its sentence, then the exception's name, then the
status; within each, the more specific row stands first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

from pydantic_core import from_json

from kimi_core.headers import Headers
from kimi_core.kiro import refusals
from kimi_core.kiro.events import Failure
from kimi_core.kiro.failures import AnswerFailed, ContextExceeded, overflow

MAX_TEXT = 4 * 1024  # characters of a sentence that are looked at; the known ones are short
MAX_RETRY_AFTER = 86_400.0  # seconds; a day is longer than any limit of the service but the month's


class Kind(StrEnum):
    """What is the matter; the value stands in an account's `last_error` where the service gave no reason code."""

    profile_required = "profile_required"
    context = "context_length_exceeded"
    image = "image_unsupported"
    model = "model_not_found"
    invalid = "invalid_request"
    quota = "quota_exhausted"
    suspended = "suspended"
    auth = "auth_failed"
    unauthorized = "not_authorized"
    feature = "feature_unsupported"
    capacity = "model_capacity"
    rate = "rate_limited"
    endpoint = "endpoint_unsupported"
    transient = "transient"
    unknown = "unknown"


class Action(StrEnum):
    """What to do before a byte has gone to the client.

    `heal`: the same account at its other place (`profile.other`), once; then as `switch`. `refresh`: a new access
    token, once; then as `switch`. `retry`: the same account again a little later, bounded; then as `switch`.
    `switch`: another account. `listed`: another account whose own catalog has the model. `fail`: tell the client.
    """

    heal = "heal"
    refresh = "refresh"
    retry = "retry"
    switch = "switch"
    listed = "listed"
    fail = "fail"


ACTIONS: Mapping[Kind, Action] = {
    Kind.profile_required: Action.heal,
    Kind.context: Action.fail,
    Kind.image: Action.fail,
    Kind.model: Action.listed,
    Kind.invalid: Action.fail,
    Kind.quota: Action.switch,
    Kind.suspended: Action.switch,
    Kind.auth: Action.refresh,
    Kind.unauthorized: Action.heal,
    Kind.feature: Action.fail,
    Kind.capacity: Action.retry,
    Kind.rate: Action.switch,
    Kind.endpoint: Action.heal,
    Kind.transient: Action.retry,
    Kind.unknown: Action.fail,
}
ERRORS: Mapping[Kind, type[AnswerFailed]] = {
    Kind.profile_required: refusals.ProfileRequired,
    Kind.context: ContextExceeded,
    Kind.image: refusals.ImageRefused,
    Kind.model: refusals.ModelUnknown,
    Kind.invalid: refusals.Invalid,
    Kind.quota: refusals.QuotaUsedUp,
    Kind.suspended: refusals.Suspended,
    Kind.auth: refusals.TokenRejected,
    Kind.unauthorized: refusals.NotAuthorized,
    Kind.feature: refusals.FeatureMissing,
    Kind.capacity: refusals.Overloaded,
    Kind.rate: refusals.RateLimited,
    Kind.endpoint: refusals.Unreachable,
    Kind.transient: refusals.Faulty,
    Kind.unknown: refusals.Puzzling,
}
PAUSES: Mapping[Kind, tuple[float, ...]] = {  # seconds before each attempt more on the same account (kiro.md §9)
    Kind.capacity: (1.0, 2.0, 4.0),
    Kind.transient: (1.0, 2.0),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What a failed answer means.

    `failure` holds the service's own words; `retry_after` is what it asks to wait, in seconds.
    """

    kind: Kind
    failure: Failure
    retry_after: float | None = None

    @property
    def action(self) -> Action:
        """What to do next."""
        return ACTIONS[self.kind]

    @property
    def pauses(self) -> tuple[float, ...]:
        """Seconds to wait before each attempt more on the same account; empty for none."""
        return PAUSES.get(self.kind, ())

    @property
    def daily(self) -> bool:
        """Whether a used-up quota is one of the day."""
        return (self.failure.reason or "").startswith("DAILY_")

    @property
    def label(self) -> str:
        """The service's reason code where it gave one that looks like one, else the kind; for `last_error`."""
        reason = self.failure.reason or ""
        return reason if _CODE.fullmatch(reason) else self.kind.value

    def error(self) -> AnswerFailed:
        """Return the error for the client."""
        if self.kind is Kind.context:
            return overflow(self.failure)
        said = self.failure.message or self.failure.reason or self.failure.type
        return ERRORS[self.kind](f"Kiro says: {said.rstrip('.')}.", self.failure)


_CODE = re.compile(r"[A-Z][A-Z0-9_]{1,63}")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a row holds where each of its columns that is not empty does."""

    kind: Kind
    reason: str = ""
    """Regular expression for the whole of the reason code."""
    message: str = ""
    """Regular expression, found anywhere in the sentence, in any case."""
    type: str = ""
    """Regular expression for the whole of the exception's name."""
    status: frozenset[int] = frozenset()

    def holds(self, status: int, failure: Failure) -> bool:
        """Tell whether the row describes this answer."""
        return (
            (not self.status or status in self.status)
            and (not self.reason or re.fullmatch(self.reason, failure.reason or "") is not None)
            and (not self.message or re.search(self.message, failure.message, re.IGNORECASE) is not None)
            and (not self.type or re.fullmatch(self.type, failure.type) is not None)
        )


def _status(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


_SUSPENDED = r"temporarily (?:is )?suspended|locked your account|account (?:is|has been) (?:suspended|locked)"
_THROTTLED = r"ThrottlingException|ThrottledException|TooManyRequestsException"

TABLE: tuple[Row, ...] = (
    # by reason
    Row(Kind.context, reason=r"CONTENT_LENGTH_EXCEEDS_THRESHOLD|MODEL_CONTEXT_WINDOW_EXCEEDED"),
    Row(Kind.model, reason=r"INVALID_MODEL_ID"),
    Row(Kind.image, reason=r"IMAGE_FORMAT_UNSUPPORTED"),
    Row(Kind.quota, reason=r"(?:MONTHLY|DAILY)_REQUEST_COUNT|OVERAGE_\w+"),
    Row(Kind.suspended, reason=r"TEMPORARILY_SUSPENDED"),
    Row(Kind.feature, reason=r"FEATURE_NOT_SUPPORTED|UNAUTHORIZED_\w+"),
    Row(Kind.capacity, reason=r"INSUFFICIENT_MODEL_CAPACITY|MODEL_TEMPORARILY_UNAVAILABLE"),
    Row(Kind.rate, reason=r"USER_REQUEST_RATE_EXCEEDED|CONVERSATION_LIMIT_EXCEEDED"),
    # by message
    Row(Kind.profile_required, message=r"profileArn is required"),
    Row(Kind.context, message=r"input is too long|content length exceeds"),
    Row(Kind.model, message=r"invalid model\b"),
    Row(Kind.image, message=r"doesn't support the image content block"),
    Row(Kind.quota, message=r"maximum request reached|reached the limit for (?:monthly|overage)"),
    Row(Kind.suspended, message=_SUSPENDED),
    Row(Kind.auth, message=r"token included in the request is (?:invalid|expired)|token (?:is|has) expired"),
    Row(Kind.endpoint, message=r"unknown ?operation|unsupported endpoint|operation is not supported (?:on|at) this"),
    Row(Kind.unauthorized, message=r"not authorized to make this call"),
    Row(Kind.feature, message=r"is not supported for this operation|feature is not supported"),
    Row(Kind.capacity, message=r"unexpectedly high load|insufficient model capacity"),
    Row(Kind.rate, message=r"too many requests"),
    # by type
    Row(Kind.context, type=r"ContentLengthExceededException"),
    Row(Kind.auth, type=r"ExpiredTokenException|InvalidTokenException|UnrecognizedClientException"),
    Row(Kind.endpoint, type=r"UnknownOperationException|UnsupportedOperationException"),
    Row(Kind.rate, type=_THROTTLED),
    Row(Kind.quota, type=r"ServiceQuotaExceededException"),
    Row(Kind.invalid, type=r"ValidationException|SerializationException"),
    Row(Kind.auth, type=r"AccessDeniedException", status=_status(401)),
    Row(Kind.unauthorized, type=r"AccessDeniedException|ConflictException"),
    # a broken stream, in the words of this program, and the event of that name
    Row(
        Kind.transient, type=r"FrameDamaged|FrameTooLong|StreamTruncated|AnswerCut|MalformedEvent|UnmodelledError|error"
    ),
    Row(Kind.transient, type=r"Internal(?:Server|Failure)?(?:Exception|Error)?|ServiceUnavailable(?:Exception)?"),
    # by status
    Row(Kind.auth, status=_status(401)),
    Row(Kind.quota, status=_status(402)),
    Row(Kind.unauthorized, status=_status(403, 409)),
    Row(Kind.endpoint, status=_status(404, 405)),
    Row(Kind.context, status=_status(413)),
    Row(Kind.rate, status=_status(429)),
    Row(Kind.transient, status=_status(408, 425, *range(500, 600))),
    Row(Kind.invalid, status=_status(400, 415, 422)),
)


def classify(status: int, headers: Headers, body: bytes) -> Finding:
    """Return what a failed answer means; *body* may be JSON, HTML, or empty. Never raises.

    A 200 whose content type is JSON is a failed answer too (kiro.md §1.3).
    """
    return _find(status, _read(status, headers, body), _retry_after(headers))


def classify_exception(type_: str, message: str = "", reason: str | None = None) -> Finding:
    """Return what an exception within an answer means (frames have no status)."""
    return _find(200, Failure(short_name(type_), message[:MAX_TEXT], reason))


def transport(problem: str) -> Finding:
    """Return the finding for an attempt without an answer: no name, no connection, cut off before the head."""
    return Finding(Kind.transient, Failure("", problem))


def explain(failure: Failure) -> AnswerFailed:
    """Return the client's error for a failure within an answer."""
    return classify_exception(failure.type, failure.message, failure.reason).error()


def kind_of(label: str | None) -> Kind | None:
    """Return the kind that a `Finding.label` stands for, None where it is none of ours."""
    if label is not None and label in Kind:
        return Kind(label)
    finding = _find(0, Failure("", "", label))
    return None if finding.kind is Kind.unknown else finding.kind


def short_name(name: str) -> str:
    """Return the exception's name out of ``namespace#Name`` or ``Name:http://…``."""
    return name.partition(":")[0].rpartition("#")[2].strip()


def _find(status: int, failure: Failure, retry_after: float | None = None) -> Finding:
    kind = next((row.kind for row in TABLE if row.holds(status, failure)), Kind.unknown)
    return Finding(kind, failure, retry_after)


def _read(status: int, headers: Headers, body: bytes) -> Failure:
    """Return the service's words; for what is no error object the text as it is."""
    try:
        data = from_json(body)
    except ValueError:
        data = None
    found: dict[str, Any] = data if isinstance(data, dict) else {}
    name = _text(found, "__type", "code") or headers.get("x-amzn-errortype") or f"HTTP {status}"
    message = _text(found, "message", "Message", "errorMessage") or ("" if found else body.decode(errors="replace"))
    return Failure(short_name(name), message[:MAX_TEXT], _text(found, "reason") or None)


def _text(data: Mapping[str, Any], *names: str) -> str:
    return next((value for name in names if isinstance(value := data.get(name), str) and value), "")


def _retry_after(headers: Headers) -> float | None:
    """Return Retry-After in seconds (RFC 9110 §10.2.3); a date counts from the answer's own Date."""
    value = (headers.get("retry-after") or "").strip()
    if re.fullmatch(r"\d{1,9}", value, re.ASCII):
        return min(float(value), MAX_RETRY_AFTER)
    try:
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("date") or "")
    except (ValueError, TypeError, OverflowError):  # no date, or one of them without a time zone
        return None
    return min(max(wait.total_seconds(), 0.0), MAX_RETRY_AFTER)
