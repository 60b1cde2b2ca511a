import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.errors import UpstreamError
from kimi_core.exchange import Story
from kimi_core.kimi.answer import ChatStream, JsonAnswer, Likeness, MessagesStream
from kimi_core.kimi.memory import ReasoningMemory
from kimi_core.wire import sse

CUT = UpstreamError("The answer broke off.")
DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 900, "completion_tokens": 40, "total_tokens": 940, "cached_tokens": 800}
LIFTED = {**USAGE, "prompt_tokens_details": {"cached_tokens": 800}}


def _data(*chunks):
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)


def _delta(finish=None, **delta):
    return {"id": "c1", "model": "k3", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


LAST = {"id": "c1", "model": "k3", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": USAGE}]}
TOOLS = [
    _delta(role="assistant", content=""),
    _delta(reasoning_content="Let me "),
    _delta(reasoning_content="look."),
    _delta(tool_calls=[{"index": 0, "id": "Shell:0", "function": {"name": "Shell", "arguments": ""}}]),
    _delta(tool_calls=[{"index": 0, "function": {"arguments": '{"command":"ls"}'}}]),
]


def _chat(memory=None):
    story = Story("kimi", facts={"model": "k3"})
    return ChatStream(story, ReasoningMemory() if memory is None else memory), story.facts


def _run(stream, *chunks):
    return b"".join([*map(stream.feed, chunks), stream.finish()])


def _split(data, cuts):
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            '{"choices":[{"usage":{"prompt_tokens":9,"cached_tokens":8}}]}',
            '{"choices":[{"usage":{"prompt_tokens":9,"cached_tokens":8}}],'
            '"usage":{"prompt_tokens":9,"cached_tokens":8,"prompt_tokens_details":{"cached_tokens":8}}}',
        ),
        (
            '{"usage":null, "choices":[{"usage":{"x":1.0}}] } ',
            '{"usage":{"x":1.0}, "choices":[{"usage":{"x":1.0}}] } ',
        ),
        (
            '{"choices":[7,{},{"usage":null},{"usage":{"a":"ž"}}],"b":1E+2,"c":1e400}',
            '{"choices":[7,{},{"usage":null},{"usage":{"a":"ž"}}],"b":1E+2,"c":1e400,"usage":{"a":"ž"}}',
        ),
        (
            '{ "usage" : { "cached_tokens" : 0 } , "choices": [] }',
            '{ "usage" : { "cached_tokens" : 0 ,"prompt_tokens_details":{"cached_tokens":0}} , "choices": [] }',
        ),
        (
            '{"usage":{"cached_tokens":8,"prompt_tokens_details":{"audio_tokens":1,"cached_tokens":null}}}',
            '{"usage":{"cached_tokens":8,"prompt_tokens_details":{"audio_tokens":1,"cached_tokens":8}}}',
        ),
        (
            '{"usage":{"cached_tokens":8,"prompt_tokens_details":null}}',
            '{"usage":{"cached_tokens":8,"prompt_tokens_details":{"cached_tokens":8}}}',
        ),
        ('{"usage":{"cached_tokens":8,"prompt_tokens_details":{"cached_tokens":5}}}', None),
        ('{"usage":{"prompt_tokens_details":{"cached_tokens":5}}}', None),
        ('{"usage":{"cached_tokens":"8"}}', None),
        ('{"usage":{"prompt_tokens":1},"choices":[{"usage":{"prompt_tokens":2}}]}', None),
        ('{"usage":null,"choices":[]}', None),
        ('{"usage":null}', None),
        ('{"choices":[{"usage":{"a":1e400}}]}', None),
        ('["usage"]', None),
        ('{"usage":', None),
        ('{"choices":[{"usage":{"x":NaN}}]}', None),
        ('{"usage":' + "[" * 100_000, None),
    ],
)
def test_lift_usage(before, after):
    """A nested usage is copied to the top, cached_tokens is mirrored, and all other text stays as it was."""
    stream, _ = _chat()
    line = b"data: %b\n\n"
    assert _run(stream, line % before.encode()) == line % (after or before).encode()


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
@pytest.mark.parametrize("done", [b"", DONE])
def test_only_the_chunk_with_the_usage_changes(end, done):
    """A stream leaves byte for byte but for the usage, with any line ends, with or without [DONE]."""
    head = b": hello\n\nevent: x\nid: 7\n" + _data(*TOOLS).replace(b"\n\n", end)
    last = json.dumps(LAST).encode()
    stream, _ = _chat()
    out = _run(stream, head + b"data: " + last + end + done)
    lifted = last[:-1] + b',"usage":' + json.dumps(LIFTED).replace(", ", ",").replace(": ", ":").encode() + b"}"
    assert out == head + b"data: " + lifted + end + done


