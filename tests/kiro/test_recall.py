from types import SimpleNamespace

import pytest

from kimi_core.kiro.recall import TurnMemory


def _answer(*ids, text="", signature=None, redacted=()):
    thoughts = SimpleNamespace(text=text, signature=signature, redacted=redacted)
    return SimpleNamespace(thoughts=thoughts, calls=SimpleNamespace(ids=list(ids)))


SIGNED = {"reasoningText": {"text": "thought", "signature": "fake-signature"}}


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        (_answer("1", text="thought", signature="fake-signature"), SIGNED),
        (_answer("1", redacted=("AAAA", "BBBB")), {"redactedContent": "BBBB"}),
        (_answer("1", text="thought"), None),
        (_answer("1"), None),
        (_answer(text="thought", signature="fake-signature"), None),
    ],
)
def test_what_can_be_given_back(answer, content):
    """Signed and redacted thoughts before tool calls can be given back; others cannot, or need not."""
    memory = TurnMemory()
    memory.remember("c", answer)
    assert memory.recall("c")(["1"], "any text") == content


def test_conversations_are_kept_apart():
    """The same ids of another conversation, and other ids of the same one, find nothing."""
    memory = TurnMemory()
    memory.remember("c", _answer("1", "2", text="thought", signature="fake-signature"))
    assert memory.recall("c")(["1", "2"], "") == SIGNED
    assert memory.recall("d")(["1", "2"], "") is None
    assert memory.recall("c")(["1"], "") is None


@pytest.mark.parametrize("bounds", [{"max_turns": 2}, {"max_characters": 14}])
def test_the_longest_unused_goes_first(bounds):
    """Beyond either bound the turn that was not used for longest is forgotten; a turn said again counts once."""
    memory = TurnMemory(**bounds)
    for number in "112":
        memory.remember("c", _answer(number, text="thought", signature="fake-signature"))
    assert memory.recall("c")(["1"], "") == SIGNED
    memory.remember("c", _answer("3", text="thought", signature="fake-signature"))
    assert [memory.recall("c")([number], "") is not None for number in "123"] == [True, False, True]


def test_a_repr_shows_no_thoughts():
    """What was thought does not show."""
    memory = TurnMemory()
    memory.remember("c", _answer("1", text="thought", signature="fake-signature"))
    assert repr(memory) == "TurnMemory(1 turns)"
