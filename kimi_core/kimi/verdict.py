"""What a failed answer means (kimi.md §7), as one table.

Status and type are ambiguous here: a used-up quota, a refused client and a blocked account are all a 403
``access_terminated_error``. So the message decides first, then the type, then the status alone; within each, the more
specific row stands first. Gateways re-wrap status codes, so rows with a clear wording hold for any status.

The one firm rule: only `Reason.auth` causes a refresh, and it is given to a 401 alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic_core import from_json

MAX_TEXT = 16 * 1024  # characters of a message that are looked at; the known ones are a sentence or two


class Reason(StrEnum):
    """Why the service refused; the value is what clients see in ``x-kimi-mitm-reason``."""

    auth = "auth"
    entitlement = "entitlement"
    membership = "membership"
    identity = "identity"
    quota = "quota"
    blocked = "blocked"
    permission = "permission"
    overload = "overload"
    concurrency = "concurrency"
    period_limit = "period_limit"
    billing = "billing"
    context = "context"
    structure = "structure"
    content_filter = "content_filter"
    model = "model"
    not_found = "not_found"
    too_large = "too_large"
    transient = "transient"
    unknown = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a failed answer means. `hint` is one line that says what to do; `final`: asking again will not help."""

    reason: Reason
    hint: str
    final: bool

    @property
    def refreshes(self) -> bool:
        """Whether a new access token may heal it."""
        return self.reason is Reason.auth

    @property
    def quota(self) -> bool:
        """Whether the plan is used up for a time, so that ``/usages`` knows when to come back."""
        return self.reason in {Reason.quota, Reason.period_limit}


