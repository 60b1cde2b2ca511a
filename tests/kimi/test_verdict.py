import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.kimi import verdict
from kimi_core.kimi.verdict import Finding, Reason, classify
from tests.wire.retry_words import RETRY_WORDS

TERMINATED = "access_terminated_error"
CASES = [
    # status, message, type, reason
    (401, "The API Key appears to be invalid or may have expired. Please verify your credentials.", None, "auth"),
    (401, "Invalid Authentication", "invalid_authentication_error", "auth"),
    (401, "x", "authentication_error", "auth"),
    (401, "x", "permission_error", "permission"),
    (401, "Your current subscription does not have access to kimi-for-coding-highspeed", None, "entitlement"),
    (402, "We're unable to verify your membership benefits at this time.", None, "membership"),
    (402, "payment required", None, "membership"),
    (403, "Kimi For Coding is currently only available for Coding Agents such as Kimi CLI.", TERMINATED, "identity"),
    (403, "You've reached your usage limit for this billing cycle. Your quota will be refreshed.", TERMINATED, "quota"),
    (403, "You have reached your weekly usage limit", TERMINATED, "quota"),
    (403, "You have reached your 5-hour limit", TERMINATED, "quota"),
    (403, "Your monthly quota is used up", TERMINATED, "quota"),
    (403, "5 hour usage limit exceeded", "permission_error", "quota"),
    (401, "You've reached your usage limit for this billing cycle.", TERMINATED, "quota"),
    (403, "Access terminated.", TERMINATED, "blocked"),
    (403, "Access terminated because of something new", TERMINATED, "permission"),
    (403, "no", "permission_error", "permission"),
    (403, "The API Key appears to be invalid or may have expired.", "invalid_authentication_error", "permission"),
    (429, "The engine is currently overloaded, please try again later", "engine_overloaded_error", "overload"),
    (429, "x", "engine_overloaded_error", "overload"),
    (429, "We're receiving too many requests at the moment.", "rate_limit_reached_error", "concurrency"),
    (429, "Your account reached max organization concurrency: 3", None, "concurrency"),
    (429, "x", "rate_limit_reached_error", "concurrency"),
    (429, "x", None, "concurrency"),
    (429, "You've reached your usage limit for this period.", "rate_limit_reached_error", "period_limit"),
    (429, "x", "exceeded_current_quota_error", "billing"),
    (429, "Insufficient balance, please recharge", None, "billing"),
    (429, "You exceeded your current token quota, please check your account", None, "billing"),
    (400, "Invalid request: Your request exceeded model token limit: 262144 (requested: 300000)", None, "context"),
    (400, "total message size 2097999 exceeds limit 2097152", "invalid_request_error", "context"),
    (400, "prompt is too long", "invalid_request_error", "context"),
    (400, "text content is empty", "invalid_request_error", "structure"),
    (
        400,
        "thinking is enabled but reasoning_content is missing in assistant tool call message at index 3",
        None,
        "structure",
    ),
    (400, "tool_call_id  is not found", None, "structure"),
    (400, "At path 'properties.X': type is not defined", None, "structure"),
    (400, "duplicate function name", None, "structure"),
    (400, "function name Bash is duplicated", None, "structure"),
    (400, "unsupported image url", None, "structure"),
    (400, "reasoning_details at position 1 entry 2 must not contain streaming index", None, "structure"),
    (400, "tools.function.parameters is not a valid moonshot flavored json schema", None, "structure"),
    (400, "The request was rejected because it was considered high risk", "content_filter", "content_filter"),
    (400, "x", "content_filter", "content_filter"),
    (400, "something new", "invalid_request_error", "structure"),
    (422, "something new", None, "structure"),
    (404, "Not found the model k9 or Permission denied", "resource_not_found_error", "model"),
    (404, "method not found", None, "not_found"),
    (404, "x", "not_found_error", "not_found"),
    (405, "x", None, "not_found"),
    (413, "Request exceeds the maximum size", "request_too_large", "too_large"),
    (413, "x", None, "too_large"),
    (400, "x", "request_too_large", "too_large"),
    (408, "x", None, "transient"),
    (409, "x", None, "transient"),
    (500, "x", "api_error", "transient"),
    (502, "x", None, "transient"),
    (503, "x", None, "transient"),
    (504, "x", None, "transient"),
    (524, "x", None, "transient"),
    (529, "Overloaded", "overloaded_error", "overload"),
    (529, "x", None, "overload"),
    (418, "x", None, "unknown"),
    (200, "The engine is currently overloaded", "engine_overloaded_error", "overload"),
    (200, "x", "server_error", "transient"),
    (200, "Invalid Authentication", "invalid_authentication_error", "unknown"),
]


