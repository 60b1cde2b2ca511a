import hashlib
import json

import pytest

from kimi_core.errors import BadRequest
from kimi_core.kiro.history import GO_ON, NO_RESULT, build
from kimi_core.kiro.images import MAX_IMAGES
from kimi_core.kiro.openai_in import read
from kimi_core.kiro.turns import NOTHING, AssistantTurn, UserTurn

URL = "data:image/gif;base64,R0lGODlh"
IMAGE = {"type": "image_url", "image_url": {"url": URL}}
GIF = {"format": "gif", "source": {"bytes": "R0lGODlh"}}


def user(content):
    """Return a message of the user."""
    return {"role": "user", "content": content}


def assistant(content=None, *ids, **more):
    """Return a message of the assistant with a call for each id."""
    made = [{"id": i, "function": {"name": "ls", "arguments": json.dumps({"of": i})}} for i in ids]
    return {"role": "assistant", "content": content, "tool_calls": made, **more}


def result(call_id, content="done", **more):
    """Return a tool message."""
    return {"role": "tool", "tool_call_id": call_id, "content": content, **more}


def made(*messages, **options):
    """Return the conversation of *messages*."""
    return build(read(json.dumps({"model": "m", "messages": messages}).encode()).request.messages, **options)


def seen(conversation):
    """Return the turns in short: content, then what is called, or what came back."""
    short = []
    for turn in conversation.turns:
        if isinstance(turn, AssistantTurn):
            short.append((turn.content, [use.id for use in turn.uses]))
        else:
            short.append((turn.content, {result.id: result.texts for result in turn.results}))
    return short


def repairs(conversation):
    """Return the repairs that happened."""
    return {name: count for name, count in conversation.repairs.items() if count}


def digest(text):
    """Return what becomes of a foreign id."""
    return hashlib.sha256(text.encode()).hexdigest()


def test_turns_that_alternate_stay():
    """Nothing is added and nothing counted."""
    conversation = made(user("a"), assistant("b", "1"), result("1", "r"), user("c"))
    assert seen(conversation) == [("a", {}), ("b", ["1"]), ("c", {"1": ["r"]})]
    assert repairs(conversation) == {}
    assert conversation.turns[1].uses[0].input == {"of": "1"}
    assert list(conversation.called()) == ["ls"]


@pytest.mark.parametrize(
    ("messages", "expected", "repaired"),
    [
        ([user("a"), user("b")], [("a\n\nb", {})], {}),
        ([user("a"), assistant("b"), assistant("c"), user("d")], [("a", {}), ("b\n\nc", []), ("d", {})], {}),
        ([assistant("a"), user("b")], [(NOTHING, {}), ("a", []), ("b", {})], {"turn-added": 1}),
        ([user("a"), assistant("b")], [("a", {}), ("b", []), (GO_ON, {})], {"turn-added": 1}),
        (
            [user("a"), assistant("b"), user("")],
            [("a", {}), ("b", []), (NOTHING, {})],
            {"turn-added": 1, "empty-message-dropped": 1},
        ),
        ([user("")], [(NOTHING, {})], {"empty-message-dropped": 1}),
        ([assistant("")], [(NOTHING, {})], {"empty-message-dropped": 1}),
        ([user("a"), assistant(""), user("b")], [("a\n\nb", {})], {"empty-message-dropped": 1}),
        (
            [user("a"), assistant("b"), user(" \n"), assistant("c"), user("d")],
            [("a", {}), ("b\n\nc", []), ("d", {})],
            {"empty-message-dropped": 1},
        ),
        (
            [user("a"), {"role": "system", "content": "s"}, assistant("b"), user("c")],
            [("a\n\ns", {}), ("b", []), ("c", {})],
            {"late-system-as-user": 1},
        ),
    ],
)
def test_alternation(messages, expected, repaired):
    """Neighbours of one role are joined, messages that say nothing go, the user comes first and last."""
    conversation = made(*messages)
    assert (seen(conversation), repairs(conversation)) == (expected, repaired)


