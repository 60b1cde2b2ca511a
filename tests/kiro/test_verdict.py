import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.errors import KimiMitmError
from kimi_core.headers import Headers
from kimi_core.kiro import verdict
from kimi_core.kiro.events import Failure
from kimi_core.kiro.opening import Opening
from kimi_core.kiro.refusals import AllUnavailable, NoneUsable
from kimi_core.kiro.verdict import Action, Finding, Kind, classify, classify_exception
from tests.wire.retry_words import RETRY_WORDS

VALIDATION = "com.amazon.kiro.runtimeservice#ValidationException"
DENIED = "com.amazon.coral.service#AccessDeniedException"
THROTTLED = "com.amazon.kiro.runtimeservice#ThrottlingException"
QUOTA = "com.amazon.kiro.runtimeservice#ServiceQuotaExceededException"
INTERNAL = "com.amazon.kiro.runtimeservice#InternalServerException"
SUSPENDED = "Your User ID (d-fake) temporarily is suspended. We've locked your account as a security precaution."
HIGH_LOAD = "Encountered unexpectedly high load when processing the request, please try again."

BROKEN = ("FrameDamaged", "FrameTooLong", "StreamTruncated", "AnswerCut", "MalformedEvent", "UnmodelledError", "error")

CASES = [
    # status, type, message, reason, kind
    (400, VALIDATION, "profileArn is required for this request.", None, "profile_required"),
    (400, VALIDATION, "profileArn is required for this request.", "REQUEST_BODY_INVALID", "profile_required"),
    (400, VALIDATION, "Input is too long.", "CONTENT_LENGTH_EXCEEDS_THRESHOLD", "context"),
    (400, VALIDATION, "x", "CONTENT_LENGTH_EXCEEDS_THRESHOLD", "context"),
    (400, VALIDATION, "Input is too long.", None, "context"),
    (413, None, "", None, "context"),
    (400, None, "", "MODEL_CONTEXT_WINDOW_EXCEEDED", "context"),
    (400, VALIDATION, "Invalid model. Please select a different model to continue.", "INVALID_MODEL_ID", "model"),
    (400, VALIDATION, "x", "INVALID_MODEL_ID", "model"),
    (400, VALIDATION, "Invalid model. Please select a different model to continue.", None, "model"),
    (400, VALIDATION, "x", "IMAGE_FORMAT_UNSUPPORTED", "image"),
    (400, VALIDATION, "The model you selected doesn't support the image content block.", None, "image"),
    (400, VALIDATION, "Improperly formed request.", None, "invalid"),
    (400, VALIDATION, "Improperly formed request.", "REQUEST_BODY_INVALID", "invalid"),
    (400, VALIDATION, "Invalid tool use format.", None, "invalid"),
    (400, VALIDATION, "unexpected tool_use_id found in tool_result blocks", None, "invalid"),
    (400, VALIDATION, "Invalid message sequence", None, "invalid"),
    (400, None, "x", None, "invalid"),
    (415, None, "x", None, "invalid"),
    (400, THROTTLED, "Maximum Request reached for this month.", "MONTHLY_REQUEST_COUNT", "quota"),
    (402, THROTTLED, "x", "MONTHLY_REQUEST_COUNT", "quota"),
    (429, THROTTLED, "x", "DAILY_REQUEST_COUNT", "quota"),
    (402, QUOTA, "x", "OVERAGE_REQUEST_LIMIT_EXCEEDED", "quota"),
    (400, THROTTLED, "Maximum Request reached for this month.", None, "quota"),
    (402, None, "You have reached the limit for monthly requests.", None, "quota"),
    (402, None, "x", None, "quota"),
    (400, QUOTA, "x", None, "quota"),
    (403, DENIED, SUSPENDED, "TEMPORARILY_SUSPENDED", "suspended"),
    (403, DENIED, "x", "TEMPORARILY_SUSPENDED", "suspended"),
    (403, DENIED, SUSPENDED, None, "suspended"),
    (403, None, "We've locked your account as a security precaution.", None, "suspended"),
    (401, None, "x", None, "auth"),
    (401, DENIED, "x", None, "auth"),
    (403, DENIED, "The bearer token included in the request is invalid.", None, "auth"),
    (403, "ExpiredTokenException", "The security token included in the request is expired", None, "auth"),
    (400, "com.amazonaws#ExpiredTokenException", "x", None, "auth"),
    (403, "UnrecognizedClientException", "x", None, "auth"),
    (403, DENIED, "User is not authorized to make this call.", None, "unauthorized"),
    (403, DENIED, "x", None, "unauthorized"),
    (403, None, "", None, "unauthorized"),
    (409, "ConflictException", "x", "CUSTOMER_KMS_KEY_DISABLED", "unauthorized"),
    (403, DENIED, "x", "FEATURE_NOT_SUPPORTED", "feature"),
    (403, DENIED, "x", "UNAUTHORIZED_WORKSPACE_CONTEXT_FEATURE_ACCESS", "feature"),
    (403, DENIED, "AWS Builder ID is not supported for this operation.", None, "feature"),
    (429, THROTTLED, "x", "INSUFFICIENT_MODEL_CAPACITY", "capacity"),
    (500, INTERNAL, "x", "MODEL_TEMPORARILY_UNAVAILABLE", "capacity"),
    (500, INTERNAL, HIGH_LOAD, None, "capacity"),
    (429, THROTTLED, "x", "USER_REQUEST_RATE_EXCEEDED", "rate"),
    (402, QUOTA, "x", "CONVERSATION_LIMIT_EXCEEDED", "rate"),
    (429, THROTTLED, "Too many requests, please wait before trying again.", None, "rate"),
    (429, None, "", None, "rate"),
    (400, THROTTLED, "x", None, "rate"),
    (404, None, "", None, "endpoint"),
    (405, None, "", None, "endpoint"),
    (400, "com.amazon.coral.service#UnknownOperationException", "", None, "endpoint"),
    (403, None, "Unknown Operation GenerateAssistantResponse", None, "endpoint"),
    (400, VALIDATION, "unsupported endpoint", None, "endpoint"),
    (408, None, "", None, "transient"),
    (500, INTERNAL, "x", None, "transient"),
    (502, None, "<html>Bad Gateway</html>", None, "transient"),
    (503, "ServiceUnavailableException", "x", None, "transient"),
    (504, None, "", None, "transient"),
    (200, INTERNAL, "x", None, "transient"),
    (200, THROTTLED, "x", None, "rate"),
    (200, "SomethingNewException", "x", None, "unknown"),
    (418, None, "", None, "unknown"),
    # frames, and streams that broke before anything was said
    *((200, name, "x", None, "transient") for name in BROKEN),
    (200, "ContentLengthExceededException", "x", None, "context"),
]


