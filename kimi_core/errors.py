"""Every exception of the project, and the JSON shape in which a client meets one.

::

    KimiMitmError                 code, status, hint, retryable
    ├── ConfigError               an option or an environment variable makes no sense
    ├── StoreError
    │   ├── StoreDamaged          a stored document does not parse; it is never overwritten silently
    │   └── StoreBusy             the lock was not free in time
    ├── AuthError
    │   ├── NotLoggedIn           there is no login for this provider and region
    │   ├── LoginDead             the refresh token was rejected: only a new login helps
    │   └── AuthUnavailable       the login service could not be reached or is failing: may pass
    ├── LoginError                the device flow ended without a login
    │   ├── LoginDenied           the user said no
    │   ├── LoginExpired          the code ran out before it was approved
    │   └── PageElsewhere         the page of the approval is not the provider's
    ├── UpstreamError             a call of ours (models, usages) was answered with something else
    ├── BadRequest                the client's request cannot be served: its fault, named field
    ├── Refused                   the guard does not let this request spend the subscription
    └── Unforeseen                this program itself failed

`code` is stable: clients and scripts may match on it. `hint` says what to do next. Sentences of final
errors avoid the words that opencode's retry test takes for a passing fault (429, 500, "overloaded",
"terminated", "try again later" …), sentences of passing ones may carry them.
"""

from __future__ import annotations

import json
from typing import ClassVar

MAX_HOST = 80  # characters of a host that a sentence repeats


class KimiMitmError(Exception):
    """Base of all; `str(error)` is one sentence that says what happened."""

    code: ClassVar[str] = "kimi_mitm_error"
    status: ClassVar[int] = 500
    type: ClassVar[str] = "api_error"
    hint: ClassVar[str] = ""
    retryable: ClassVar[bool] = False

    @property
    def sentence(self) -> str:
        """What happened and what to do, for a person."""
        return f"{self} {self.hint}".strip()


class ConfigError(KimiMitmError):
    """An option or an environment variable makes no sense."""

    code = "bad_configuration"


class StoreError(KimiMitmError):
    """The credential store cannot be used."""

    code = "store_error"


class StoreDamaged(StoreError):
    """A stored document does not parse."""

    code = "store_damaged"
    hint = "The file is kept as it is; `kimi-mitm login kimi` puts it aside and makes a new one."


class StoreBusy(StoreError):
    """The lock of a store was not free in time."""

    code = "store_busy"
    retryable = True


class AuthError(KimiMitmError):
    """There is no usable access token."""

    code = "auth_error"
    status = 401
    type = "authentication_error"


class NotLoggedIn(AuthError):
    """There is no login for this provider and region."""

    code = "not_logged_in"
    hint = "Run `kimi-mitm login kimi`."


class LoginDead(AuthError):
    """The refresh token was rejected by the login service."""

    code = "login_dead"
    hint = "Log in again: run `kimi-mitm login kimi`."


class AuthUnavailable(AuthError):
    """The login service could not be reached, or answered with a passing fault."""

    code = "auth_unavailable"
    status = 503
    type = "api_error"
    retryable = True


class LoginError(KimiMitmError):
    """The device flow ended without a login."""

    code = "login_failed"


class LoginDenied(LoginError):
    """The user refused the login in the browser."""

    code = "login_denied"


class LoginExpired(LoginError):
    """The device code ran out before it was approved."""

    code = "login_expired"
    hint = "Start again: run `kimi-mitm login kimi`."


class PageElsewhere(LoginError):
    """The login service named a page for the approval that is not the provider's own; *url* is not repeated whole."""

    code = "page_elsewhere"
    hint = "Nothing was opened. Log in through another network, or later; if it stays so, ask the provider."

    def __init__(self, url: str) -> None:
        host = url.partition("://")[2].partition("/")[0][:MAX_HOST] or "nowhere"
        super().__init__(f"The login service sends you to {host}, which is not the provider's own site.")


class UpstreamError(KimiMitmError):
    """A call of ours to the provider was answered with something we cannot use.

    `http_status` is what the provider answered, None where there was no answer.
    """

    code = "upstream_error"
    status = 502

    def __init__(self, message: str, http_status: int | None = None) -> None:
        super().__init__(message)
        self.http_status = http_status


class BadRequest(KimiMitmError):
    """The client's request cannot be served; `param` is the path of the field at fault ("messages[3].content")."""

    code = "bad_request"
    status = 400
    type = "invalid_request_error"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Refused(KimiMitmError):
    """The guard does not let this request spend the subscription."""

    code = "refused"
    status = 403
    type = "permission_error"


class Unforeseen(KimiMitmError):
    """This program itself failed; where, is in its log."""

    code = "unforeseen"

    def __init__(self) -> None:
        super().__init__("The proxy itself failed at this request, which was not sent any further.")


def openai_body(error: KimiMitmError) -> bytes:
    """Return the OpenAI error object for *error*: ``{"error": {"message", "type", "param", "code"}}``."""
    detail = {
        "message": error.sentence,
        "type": error.type,
        "param": getattr(error, "param", None),
        "code": error.code,
    }
    return json.dumps({"error": detail}).encode()


def anthropic_body(error: KimiMitmError) -> bytes:
    """Return the Anthropic error object for *error*: ``{"type": "error", "error": {"type", "message"}}``."""
    detail = {"type": error.type, "message": error.sentence, "code": error.code}
    return json.dumps({"type": "error", "error": detail}).encode()
