import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.view import answer, events, turn
from kimi_core.view.answer import is_answer, render
from kimi_core.view.text import PAGE
from tests.view.bodies import VALUES, chunk, sse, written

USAGE = {
    "prompt_tokens": 12345,
    "completion_tokens": 67,
    "total_tokens": 12412,
    "prompt_tokens_details": {"cached_tokens": 9000, "audio_tokens": None},
    "completion_tokens_details": {"reasoning_tokens": 40},
    "credits": 0.5,
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "bash", "arguments": '{"command": "'}}
OPENAI = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"reasoning_content": "Let me "}),
    chunk({"reasoning_content": "think."}),
    chunk({"content": "It is "}),
    chunk({"content": "done."}),
    chunk({"tool_calls": [{"index": 0} | CALL]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": "x" * 100 + '"}'}}]}),
    chunk({}, finish_reason="tool_calls"),
    {"object": "chat.completion.chunk", "choices": [], "usage": USAGE},
]
ANTHROPIC = [
    {"type": "message_start", "message": {"id": "msg_1", "model": "k3", "usage": {"input_tokens": 10}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "Hm"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "m."}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "ping"},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Done."}},
    {"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "id": "t1", "name": "Bash"}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"a"'}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ": 1}"}},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 33, "x": 1}},
    {"type": "message_stop"},
]
DONE = b"data: [DONE]\n\n"


def sections(page):
    """Return the text of each section by the first word of its title, blank lines left out."""
    found, name = {}, "head"
    for line in page.splitlines():
        if line.startswith(("──", "══")):
            name = line.strip("─═ ").split(" · ")[0]
        elif line.strip():
            found.setdefault(name, []).append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


def test_a_streamed_openai_answer():
    """Reasoning, text, call, finish reason and usage stand above the raw events."""
    page = render(sse(*OPENAI) + DONE, "a note")
    said = sections(page)
    assert said["head"].startswith("Chat answer, OpenAI, streamed, 10 events · ")
    assert "k3 · chatcmpl-1" in said["head"]
    assert "a note" in said["head"]
    assert "✗" not in said["head"]
    assert said["Reasoning"] == "Let me think."
    assert said["Text"] == "It is done."
    assert "── Tool call 1 · bash · call_1 ─" in page
    assert said["Tool call 1"].startswith('{\n  "command":')
    assert said["End"] == "finish reason  tool_calls"
    assert [line.rsplit(maxsplit=1) for line in said["Usage"].splitlines()] == [
        ["input", "12,345"],
        [" of it cached", "9,000"],
        ["output", "67"],
        [" of it reasoning", "40"],
        ["total", "12,412"],
        ["credits", "0.5"],
    ]
    assert said["Raw events"].count("chat.completion.chunk") == 9
    assert page.index("Usage") < page.index("Raw events")


def test_a_streamed_anthropic_answer():
    """The same of the events of the Anthropic dialect."""
    data = b"".join(b"event: %s\n" % event["type"].encode() + sse(event) for event in ANTHROPIC)
    said = sections(render(data.replace(b"\n", b"\r\n")))
    assert said["head"].startswith("Chat answer, Anthropic, streamed, 13 events")
    assert "✗" not in said["head"]
    assert (said["Reasoning"], said["Text"]) == ("Hmm.", "Done.")
    assert said["Tool call 1"] == '{"a":1}'
    assert said["End"] == "finish reason  tool_use"
    assert said["Usage"].split() == ["input", "10", "output", "33", "x", "1"]


def test_whole_answers():
    """Answers in one piece look like streamed ones, and stand below as JSON."""
    message = {"role": "assistant", "content": "Done.", "reasoning": "Hm.", "refusal": "No.", "tool_calls": [CALL]}
    one = {"object": "chat.completion", "model": "k3", "usage": USAGE, "choices": [{"message": message}]}
    said = sections(render(written(one | {"choices": [{"message": message, "finish_reason": "stop"}]})))
    assert "OpenAI, in one piece" in said["head"]
    assert (said["Reasoning"], said["Text"], said["Refusal"]) == ("Hm.", "Done.", "No.")
    assert said["End"] == "finish reason  stop"
    assert '"chat.completion"' in said["Raw"]
    blocks = [{"type": "text", "text": "Done."}, {"type": "tool_use", "id": "t", "name": "Bash", "input": {"a": 1}}]
    two = {"type": "message", "content": [*blocks, {"type": "other", "b": 2}], "usage": {"input_tokens": 1}}
    said = sections(render(written(two | {"stop_reason": "stop_sequence", "stop_sequence": "END"})))
    assert "Anthropic, in one piece" in said["head"]
    assert said["Tool call 1"] == '{"a":1}'
    assert said["Other content"] == '{"type":"other","b":2}'
    assert said["End"] == "finish reason  stop_sequence (END)"