def _body(type_, message, reason):
    return json.dumps({"__type": type_, "message": message, "reason": reason}).encode()


@pytest.mark.parametrize(("status", "type_", "message", "reason", "kind"), CASES)
def test_kind(status, type_, message, reason, kind):
    """Each known answer has its kind: by reason, then message, then name, then status."""
    finding = classify(status, Headers(), _body(type_, message, reason))
    assert finding.kind.name == kind
    assert finding.failure.message == (message or finding.failure.message)
    assert finding.failure.reason == reason


@pytest.mark.parametrize(("status", "type_", "message", "reason", "kind"), CASES)
def test_kind_by_the_error_header(status, type_, message, reason, kind):
    """The exception's name may stand in the header, and the sentence under a capital M."""
    headers = Headers([("x-amzn-ErrorType", f"{type_.rpartition('#')[2]}:http://fake.test/#x")] if type_ else [])
    body = json.dumps({"Message": message, "reason": reason}).encode()
    assert classify(status, headers, body).kind.name == kind


@pytest.mark.parametrize(("status", "type_", "message", "reason", "kind"), [case for case in CASES if case[0] == 200])
def test_kind_of_an_exception_in_the_stream(status, type_, message, reason, kind):
    """A frame is classified by the same table, without a status."""
    assert classify_exception(type_, message, reason).kind.name == kind


