import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.errors import BadRequest
from kimi_core.kiro.openai_in import ImagePart, ImageUrl, TextPart, is_finite, path, read, well_formed


def body(message, **fields):
    """Return a request with one message."""
    return json.dumps({"model": "m", "messages": [message], **fields}).encode()


def test_a_request():
    """Models for what is known, and all the rest kept."""
    parts = [
        {"type": "text", "text": "a", "odd": 1},
        {"type": "image_url", "image_url": "u"},
        {"type": "image_url", "image_url": {"url": "u", "detail": "low"}},
    ]
    request, values, mended = read(body({"role": "user", "content": parts, "name": "n"}, temperature=0))
    text, short, long = request.messages[0].content
    assert isinstance(text, TextPart)
    assert isinstance(short, ImagePart)
    assert short.image_url == "u"
    assert isinstance(long.image_url, ImageUrl)
    assert (text.model_extra, request.messages[0].model_extra) == ({"odd": 1}, {"name": "n"})
    assert (long.image_url.model_extra, request.model_extra) == ({"detail": "low"}, {"temperature": 0})
    assert values["messages"][0]["content"] == parts
    assert not mended


@pytest.mark.parametrize(
    ("message", "param", "sentence"),
    [
        ({"role": "assistant", "content": None, "tool_calls": [{}]}, "tool_calls[0].id", "A field is missing here."),
        ({"role": "user", "content": 3}, "content", "The content of a message is a string or a list of parts."),
        ({"role": "user", "content": [[]]}, "content[0]", "An object is wanted here."),
        (
            {"role": "user", "content": [{"type": "text", "text": 3}]},
            "content[0].text",
            "Input should be a valid string.",
        ),
    ],
)
def test_a_fault_has_a_path_and_a_sentence(message, param, sentence):
    """And no value of the client's in it."""
    with pytest.raises(BadRequest) as caught:
        read(body(message))
    assert (caught.value.param, str(caught.value)) == (f"messages[0].{param}", sentence)


@pytest.mark.parametrize("key", ["<user>", "user", "<string>"])
def test_names_of_fields_do_not_confuse_the_path(key):
    """Whatever else stands in the message."""
    with pytest.raises(BadRequest) as caught:
        read(body({"role": "user", key: {}, "content": [{"type": "text"}]}))
    assert caught.value.param == "messages[0].content[0].text"


def test_halves_of_characters():
    """Are replaced, and that is known; a whole one that was written in halves is whole."""
    half = read(body({"role": "user", "content": "a\ud83d"}))
    assert (half.request.messages[0].content, half.mended) == ("a\ufffd", True)
    assert half.values["messages"][0]["content"] == "a\ufffd"
    whole = read(body({"role": "user", "content": "\U0001f600"}))
    assert (whole.request.messages[0].content, whole.mended) == ("\U0001f600", False)


@given(
    st.recursive(
        st.one_of(st.text(), st.integers(), st.none()),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    )
)
def test_well_formed_values_can_be_sent(value):
    """And those that could be before stay as they are."""
    clean = well_formed(value)
    json.dumps(clean, ensure_ascii=False).encode()
    assert well_formed(clean) == clean


@pytest.mark.parametrize(
    ("value", "finite"),
    [(1, True), ([1.5, {"a": "x"}], True), (math.inf, False), ({"a": [{"b": -math.inf}]}, False), ([math.nan], False)],
)
def test_numbers_that_json_has(value, finite):
    """At any depth."""
    assert is_finite(value) is finite


def test_paths():
    """As clients write them."""
    assert path(["messages", 3, "content", 0, "text"]) == "messages[3].content[0].text"
    assert path([]) == ""
