"""The whole way: bytes of Kiro in, bytes for an OpenAI client out."""

import json
import logging
from itertools import pairwise

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.errors import UpstreamError
from kimi_core.exchange import Story
from kimi_core.kiro.answer import AnswerOptions
from kimi_core.kiro.converter import ChatStream, collect
from kimi_core.kiro.events import Failure
from kimi_core.kiro.failures import AnswerCut, AnswerFailed
from kimi_core.kiro.opening import MAX_ERROR, Opening, Peek
from kimi_core.wire.chat_chunks import ChunkWriter, Completion
from kimi_core.wire.eventstream import StreamTruncated, encode
from kimi_core.wire.eventstream_headers import FrameDamaged
from kimi_core.wire.sse import events
from tests.kiro.kiro_frames import END, INITIAL, call, event, exception, text, thought, tool
from tests.wire.openai_reader import accumulated, chunks

HEAD = {"completion_id": "chatcmpl-1", "model": "m", "created": 1}
THROTTLED = b'{"__type":"x#ThrottlingException","message":"slow down","reason":"TOO_MANY"}'
ANSWER = INITIAL + thought(text="hm") + text("Hel") + text("lo") + call("t", "read", '{"pa', 'th":1}') + END


def stream(*, story=None, on_end=None, usage=True, **options):
    """Return a converter."""
    writer = ChunkWriter(**HEAD, usage=usage)
    return ChatStream(writer, AnswerOptions(**options), story or Story("kiro"), on_end)


def convert(*data, **options):
    """Return what leaves a converter."""
    convert_one = stream(**options)
    return b"".join([*(convert_one.feed(piece) for piece in data), convert_one.finish()])


def whole(body, *, story=None, on_end=None, **options):
    """Return the collected answer."""
    return collect(body, Completion(**HEAD), AnswerOptions(**options), story or Story("kiro"), on_end=on_end)


def cut(data, places):
    """Return *data* cut at *places*."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def contents(body):
    """Return the text of a stream."""
    data = [json.loads(one.data) for one in events(body) if one.data != "[DONE]"]
    deltas = [choice["delta"] for chunk in data for choice in chunk.get("choices", ())]
    return "".join(delta.get("content") or "" for delta in deltas)


def error_of(body):
    """Return the error object that ends a stream."""
    last = list(events(body))[-1].data
    return json.loads(last)["error"]


def test_a_whole_answer():
    """The SDK accumulates reasoning, text, calls and usage."""
    story = Story("kiro", facts={"model": "claude"})
    completion = accumulated(convert(ANSWER, story=story, window=1_000_000))
    message = completion.choices[0].message
    assert (message.reasoning_content, message.content) == ("hm", "Hello")
    assert [(c.id, c.function.name, c.function.arguments) for c in message.tool_calls] == [("t", "read", '{"path":1}')]
    assert completion.choices[0].finish_reason == "tool_calls"
    assert completion.usage.total_tokens == 15_000
    assert completion.usage.credits_used == 0.073
    assert story.facts == {
        "model": "claude",
        "answered by": "fake-model",
        "in": 14_995,
        "out": 5,
        "counts": "estimated",
        "credits": 0.073,
        "finish": "tool_calls",
    }


def test_facts_of_exact_counts():
    """Exact counts, Kiro's reason and unknown names are told; the model asked for is not told twice."""
    story = Story("kiro", facts={"model": "fake-model"})
    counts = {"uncachedInputTokens": 1, "outputTokens": 2, "cacheReadInputTokens": 3}
    convert(
        text("x") + event("newEvent") + event("metadataEvent", stopReason="END_TURN", tokenUsage=counts), story=story
    )
    assert story.facts == {
        "model": "fake-model",
        "in": 4,
        "cached": 3,
        "out": 2,
        "finish": "stop",
        "stop": "END_TURN",
        "unknown events": "newEvent",
    }


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        pytest.param(text("half"), "kiro_answer_cut", "half", id="no completion signal"),
        pytest.param(text("half") + ANSWER[:50], "stream_truncated", "half", id="end inside a frame"),
        pytest.param(text("half") + b"\0" * 20, "stream_damaged", "half", id="damage"),
        pytest.param(text("half") + exception("InternalServerException"), "kiro_answer_failed", "half", id="exception"),
        pytest.param(
            text("half") + tool("t", "ls", input="{") + END, "kiro_tool_call_broken", "half", id="half a call"
        ),
        pytest.param(exception("X", message="Input is too long."), "context_length_exceeded", "", id="overflow"),
        pytest.param(THROTTLED, "kiro_answer_failed", "", id="JSON"),
        pytest.param(b"{" + b"x" * 200_000, "kiro_answer_failed", "", id="long no JSON"),
        pytest.param(b"<html>", "stream_truncated", "", id="HTML"),
        pytest.param(b"<html><body>", "stream_damaged", "", id="more HTML"),
        pytest.param(b"", "kiro_answer_cut", "", id="nothing"),
    ],
)
def test_errors_in_the_stream(body, code, said):
    """A stream that goes wrong ends in an error event: no finish reason, no ``[DONE]``; the SDK raises."""
    story = Story("kiro")
    out = convert(body, story=story)
    assert (error_of(out)["code"], contents(out), story.facts["error"]) == (code, said, code)
    assert b'"finish_reason":"' not in out
    assert b"[DONE]" not in out
    with pytest.raises(openai.APIError):
        chunks(out)