@pytest.mark.parametrize(
    ("messages", "expected", "repaired"),
    [
        # order of the calls
        ([assistant("", "1", "2"), result("2", "b"), result("1", "a")], {"1": ["a"], "2": ["b"]}, {}),
        # the calls of one turn in two messages
        ([assistant("", "1"), assistant("", "2"), result("1", "a"), result("2", "b")], {"1": ["a"], "2": ["b"]}, {}),
        # text between
        ([assistant("", "1"), user("wait"), result("1", "a")], {"1": ["a"]}, {}),
        # no result, at the end and before another turn
        ([assistant("", "1", "2"), result("1", "a")], {"1": ["a"], "2": [NO_RESULT]}, {"missing-result-added": 1}),
        ([assistant("", "1")], {"1": [NO_RESULT]}, {"missing-result-added": 1}),
        ([assistant("", "1"), user("b")], {"1": [NO_RESULT]}, {"missing-result-added": 1}),
        # twice
        ([assistant("", "1"), result("1", "a"), result("1", "b")], {"1": ["a", "b"]}, {"second-result-joined": 1}),
        ([assistant("", "1"), result("1", ""), result("1", "")], {"1": []}, {"second-result-joined": 1}),
        # one id for two calls
        ([assistant("", "1", "1"), result("1", "a"), result("1", "b")], {"1": ["a"], digest("1\0" + "1"): ["b"]}, {}),
        # nothing came back
        ([assistant("", "1"), result("1", "")], {"1": []}, {}),
    ],
)
def test_calls_and_results_are_paired(messages, expected, repaired):
    """One result for each call, in its order; the text of every result is there."""
    conversation = made(user("go"), *messages)
    assert list(seen(conversation)[2][1].items()) == list(expected.items())
    assert repairs(conversation) == repaired


def test_results_without_a_call_become_text():
    """Before any call, after their turn, and for an id that nobody knows; an empty one says nothing."""
    conversation = made(
        result("0", "a"),
        assistant("", "1"),
        result("1", "b"),
        result("2", "c"),
        result("3", ""),
        assistant("ok"),
        result("1", [{"type": "text", "text": "d"}, IMAGE]),
    )
    assert seen(conversation) == [
        ("Result of the tool call 0:\n\na", {}),
        ("", ["1"]),
        ("Result of the tool call 2:\n\nc", {"1": ["b"]}),
        ("ok", []),
        ("Result of the tool call 1:\n\nd", {}),
    ]
    assert conversation.turns[-1].images == [GIF]
    assert repairs(conversation) == {"orphan-result-as-text": 3, "empty-message-dropped": 1}


@pytest.mark.parametrize("messages", [[result("1", "a", is_error=True)], [result("1"), result("1", is_error=True)], []])
def test_a_failed_call_says_so(messages):
    """Where the client says it, and where there is no result."""
    assert made(user("go"), assistant("", "1"), *messages).turns[-1].results[0].failed


def test_the_same_id_in_every_turn():
    """Some services begin anew each time; Kiro wants each id once, and the same in every request."""
    turn = [assistant("", "call_0"), result("call_0")]
    first = made(user("go"), *turn, *turn)
    assert [call for _, calls in seen(first)[1::2] for call in calls] == ["call_0", digest("call_0\0" + "1")]
    longer = made(user("go"), *turn, *turn, *turn, user("more"))
    assert seen(longer)[:4] == seen(first)[:4]


@pytest.mark.parametrize("call_id", ["call:1", "", "x" * 65, "é", "a b"])
def test_foreign_ids_become_a_hash(call_id):
    """On both sides."""
    conversation = made(user("go"), assistant("", call_id), result(call_id, "a"))
    assert seen(conversation)[1:] == [("", [digest(call_id)]), ("", {digest(call_id): ["a"]})]


