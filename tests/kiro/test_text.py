"""The steps that text goes through: what each of them makes of it does not depend on how it was cut."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.kiro.text import Fence, StopSequences, Surrogates, ThinkingTags


def run(step, pieces):
    """Return what leaves *step*, joined."""
    return "".join([*(step.push(piece) for piece in pieces), step.flush()])


def pieces_of(text, places):
    """Return *text* cut at *places*."""
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in pairwise(edges)]


def thoughts(text, places=(), tags=("thinking", "think")):
    """Return what *text* thinks and says."""
    thought = []
    said = run(ThinkingTags(thought.append, tags), pieces_of(text, places) or [text])
    return "".join(thought), said


places = st.lists(st.integers(0, 200), max_size=12)


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        pytest.param(["a\ud83d", "\ude00b"], "a😀b", id="shared by two deltas"),
        pytest.param(["\ud83d", "x"], "\ufffdx", id="the other half never came"),
        pytest.param(["a\ude00"], "a\ufffd", id="low half alone"),
        pytest.param(["\ud83d"], "\ufffd", id="high half at the end"),
        pytest.param(["\ud83d\ud83d", "\ude00"], "\ufffd😀", id="two high halves"),
        pytest.param(["é", "日本", "a"], "é日本a", id="no surrogates"),
    ],
)
def test_surrogates(deltas, expected):
    """Halves meet across deltas, and one that stays alone becomes the replacement character."""
    assert run(Surrogates(), deltas) == expected


@given(st.text(st.characters(codec=None, categories=None), max_size=30), places)
@settings(max_examples=100, deadline=None)
def test_surrogates_in_any_pieces(text, cuts):
    """What leaves can be encoded, and is the same however the text was cut."""
    out = run(Surrogates(), pieces_of(text, cuts))
    assert out == text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    out.encode()


@pytest.mark.parametrize(
    ("text", "thought", "said"),
    [
        ("<thinking>hm</thinking>\n\nHi", "hm", "Hi"),
        (" \n<think>hm</think>Hi", "hm", "Hi"),
        ("<thinking>hm</thinking>\n  \n    code", "hm", "    code"),
        ("<thinking>hm</thinking> Hi", "hm", " Hi"),
        ("<thinking>hm</thinking>", "hm", ""),
        ("<thinking>hm</thinking> \n", "hm", ""),
        ("<thinking>no end", "no end", ""),
        ("<thinking>the tag `</thinking>` is one</thinking>!", "the tag `</thinking>` is one", "!"),
        (
            "<thinking>\"</thinking>\" '</thinking> </thinking>' </thinking>x",
            "\"</thinking>\" '</thinking> </thinking>' ",
            "x",
        ),
        ("<thinking></thinking>Hi", "", "Hi"),
        ("<thinking>a</think></thinking>b", "a</think>", "b"),
        ("Use <thinking>no</thinking>", "", "Use <thinking>no</thinking>"),
        ("<thin", "", "<thin"),
        ("  ", "", "  "),
        ("", "", ""),
        ("<think ing>", "", "<think ing>"),
        ("<thinking>a</thinking><thinking>b</thinking>", "a", "<thinking>b</thinking>"),
    ],
)
@given(cuts=places)
@settings(max_examples=30, deadline=None)
def test_thinking_tags(text, thought, said, cuts):
    """Only a block at the very start is thinking, and its end is no tag that the model talks about."""
    assert thoughts(text) == (thought, said)
    assert thoughts(text, cuts) == (thought, said)


@given(st.text("<thinkg>/`'\" \nab", max_size=40), places)
@settings(max_examples=100, deadline=None)
def test_thinking_tags_in_any_pieces(text, cuts):
    """Any text gives the same thoughts and words however it was cut."""
    for start in ("", "<thinking>"):
        assert thoughts(start + text, cuts) == thoughts(start + text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('```json\n{"a":1}\n```', '{"a":1}'),
        ('  \n```\n{"a":1}```  \n', '{"a":1}'),
        ("```json\r\n[1]\r\n```", "[1]"),
        ('{"a":"```"}', '{"a":"```"}'),
        ("```json\n{", "```json\n{"),
        ("```json\n{}\n```\nand more", "```json\n{}\n```\nand more"),
        ("```\na\n```\n```\nb\n```", "```\na\n```\n```\nb\n```"),
        ("```", "```"),
        ("```json```", "```json```"),
        ("``", "``"),
        ("  text", "  text"),
        ("", ""),
    ],
)
@given(cuts=places)
@settings(max_examples=30, deadline=None)
def test_fence(text, expected, cuts):
    """A single outer fence goes, everything else stays as it is."""
    assert run(Fence(), [text]) == expected
    assert run(Fence(), pieces_of(text, cuts)) == expected


def test_no_fence_no_delay():
    """JSON without a fence leaves at once."""
    step = Fence()
    assert [step.push(piece) for piece in (" ", "{", "}")] == ["", " {", "}"]


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one STOP two", ["STOP"], "one "),
        ("aaab", ["aab"], "a"),
        ("abcd", ["abcd", "c"], "ab"),
        ("xabc", ["bc", "abc"], "x"),
        ("STO", ["STOP"], "STO"),
        ("nothing", ["", "zzz"], "nothing"),
        ("nothing", [""], "nothing"),
        ("STOP", ["STOP"], ""),
    ],
)
@given(cuts=places)
@settings(max_examples=30, deadline=None)
def test_stop_sequences(text, stops, expected, cuts):
    """The text ends before the sequence that is complete first, of two the longer one."""
    step = StopSequences(stops)
    assert run(step, pieces_of(text, cuts)) == expected
    assert step.hit == (expected != text)
    assert step.push("more") + step.flush() == ("" if step.hit else "more")


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3), places)
@settings(max_examples=100, deadline=None)
def test_stop_sequences_in_any_pieces(text, stops, cuts):
    """No sequence is missed and nothing else is held for good, however the text was cut."""
    out = run(StopSequences(stops), pieces_of(text, cuts))
    assert out == run(StopSequences(stops), [text])
    assert text.startswith(out)
    assert not any(stop in out for stop in stops)
    assert out == text or any(text.startswith(stop, len(out)) for stop in stops)