def test_a_chunk_with_nothing_to_edit_is_the_very_object():
    """On the hot path nothing is copied."""
    stream, _ = _chat()
    for chunk in (_data(_delta(content="Hi")), _data(_delta(content="you")), DONE):
        assert stream.feed(chunk) is chunk


def test_facts():
    """Model, tokens and the finish reason are told; the model only where it is another one."""
    stream, facts = _chat()
    _run(stream, _data(*TOOLS, LAST), DONE)
    assert facts == {"model": "k3", "in": 900, "cached": 800, "out": 40, "finish": "stop"}
    stream, facts = _chat()
    _run(stream, _data({**LAST, "model": "k4"}))
    assert facts["answered by"] == "k4"


@pytest.mark.parametrize("finish", ['"finish_reason":"stop"', '"finish_reason" : "stop"'])
def test_finish_is_seen_in_any_spelling(finish):
    """The cheap look at a chunk does not miss a finish_reason."""
    stream, facts = _chat()
    first = b'data: {"choices":[{"delta":{},"finish_reason":null}]}\n\n'
    _run(stream, first, b'data: {"choices":[{"delta":{},' + finish.encode() + b"}]}\n\n")
    assert facts["finish"] == "stop"


def test_reasoning_is_remembered_before_the_stream_ends():
    """With the finish_reason a turn is complete: what it thought is known before the client can ask again."""
    memory = ReasoningMemory()
    stream, _ = _chat(memory)
    stream.feed(_data(*TOOLS))
    assert memory.recall("Shell:0") is None
    stream.feed(_data(_delta("tool_calls")))
    assert memory.recall("Shell:0") == "Let me look."


def test_reasoning_survives_a_failure_after_the_calls():
    """A stream that breaks after its finish_reason has its reasoning remembered, one that breaks before has not."""
    for finished in (True, False):
        memory = ReasoningMemory()
        stream, _ = _chat(memory)
        stream.feed(_data(*TOOLS, *([_delta("tool_calls")] if finished else [])))
        stream.fail(CUT)
        assert memory.recall("Shell:0") == ("Let me look." if finished else None)


def test_reasoning_of_a_stream_without_finish():
    """A stream that ends without a finish_reason, even within a line, is remembered at its end."""
    memory = ReasoningMemory()
    stream, _ = _chat(memory)
    data = _data(*TOOLS).rstrip()
    assert _run(stream, data) == data
    assert memory.recall("Shell:0") == "Let me look."


def test_an_error_event_of_the_service_passes():
    """An error within the stream passes untouched and is told by its reason."""
    stream, facts = _chat()
    event = _data({"error": {"message": "The engine is currently overloaded", "type": "engine_overloaded_error"}})
    assert _run(stream, _data(TOOLS[0]), event) == _data(TOOLS[0]) + event
    assert facts["error"] == "overload"


@pytest.mark.parametrize("rest", [b"", b'data: {"id": "half', b"data: {}\n", b"data: {}\r", b": comm"])
def test_fail_ends_with_an_error_event(rest):
    """A cut stream ends with an error event of its own, without a finish_reason and without [DONE]."""
    stream, facts = _chat()
    out = stream.feed(_data(*TOOLS) + rest) + stream.fail(CUT)
    events = [json.loads(event.data) for event in sse.events(out)]
    assert events[: len(TOOLS)] == TOOLS
    assert events[-1]["error"]["message"] == "The answer broke off."
    assert events[-1]["error"]["code"] == "upstream_error"
    assert b"[DONE]" not in out
    assert b'"finish_reason": "' not in out
    assert facts["error"] == "upstream_error"


