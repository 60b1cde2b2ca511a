import copy
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.kimi.history import (
    ID_LENGTH,
    REASONING_UNKNOWN,
    RULES,
    CallIds,
    Mender,
    merge_details,
    text_of,
    turns,
)
from kimi_core.kimi.memory import ReasoningMemory


def mend(messages, *, identity="kimi-cli", thinks=True, keeps_all=False, known=None):
    """Return the mended history and the repairs; what changed and what was told to have changed are the same."""
    before = copy.deepcopy(messages)
    originals = list(messages)
    touched = []
    repairs = Counter()
    mender = Mender(
        messages=messages,
        touch=touched.append,
        rules=RULES[identity],
        recall=(known or {}).get,
        repairs=repairs,
        thinks=thinks,
        keeps_all=keeps_all,
    )
    mender.run()
    changed = {id(new) for new, old in zip(originals, before, strict=True) if new != old}
    assert changed == {id(message) for message in touched}
    return messages, {name: count for name, count in repairs.items() if count}


def call(call_id="Shell:0", name="Shell", arguments="{}"):
    """Return one tool call."""
    made = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return made if call_id is not ... else {key: value for key, value in made.items() if key != "id"}


def assistant(*calls, **fields):
    """Return an assistant message with its reasoning, unless told otherwise."""
    message = {"role": "assistant", "reasoning_content": "I think.", **fields}
    if calls:
        message["tool_calls"] = list(calls)
    return {key: value for key, value in message.items() if value is not ...}


def result(named="Shell:0", /, **fields):
    """Return a tool result."""
    message = {"role": "tool", "tool_call_id": named, "content": "ok", **fields}
    return {key: value for key, value in message.items() if value is not ...}


USER = {"role": "user", "content": "hi"}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "id": None}}


def text(words, **more):
    """Return a text part."""
    return {"type": "text", "text": words, **more}


@pytest.mark.parametrize("identity", RULES)
@pytest.mark.parametrize(
    "messages",
    [
        [],
        [USER],
        [{"role": "system", "content": "s"}, {"role": "user", "content": [text("a"), IMAGE]}],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": [text("")]}],
        [{"role": "user", "content": [7, None, text(None)]}],
        [assistant(content="done")],
        [assistant(content="", reasoning_content=..., partial=True)],
        [assistant(call("Shell_0")), result("Shell_0")],
        [assistant(call("Shell_0"), reasoning_content=""), result("Shell_0")],
        [assistant(call("Shell_0"), content=[text(" "), IMAGE])],
        [assistant("no object", call(7), tool_calls_extra=1)],
        [result("nobody")],
        [assistant(call("A"), call("B")), result("x"), result("y")],
    ],
    ids=str,
)
def test_a_history_in_order_stays(identity, messages):
    """What upstream takes, or cannot be mended without a guess, is left alone."""
    before = copy.deepcopy(messages)
    assert mend(messages, identity=identity) == (before, {})


@pytest.mark.parametrize("content", ["", " \n", None, [], [text("")], [text(" "), text("")]])
@pytest.mark.parametrize("identity", RULES)
def test_empty_content_beside_tool_calls_goes(identity, content):
    """Every native client leaves the key out."""
    (message,), repairs = mend([assistant(call("A"), content=content)], identity=identity)
    assert message == assistant(call("A"))
    assert repairs["empty-content-dropped"] == 1


@pytest.mark.parametrize(
    ("identity", "content", "expected"),
    [
        ("kimi-cli", "", assistant(content=[])),
        ("own", None, assistant(content=[])),
        ("kimi-code", "", assistant()),
        ("kimi-code", [], assistant()),
    ],
)
def test_a_turn_of_reasoning_alone_has_the_content_of_the_identity(identity, content, expected):
    """An empty list for kimi-cli, no key for Kimi Code."""
    (message,), repairs = mend([assistant(content=content)], identity=identity)
    assert message == expected
    assert repairs == {"empty-content-dropped": 1}


def test_the_empty_list_of_kimi_cli_stays():
    """What is native already is no repair."""
    assert mend([assistant(content=[])]) == ([assistant(content=[])], {})


@pytest.mark.parametrize(
    "empty",
    [
        {"role": "assistant"},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": None, "tool_calls": [], "reasoning_content": "", "refusal": None},
        {"role": "assistant", "content": [text("\n")], "name": "me"},
    ],
)
def test_an_assistant_message_that_says_nothing_is_dropped(empty):
    """It is left by a turn that was broken off."""
    assert mend([USER, empty, USER]) == ([USER, USER], {"empty-message-dropped": 1})


