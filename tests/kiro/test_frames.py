"""Frames read as events: every type, and everything that is not what it should be."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.kiro.events import (
    ContextUsage,
    Failure,
    Ignored,
    Metadata,
    Metering,
    Reasoning,
    Stopped,
    Text,
    TokenUsage,
    ToolUse,
    Unknown,
)
from kimi_core.kiro.frames import IGNORED, failure, parse, read_json
from kimi_core.wire.eventstream import Frame

EVENTS = {
    "text": ("assistantResponseEvent", {"content": "Hi", "modelId": "auto"}, Text("Hi", "auto")),
    "empty text": ("assistantResponseEvent", {"content": ""}, Text("")),
    "no text": ("assistantResponseEvent", {}, Text("")),
    "thought": ("reasoningContentEvent", {"text": "hm", "signature": "s"}, Reasoning("hm", "s")),
    "redacted": ("reasoningContentEvent", {"redactedContent": "QQ=="}, Reasoning("", None, "QQ==")),
    "call": ("toolUseEvent", {"toolUseId": "t", "name": "ls"}, ToolUse("t", "ls", None, stop=False)),
    "piece": ("toolUseEvent", {"input": '{"a'}, ToolUse(None, None, '{"a', stop=False)),
    "object": ("toolUseEvent", {"toolUseId": "t", "input": {"a": 1}}, ToolUse("t", None, {"a": 1}, stop=False)),
    "stop": ("toolUseEvent", {"toolUseId": "t", "stop": True}, ToolUse("t", None, None, stop=True)),
    "percentage": ("contextUsageEvent", {"contextUsagePercentage": 12.5}, ContextUsage(12.5)),
    "whole percentage": ("contextUsageEvent", {"contextUsagePercentage": 3}, ContextUsage(3.0)),
    "no percentage": ("contextUsageEvent", {"contextUsagePercentage": "3"}, ContextUsage(None)),
    "negative": ("contextUsageEvent", {"contextUsagePercentage": -1}, ContextUsage(None)),
    "metering": ("meteringEvent", {"usage": 0.073, "unit": "credit"}, Metering(0.073)),
    "other unit": ("meteringEvent", {"usage": True, "unit": "bean"}, Metering(None, "bean")),
    "stop reason": ("metadataEvent", {"stopReason": "END_TURN"}, Metadata("END_TURN")),
    "tokens": (
        "metadataEvent",
        {
            "tokenUsage": {
                "uncachedInputTokens": 1,
                "outputTokens": 2,
                "totalTokens": 10,
                "cacheReadInputTokens": 3,
                "cacheWriteInputTokens": 4,
                "contextUsagePercentage": 5,
            }
        },
        Metadata(None, TokenUsage(1, 2, 10, 3, 4), 5.0),
    ),
    "foolish tokens": ("metadataEvent", {"tokenUsage": {"outputTokens": 1e300}, "stopReason": 1}, Metadata()),
    "metadata percentage": ("metadataEvent", {"contextUsagePercentage": 7, "tokenUsage": 1}, Metadata(None, None, 7.0)),
    "metrics": ("metricsEvent", {"inputTokens": 1, "outputTokens": 2}, Metadata(None, TokenUsage(1, 2))),
    "message stop": ("messageStopEvent", {}, Stopped()),
    "invalid state": (
        "invalidStateEvent",
        {"reason": "INVALID_TASK_ASSIST_PLAN", "message": "no"},
        Failure("InvalidState", "no", "INVALID_TASK_ASSIST_PLAN"),
    ),
    "error member": ("error", {"message": "broken"}, Failure("InternalServerException", "broken")),
    "code references": ("codeReferenceEvent", {"references": []}, Unknown("codeReferenceEvent")),
    "new event": ("n" * 200, {"content": "never shown"}, Unknown("n" * 80)),
    **{name: (name, {"content": "never shown"}, Ignored(name)) for name in sorted(IGNORED)},
}


def frame(payload=b"{}", **headers):
    """Return a frame; header names are given without their colon and with underscores."""
    return Frame({":" + name.replace("_", "-"): value for name, value in headers.items()}, payload)


def text_of(payload):
    """Return the event of a text frame with this payload."""
    return parse(frame(payload, message_type="event", event_type="assistantResponseEvent"))


@pytest.mark.parametrize("name", EVENTS)
def test_events(name):
    """Each event type is read into what is used of it."""
    kind, document, expected = EVENTS[name]
    raw = json.dumps(document).encode()
    assert parse(frame(raw, message_type="event", event_type=kind)) == expected
    assert parse(frame(raw, event_type=kind)) == expected, "a missing message type is an event's"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(
            frame(b'{"message":"slow down","reason":"X"}', message_type="exception", exception_type="Throttling"),
            Failure("Throttling", "slow down", "X"),
            id="exception",
        ),
        pytest.param(
            frame(b'{"__type":"a.b#Name:http://x","Message":"m"}', message_type="exception"),
            Failure("Name", "m"),
            id="exception named in its payload",
        ),
        pytest.param(frame(b"\xff?", message_type="exception"), Failure("UnmodelledError", "\ufffd?"), id="no JSON"),
        pytest.param(
            frame(b"", message_type="error", error_code="500", error_message="m" * 2000),
            Failure("500", "m" * 1000),
            id="error",
        ),
        pytest.param(frame(b"", message_type="error", error_code=5), Failure("UnmodelledError"), id="bare error"),
        pytest.param(
            frame(b""), Failure("MalformedEvent", "A frame says neither what message nor what event it is."), id="bare"
        ),
        pytest.param(
            frame(message_type="event", event_type=b"x"),
            Failure("MalformedEvent", "A frame says neither what message nor what event it is."),
            id="event type is no string",
        ),
        pytest.param(
            frame(message_type="greeting"),
            Failure("MalformedEvent", "A frame has the message type 'greeting'."),
            id="unknown message type",
        ),
        pytest.param(
            frame(message_type=1), Failure("MalformedEvent", "A frame has the message type ''."), id="odd type"
        ),
    ],
)
def test_failures(given, expected):
    """Exceptions, errors and frames that are neither become failures with what they say."""
    assert parse(given) == expected


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("assistantResponseEvent", b"not JSON"),
        ("assistantResponseEvent", b"[]"),
        ("assistantResponseEvent", b'{"content":NaN}'),
        ("assistantResponseEvent", b'{"content":5}'),
        ("assistantResponseEvent", b'{"content":{"content":"nested"}}'),
        ("assistantResponseEvent", b"[" * 100_000),
        ("reasoningContentEvent", b'{"text":5}'),
        ("reasoningContentEvent", b'{"signature":"\\ud83d"}'),
        ("toolUseEvent", b'{"toolUseId":5}'),
        ("toolUseEvent", b'{"toolUseId":"\\ud83d"}'),
        ("toolUseEvent", b'{"toolUseId":"t","input":[1]}'),
    ],
)
def test_malformed_payloads(kind, payload):
    """What the model said is taken whole or not at all."""
    event = parse(frame(payload, message_type="event", event_type=kind))
    assert event == Failure(
        "MalformedEvent", f"The payload of a {kind} of {len(payload)} bytes is not what it should be."
    )


def test_lone_surrogates_come_through():
    """Half of a surrogate pair is legal JSON text, and the next delta may have the other half."""
    assert text_of(b'{"content":"a\\ud83d"}') == Text("a\ud83d")


def test_unpaired_surrogates_in_names_are_replaced():
    """Names and messages can be written into a flow whatever they contain."""
    document = b'{"message":"\\ud83d","reason":"\\udc00"}'
    assert failure(document) == Failure("UnmodelledError", "?", "?")


@given(
    st.dictionaries(
        st.sampled_from(["content", "text", "input", "toolUseId", "name", "stop", "message", "unit"]),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(),
            lambda inner: st.lists(inner, max_size=2),
            max_leaves=3,
        ),
    ),
    st.sampled_from([kind for kind, _, _ in EVENTS.values()]),
    st.binary(max_size=3),
)
@settings(max_examples=100, deadline=None)
def test_total(document, kind, junk):
    """Whatever a payload is, there is an event for it."""
    for payload in (json.dumps(document).encode(), json.dumps(document).encode() + junk, junk):
        parse(frame(payload, message_type="event", event_type=kind))
        parse(frame(payload, message_type="exception", exception_type=kind))


def test_read_json_of_what_is_none():
    """Text that is no JSON has no value."""
    assert read_json("{") is None
