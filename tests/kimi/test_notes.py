import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.exchange import Story
from kimi_core.kimi import notes
from kimi_core.kimi.memory import ReasoningMemory
from kimi_core.kimi.notes import ChatNotes, MessagesNotes


def _chat(*chunks, end=True, facts=None):
    story, memory = Story("kimi", facts=facts or {}), ReasoningMemory()
    taker = ChatNotes(story, memory)
    for chunk in chunks:
        taker.take(chunk, json.dumps(chunk).encode())
    if end:
        taker.end()
    return story.facts, memory


def _messages(*events, facts=None):
    story = Story("kimi", facts=facts or {})
    taker = MessagesNotes(story)
    for event in events:
        taker.take(event, json.dumps(event).encode())
    return story.facts


def _delta(index=0, finish=None, **delta):
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


def _call(*ids):
    return [{"index": n, "id": call_id, "function": {"name": "Shell"}} for n, call_id in enumerate(ids)]


@pytest.mark.parametrize(
    ("usage", "facts"),
    [
        ({"prompt_tokens": 900, "completion_tokens": 40, "cached_tokens": 800}, {"in": 900, "cached": 800, "out": 40}),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 8}}, {"in": 9, "cached": 8}),
        ({"cached_tokens": 0, "prompt_tokens_details": {"cached_tokens": 8}}, {"cached": 0}),
        ({"completion_tokens_details": {"reasoning_tokens": 7}}, {"reasoning": 7}),
        ({"reasoning_tokens": 7}, {"reasoning": 7}),
        ({"prompt_tokens": -1, "completion_tokens": True, "cached_tokens": "8"}, {}),
        ({"prompt_tokens": 10**15, "prompt_tokens_details": [1]}, {}),
        ({}, {}),
        ([1], {}),
        (None, {}),
    ],
)
@pytest.mark.parametrize("where", ["top", "choice"])
def test_tokens(usage, facts, where):
    """Tokens are read from either place of a usage, and only where they are numbers."""
    chunk = {"usage": usage} if where == "top" else {"choices": [{"usage": usage}], "usage": None}
    assert _chat(chunk)[0] == facts


def test_the_last_usage_wins():
    """Numbers of a later usage replace earlier ones; within a chunk the top level counts."""
    facts, _ = _chat(
        {"usage": {"prompt_tokens": 1, "completion_tokens": 1}},
        {"usage": {"completion_tokens": 3}, "choices": [{"usage": {"completion_tokens": 2}}]},
    )
    assert facts == {"in": 1, "out": 3}


@pytest.mark.parametrize(
    ("asked", "answered", "facts"),
    [
        ("k3", "k3", {"model": "k3"}),
        ("k3", "k4", {"model": "k3", "answered by": "k4"}),
        ("k3", "", {"model": "k3"}),
        ("k3", 5, {"model": "k3"}),
        ("k3", "x" * 500, {"model": "k3", "answered by": "x" * notes.MAX_NAME}),
    ],
)
def test_the_model_that_answers(asked, answered, facts):
    """The model of the answer is a fact only where it is another one than was asked for."""
    assert _chat({"model": answered}, facts={"model": asked})[0] == facts
    assert _messages({"type": "message_start", "message": {"model": answered}}, facts={"model": asked}) == facts


def test_an_error_within_the_stream():
    """An error event is noted by its reason, without its text."""
    assert _chat({"error": {"message": "The engine is currently overloaded"}})[0] == {"error": "overload"}
    assert _chat({"error": "no idea"})[0] == {"error": "unknown"}
    assert _messages({"type": "error", "error": {"type": "overloaded_error"}}) == {"error": "overload"}


def test_reasoning_is_remembered_for_each_call():
    """The joined reasoning of a turn belongs to every tool call of it, as soon as the turn is finished."""
    facts, memory = _chat(
        _delta(reasoning_content="Let me "),
        _delta(reasoning_content="look."),
        _delta(content="Text"),
        _delta(tool_calls=_call("Shell:0", "Shell:1")),
        _delta(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}]),
        _delta(finish="tool_calls"),
        end=False,
    )
    assert facts == {"finish": "tool_calls"}
    assert (memory.recall("Shell:0"), memory.recall("Shell:1")) == ("Let me look.", "Let me look.")