def test_empty_text_parts_are_dropped():
    """Where something else is left; a list of empty parts keeps one."""
    messages = [
        {"role": "user", "content": [text(""), text("a"), text("")]},
        {"role": "user", "content": [text("")] * 2},
    ]
    got, repairs = mend(messages)
    assert got == [{"role": "user", "content": [text("a")]}, {"role": "user", "content": [text("")]}]
    assert repairs == {"empty-part-dropped": 3}


def test_cache_marks_of_other_apis_are_dropped():
    """At the message and in its parts."""
    marked = {"role": "user", "cache_control": {}, "content": [text("a", cache_control={}), "x"]}
    got, repairs = mend([marked])
    assert got == [{"role": "user", "content": [text("a"), "x"]}]
    assert repairs == {"cache-control-dropped": 2}


@pytest.mark.parametrize("calls", [[], None])
def test_an_empty_list_of_tool_calls_goes(calls):
    """An assistant that calls nothing has no such key."""
    got, repairs = mend([assistant(content="a", tool_calls=calls)])
    assert got == [assistant(content="a")]
    assert repairs == {"empty-tool-calls-dropped": 1}


@pytest.mark.parametrize(
    ("fields", "known", "reasoning", "repair"),
    [
        ({}, {"B": "remembered"}, "remembered", "reasoning-recalled"),
        ({"content": "Let me see."}, {"A": ""}, "", "reasoning-recalled"),
        ({"content": "Let me see."}, {}, "Let me see.", "reasoning-made-up"),
        ({"content": [text("Let "), text("me.")]}, {}, "Let me.", "reasoning-made-up"),
        ({}, {}, REASONING_UNKNOWN, "reasoning-made-up"),
        ({"reasoning_content": None}, {}, REASONING_UNKNOWN, "reasoning-made-up"),
        ({"reasoning_details": [{"summary": "so"}, "x"]}, {}, "so", "reasoning-made-up"),
        ({"reasoning": "because"}, {"A": "remembered"}, "because", "reasoning-renamed"),
    ],
)
def test_missing_reasoning_of_a_tool_turn_is_filled_in(fields, known, reasoning, repair):
    """From memory, else from the turn's own words, else by a stand-in."""
    messages = [assistant(call("A"), call("B"), **{"reasoning_content": ..., **fields})]
    (message,), repairs = mend(messages, known=known)
    assert message["reasoning_content"] == reasoning
    assert "reasoning" not in message
    assert repairs == {repair: 1}


def test_without_thinking_no_reasoning_is_filled_in():
    """A request with thinking off needs none."""
    messages = [assistant(call("A"), reasoning_content=...)]
    assert mend(copy.deepcopy(messages), thinks=False) == (messages, {})


def test_reasoning_is_recalled_by_the_id_that_the_client_knows():
    """Ids are cleaned for upstream afterwards."""
    memory = ReasoningMemory()
    memory.remember(["Bash:0"], "remembered")
    (message,), _ = mend(
        [assistant(call("Bash:0"), reasoning_content=...)],
        identity="kimi-code",
        known={"Bash:0": memory.recall("Bash:0")},
    )
    assert (message["tool_calls"][0]["id"], message["reasoning_content"]) == ("Bash_0", "remembered")


def test_kept_reasoning_is_demanded_of_every_assistant_message():
    """With keep all, Kimi Code sends an empty one where there is none."""
    got, repairs = mend([assistant(content="a", reasoning_content=...), USER], keeps_all=True)
    assert got == [assistant(content="a", reasoning_content=""), USER]
    assert repairs == {"reasoning-empty-added": 1}


def test_streamed_reasoning_details_are_joined_and_lose_their_index():
    """Upstream refuses an index when they are sent back."""
    details = [
        {"index": 0, "type": "summary", "summary": "one "},
        {"index": 1, "type": "encrypted", "encrypted": "AA"},
        {"index": 0, "type": "summary", "summary": "two"},
        {"index": 0, "type": "text", "text": "x", "signature": None},
        {"type": "summary", "summary": "three"},
        {"index": "odd", "type": "summary"},
        "odd",
    ]
    (message,), repairs = mend([assistant(content="a", reasoning_details=details)])
    assert message["reasoning_details"] == [
        {"type": "summary", "summary": "one two"},
        {"type": "encrypted", "encrypted": "AA"},
        {"type": "text", "text": "x", "signature": None},
        {"type": "summary", "summary": "three"},
        {"type": "summary"},
        "odd",
    ]
    assert repairs == {"reasoning-details-merged": 1}
    assert merge_details(message["reasoning_details"]) == message["reasoning_details"]