# reason -> what to do. Hints of final reasons hold none of the words that opencode's retry test takes for a passing
# fault, so that a client that quotes them does not ask again.
FINAL = {
    Reason.auth: "Log in again: run `kimi-mitm login kimi`.",
    Reason.entitlement: "Your plan does not include this model; `kimi-mitm models` lists those it does.",
    Reason.membership: "Check that your Kimi membership is active; the check of it may also have failed in passing.",
    Reason.identity: "Kimi refuses this client identity; see the option kimi_identity. Now and then this hits the "
    "official clients too and is the service's own fault.",
    Reason.quota: "The plan is used up for now; `kimi-mitm usage` shows when it starts anew.",
    Reason.period_limit: "The limit of this time window is reached; `kimi-mitm usage` shows when it starts anew.",
    Reason.blocked: "Kimi has closed this account to API use; stop and contact its support.",
    Reason.permission: "The account may not do this; the message of the service says more.",
    Reason.billing: "The account's balance is used up; see its billing page.",
    Reason.context: "The conversation is longer than the model takes; shorten or compact it.",
    Reason.structure: "Kimi does not accept the form of this request; the message names the part at fault.",
    Reason.content_filter: "Kimi's content filter refuses this conversation; change what was said last.",
    Reason.model: "The plan has no model of this name; `kimi-mitm models` lists those it has.",
    Reason.not_found: "There is no such path at this service; check the base URL.",
    Reason.too_large: "The request is larger than the service takes; shorten it or send smaller images.",
    Reason.unknown: "The message of the service says more.",
}
PASSING = {
    Reason.overload: "Kimi is overloaded; try again later.",
    Reason.concurrency: "Too many requests at a time; run fewer side by side and try again later.",
    Reason.transient: "A fault of the service that may pass; try again later.",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a row holds where each of its columns that is not empty does."""

    reason: Reason
    message: str = ""
    """Regular expression, found anywhere in the message, in any case."""
    type: str = ""
    """Regular expression for the whole of the error's type or code."""
    status: frozenset[int] = frozenset()

    def holds(self, status: int, message: str, kinds: tuple[str, ...]) -> bool:
        """Tell whether the row describes this answer."""
        return (
            (not self.status or status in self.status)
            and (not self.message or re.search(self.message, message, re.IGNORECASE) is not None)
            and (not self.type or any(re.fullmatch(self.type, kind) for kind in kinds))
        )


def _status(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


_BAD = _status(400, 422)

TABLE: tuple[Row, ...] = (
    # by message
    Row(Reason.entitlement, message=r"subscription does not have access"),
    Row(Reason.membership, message=r"membership benefits"),
    Row(Reason.identity, message=r"only available for coding agents"),
    Row(Reason.period_limit, message=r"usage limit for this period"),
    Row(Reason.quota, message=r"reached your [\w -]{0,40}limit|usage limit for this billing cycle"),
    Row(Reason.quota, message=r"\b(?:weekly|monthly|daily|5[ -]hours?) (?:usage )?(?:limit|quota)"),
    Row(
        Reason.billing, message=r"insufficient balance|account balance|recharge|exceeded your current [\w ]{0,20}quota"
    ),
    Row(Reason.blocked, message=r"^\s*access terminated\.?\s*$"),
    Row(Reason.overload, message=r"\boverloaded\b"),
    Row(Reason.concurrency, message=r"too many requests|max [\w ]{0,20}(?:concurrency|rpm|tpm)\b"),
    Row(Reason.context, message=r"exceeded model token limit|total message size \d+ exceeds limit"),
    Row(Reason.context, message=r"maximum context length|prompt is too long", status=_BAD),
    Row(Reason.content_filter, message=r"\bhigh[ -]risk\b"),
    Row(Reason.structure, message=r"text content is empty|reasoning_content is missing|type is not defined"),
    Row(Reason.structure, message=r"tool_call_id\b.{0,80}is not found|unsupported image url"),
    Row(Reason.structure, message=r"duplicated? function name|function name.{0,80}duplicate"),
    Row(Reason.structure, message=r"reasoning_details.{0,80}index|moonshot flavored json schema"),
    Row(Reason.model, message=r"not found the model"),
    Row(Reason.not_found, message=r"method not found"),
    Row(Reason.too_large, message=r"request exceeds the maximum size"),
    # by type or code
    Row(Reason.billing, type=r"exceeded_current_quota_error|insufficient_quota"),
    Row(Reason.overload, type=r"(?:engine_)?overloaded_error"),
    Row(Reason.concurrency, type=r"rate_limit(?:_reached)?_error"),
    Row(Reason.content_filter, type=r"content_filter"),
    Row(Reason.too_large, type=r"request_too_large"),
    Row(Reason.auth, type=r"(?:invalid_)?authentication_error", status=_status(401)),
    Row(Reason.permission, type=r"permission_error|permission_denied_error", status=_status(401, 403)),
    Row(Reason.transient, type=r"api_error|server_error|internal_(?:server_)?error", status=_status(200)),
    # by status
    Row(Reason.auth, status=_status(401)),
    Row(Reason.membership, status=_status(402)),
    Row(Reason.permission, status=_status(403)),
    Row(Reason.not_found, status=_status(404, 405)),
    Row(Reason.too_large, status=_status(413)),
    Row(Reason.concurrency, status=_status(429)),
    Row(Reason.overload, status=_status(529)),
    Row(Reason.transient, status=_status(408, 409, 425, *range(500, 600))),
    Row(Reason.structure, status=_BAD),
)


def classify(status: int, body: bytes) -> Finding:
    """Return what a failed answer means; *body* may be JSON of any dialect, HTML, or empty. Never raises.

    Give *status* 200 for an error that came within a stream.
    """
    message, kinds = _read(body)
    reason = next((row.reason for row in TABLE if row.holds(status, message, kinds)), Reason.unknown)
    final = reason in FINAL
    return Finding(reason, FINAL[reason] if final else PASSING[reason], final)


def _read(body: bytes) -> tuple[str, tuple[str, ...]]:
    """Return the message of an answer and its type and code; for what is no error object the text as it is."""
    try:
        data = from_json(body)
    except ValueError:
        data = None
    outer: dict[str, Any] = data if isinstance(data, dict) else {}
    error = outer.get("error")
    inner: dict[str, Any] = error if isinstance(error, dict) else outer
    texts = (error, *(inner.get(name) for name in ("message", "error_description", "detail")))
    message = " ".join(text for text in texts if isinstance(text, str))
    kinds = tuple(kind for name in ("type", "code") if isinstance(kind := inner.get(name), str))
    return (message or body.decode(errors="replace"))[:MAX_TEXT], kinds
