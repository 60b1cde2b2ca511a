import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.errors import BadRequest
from kimi_core.wire.lossless import CAN_ESCAPE, Document, Number, dump

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)
objects = st.dictionaries(texts | st.sampled_from(["messages", "tools"]), values, max_size=5)
STYLES = {
    "compact": {"separators": (",", ":"), "ensure_ascii": False},
    "spaced": {"ensure_ascii": False},
    "escaped": {"separators": (",", ":")},
    "indented and escaped": {"indent": 2},
}


def render(text):
    """Return what goes out for *text* without an edit."""
    return Document(text if isinstance(text, bytes) else text.encode()).render().decode()


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=60)
@given(value=objects)
def test_any_object_keeps_its_meaning_and_the_order_of_its_keys(style, value):
    """What goes out decodes to what came in, key order included, however it was spaced and escaped."""
    text = json.dumps(value, **STYLES[style])
    assert json.dumps(json.loads(render(text))) == json.dumps(value)


@settings(max_examples=60)
@given(value=objects, style=st.sampled_from(list(STYLES)))
def test_what_was_rendered_once_keeps_its_bytes(value, style):
    """Rendering is idempotent."""
    once = Document(json.dumps(value, **STYLES[style]).encode()).render()
    assert Document(once).render() == once


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"a":1,"messages":[],"tools":[]}',
        '{"messages":[{"content":"é 思考 \\u001f \\\\ \\" \\n"},null,7]}',
        '{"n":1.0,"m":-0.0,"e":1e-7,"big":123456789012345678901234567890}',
        pytest.param(
            '{"a":"\\u00e9\\ud83d\\ude00"}', marks=pytest.mark.skipif(not CAN_ESCAPE, reason="an older pydantic-core")
        ),
    ],
)
def test_a_body_of_a_common_writer_keeps_its_very_bytes(text):
    """What JSON.stringify, httpx or an escaping writer wrote goes out byte for byte."""
    assert render(text) == text


@pytest.mark.parametrize(
    "number",
    ["1e400", "-1E+5", "-0", "1.50", "0.1000000000000000055", "123456789012345678901234567890.5", "9" * 5000],
)
def test_every_digit_of_a_number_survives(number):
    """Numbers that no float or int of Python's holds, or spells that way, go out as they came in."""
    assert render(f'{{"messages":[{{"n":{number}}}],"n":{number}}}') == (
        f'{{"messages":[{{"n":{number}}}],"n":{number}}}'
    )


def test_lone_surrogates_survive():
    """Half a surrogate pair, which some clients cut a text down to, stays as the escape it was."""
    assert render('{"a":"x\\ud800","é":"é"}') == '{"a":"x\\ud800","é":"é"}'


def test_a_lone_surrogate_that_an_edit_brings_goes_out_as_an_escape():
    """A fast document stays writable whatever text an edit puts in."""
    document = Document(b'{"a":"b"}')
    document.values["c"] = "\ud800"
    assert document.render() == b'{"a":"b","c":"\\ud800"}'


@pytest.mark.parametrize(
    ("text", "expected", "count"),
    [
        ('{"a":1,"a":2}', '{"a":2}', 1),
        ('{"a":1,"b":{"c":1,"c":2,"c":3},"a":4}', '{"a":4,"b":{"c":3}}', 3),
        ('{"model":"x","model" : "x"}', '{"model":"x"}', 1),
    ],
)
def test_of_a_key_that_stands_twice_the_last_one_counts_for_everybody(text, expected, count):
    """Reader and server see the same value, whichever of the two the server would have taken."""
    document = Document(text.encode())
    assert document.duplicates == count
    assert document.render().decode() == expected


def test_a_touched_element_is_written_again_and_others_keep_their_pieces():
    """An edited element goes out edited; one that left or joined the list is no trouble."""
    document = Document(b'{"messages":[{"a":1},{"b":2},{"c":3}],"x":0}')
    messages = document.values["messages"]
    document.touch(messages[1])
    messages[1]["b"] = "new"
    del messages[0]
    messages.append({"d": 4})
    assert document.render() == b'{"messages":[{"b":"new"},{"c":3},{"d":4}],"x":0}'


def test_touching_what_is_no_element_is_harmless():
    """Nobody has to know whether a list is kept in pieces."""
    Document(b'{"a":[{}]}').touch({})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"x":0,"a":1,"y":2}', '{"x":0,"b":1,"y":2}'),
        ('{"b":9,"a":1}', '{"b":1}'),
    ],
)
def test_a_renamed_member_keeps_its_place(text, expected):
    """The key changes, the order does not; a member that had the new name goes."""
    document = Document(text.encode())
    values = document.values
    document.rename("a", "b")
    assert document.values is values
    assert document.render().decode() == expected


def test_a_byte_order_mark_is_tolerated_and_goes():
    """RFC 8259 §8.1 lets a reader ignore one and forbids to send it."""
    assert render(b'\xef\xbb\xbf{"a":1}') == '{"a":1}'


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"{", "not JSON"),
        (b'{"a"}', "not JSON"),
        (b'{"a":1} x', "not JSON"),
        (b'{"a":1}{"a":1}', "not JSON"),
        (b'{"a":NaN}', "NaN"),
        (b'{"a":-Infinity}', "-Infinity"),
        (b'{"a":"\x01"}', "Invalid control character."),
        (b'{"a":"x', "Unterminated string."),
        (b"[1]", "not an object"),
        (b'"text"', "not an object"),
        (b"null", "not an object"),
        (b'{"a":"\xff"}', "not UTF-8"),
        ('{"a":"é"}'.encode("utf-16"), "not UTF-8"),
        (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
    ],
)
def test_what_is_no_json_object_is_refused_in_a_sentence(body, what):
    """The sentence names the fault and holds no offset that could be taken for a status."""
    with pytest.raises(BadRequest, match=what) as caught:
        Document(body)
    assert not re.search(r"\d\d", str(caught.value))


@pytest.mark.parametrize("depth", [190, 300])
def test_nesting_is_no_matter_within_reason(depth):
    """The fast reader gives up before the exact one does, and nobody notices."""
    text = '{"a":' + "[" * depth + "]" * depth + "}"
    assert render(text) == text


def test_what_an_edit_nests_too_deeply_is_refused():
    """The writer's limit is a refusal, not a crash."""
    document = Document(b"{}")
    inner = document.values
    for _ in range(100_000):
        inner["a"] = {}
        inner = inner["a"]
    with pytest.raises(BadRequest, match="nested too deeply"):
        document.render()


@settings(max_examples=60)
@given(value=values)
def test_dump_writes_what_the_decoder_reads(value):
    """The exact writer agrees with the standard decoder, lone surrogates included."""
    assert json.loads(dump(value)) == value


def test_a_number_is_its_value_and_its_text():
    """It compares as a float and is written as it was read."""
    assert Number("1.50") == 1.5
    assert dump([Number("1.50"), 1, None, True, "\ud800"]) == '[1.50,1,null,true,"\\ud800"]'
