import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.errors import BadRequest
from kimi_core.kiro.calls import CallIds, read_arguments


def digest(text):
    """Return what becomes of a foreign id."""
    return hashlib.sha256(text.encode()).hexdigest()


@given(st.lists(st.one_of(st.text(max_size=3), st.sampled_from([digest("é"), digest("a\0" + "1")]))))
def test_ids_are_legal_and_each_there_once(client_ids):
    """Whatever the client calls them."""
    ids = CallIds()
    wire = [ids.new(client_id) for client_id in ["é", *client_ids]]
    assert len(set(wire)) == len(wire)
    assert all(len(name) <= 64 and name.isascii() and name for name in wire)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", {}),
        (" \n", {}),
        ('{"a":[1,{"b":null}]}', {"a": [1, {"b": None}]}),
        ('{"a":1e300}', {"a": 1e300}),
        ('{"a":"1e999"}', {"a": "1e999"}),
        ('{"a":' + "1" * 400 + "}", {"a": int("1" * 400)}),
        ('{"a":"\\ud83d"}', {"a": "\ufffd"}),
    ],
)
def test_arguments(text, value):
    """JSON text of an object; no text is an empty one."""
    assert read_arguments(text, "p") == value


@pytest.mark.parametrize(
    "text", ["{", "[]", "3", "null", '"a"', '{"a":1e999}', '{"a":NaN}', '{"a":-Infinity}', '{"a":' + "1" * 5000 + "}"]
)
def test_arguments_that_are_none(text):
    """Are never mended."""
    with pytest.raises(BadRequest, match="JSON object") as caught:
        read_arguments(text, "p")
    assert caught.value.param == "p"