def test_no_error_after_done():
    """A connection that breaks after [DONE] has lost nothing."""
    stream, facts = _chat()
    stream.feed(_data(LAST) + DONE)
    assert stream.fail(CUT) == b""
    assert "error" not in facts


@given(st.integers(0, 5).flatmap(lambda n: st.permutations([*TOOLS, LAST, _delta("stop")]).map(lambda p: p[n:])))
@settings(max_examples=50)
def test_clients_see_the_same_events(chunks):
    """Whatever comes in whatever order, events differ from what was sent in their usage alone."""
    stream, _ = _chat()
    seen = [json.loads(event.data) for event in sse.events(_run(stream, _data(*chunks)))]
    for chunk in seen:
        chunk.pop("usage", None)
    assert seen == chunks


PIECES = st.sampled_from(
    [
        *(_data(chunk) for chunk in TOOLS),
        _data(LAST),
        _data(LAST).replace(b"\n", b"\r\n"),
        DONE,
        'data: {"usage": "ž"}\r'.encode(),
        b'data: {"error": 5}\n',
        b"data: {",
        b'event: message_start\ndata: {"type":"message_start","message":{"usage":{}}}\n\n',
        b'data: {"type":"message_stop"}\n\n',
        b": ping\n\n",
        b"\xef\xbb\xbf",
        b'"usage"',
    ]
)
STREAM = st.lists(PIECES | st.binary(max_size=6), max_size=10).map(b"".join)
CUTS = st.lists(st.integers(0, 2000), max_size=12)


@given(STREAM, CUTS)
@settings(max_examples=100)
def test_any_chunking_gives_the_same_bytes_and_facts(data, cuts):
    """However an answer is cut into chunks, the same bytes leave and the same facts are told."""
    (one, told), (many, told_too) = _chat(), _chat()
    assert _run(one, data) == _run(many, *_split(data, cuts))
    assert told == told_too


WORDS = st.sampled_from(["", "word", 'say "so"', "a\\", "[DONE]", '"usage"', "usage", "ž", "line\n", '"tool_calls":[]'])


@given(
    st.lists(st.tuples(WORDS, st.sampled_from([None, None, "stop"])), max_size=8), st.sampled_from([None, (",", ":")])
)
def test_what_looks_like_a_chunk_before_it_has_nothing_more_to_tell(words, separators):
    """Bytes and facts do not depend on whether chunks that are alike are looked into."""

    class Looking(Likeness):
        def holds(self, data):
            return False

    chunks = [_delta(finish, content=word) for word, finish in words]
    chunks = [b"data: " + json.dumps(chunk, separators=separators).encode() + b"\n\n" for chunk in [*chunks, LAST]]
    (quick, told), (slow, told_too) = _chat(), _chat()
    slow._likeness = Looking()
    assert _run(quick, *chunks) == _run(slow, *chunks)
    assert told == told_too


@pytest.mark.parametrize(
    ("learnt", "data", "alike"),
    [
        (b'{"content":"one"}', b'{"content":"two"}', True),
        (b'{"content": "one"}', b'{"content": ""}', True),
        (b'{"content":"one"}', b'{"content":"","usage":""}', False),
        (b'{"content":"one"}', b'{"content":"a"}{"content":"b"}', False),
        (b'{"content":"one\\""}', b'{"content":"two\\""}', False),
        (b'{"content":null}', b'{"content":null}', False),
        (b'{"content":"one', b'{"content":"two', False),
        (b"", b"", False),
    ],
)
def test_likeness(learnt, data, alike):
    """Chunks are alike where nothing differs but a string without a quote in it."""
    likeness = Likeness()
    likeness.learn(learnt)
    assert likeness.holds(data) is alike


@given(STREAM, CUTS)
@settings(max_examples=50)
def test_other_answers_pass_byte_for_byte(data, cuts):
    """The Anthropic dialect and plain JSON are never changed, whatever they hold."""
    for stream in (
        MessagesStream(Story("kimi")),
        JsonAnswer(Story("kimi"), ReasoningMemory()),
        JsonAnswer(Story("kimi"), dialect="anthropic", limit=20),
        JsonAnswer(),
    ):
        assert _run(stream, *_split(data, cuts)) == data