def test_errors_of_the_line():
    """Held text and then the proxy's error; nothing after an end, and no second error."""
    converter_ = stream(stop=("STOP",))
    out = converter_.feed(text("one ST")) + converter_.fail(UpstreamError("Silence."))
    assert contents(out) == "one ST"
    assert error_of(out)["message"] == "Silence."
    assert converter_.ended
    assert converter_.feed(text("more")) + converter_.finish() + converter_.fail(UpstreamError("x")) == b""


def test_failing_after_the_end_says_nothing():
    """A line that breaks after ``[DONE]`` breaks nothing for the client."""
    converter_ = stream(stop=("STOP",))
    assert converter_.feed(text("STOP")).endswith(b"[DONE]\n\n")
    assert converter_.ended
    assert converter_.feed(b"\0" * 20) + converter_.fail(UpstreamError("x")) == b""


def test_facts_are_updated_after_a_local_end():
    """Where a stop sequence ends the answer, the service's numbers still replace the estimate."""
    story = Story("kiro")
    converter_ = stream(story=story, stop=("STOP",), prompt_tokens=7)
    converter_.feed(text("Hello STOP"))
    assert (story.facts["in"], story.facts["counts"]) == (7, "estimated")
    converter_.feed(event("metadataEvent", tokenUsage={"uncachedInputTokens": 1, "outputTokens": 2}))
    assert (story.facts["in"], story.facts["out"]) == (1, 2)
    assert "counts" not in story.facts


def test_on_end_gets_what_is_to_be_remembered():
    """The reasoning and the calls of a good answer are handed over once, before its last bytes are out."""
    got = []
    frames = thought(text="hm", signature="sig") + thought(redactedContent="QQ==") + call("t", "ls") + END
    converter_ = stream(on_end=got.append)
    converter_.feed(frames)
    assert got == []
    converter_.finish()
    converter_.fail(UpstreamError("x"))
    (answer,) = got
    assert (answer.thoughts.text, answer.thoughts.signature, answer.thoughts.redacted) == ("hm", "sig", ("QQ==",))
    assert answer.calls.ids == ["t"]


def test_on_end_is_not_called_for_a_failed_answer():
    """Nothing is remembered of half a turn."""
    got = []
    convert(thought(text="hm"), on_end=got.append)
    assert got == []


def test_total(caplog):
    """A fault of our own ends the stream with an error event; the log tells where, and nothing of the answer."""

    def broken(text):
        raise RuntimeError(text)

    converter_ = stream(count=broken)
    with caplog.at_level(logging.ERROR):
        out = converter_.feed(text("private words"))
        assert error_of(out)["code"] == "kiro_answer_failed"
        assert converter_.feed(ANSWER) + converter_.finish() == b""
        assert converter_.ended
        reply, error, failure = whole(text("private words"), count=broken)
    assert (reply.status, error.code, failure) == (502, "kiro_answer_failed", None)
    assert "RuntimeError" in caplog.text
    assert "in broken" in caplog.text
    assert "private" not in caplog.text


