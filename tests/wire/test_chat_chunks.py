"""Parts as the OpenAI dialect, read by the OpenAI SDK."""

import json

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.errors import UpstreamError
from kimi_core.wire.chat_chunks import ChunkWriter, Completion, usage_object
from kimi_core.wire.parts import (
    Credits,
    End,
    Failed,
    ReasoningDelta,
    TextDelta,
    ToolArguments,
    ToolCallEnd,
    ToolCallStart,
    Usage,
)
from kimi_core.wire.sse import events
from tests.wire.openai_reader import accumulated, chunks, client

HEAD = {"completion_id": "chatcmpl-1", "model": "claude", "created": 1_700_000_000}
CALL = [ToolCallStart(0, "t1", "ls"), ToolArguments(0, '{"a":'), ToolArguments(0, "1}"), ToolCallEnd(0)]
SECOND = [ToolCallStart(1, "t2", "rm"), ToolArguments(1, "{}"), ToolCallEnd(1)]
USAGE = Usage(prompt=10, completion=5, cached=4)


def stream(*parts, usage=False):
    """Return the bytes for *parts*."""
    writer = ChunkWriter(**HEAD, usage=usage)
    return b"".join(map(writer.write, parts))


def collected(*parts):
    """Return the completion for *parts*."""
    completion = Completion(**HEAD)
    for part in parts:
        completion.take(part)
    return completion


def documents(body):
    """Return the JSON values of a stream, and check that ``[DONE]`` ends it."""
    *data, last = [event.data for event in events(body)]
    assert last == "[DONE]"
    return [json.loads(one) for one in data]


def test_text():
    """The role comes first and once, then the deltas, then the finish reason in a chunk of its own."""
    body = stream(TextDelta("He"), TextDelta("llo"), USAGE, End("stop"))
    assert [(chunk["choices"][0]["delta"], chunk["choices"][0]["finish_reason"]) for chunk in documents(body)] == [
        ({"role": "assistant", "content": ""}, None),
        ({"content": "He"}, None),
        ({"content": "llo"}, None),
        ({}, "stop"),
    ]
    assert all("usage" not in chunk for chunk in documents(body))
    assert {(c["id"], c["object"], c["created"], c["model"]) for c in documents(body)} == {
        ("chatcmpl-1", "chat.completion.chunk", 1_700_000_000, "claude")
    }


def test_tool_calls():
    """A call's id and name come once, its arguments under its index as they come."""
    deltas = [chunk["choices"][0]["delta"] for chunk in documents(stream(*CALL, *SECOND, End("tool_calls")))]
    assert deltas[0] == {"role": "assistant", "content": None}
    assert [delta["tool_calls"] for delta in deltas[1:-1]] == [
        [{"index": 0, "id": "t1", "type": "function", "function": {"name": "ls", "arguments": ""}}],
        [{"index": 0, "function": {"arguments": '{"a":'}}],
        [{"index": 0, "function": {"arguments": "1}"}}],
        [{"index": 1, "id": "t2", "type": "function", "function": {"name": "rm", "arguments": ""}}],
        [{"index": 1, "function": {"arguments": "{}"}}],
    ]


def test_usage_chunk():
    """Where it was asked for, usage is null in every chunk and comes last, in one without choices."""
    *others, last = documents(stream(TextDelta("x"), Credits(0.5), USAGE, End("stop"), usage=True))
    assert [chunk["usage"] for chunk in others] == [None] * 3
    assert last["choices"] == []
    assert last["usage"] == usage_object(USAGE, Credits(0.5))


@pytest.mark.parametrize(
    ("usage", "told", "expected"),
    [
        (Usage(1, 2), None, {"prompt_tokens_details": {"cached_tokens": 0}}),
        (
            Usage(9, 2, 3, 4, estimated=True),
            Credits(0.1),
            {
                "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 4},
                "estimated": True,
                "credits_used": 0.1,
            },
        ),
    ],
)
def test_usage_object(usage, told, expected):
    """Counts, the cached part, and whether they are estimates."""
    counts = {"prompt_tokens": usage.prompt, "completion_tokens": 2, "total_tokens": usage.prompt + 2}
    assert usage_object(usage, told) == counts | expected