@given(STREAM, CUTS, st.booleans())
@settings(max_examples=50)
def test_nothing_raises_in_any_order_of_calls(data, cuts, finish_first):
    """feed, finish and fail take anything at any time."""
    for stream in (_chat()[0], MessagesStream(Story("kimi")), JsonAnswer(Story("kimi"), ReasoningMemory())):
        for chunk in _split(data, cuts):
            stream.feed(chunk)
        calls = [stream.finish, lambda s=stream: s.fail(CUT)]
        for call in calls if finish_first else reversed(calls):
            assert isinstance(call(), bytes | None)
        stream.feed(data)
        stream.finish()


MESSAGES = (
    b'event: message_start\ndata: {"type":"message_start","message":{"model":"k3","usage":{"input_tokens":9}}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"Hi"}}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
    b'"usage":{"output_tokens":4}}\n\n'
)
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def test_messages_facts():
    """The Anthropic dialect tells the same facts; what is no object is passed over."""
    story = Story("kimi", facts={"model": "k3"})
    data = MESSAGES + b'data: ["message_delta"]\n\n' + STOP
    assert _run(MessagesStream(story), data) == data
    assert story.facts == {"model": "k3", "in": 9, "out": 4, "finish": "end_turn"}


@pytest.mark.parametrize("rest", [b"", b"event: ping\n", b'event: ping\ndata: {"ty'])
def test_messages_fail(rest):
    """A cut stream of the Anthropic dialect ends with its error event."""
    story = Story("kimi")
    stream = MessagesStream(story)
    last = list(sse.events(stream.feed(MESSAGES + rest) + stream.fail(CUT)))[-1]
    assert last.event == "error"
    assert json.loads(last.data)["error"]["message"] == "The answer broke off."
    assert story.facts["error"] == "upstream_error"


def test_messages_no_error_after_the_stop():
    """A connection that breaks after message_stop has lost nothing."""
    stream = MessagesStream(Story("kimi"))
    stream.feed(MESSAGES + STOP)
    assert stream.fail(CUT) == b""


def test_json_answer():
    """A chat answer that is no stream tells its facts and has its reasoning remembered."""
    story, memory, bodies = Story("kimi"), ReasoningMemory(), []
    message = {"reasoning_content": "Hm.", "tool_calls": [{"id": "Shell:0"}]}
    body = json.dumps(
        {"model": "k3", "choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": USAGE}
    ).encode()
    assert _run(JsonAnswer(story, memory, on_body=bodies.append), body[:10], body[10:]) == body
    assert story.facts == {"answered by": "k3", "finish": "tool_calls", "in": 900, "cached": 800, "out": 40}
    assert memory.recall("Shell:0") == "Hm."
    assert bodies == [body]


def test_json_answer_of_the_anthropic_dialect():
    """A message that is no stream tells its facts."""
    story = Story("kimi", facts={"model": "k3"})
    body = b'{"type":"message","model":"k3","stop_reason":"end_turn","usage":{"input_tokens":5,"output_tokens":6}}'
    _run(JsonAnswer(story, dialect="anthropic"), body)
    assert story.facts == {"model": "k3", "in": 5, "out": 6, "finish": "end_turn"}


@pytest.mark.parametrize(("limit", "seen"), [(9, []), (10, [b"0123456789"])])
def test_json_answer_keeps_no_more_than_its_limit(limit, seen):
    """A body beyond the limit passes and is not kept."""
    bodies = []
    answer = JsonAnswer(on_body=bodies.append, limit=limit)
    assert _run(answer, b"01234", b"56789") == b"0123456789"
    assert bodies == seen


@pytest.mark.parametrize(("dialect", "kind"), [("openai", None), ("anthropic", "error")])
def test_json_answer_fail(dialect, kind):
    """An answer that was cut before its first byte is an error object; for half of one there is no word."""
    story = Story("kimi")
    error = json.loads(JsonAnswer(story, dialect=dialect).fail(CUT))
    assert error["error"]["code"] == story.facts["error"] == "upstream_error"
    assert error.get("type") == kind
    begun = JsonAnswer(dialect=dialect)
    begun.feed(b"{")
    assert begun.fail(CUT) is None