def test_collected():
    """A whole answer is one object under 200."""
    got, story = [], Story("kiro")
    reply, error, failure = whole(ANSWER, story=story, on_end=got.append)
    assert (reply.status, error, failure) == (200, None, None)
    assert reply.headers.get("content-type") == "application/json"
    choice = json.loads(reply.body)["choices"][0]
    assert choice["message"]["content"] == "Hello"
    assert choice["finish_reason"] == story.facts["finish"] == "tool_calls"
    assert len(got) == 1


@pytest.mark.parametrize(
    ("body", "status", "kind", "failure"),
    [
        pytest.param(text("half"), 502, AnswerCut, None, id="cut"),
        pytest.param(text("half") + b"\1", 502, StreamTruncated, None, id="truncated"),
        pytest.param(b"\0" * 12, 502, FrameDamaged, None, id="damaged"),
        pytest.param(
            exception("X", message="Input is too long."),
            400,
            AnswerFailed,
            Failure("X", "Input is too long."),
            id="overflow",
        ),
        pytest.param(THROTTLED, 502, AnswerFailed, Failure("ThrottlingException", "slow down", "TOO_MANY"), id="JSON"),
    ],
)
def test_collected_failures(body, status, kind, failure):
    """A failed answer is an error object under the error's status, and the failure for whoever judges it."""
    collected = whole(body)
    assert collected.reply.status == status
    assert isinstance(collected.error, kind)
    assert collected.failure == failure
    assert json.loads(collected.reply.body)["error"]["code"] == collected.error.code


@pytest.mark.parametrize(
    ("data", "ended", "expected"),
    [
        pytest.param(b"", False, Peek(None), id="nothing"),
        pytest.param(INITIAL, False, Peek(None), id="initial response"),
        pytest.param(INITIAL + text("") + event("newEvent"), False, Peek(None), id="nothing to see"),
        pytest.param(INITIAL + text("x")[:-1], False, Peek(None), id="half a frame"),
        pytest.param(INITIAL + text("x"), False, Peek(fine=True), id="text"),
        pytest.param(tool("t", "ls"), False, Peek(fine=True), id="call"),
        pytest.param(thought(text="x"), False, Peek(fine=True), id="thought"),
        pytest.param(END, False, Peek(fine=True), id="an empty answer"),
        pytest.param(exception("X", message="m"), False, Peek(False, Failure("X", "m")), id="exception"),
        pytest.param(INITIAL + exception("X"), False, Peek(False, Failure("X")), id="second frame"),
        pytest.param(text("x") + exception("X"), True, Peek(fine=True), id="too late"),
        pytest.param(THROTTLED[:20], False, Peek(None), id="half JSON"),
        pytest.param(THROTTLED, False, Peek(False, Failure("ThrottlingException", "slow down", "TOO_MANY")), id="JSON"),
        pytest.param(b"{no", True, Peek(False, Failure("UnmodelledError", "{no")), id="no JSON"),
        pytest.param(
            INITIAL, True, Peek(False, Failure("AnswerCut", "The answer ended before it had begun.")), id="no more"
        ),
        pytest.param(
            INITIAL + b"\0",
            True,
            Peek(False, Failure("StreamTruncated", "An event stream ended after 1 of 16 bytes of a frame.")),
            id="truncated",
        ),
        pytest.param(event("newEvent", x="y" * 300_000), False, Peek(fine=True), id="enough is enough"),
    ],
)
def test_first_failure(data, ended, expected):
    """The first frame that shows anything decides; one that fails can still be tried elsewhere."""
    assert Opening().look(data, ended=ended) == expected


def test_first_failure_of_damage():
    """An answer that is damaged from its start has failed, with the numbers of the damage."""
    peek = Opening().look(b"\0" * 12)
    assert (peek.fine, peek.failure.type) == (False, "FrameDamaged")
    assert "0x00000000" in peek.failure.message


def test_first_failure_of_a_long_document():
    """A document without an end is not waited for."""
    assert Opening().look(b"{" * (MAX_ERROR + 1)).fine is False