def test_errors_in_a_stream():
    """An error event has a section of its own, in either dialect, and the missing end is told."""
    said = sections(render(sse(*OPENAI[:4], {"error": {"message": "gone", "code": "x"}})))
    assert '"gone"' in said["ERROR"]
    assert "no [DONE]" in said["head"]
    assert said["End"] == "finish reason  none came"
    said = sections(render(sse(*ANTHROPIC[:4], {"type": "error", "error": {"message": "gone"}})))
    assert '"gone"' in said["ERROR"]
    assert "no message_stop" in said["head"]


def test_a_json_error_is_an_answer_as_well():
    """A refusal is shown as the error that it is."""
    said = sections(render(b'{"error": "no"}'))
    assert said["ERROR"] == "no"


def test_usage_where_kimi_puts_it():
    """Usage within a choice counts where the chunk has none of its own."""
    said = sections(render(sse(chunk({}, finish_reason="stop", usage={"prompt_tokens": 1, "odd": [1]})) + DONE))
    assert said["Usage"].split() == ["input", "1", "odd", "[1]"]


def test_several_choices():
    """Each choice is shown apart, up to a bound."""
    chunks = [chunk({"content": f"text {n}"}, index=n) for n in range(turn.MAX_CHOICES + 2)]
    page = render(sse(*chunks))
    assert "══ choice 1 ═" in page
    assert "2 choices more left out" in page


def test_many_of_everything_is_bounded():
    """Calls, other content and errors are shown up to a bound each."""
    calls = [chunk({"tool_calls": [{"index": n, "function": {"name": "a"}}]}) for n in range(turn.MAX_CALLS + 3)]
    page = render(sse(*calls, *({"error": n} for n in range(1, turn.MAX_ERRORS + 5))))
    assert "3 calls more left out" in page
    assert "4 errors more left out" in page
    assert "(no arguments)" in page


def test_what_has_no_place_is_shown():
    """Members of a message, blocks and deltas of other kinds are shown as they came."""
    page = render(sse(chunk({"audio": {"id": 1}}), chunk({"tool_calls": ["odd"]}), chunk({"content": {"a": 1}}), "odd"))
    assert '{"audio":{"id":1}}' in page
    assert '{"tool_calls":"odd"}' in page
    assert '{"content":{"a":1}}' in page
    odd = {"type": "content_block_delta", "index": 0, "delta": {"type": "odd_delta", "a": 1}}
    page = render(sse(odd, {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": 1}}))
    assert '{"type":"odd_delta","a":1}' in page
    assert "\n1\n" in page


def test_damaged_events_are_told():
    """Events that are no JSON are counted and quoted; the others are read."""
    page = render(sse(chunk({"content": "good"}), b"{bad", b"1,2", chunk({"content": " too"})) + b": hi\ndata: {cut")
    said = sections(page)
    assert "2 events cannot be read as JSON: {bad, 1,2" in said["head"]
    assert "the stream ends within a line: data: {cut" in said["head"]
    assert said["Text"] == "good too"
    assert "1 comment" in page


def test_a_very_long_stream_is_read_from_both_ends():
    """Of more events than are read the gap is told where it is, and finish reason and usage are found."""
    many = [chunk({"content": "a "})] * 20_000
    page = render(sse(chunk({"tool_calls": [{"index": 0} | CALL]}), *many, *OPENAI[-2:]) + DONE)
    said = sections(page)
    assert "of 20,004 events were not read" in said["head"]
    assert "events left out …]" in said["Text"]
    assert "events left out …]" in said["Tool call 1"]
    assert "tool_calls" in said["End"]
    assert "12,345" in said["Usage"]
    assert "events left out" in said["Raw events"]
    assert "20003  [DONE]" in page


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"plain words", b"\xff\xfe\x00binary", b"[1]", b"data:", b"data: 1\n", b'{"choices": [', b"\0" * 100],
)
def test_what_is_no_answer(body):
    """Anything else is shown as what it is, and is not taken for an answer."""
    assert render(body)
    assert not is_answer(body)


def test_a_cut_json_answer_is_read_as_far_as_it_goes():
    """A whole answer that was cut shows what came of it."""
    body = written({"object": "chat.completion", "choices": [{"message": {"content": "beginning and end"}}]})
    said = sections(render(body[:-15]))
    assert said["Text"] == "beginning"[: len(said["Text"])]
    assert "no whole JSON" in said["head"]


def test_long_raw_answers_are_shown_as_they_came(monkeypatch):
    """A long answer in one piece is not written anew below."""
    monkeypatch.setattr(answer, "RAW_PRETTY", 10)
    body = b'{ "object":"chat.completion", "choices":[{"message":{"content":"x"}}] }'
    assert body.decode() in render(body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (sse(*OPENAI), True),
        (sse(*ANTHROPIC), True),
        (b": ping\n\n" + sse(*OPENAI), True),
        (b"\xef\xbb\xbf" + sse(*OPENAI), True),
        (sse({"type": "message_start" * 2}), False),
        (sse({"a": 1}), False),
        (sse(*OPENAI) * 200, True),
        (written({"choices": [{"message": {}}]}), True),
        (written({"choices": [{"message": {"content": "x" * 100_000}}]}), True),
        (written({"type": "message", "content": []}), True),
        (written({"choices": ["a", "b"]}), False),
        (written({"type": "message", "content": "x"}), False),
        (written([1]), False),
    ],
)
def test_answers_are_known_by_their_shape(body, expected):
    """What is taken for a chat answer."""
    assert is_answer(body) is expected