def test_arguments_that_are_none():
    """Are refused by their path."""
    message = assistant("", "0", "1")
    message["tool_calls"][1]["function"]["arguments"] = "{"
    with pytest.raises(BadRequest) as caught:
        made(user("go"), message)
    assert caught.value.param == "messages[1].tool_calls[1].function.arguments"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (assistant("a", prefix=True), "messages[1].prefix"),
        (assistant("a", partial=True), "messages[1].partial"),
        (assistant("a", audio={"id": "x"}), "messages[1].audio"),
        (assistant("a", function_call={}), "messages[1].function_call"),
        (assistant([IMAGE]), "messages[1].content[0]"),
        ({"role": "system", "content": [{"type": "text", "text": ""}, IMAGE]}, None),
        (user([{"type": "image_url", "image_url": "http://x/y.png"}]), "messages[1].content[0].image_url"),
        (result("1", [{"type": "image_url", "image_url": {"url": "x"}}]), "messages[1].content[0].image_url.url"),
    ],
)
def test_what_no_turn_can_hold_is_refused(message, param):
    """By its path. A late system message is the user's, and may have an image."""
    if param is None:
        assert made(user("a"), message).turns[0].images == [GIF]
        with pytest.raises(BadRequest) as caught:
            made(message)
        assert caught.value.param == "messages[0].content[1]"
        return
    with pytest.raises(BadRequest) as caught:
        made(user("a"), message)
    assert caught.value.param == param


def test_refusals_of_the_assistant_are_its_text():
    """As a field and as a part."""
    part = {"type": "refusal", "refusal": "no"}
    assert seen(made(user("a"), assistant([part], refusal="never"), user("b")))[1] == ("no\n\nnever", [])


def test_images_of_every_turn_are_kept():
    """Those of the past, of users and of tools; a turn with an image alone still needs content."""
    conversation = made(
        user([IMAGE]), assistant("", "1"), result("1", [IMAGE, {"type": "text", "text": "x"}]), user("b")
    )
    assert [turn.images for turn in conversation.turns if isinstance(turn, UserTurn)] == [[GIF], [GIF]]
    assert seen(conversation) == [(NOTHING, {}), ("", ["1"]), ("b", {"1": ["x"]})]


def test_too_many_images_in_a_turn():
    """The first that is too many is named, also where the turn comes from several messages."""
    with pytest.raises(BadRequest) as caught:
        made(user([IMAGE] * MAX_IMAGES), user([{"type": "text", "text": "x"}, IMAGE]))
    assert caught.value.param == "messages[1].content[1]"


def test_a_model_without_eyes():
    """Is told before the service is, with the place of the image."""
    with pytest.raises(BadRequest, match="takes no images") as caught:
        made(user("a"), user([IMAGE]), images=False)
    assert caught.value.param == "messages[1].content[0]"


def test_reasoning_is_given_back_with_its_turn():
    """Where it is known, by the calls and the text; what the client has of it is worth nothing without a signature."""
    block = {"reasoningText": {"text": "hm", "signature": "s"}}
    asked = []

    def recall(ids, text):
        asked.append((ids, text))
        return block if "1" in ids else None

    conversation = made(
        user("a"),
        assistant("b", "1", reasoning_content="hm"),
        result("1"),
        assistant("c"),
        assistant("d", "1"),
        recall=recall,
    )
    assert asked == [(["1"], "b"), ([], "c"), (["1"], "d")]
    assert [turn.reasoning for turn in conversation.turns[1::2]] == [block, None]
    assert not conversation.reasoning_dropped


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "reasoning_details"])
@pytest.mark.parametrize("content", ["a", ""])
def test_reasoning_that_is_left_out_is_told(name, content):
    """With the turn, and where the turn has nothing else."""
    assert made(user("a"), assistant(content, **{name: ["x"]}), user("b")).reasoning_dropped
