import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.wire import members


@pytest.mark.parametrize(
    ("text", "value", "put"),
    [
        ("{}", None, '{"k":7}'),
        ("{ }", None, '{ "k":7}'),
        ('{"a":1}', None, '{"a":1,"k":7}'),
        ('{"a":1 }', None, '{"a":1 ,"k":7}'),
        ('{"k":null}', "null", '{"k":7}'),
        ('{ "k" :\t[1, 2.0] , "a":{"k":1}}', "[1, 2.0]", '{ "k" :\t7 , "a":{"k":1}}'),
        ('{"k":1,"\\u006b":2,"a":1e400}', "2", '{"k":1,"\\u006b":7,"a":1e400}'),
        ('{"a":"}\\",k"}', None, '{"a":"}\\",k","k":7}'),
    ],
)
def test_get_and_put(text, value, put):
    """One member is read or set, in its place or at the end, and the rest of the text stays."""
    assert members.get(text, "k") == value
    assert members.put(text, "k", "7") == put


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4), st.text(max_size=3), JSON, st.booleans())
def test_any_object(data, key, value, pretty):
    """The edited text means the edited object, whatever stands in it."""
    text = json.dumps(data, indent=2 if pretty else None, ensure_ascii=pretty)
    found = members.get(text, key)
    assert (json.loads(found) if found is not None else None) == data.get(key)
    assert json.loads(members.put(text, key, json.dumps(value))) == {**data, key: value}
    if key not in data:
        assert members.add(text, key, "7") == members.put(text, key, "7")


@pytest.mark.parametrize("text", ["", "[]", '{"a"}', '{"a":1', '{"a":1 "b":2}', '{"a":}', "{a:1}"])
def test_no_object(text):
    """What is no object is a ValueError."""
    with pytest.raises(ValueError, match=r"missing|Expecting"):
        members.get(text, "a")