def test_every_row_of_the_table_decides_something():
    """No row stands behind another one that always takes its cases."""
    deciding = set()
    for status, type_, message, reason, _ in CASES:
        failure = classify(status, Headers(), _body(type_, message, reason)).failure
        deciding.add(next((row for row in verdict.TABLE if row.holds(status, failure)), None))
    assert set(verdict.TABLE) <= deciding


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "unauthorized"),
        (b"null", "unauthorized"),
        (b"[1]", "unauthorized"),
        (b"{}", "unauthorized"),
        (b"\xff\xfe", "unauthorized"),
        (b"<html>The bearer token included in the request is invalid</html>", "auth"),
        (b'{"message": {"nested": 1}, "reason": 3, "__type": []}', "unauthorized"),
        (b'{"message": "' + b"x" * verdict.MAX_TEXT + b' temporarily is suspended"}', "unauthorized"),
    ],
)
def test_bodies_of_any_kind(body, kind):
    """Bodies that are no error object are read as text; an empty one leaves the status."""
    assert classify(403, Headers(), body).kind.name == kind


@settings(max_examples=75)
@given(
    status=st.integers(100, 599),
    body=st.binary() | st.sampled_from([_body(*case[1:4]) for case in CASES]),
    after=st.text() | st.integers().map(str),
    date=st.text(),
)
def test_it_never_raises(status, body, after, date):
    """Whatever comes, there is a finding, with an error for the client and a bounded wait."""
    finding = classify(status, Headers([("retry-after", after), ("date", date)]), body)
    assert finding.kind in Kind
    assert isinstance(finding.error(), KimiMitmError)
    assert finding.retry_after is None or 0 <= finding.retry_after <= verdict.MAX_RETRY_AFTER


