"""What the service's refusals are for a client: one error per kind of `verdict.Kind`.

::

    AnswerFailed (failures)
    ├── ContextExceeded (failures)   400  the conversation is longer than the model takes
    ├── ProfileRequired              400  the service wants a profile that is not known here
    ├── Invalid                      400  the service does not accept the form of the request
    ├── ImageRefused                 400  the model takes no images
    ├── ModelUnknown                 404  the plan has no such model
    ├── TokenRejected                401  the login is turned down, also after it was renewed
    ├── Suspended                    403  the service has locked the account
    ├── NotAuthorized                403  the account may not do this
    ├── FeatureMissing               403  the plan does not have what was asked for
    ├── QuotaUsedUp                  429  the plan's credits are used up
    ├── RateLimited                  429  too many requests
    ├── Overloaded                   503  the model has no capacity left
    ├── Unreachable                  502  this address does not serve the call
    ├── Faulty                       502  a fault of the service or the way to it
    └── Puzzling                     502  an answer that is not known here
    Silent                           504  nothing comes any more

Hints of final errors hold no word that opencode's retry test takes for a passing fault.
"""

from __future__ import annotations

from typing import ClassVar

from kimi_core.errors import KimiMitmError, UpstreamError
from kimi_core.kiro.failures import AnswerFailed


class ProfileRequired(AnswerFailed):
    """The service wants a profile ARN (kiro.md §3.3)."""

    code = "kiro_profile_required"
    status = 400
    type = "invalid_request_error"
    hint = "Run `kimi-mitm accounts refresh`, which looks for the account's profile, or log in again."


class Invalid(AnswerFailed):
    """The service does not accept the form of the request."""

    code = "kiro_invalid_request"
    status = 400
    type = "invalid_request_error"
    hint = "Kiro does not accept the form of this request; it seldom says why. Look at it in mitmproxy."


class ImageRefused(Invalid):
    """The model takes no images."""

    code = "kiro_image_unsupported"
    hint = "This model takes text only; choose one that takes images, or leave them out."


class ModelUnknown(AnswerFailed):
    """The plan has no such model."""

    code = "model_not_found"
    status = 404
    type = "invalid_request_error"
    hint = "`kimi-mitm models kiro` lists the models of your plan."


class TokenRejected(AnswerFailed):
    """The service turns the access token down, also after it was renewed."""

    code = "kiro_token_rejected"
    status = 401
    type = "authentication_error"
    hint = "Log in again: run `kimi-mitm login kiro`."


class Suspended(AnswerFailed):
    """The service has locked the account."""

    code = "kiro_account_suspended"
    status = 403
    type = "permission_error"
    hint = "Contact Kiro's support; once it is open again, run `kimi-mitm accounts enable`."


class NotAuthorized(AnswerFailed):
    """The account may not make this call."""

    code = "kiro_not_authorized"
    status = 403
    type = "permission_error"
    hint = "Profile, region or client version may not fit the account; `kimi-mitm accounts list` shows them."


class FeatureMissing(AnswerFailed):
    """The plan does not have what was asked for."""

    code = "kiro_feature_unsupported"
    status = 403
    type = "permission_error"
    hint = "The account's plan does not have this feature."


class QuotaUsedUp(AnswerFailed):
    """The credits of the plan are used up."""

    code = "insufficient_quota"
    status = 429
    type = "insufficient_quota"
    hint = "`kimi-mitm usage kiro` shows when it starts anew."


class RateLimited(AnswerFailed):
    """Too many requests of this account."""

    code = "rate_limit_exceeded"
    status = 429
    type = "rate_limit_error"
    hint = "Try again later. If it stays, the plan may be used up: see `kimi-mitm usage kiro`."
    retryable = True


class Overloaded(AnswerFailed):
    """The model has no capacity left; the account is not at fault."""

    code = "overloaded"
    status = 503
    type = "overloaded_error"
    hint = "Kiro has no capacity left for this model; try again later or choose another one."
    retryable = True


class Unreachable(AnswerFailed):
    """The address does not serve the call."""

    code = "kiro_endpoint_unsupported"
    hint = "Kiro may have moved; look for a newer version of this program."


class Faulty(AnswerFailed):
    """A fault of the service, or of the way to it, that may pass."""

    code = "kiro_unavailable"
    hint = "A fault of the service that may pass; try again later."
    retryable = True


class Puzzling(AnswerFailed):
    """An answer that is not known here."""

    code = "kiro_unknown_answer"
    hint = "The message of the service says more."


class AllUnavailable(KimiMitmError):
    """No account can serve now. `reasons` has one line per account, `retry_after` seconds until the first is back."""

    code = "kiro_accounts_unavailable"
    status = 429
    type = "rate_limit_error"
    retryable: ClassVar[bool] = True

    def __init__(self, retry_after: int, reasons: tuple[str, ...]) -> None:
        super().__init__(f"No Kiro account can serve this now. {'; '.join(reasons)}.")
        self.retry_after = retry_after
        self.reasons = reasons


class NoneUsable(KimiMitmError):
    """No account will serve until the user does something. `reasons` has one line per account."""

    code = "kiro_no_usable_account"
    status = 401
    type = "authentication_error"
    hint = "Run `kimi-mitm login kiro`, or see `kimi-mitm accounts list`."

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__(f"No Kiro account can be used. {'; '.join(reasons)}." if reasons else "No Kiro account.")
        self.reasons = reasons


class Silent(UpstreamError):
    """The service sent nothing more within the limit."""

    code = "kiro_silent"
    status = 504
    retryable = True
    hint = "This may pass; try again later."
