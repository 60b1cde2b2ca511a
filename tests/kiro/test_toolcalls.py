"""Tool calls from their fragments."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.kiro.events import ToolUse
from kimi_core.kiro.failures import ToolCallBroken
from kimi_core.kiro.toolcalls import MAX_CALLS, ToolCalls
from kimi_core.wire.parts import ToolArguments, ToolCallEnd, ToolCallStart


def use(call_id=None, name=None, given=None, *, stop=False):
    """Return a fragment."""
    return ToolUse(call_id, name, given, stop)


def calls_of(*fragments, aliases=None):
    """Return (id, name, parsed arguments) of every call, and check the order of its parts."""
    calls, out, open_call = ToolCalls(aliases or {}), [], None
    for step in (*(calls.take(fragment) for fragment in fragments), calls.finish()):
        for part in step:
            match part:
                case ToolCallStart(index, call_id, name):
                    assert open_call is None
                    assert index == len(out)
                    open_call = index
                    out.append((call_id, name, ""))
                case ToolArguments(index, text):
                    assert index == open_call
                    assert text
                    out[index] = (*out[index][:2], out[index][2] + text)
                case ToolCallEnd(index):
                    assert index == open_call
                    open_call = None
    assert open_call is None
    assert not calls.open
    assert calls.ids == [call_id for call_id, _, _ in out]
    return [(call_id, name, json.loads(text)) for call_id, name, text in out]


STOP = use(stop=True)

CALLS = {
    "as recorded": (
        [
            use("t", "read"),
            use("t", "read", ""),
            use("t", "read", '{"pa'),
            use("t", "read", 'th":1}'),
            use("t", "read", stop=True),
        ],
        [("t", "read", {"path": 1})],
    ),
    "no input": ([use("t", "ls"), STOP], [("t", "ls", {})]),
    "blank input": ([use("t", "ls", " \n"), STOP], [("t", "ls", {})]),
    "blank before the input": ([use("t", "ls", " "), use("t", "ls", "{}"), STOP], [("t", "ls", {})]),
    "empty object, no stop": ([use("t", "ls", {})], [("t", "ls", {})]),
    "whole object": ([use("t", "ls", {"a": 1}, stop=True)], [("t", "ls", {"a": 1})]),
    "objects are merged": ([use("t", "ls", {"a": 1}), use("t", None, {"b": 2}), STOP], [("t", "ls", {"a": 1, "b": 2})]),
    "empty object, then text": ([use("t", "ls", {}), use("t", "ls", '{"a":1}'), STOP], [("t", "ls", {"a": 1})]),
    "text wins over an object": ([use("t", "ls", {"a": 1}), use("t", None, '{"a":2}'), STOP], [("t", "ls", {"a": 2})]),
    "object wins over no JSON": ([use("t", "ls", {"a": 1}), use("t", None, '{"a":'), STOP], [("t", "ls", {"a": 1})]),
    "text, then an object": ([use("t", "ls", '{"a":2}'), use("t", None, {"a": 1}), STOP], [("t", "ls", {"a": 2})]),
    "no id after the first": ([use("t", "ls"), use(given='{"a":1}'), STOP], [("t", "ls", {"a": 1})]),
    "no stop before the next": (
        [use("t", "ls", '{"a":1}'), use("u", "ls"), use("u", stop=True)],
        [("t", "ls", {"a": 1}), ("u", "ls", {})],
    ),
    "no stop at the end": ([use("t", "ls", '{"a":1}')], [("t", "ls", {"a": 1})]),
    "a stray stop": ([use("t", "ls", "{}", stop=True), STOP], [("t", "ls", {})]),
    "replay": (
        [
            use("t", "ls", '{"a":1}', stop=True),
            use("u", "ls", '{"b'),
            use("t", "ls", '{"a":1}', stop=True),
            use("u", None, '":2}', stop=True),
        ],
        [("t", "ls", {"a": 1}), ("u", "ls", {"b": 2})],
    ),
    "late name": ([use("t", None, '{"a"'), use("t", "ls", ":1}"), STOP], [("t", "ls", {"a": 1})]),
    "split surrogates": (
        [use("t", "ls", '{"a":"\ud83d'), use("t", None, '\ude00"}'), STOP],
        [("t", "ls", {"a": "😀"})],
    ),
    "half a surrogate": ([use("t", "ls", {"a": "\ud83d"}), STOP], [("t", "ls", {"a": "\ud83d"})]),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name):
    """Every form in which calls come gives whole calls."""
    fragments, expected = CALLS[name]
    assert calls_of(*fragments) == expected


@pytest.mark.parametrize(
    ("fragments", "words"),
    [
        pytest.param([use("t", "ls", '{"a":'), STOP], "of a call of ls are no JSON object: they were cut", id="cut"),
        pytest.param([use("t", "ls", '{"a":1}}'), STOP], "no JSON object", id="too much"),
        pytest.param([use("t", "ls", "[1]"), STOP], "no JSON object", id="list"),
        pytest.param([use("t", "ls", "null"), STOP], "no JSON object", id="null"),
        pytest.param([use("t", "ls", '{"a":NaN}'), STOP], "no JSON object", id="NaN"),
        pytest.param([use("t", "ls", '{"a'), use("u", "ls")], "no JSON object", id="cut by the next"),
        pytest.param([use("t", "ls", '{"a'), use("t", None, {"a": 1}), STOP], "no JSON object", id="object too late"),
        pytest.param([use("t", None, "{}"), STOP], "without a name", id="no name"),
        pytest.param([use(None, "ls")], "without saying of which", id="no id"),
        pytest.param([use(None, None, "{}")], "without saying of which", id="input without id"),
        pytest.param([use("t", "ls"), use("u", "ls"), use("t", None, "{}")], "ended without any", id="overlapping"),
    ],
)
def test_broken_calls(fragments, words):
    """What is no call is an error, never a mended one."""
    with pytest.raises(ToolCallBroken, match=words):
        calls_of(*fragments)


def test_text_goes_on_as_it_comes():
    """Arguments are not kept to the end of the call."""
    calls = ToolCalls({})
    assert list(calls.take(use("t", "ls", '{"a'))) == [ToolCallStart(0, "t", "ls"), ToolArguments(0, '{"a')]
    assert calls.open


def test_aliases_are_restored():
    """The client sees the name that it gave the tool."""
    assert calls_of(use("t", "ls_1a2b", stop=True), use("u", "ls", stop=True), aliases={"ls_1a2b": "list.files"}) == [
        ("t", "list.files", {}),
        ("u", "ls", {}),
    ]


def test_begins():
    """A call begins with an id that is neither open nor finished."""
    calls = ToolCalls({})
    assert calls.begins(use("t", "ls"))
    list(calls.take(use("t", "ls", stop=True)))
    list(calls.take(use("u", "ls")))
    assert [calls.begins(use(call_id)) for call_id in ("t", "u", None, "v")] == [False, False, False, True]


def test_bounds(monkeypatch):
    """Calls without number and arguments without end are refused."""
    monkeypatch.setattr("kimi_core.kiro.toolcalls.MAX_ARGUMENTS", 10)
    with pytest.raises(ToolCallBroken, match="more than 10 characters"):
        calls_of(*[use("t", "ls", "123456")] * 2)
    with pytest.raises(ToolCallBroken, match=f"more than {MAX_CALLS} tool calls"):
        calls_of(*(use(f"t{number}", "ls", stop=True) for number in range(MAX_CALLS + 1)))


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.text(max_size=3), st.text(max_size=3) | st.integers(), max_size=3),
            st.lists(st.integers(0, 60), max_size=5),
            st.booleans(),
        ),
        max_size=4,
    )
)
@settings(max_examples=75, deadline=None)
def test_arguments_in_any_pieces(given_calls):
    """Arguments come through whole, however they were cut, with and without stops."""
    fragments, expected = [], []
    for number, (arguments, places, stops) in enumerate(given_calls):
        text = json.dumps(arguments, ensure_ascii=False)
        edges = sorted({0, len(text), *(place % len(text) for place in places)})
        fragments += [use(f"t{number}", "ls", text[a:b]) for a, b in pairwise(edges)]
        fragments += [use(f"t{number}", stop=True)] if stops else []
        expected.append((f"t{number}", "ls", arguments))
    assert calls_of(*fragments) == expected