@pytest.mark.parametrize(
    ("after", "date", "seconds"),
    [
        ("30", None, 30.0),
        (" 0 ", None, 0.0),
        ("999999999", None, verdict.MAX_RETRY_AFTER),
        ("-5", None, None),
        ("1.5", None, None),
        ("soon", None, None),
        (None, None, None),
        ("Wed, 21 Oct 2026 07:28:30 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 30.0),
        ("Wed, 21 Oct 2026 07:27:30 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2099 07:28:30 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", verdict.MAX_RETRY_AFTER),
        ("Wed, 21 Oct 2026 07:28:30 GMT", None, None),
        ("Wed, 21 Oct 2026 07:28:30 GMT", "Wed, 21 Oct 2026 07:28:00 -0000", None),
    ],
)
def test_retry_after(after, date, seconds):
    """Retry-After counts in seconds, or from the answer's own date."""
    pairs = [("Retry-After", after), ("Date", date)]
    assert classify(429, Headers((name, value) for name, value in pairs if value), b"").retry_after == seconds


ACTIONS = {
    Kind.profile_required: (Action.heal, 400, "kiro_profile_required"),
    Kind.context: (Action.fail, 400, "context_length_exceeded"),
    Kind.model: (Action.listed, 404, "model_not_found"),
    Kind.invalid: (Action.fail, 400, "kiro_invalid_request"),
    Kind.image: (Action.fail, 400, "kiro_image_unsupported"),
    Kind.quota: (Action.switch, 429, "insufficient_quota"),
    Kind.suspended: (Action.switch, 403, "kiro_account_suspended"),
    Kind.auth: (Action.refresh, 401, "kiro_token_rejected"),
    Kind.unauthorized: (Action.heal, 403, "kiro_not_authorized"),
    Kind.feature: (Action.fail, 403, "kiro_feature_unsupported"),
    Kind.capacity: (Action.retry, 503, "overloaded"),
    Kind.rate: (Action.switch, 429, "rate_limit_exceeded"),
    Kind.endpoint: (Action.heal, 502, "kiro_endpoint_unsupported"),
    Kind.transient: (Action.retry, 502, "kiro_unavailable"),
    Kind.unknown: (Action.fail, 502, "kiro_unknown_answer"),
}


@pytest.mark.parametrize("kind", list(Kind))
def test_what_to_do(kind):
    """Each kind has its action, and an error for the client with its status and code."""
    finding = Finding(kind, Failure("FakeException", "Fake words."))
    error = finding.error()
    assert (finding.action, error.status, error.code) == ACTIONS[kind]
    assert "Fake words" in str(error)
    assert error.failure is finding.failure


@pytest.mark.parametrize("kind", list(Kind))
def test_final_errors_do_not_make_clients_ask_again(kind):
    """Advice of final errors has no word that opencode takes for a passing fault; that of passing ones has."""
    error = Finding(kind, Failure("FakeException")).error()
    assert error.hint.endswith(".")
    assert bool(RETRY_WORDS.search(error.hint)) == error.retryable


@pytest.mark.parametrize(
    ("kind", "pauses"), [(Kind.capacity, (1, 2, 4)), (Kind.transient, (1, 2)), (Kind.rate, ()), (Kind.invalid, ())]
)
def test_pauses(kind, pauses):
    """Only faults that are not the account's are tried again on it, a bounded number of times."""
    assert Finding(kind, Failure("")).pauses == pauses


@pytest.mark.parametrize(
    ("reason", "label"),
    [("USER_REQUEST_RATE_EXCEEDED", "USER_REQUEST_RATE_EXCEEDED"), (None, "rate_limited"), ("a b\n", "rate_limited")],
)
def test_label(reason, label):
    """An account's last error is the service's reason code, or our word; never a sentence."""
    assert Finding(Kind.rate, Failure("X", "secret words", reason)).label == label


@pytest.mark.parametrize(
    ("reason", "daily"), [("DAILY_REQUEST_COUNT", True), ("MONTHLY_REQUEST_COUNT", False), (None, False)]
)
def test_daily(reason, daily):
    """A quota of the day is told from one of the month."""
    assert Finding(Kind.quota, Failure("X", "", reason)).daily is daily


@pytest.mark.parametrize(
    ("text", "suspended"),
    [
        (SUSPENDED, True),
        ("We've locked your account", True),
        ("the account has been suspended", True),
        ("hello", False),
    ],
)
def test_suspension_in_plain_words(text, suspended):
    """The service has said it without a reason code."""
    found = classify(403, Headers(), json.dumps({"__type": "x#FakeException", "message": text}).encode())
    assert (found.kind is Kind.suspended) is suspended


def test_transport_faults_pass():
    """An attempt without an answer is a passing fault."""
    finding = verdict.transport("connection refused")
    assert (finding.kind, finding.action) == (Kind.transient, Action.retry)


def test_explain_is_for_the_converter():
    """Failures within an answer become the same errors."""
    assert verdict.explain(Failure("ThrottlingException", "x", "MONTHLY_REQUEST_COUNT")).code == "insufficient_quota"


def test_errors_of_the_whole_pool():
    """They list what is wrong with each account."""
    passing = AllUnavailable(30, ("a: rate_limited, 30 s", "b: suspended"))
    assert (passing.status, passing.retry_after, passing.retryable) == (429, 30, True)
    assert "a: rate_limited, 30 s; b: suspended." in str(passing)
    assert NoneUsable(()).sentence.startswith("No Kiro account. Run")
    assert "b: suspended." in str(NoneUsable(("b: suspended",)))


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("MONTHLY_REQUEST_COUNT", Kind.quota),
        ("quota_exhausted", Kind.quota),
        ("rate_limited", Kind.rate),
        ("NEW", None),
        ("", None),
        (None, None),
    ],
)
def test_kind_of_a_label(label, kind):
    """A stored label leads back to its kind where it is one of ours."""
    assert verdict.kind_of(label) == kind


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00\x00\x00\x10", b"\x00" * 16, bytes.fromhex("ffffffff00000000") + b"\x0b\x1d\xd5\x98"],
    ids=["nothing", "cut", "damaged", "not-a-frame"],
)
def test_broken_streams_are_tried_again(data):
    """What the converter finds in a stream that is broken from its first frame on is a passing fault."""
    failure = Opening().look(data, ended=True).failure
    assert classify_exception(failure.type, failure.message, failure.reason).action is Action.retry
