"""Header fields that are found by an index answer as mitmproxy's own do, whatever is done to them."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http
from mitmproxy.test import tflow, tutils

from kimi_core.headers import Headers
from kimi_core.proxy import fields

NAMES = ["A", "a", "b", "X-C", "x-c", "\udcff"]
names = st.sampled_from([*NAMES, *(fields.to_bytes(name) for name in NAMES)])
values = st.sampled_from(["1", "2", "ä", "\udce4"])
pairs = st.lists(st.tuples(st.sampled_from(NAMES).map(fields.to_bytes), values.map(fields.to_bytes)), max_size=6)
CHANGES = {
    "set": lambda headers, name, value: headers.__setitem__(name, value),
    "set all": lambda headers, name, value: headers.set_all(name, [value, value]),
    "add": lambda headers, name, value: headers.add(name, value),
    "pop": lambda headers, name, value: headers.pop(name, None),
    "replace": lambda headers, name, value: setattr(headers, "fields", headers.fields[1:]),
    "clear": lambda headers, name, value: headers.clear(),
}


def seen(headers):
    """Return all that can be asked."""
    asked = [*NAMES, "none", *(fields.to_bytes(name) for name in NAMES)]
    return (
        headers.fields,
        [headers.get(name) for name in asked],
        [headers.get(name, "default") for name in asked],
        [headers.get_all(name) for name in asked],
        [name in headers for name in asked],
        list(headers),
        list(headers.items()),
        list(headers.items(multi=True)),
        len(headers),
        bytes(headers),
        headers.get_state(),
    )


@given(pairs, st.lists(st.tuples(st.sampled_from(sorted(CHANGES)), names, values), max_size=6))
def test_it_answers_as_mitmproxy_does(first, steps):
    """After any history of changes, to each question."""
    theirs, mine = http.Headers(first), fields.Indexed.of(tuple(first))
    assert seen(mine) == seen(theirs)
    for change, name, value in steps:
        for each in (theirs, mine):
            CHANGES[change](each, name, value)
        assert seen(mine) == seen(theirs)
        assert mine == theirs
        assert theirs == mine
        assert mine.plain() == Headers(theirs.items(multi=True))


@pytest.mark.parametrize("again", [lambda each: each.copy(), copy.copy, copy.deepcopy])
def test_a_copy_goes_its_own_way(again):
    """What is done to a copy shows in the copy alone, to whoever has asked before or not."""
    mine = fields.Indexed.of(((b"A", b"1"),))
    assert mine["a"] == "1"
    other = again(mine)
    other["a"] = "2"
    assert (mine["a"], other["a"]) == ("1", "2")


@given(pairs, st.sets(st.sampled_from([b"a", b"b"])), st.dictionaries(st.sampled_from([b"A", b"X-c", b"new"]), values))
def test_fields_change_in_their_places(first, gone, put):
    """What goes is gone; what is put stands once, in the place and spelling of the first of its name, or at the end."""
    put = {name: fields.to_bytes(value) for name, value in put.items() if name.lower() not in gone}
    wanted = http.Headers([pair for pair in first if pair[0].lower() not in gone])
    for name, value in put.items():
        wanted.set_all(name, [value])
    got = fields.Indexed.of(tuple(first)).changed(gone, put)
    assert got.fields == wanted.fields
    assert seen(got) == seen(wanted)
    assert list(got.names()) == [name.lower() for name, _ in wanted.fields]


def test_what_is_no_name_is_not_there():
    """As with any mapping."""
    assert None not in fields.Indexed.of(((b"A", b"1"),))
    with pytest.raises(KeyError):
        fields.Indexed.of(())["a"]


def test_a_message_keeps_its_fields():
    """A message is given the index once, and its state is what it was; a saved flow has mitmproxy's own."""
    flow = tflow.tflow(resp=tutils.tresp())
    before = flow.get_state()
    fields.indexed(flow.response)
    indexed = flow.response.headers
    fields.indexed(flow.response)
    assert flow.response.headers is indexed
    assert isinstance(indexed, fields.Indexed)
    assert flow.get_state() == before
    assert fields.headers_of(flow.response) is fields.headers_of(flow.response)
    loaded = http.HTTPFlow.from_state(before)
    assert type(loaded.response.headers) is http.Headers
    assert fields.headers_of(loaded.response) == fields.headers_of(flow.response)