def test_empty_answer():
    """An answer without any content still says whose it is."""
    chunk, finish = documents(stream(End("stop")))
    assert chunk["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert accumulated(stream(USAGE, End("stop"), usage=True)).choices[0].message.content == ""


def test_thoughts_without_text_are_not_shown():
    """Signatures and redacted blocks have no place in this dialect."""
    assert stream(ReasoningDelta(signature="s", redacted="r")) == b""


ANSWERS = {
    "text": [TextDelta("Hé\u2028llo "), TextDelta('"😀"\n')],
    "reasoning": [ReasoningDelta("h"), ReasoningDelta("m", "sig"), TextDelta("Hi")],
    "tools": [TextDelta("I look."), *CALL, *SECOND],
    "only tools": [*CALL],
    "text inside a call": [*CALL[:2], TextDelta("x"), *CALL[2:]],
    "nothing": [],
}


@pytest.mark.parametrize("name", ANSWERS)
def test_sdk_reads_stream_and_object_alike(name):
    """The SDK accumulates from the stream the message that the object has."""
    reason = "tool_calls" if "tool" in name or "call" in name else "stop"
    parts = [*ANSWERS[name], Credits(0.25), USAGE, End(reason)]
    streamed = accumulated(stream(*parts, usage=True))
    whole = client(collected(*parts).body(), kind="application/json").chat.completions.create(model="m", messages=[])
    for completion in (streamed, whole):
        message = completion.choices[0].message
        text = "".join(part.text for part in parts if isinstance(part, TextDelta))
        assert (message.content or "") == text
        assert getattr(message, "reasoning_content", "") == ("hm" if name == "reasoning" else "")
        calls = [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or []]
        assert calls == [("t1", "ls", '{"a":1}'), ("t2", "rm", "{}")][: len(calls)]
        assert len(calls) == sum(isinstance(part, ToolCallStart) for part in parts)
        assert completion.choices[0].finish_reason == reason
        assert completion.usage.total_tokens == 15
        assert completion.usage.prompt_tokens_details.cached_tokens == 4
        assert completion.usage.credits_used == 0.25
    assert whole.id == streamed.id == "chatcmpl-1"
    assert whole.object == "chat.completion"
    if name == "only tools":
        assert whole.choices[0].message.content is None


def test_sdk_raises_on_a_failure():
    """A cut stream ends in an error event: no finish reason, no ``[DONE]``, and the SDK raises."""
    body = stream(TextDelta("half"), Failed(UpstreamError("The line broke.")))
    assert b"[DONE]" not in body
    assert b'"finish_reason":"' not in body
    with pytest.raises(openai.APIError, match="The line broke") as caught:
        chunks(body)
    assert caught.value.code == "upstream_error"


def test_collected_failure():
    """A failed answer is an error object, whatever had come before."""
    completion = collected(TextDelta("half"), Failed(UpstreamError("The line broke.")))
    assert completion.error.status == 502
    assert json.loads(completion.body())["error"]["code"] == "upstream_error"


def test_completion_without_usage():
    """Usage is left out where nothing is known of it."""
    assert "usage" not in json.loads(collected(TextDelta("x"), End("stop")).body())


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), max_size=5))
@settings(max_examples=50, deadline=None)
def test_any_text_survives(pieces):
    """Any text comes out of the stream and the object as it went in."""
    parts = [*map(TextDelta, pieces), End("stop")]
    deltas = [chunk["choices"][0]["delta"].get("content", "") for chunk in documents(stream(*parts))]
    assert "".join(deltas) == "".join(pieces)
    assert json.loads(collected(*parts).body())["choices"][0]["message"]["content"] == "".join(pieces)