@pytest.mark.parametrize(
    ("identity", "call_id", "expected"),
    [
        ("kimi-cli", "Shell:0", "Shell:0"),
        ("kimi-cli", "call_abc-1.2", "call_abc-1.2"),
        ("kimi-cli", "functions.bash:0|fc_1", "functions.bash:0_fc_1"),
        ("kimi-code", "Bash:0", "Bash_0"),
        ("kimi-code", "a.b c", "a_b_c"),
    ],
)
def test_ids_are_cleaned_in_calls_and_results_alike(identity, call_id, expected):
    """To what the identity's client sends; an id that it could have sent stays."""
    got, _ = mend([assistant(call(call_id)), result(call_id)], identity=identity)
    assert got[0]["tool_calls"][0]["id"] == got[1]["tool_call_id"] == expected


def test_a_call_without_an_id_gets_one_and_its_result_finds_it():
    """An id is made from the place in the history, which later turns do not move."""
    got, repairs = mend([USER, assistant(call(...), call("B")), result(...), result("B")])
    assert got[1]["tool_calls"][0]["id"] == got[2]["tool_call_id"] == "_call_1_0"
    assert repairs == {"tool-call-id-cleaned": 1, "tool-result-relinked": 1}


@pytest.mark.parametrize("orphan", [result("lost"), result(..., call_id="lost"), result(""), result(7)])
def test_the_only_orphan_is_given_to_the_only_open_call(orphan):
    """Where there is one of each there is nothing to guess, in whatever order they come."""
    got, repairs = mend([assistant(call("A"), call("B")), copy.deepcopy(orphan), result("A"), USER])
    assert got[1]["tool_call_id"] == "B"
    assert "call_id" not in got[1]
    assert repairs == {"tool-result-relinked": 1}


def test_a_result_that_names_its_call_elsewhere_is_linked():
    """Some clients write call_id."""
    got, repairs = mend([assistant(call("A"), call("B")), result(..., call_id="B"), result(..., call_id="A")])
    assert [message["tool_call_id"] for message in got[1:]] == ["B", "A"]
    assert repairs == {"tool-result-relinked": 2}


def test_a_turn_ends_where_the_results_end():
    """Results are those right behind the call."""
    one, two = assistant(call("A")), assistant(call("B"))
    got = list(turns([result("x"), one, result("A"), USER, result("y"), two, result("B")]))
    assert [turn.calls[0]["id"] for turn in got] == ["A", "B"]
    assert [len(turn.results) for turn in got] == [1, 1]


ids = st.text(st.sampled_from("aB:0_ é|"), max_size=3) | st.text("ab:", min_size=60, max_size=70)


@settings(max_examples=75)
@given(found=st.lists(ids, max_size=8), identity=st.sampled_from(list(RULES)))
def test_cleaned_ids_are_legal_distinct_and_stable(found, identity):
    """Different ids stay different, and a longer history changes none of them."""
    clean = CallIds(RULES[identity].id_characters)
    got = [clean.clean(call_id) for call_id in found]
    assert len(set(got)) == len(set(found))
    assert all(len(new) <= ID_LENGTH and new.isascii() for new in got)
    again = CallIds(RULES[identity].id_characters)
    half = found[: len(found) // 2]
    assert [again.clean(call_id) for call_id in half] == got[: len(half)]


def test_text_of_odd_content_is_empty():
    """Whatever stands there."""
    assert text_of(None) == text_of(7) == text_of([IMAGE, "x", text(None)]) == ""


contents = st.sampled_from(["", " ", "a", None, [], [text("")], [text("a"), IMAGE], [text(""), IMAGE], 7]).map(
    copy.deepcopy  # messages that share a list are nothing that JSON can say
)
tool_calls = st.lists(st.builds(call, ids | st.just(...)) | st.just("odd"), max_size=2)
histories = st.lists(
    st.builds(
        assistant,
        content=contents | st.just(...),
        tool_calls=tool_calls | st.just(...),
        reasoning_content=st.sampled_from(["r", "", None, ...]),
    )
    | st.builds(result, ids | st.just(...), content=contents)
    | st.builds(lambda content: {"role": "user", "content": content}, contents),
    max_size=7,
)


@settings(max_examples=100)
@given(messages=histories, identity=st.sampled_from(list(RULES)), thinks=st.booleans(), keeps_all=st.booleans())
def test_any_history_is_mended_for_good(messages, identity, thinks, keeps_all):
    """Mending is idempotent, and a longer history is mended the same way from the start."""
    prefix = copy.deepcopy(messages[: len(messages) // 2])
    last_is_open = bool(prefix) and prefix[-1]["role"] in {"assistant", "tool"}
    once, _ = mend(messages, identity=identity, thinks=thinks, keeps_all=keeps_all)
    again, repairs = mend(copy.deepcopy(once), identity=identity, thinks=thinks, keeps_all=keeps_all)
    assert (again, repairs) == (once, {})
    if not last_is_open:  # the results of an open turn are still to come
        short, _ = mend(prefix, identity=identity, thinks=thinks, keeps_all=keeps_all)
        assert once[: len(short)] == short