def test_reasoning_without_a_finish_is_remembered_at_the_end():
    """A stream that ends without a finish_reason is remembered at its end, and not before."""
    chunks = [_delta(reasoning_content="a"), _delta(tool_calls=_call("c"))]
    assert _chat(*chunks, end=False)[1].recall("c") is None
    assert _chat(*chunks)[1].recall("c") == "a"


def test_empty_reasoning_is_reasoning():
    """An empty reasoning_content says: thought, but said nothing. None at all is not remembered."""
    assert _chat(_delta(reasoning_content="", tool_calls=_call("c")))[1].recall("c") == ""
    assert _chat(_delta(reasoning_content=None, tool_calls=_call("c")))[1].recall("c") is None
    assert len(_chat(_delta(reasoning_content="a", content="no call"))[1]) == 0


def test_choices_are_kept_apart():
    """Of several choices each has its own reasoning; a whole message counts like a delta."""
    _, memory = _chat(
        {
            "choices": [
                {"index": 0, "message": {"reasoning_content": "zero", "tool_calls": _call("a")}},
                {"index": 1, "message": {"reasoning_content": "one", "tool_calls": _call("b")}, "finish_reason": "x"},
            ]
        }
    )
    assert (memory.recall("a"), memory.recall("b")) == ("zero", "one")


def test_without_a_memory_nothing_is_remembered():
    """Notes can be taken for facts alone."""
    story = Story("kimi")
    taker = ChatNotes(story, None)
    taker.take(_delta(reasoning_content="a", tool_calls=_call("c"), finish="stop"), b"")
    taker.end()
    assert story.facts == {"finish": "stop"}


@pytest.mark.parametrize(
    ("limit", "value", "kept"),
    [("MAX_REASONING", 3, 0), ("MAX_REASONING", 4, 4), ("MAX_CALLS", 2, 2), ("MAX_CHOICES", 1, 2)],
)
def test_bounds(monkeypatch, limit, value, kept):
    """Reasoning beyond its bound is forgotten as a whole; calls and choices beyond theirs are not taken."""
    monkeypatch.setattr(notes, limit, value)
    _, memory = _chat(
        _delta(reasoning_content="ab"),
        _delta(1, reasoning_content="cd"),
        _delta(tool_calls=_call("a", "b")),
        _delta(1, tool_calls=_call("c", "d")),
    )
    assert len(memory) == kept


@pytest.mark.parametrize(
    ("events", "facts"),
    [
        (
            [
                {
                    "type": "message_start",
                    "message": {
                        "model": "k3",
                        "usage": {"input_tokens": 10, "cache_read_input_tokens": 80, "output_tokens": 1},
                    },
                },
                {"type": "content_block_delta", "delta": {"text": "x"}},
                {
                    "type": "message_delta",
                    "delta": {"stop_reason": "end_turn"},
                    "usage": {"input_tokens": None, "cache_creation_input_tokens": 5, "output_tokens": 40},
                },
            ],
            {"model": "k3", "in": 95, "cached": 80, "out": 40, "finish": "end_turn"},
        ),
        (
            [{"type": "message", "model": "k3", "stop_reason": "max_tokens", "usage": {"input_tokens": 5}}],
            {"model": "k3", "in": 5, "finish": "max_tokens"},
        ),
        ([{"input_tokens": 12}], {"model": "k3"}),
        (
            [{"type": "message_start", "message": "x"}, {"type": "message_delta", "delta": 3, "usage": []}],
            {"model": "k3"},
        ),
    ],
)
def test_anthropic_tokens(events, facts):
    """Input tokens include those read from and written to the cache, so that both dialects count alike."""
    assert _messages(*events, facts={"model": "k3"}) == facts


WORDS = st.sampled_from(
    [
        *("choices", "delta", "message", "usage", "tool_calls", "id", "index", "reasoning_content", "finish_reason"),
        *("error", "model", "type", "message_start", "message_delta", "stop_reason", "cached_tokens", "prompt_tokens"),
        *("prompt_tokens_details", "completion_tokens_details", "input_tokens", "x"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=12,
)
OBJECTS = st.lists(st.dictionaries(WORDS, JSON, max_size=6), max_size=4)


@given(OBJECTS)
def test_any_chunks(chunks):
    """Whatever the chunks hold, notes are taken without an error, and facts are short texts and numbers."""
    for facts in (_chat(*chunks)[0], _messages(*chunks)):
        assert all(isinstance(value, int | str) and len(str(value)) <= notes.MAX_NAME for value in facts.values())