FRAMES = st.one_of(
    st.text(max_size=8).map(text),
    st.text(st.characters(codec=None, categories=["Cs", "Ll"]), max_size=4).map(text),
    st.text(max_size=4).map(lambda words: thought(text=words)),
    st.sampled_from(
        [
            INITIAL,
            END,
            text("<thinking>"),
            text("</thinking>STOP"),
            text("```\n"),
            tool("t", "ls"),
            tool("t", "ls", input={"a": 1}),
            tool("u", "rm", input='{"b":'),
            tool("u", "rm", input="2}"),
            tool(stop=True),
            event("newEvent"),
            event("assistantResponseEvent", b"junk"),
            event("metadataEvent", stopReason="END_TURN"),
            exception("X"),
            encode({":message-type": "error"}),
        ]
    ),
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "stop": st.just(("STOP", "ab")),
        "max_tokens": st.integers(1, 5),
        "thinking_tags": st.booleans(),
        "bare_json": st.booleans(),
    },
)


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 3000), max_size=8), OPTIONS)
@settings(max_examples=100, deadline=None)
def test_any_chunks(frames, places, options):
    """The same bytes come out however they were cut, and they end in exactly one way."""
    data = b"".join(frames)
    out = convert(data, **options)
    assert convert(*cut(data, places), **options) == out
    assert out.count(b"data: [DONE]\n\n") + out.count(b'data: {"error"') == 1
    assert list(events(out))[-1].data == "[DONE]" or "error" in json.loads(list(events(out))[-1].data)


@given(
    st.lists(FRAMES, max_size=8),
    st.lists(st.integers(0, 3000), max_size=5),
    st.lists(st.integers(0, 3000), max_size=3),
    st.integers(0, 40),
)
@settings(max_examples=150, deadline=None)
def test_what_was_looked_at_is_read_once(frames, looks, places, lost):
    """An answer that was looked at, however often and far, becomes the same bytes as one that was not."""
    data = b"".join(frames)
    data = data[: max(0, len(data) - lost)]
    opening = Opening()
    pieces, seen = cut(data, looks), b""
    for piece in pieces:
        seen += piece
        if opening.look(seen).fine is not None:
            break
    looked = ChatStream(ChunkWriter(**HEAD, usage=True), AnswerOptions(), Story("kiro"), None, opening)
    fed = [seen, *cut(data[len(seen) :], places)] if not lost % 2 else cut(data, places)
    assert b"".join([*map(looked.feed, fed), looked.finish()]) == convert(data)


def test_a_look_at_other_bytes_is_forgotten():
    """What is read counts, whatever was looked at, and if nothing is read there was nothing."""
    for looked in (text("x"), text("x")[:9], INITIAL + text("y") + b"junk"):
        for data in ([text("other"), END], [b"", END], []):
            opening = Opening()
            opening.look(looked)
            converter = ChatStream(ChunkWriter(**HEAD, usage=True), AnswerOptions(), Story("kiro"), None, opening)
            assert b"".join([*map(converter.feed, data), converter.finish()]) == convert(*data)


def test_a_verdict_on_a_beginning_stands():
    """However often it is asked for."""
    for data in (text("x"), exception("X"), THROTTLED, b"\0" * 12):
        opening = Opening()
        said = opening.look(data)
        assert said.fine is not None
        assert opening.look(data + b"more", ended=True) == said


@given(
    st.lists(FRAMES, max_size=6),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 255)), max_size=3),
    st.lists(st.integers(0, 3000), max_size=4),
    st.integers(0, 40),
)
@settings(max_examples=100, deadline=None)
def test_damage_never_raises(frames, flips, places, lost):
    """Whatever comes, there is an answer or an error event, and the same one in any chunks."""
    data = bytearray(b"".join(frames))
    for place, mask in flips if data else ():
        data[place % len(data)] ^= mask
    data = bytes(data[: max(0, len(data) - lost)])
    out = convert(data)
    assert convert(*cut(data, places)) == out
    assert out
    assert whole(data).reply.body
    assert Opening().look(data, ended=True).fine in {True, False}


@given(st.lists(st.text(max_size=10), max_size=10), st.booleans())
@settings(max_examples=75, deadline=None)
def test_text_out_is_text_in(deltas, complete):
    """Every character of every delta arrives, repeated ones too, also where the end is missing."""
    frames = b"".join(map(text, deltas)) + (END if complete else b"")
    assert contents(convert(frames)) == "".join(deltas)