def _openai(message, kind):
    return {"error": {"message": message, "type": kind}}


def _openai_code(message, kind):
    return {"error": {"message": message, "code": kind, "type": None}}


def _anthropic(message, kind):
    return {"type": "error", "error": {"type": kind, "message": message}}


@pytest.mark.parametrize("dialect", [_openai, _openai_code, _anthropic])
@pytest.mark.parametrize(("status", "message", "kind", "reason"), CASES)
def test_reason(dialect, status, message, kind, reason):
    """Each known wording has its reason in either dialect, the message before the type, the type before the status."""
    assert classify(status, json.dumps(dialect(message, kind)).encode()).reason == reason


def test_every_row_of_the_table_decides_something():
    """No row stands behind another one that always takes its cases."""
    deciding = set()
    for status, message, kind, _ in CASES:
        kinds = (kind,) if kind else ()
        deciding.add(next((row for row in verdict.TABLE if row.holds(status, message, kinds)), None))
    assert set(verdict.TABLE) <= deciding


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (401, b"", "auth"),
        (401, b"null", "auth"),
        (401, b"[1, 2]", "auth"),
        (401, b"{}", "auth"),
        (403, b"", "permission"),
        (403, b"<html><body>You've reached your usage limit for this billing cycle</body></html>", "quota"),
        (403, b"Access terminated.\n", "blocked"),
        (502, b"<html><h1>502 Bad Gateway</h1></html>", "transient"),
        (502, b"\xff\xfe\x00", "transient"),
        (400, b'{"error": "text content is empty"}', "structure"),
        (400, b'{"error": "invalid_grant", "error_description": "unsupported image url"}', "structure"),
        (404, b'{"code": 5, "message": "Not found the model x or Permission denied", "details": []}', "model"),
        (404, b'{"detail": "Not Found"}', "not_found"),
        (401, b'{"error": {"message": {"nested": "x"}, "type": ["y"], "code": 3}}', "auth"),
        (403, b'{"error": {"message": "' + b"x" * verdict.MAX_TEXT + b' membership benefits"}}', "permission"),
    ],
)
def test_bodies_of_any_kind(status, body, reason):
    """Bodies that are no error object are read as text; an empty one leaves the status."""
    assert classify(status, body).reason == reason


@pytest.mark.parametrize("status", sorted({case[0] for case in CASES}))
@settings(max_examples=20)
@given(body=st.binary() | st.sampled_from([case[1].encode() for case in CASES]))
def test_only_a_401_is_ever_refreshed(status, body):
    """Whatever the body says, no status but 401 causes a refresh, and nothing raises."""
    finding = classify(status, body)
    assert isinstance(finding, Finding)
    assert finding.refreshes == (finding.reason == "auth")
    assert status == 401 or not finding.refreshes


@pytest.mark.parametrize("reason", list(Reason))
def test_each_reason_says_what_to_do(reason):
    """A reason is final or passing, with one line of advice; advice of final ones does not make opencode retry."""
    assert (reason in verdict.FINAL) != (reason in verdict.PASSING)
    hint = (verdict.FINAL | verdict.PASSING)[reason]
    assert hint.endswith(".")
    assert "\n" not in hint
    assert bool(RETRY_WORDS.search(hint)) == (reason in verdict.PASSING)


@pytest.mark.parametrize("reason", list(Reason))
def test_quota_reasons(reason):
    """Only reasons that time heals by the plan's own clock look at the usage."""
    assert Finding(reason, "", final=True).quota == (reason in {"quota", "period_limit"})


def test_finality_follows_the_reason():
    """A passing fault is told from a final one."""
    assert not classify(503, b"").final
    assert classify(403, b"").final