@given(st.lists(VALUES, max_size=8), st.data())
@settings(max_examples=80)
def test_any_stream_of_any_values_gives_a_page(values, data):
    """Whatever JSON is in a stream, and wherever it was cut, a page comes of it that can be encoded."""
    body = sse(*values)
    body = body[: data.draw(st.integers(0, len(body)))]
    render(body).encode()
    is_answer(body)


@given(VALUES, st.data())
@settings(max_examples=80)
def test_any_json_gives_a_page(value, data):
    """The same of one piece of JSON, also within the members of an answer."""
    for wrapped in (value, {"choices": [{"message": value, "delta": value}]}, {"type": "message", "content": [value]}):
        body = written(wrapped)
        render(body).encode()
        render(body[: data.draw(st.integers(0, len(body)))]).encode()


@given(st.lists(VALUES, max_size=4), st.lists(VALUES, max_size=4))
@settings(max_examples=60)
def test_any_delta_gives_a_page(deltas, blocks):
    """The same within the deltas of either dialect."""
    render(sse(*(chunk(delta) for delta in deltas))).encode()
    render(sse(*({"type": "content_block_delta", "delta": block, "index": 0} for block in blocks))).encode()
    render(sse(*({"type": "content_block_start", "content_block": block} for block in blocks))).encode()


@given(st.binary(max_size=200))
@settings(max_examples=60)
def test_any_bytes_give_a_page(data):
    """Bytes of any kind are shown, also behind the beginning of an event."""
    render(data).encode()
    render(b"data: " + data).encode()
    is_answer(b"data: " + data)


def test_reading_in_bulk_is_reading_one_by_one():
    """An event that is two values does not shift the others."""
    stream = events.read(sse(1, b"2,3", 4))
    assert (stream.values, stream.damaged) == ([1, 4], 1)


@pytest.mark.parametrize(
    "body",
    [
        sse(chunk({"content": "Hello "})) * 30_000,
        sse(chunk({"content": "Hello "}), b"{bad") * 20_000,
        sse(*ANTHROPIC[2:3]) * 50_000,
        b"data: 1\n\n" * 500_000,
        json.dumps({"choices": [{"message": {"content": "word " * 1_000_000}}]}).encode(),
        b'{"choices":[' + b'{"message":{"a":1}},' * 240_000,
    ],
    ids=["openai", "damaged", "anthropic", "numbers", "one", "choices"],
)
def test_five_megabytes_make_a_bounded_page(body):
    """Of a long answer, and of what only looks like one, no more is shown than a browser can take."""
    page = render(body)
    is_answer(body)
    assert 0 < len(page) < 2 * PAGE


def test_an_index_that_is_none_counts_as_the_first():
    """A choice without a proper index belongs to the first one."""
    said = sections(render(sse(chunk({"content": "a"}, index="x"), chunk({"content": "b"}, index=None)) + DONE))
    assert said["Text"] == "ab"


def test_choices_that_are_none_are_passed_over():
    """A list of choices may hold anything."""
    body = written({"object": "chat.completion", "choices": [1, {"message": {"content": "good"}}]})
    assert sections(render(body))["Text"] == "good"
    assert sections(render(sse({"object": "chat.completion.chunk", "choices": [1]}, OPENAI[3])))["Text"] == "It is "
