import itertools
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.wire.sse import BOM, Editor, Event, events


def _leave(_):
    return None


def _shout(value):
    """Edit every value that holds an x."""
    return value.upper() if b"x" in value else None


def _chunks(data, cuts):
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def _run(chunks, edit=_shout, **options):
    editor = Editor(edit, **options)
    return b"".join([*map(editor.feed, chunks), editor.finish()])


STREAMS = [
    b"data: x\n\n",
    b"data:x\n\n",
    b"data:  x\n\n",
    b"data\n\n",
    b"data:\n\n",
    b"database: x\n\n",
    b": comment x\n\nevent: x\nid: x\nretry: 5\ndata: x\n\n",
    b"data: x\r\n\r\ndata: x\r\n\r\n",
    b"data: x\r\rdata: x\r\r",
    b"data: x\r\ndata: y\n\rdata: x",
    BOM + b"data: x\n\n",
    BOM + BOM + b"data: x\n\n",
    'data: {"x": "žluťoučký 🐎"}\n\n'.encode(),
    b"data: \xff\xfex\n\n",
    b'{"x": "no event stream"}',
    b"\n\n\r\n",
    b"",
]
EDITED = {
    b"data: x\n\n": b"data: X\n\n",
    b"data:x\n\n": b"data:X\n\n",
    b"data:  x\n\n": b"data:  X\n\n",
    STREAMS[6]: b": comment x\n\nevent: x\nid: x\nretry: 5\ndata: X\n\n",
    STREAMS[7]: b"data: X\r\n\r\ndata: X\r\n\r\n",
    STREAMS[8]: b"data: X\r\rdata: X\r\r",
    STREAMS[9]: b"data: X\r\ndata: y\n\rdata: X",
    STREAMS[10]: BOM + b"data: X\n\n",
    STREAMS[12]: 'data: {"X": "žluťoučký 🐎"}\n\n'.encode(),
    b"data: \xff\xfex\n\n": b"data: \xff\xfeX\n\n",
}


@pytest.mark.parametrize("stream", STREAMS)
def test_only_values_of_data_lines_are_edited(stream):
    """The hook sees values of data lines alone; all else leaves as it came, whatever the line ends."""
    assert _run([stream], lambda v: v.replace(b"x", b"X") if b"x" in v else None) == EDITED.get(stream, stream)


PIECE = st.sampled_from(
    [
        b"data: ",
        b"data:",
        b"data",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b": c",
        b"id: 1",
        b"x",
        b"xy" * 5,
        BOM,
        b" ",
        b"\xc3",
    ]
)
BYTES = st.lists(PIECE | st.binary(max_size=4), max_size=24).map(b"".join)


@given(BYTES, st.lists(st.integers(0, 200)), st.integers(0, 12))
@settings(max_examples=100)
def test_any_chunking_gives_the_same_bytes(data, cuts, limit):
    """However a stream is cut, and whatever the limit, the same bytes leave as for one chunk."""
    assert _run(_chunks(data, cuts), limit=limit) == _run([data], limit=limit)


@given(BYTES | st.binary(), st.lists(st.integers(0, 200)), st.integers(0, 12))
@settings(max_examples=100)
def test_without_an_edit_every_byte_passes(data, cuts, limit):
    """Any byte string, event stream or not, leaves as it came."""
    assert _run(_chunks(data, cuts), _leave, limit=limit) == data


@given(BYTES, st.lists(st.integers(0, 200)))
@settings(max_examples=100)
def test_only_an_incomplete_line_is_held_back(data, cuts):
    """After each chunk everything up to the last line end has left."""
    editor, came, left = Editor(_leave), b"", b""
    for chunk in _chunks(data, cuts):
        came += chunk
        left += editor.feed(chunk)
        held = came[len(left) :]
        assert left == came[: len(left)]
        assert b"\n" not in held
        assert b"\r" not in held


@given(BYTES, st.lists(st.integers(0, 200)), st.integers(0, 12))
@settings(max_examples=100)
def test_after_a_cut_an_event_stands_alone(data, cuts, limit):
    """An event that is put behind a stream cut anywhere is seen by a client as an event of its own."""
    editor = Editor(_leave, limit=limit)
    sent = b"".join(map(editor.feed, _chunks(data, cuts))) + editor.cut()
    after = list(events(sent + b"event: error\ndata: cut\n\n"))
    assert after[-1].data == "cut"
    assert after[-1].event == "error"
    assert len(after) >= len(list(events(data))) + 1


@pytest.mark.parametrize(
    ("chunks", "end"),
    [
        ([], b""),
        ([b"data: a\n\n"], b""),
        ([b"data: a\n\ndata: half"], b""),
        ([b"data: a\n"], b"\n\n"),
        ([b"data: a\rhalf"], b"\n\n"),
        ([b"data: a\ndata: half"], b"\n\n"),
        ([b"data: a\r"], b"\n\n"),
        ([b"data: a\r", b"\n"], b"\n\n"),
        ([b"data: a\r", b"\n\n"], b""),
        ([b"data: a\r", b"\r"], b""),
        ([b"data: a\r", b"b", b"\n"], b"\n\n"),
        ([b"data: a\r", b"b", b"\n", b"\n"], b""),
        ([b"data: longer than the limit"], b"\n\n"),
        ([b"data: longer than the limit\n"], b"\n\n"),
        ([b"data: longer than the limit", b"\n"], b"\n\n"),
        ([b"data: longer than the limit", b"\r", b"\n"], b"\n\n"),
        ([b"data: longer than the limit", b"\r\n"], b"\n\n"),
        ([b"data: longer than the limit", b"\n", b"\n"], b""),
        ([b"data: longer than the limit", b"\n\n"], b""),
    ],
)
def test_cut(chunks, end):
    """A cut brings the stream to a place where an event may begin, and drops half a line."""
    editor = Editor(_leave, limit=10)
    for chunk in chunks:
        editor.feed(chunk)
    assert editor.cut() == end
    assert editor.cut() == b""
    assert editor.finish() == b""


@pytest.mark.parametrize("chunk", [b"data: a\n\n", b"data: a\r\n\r\n: b\r\n\r\n", b"\n", b""])
def test_whole_lines_without_an_edit_are_the_very_chunk(chunk):
    """The hot path copies nothing."""
    assert Editor(_leave).feed(chunk) is chunk


def test_a_line_over_the_limit_passes_raw():
    """A line longer than the limit is neither edited nor held back, and the next one is edited again."""
    editor = Editor(_shout, limit=10)
    assert editor.feed(b"data: xxxx") == b""
    assert editor.feed(b"x") == b"data: xxxxx"
    assert editor.feed(b"more x") == b"more x"
    assert editor.feed(b"end\ndata: x\n") == b"end\ndata: X\n"
    assert editor.feed(b"data: whole and too long x\n") == b"data: whole and too long x\n"


def test_ten_megabyte_line():
    """A line of 10 MB in network-sized chunks leaves byte for byte, with little of it held."""
    line = b"data: " + b"a" * 10_000_000 + b"\n\n"
    editor = Editor(_leave)
    out = [editor.feed(line[i : i + 65536]) for i in range(0, len(line), 65536)]
    assert b"".join(out) == line


def test_one_byte_chunks_cost_linear_time():
    """The held line grows in place by ever larger steps: it is not joined anew for each chunk."""
    editor = Editor(_leave)
    held, sizes = editor._held, []
    for _ in range(100_000):
        editor.feed(b"a")
        if not sizes or sizes[-1] != sys.getsizeof(held):
            sizes.append(sys.getsizeof(held))
    assert editor._held is held
    assert len(held) == 100_000
    assert len(sizes) < 200


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [Event("a")]),
        (b"data:a\r\ndata: b\r\n\r\n", [Event("a\nb")]),
        (b"event: e\nid: 1\ndata: a\n\ndata: b\n\n", [Event("a", "e", "1"), Event("b", id="1")]),
        (b"id: a\0b\ndata\n\n", [Event("")]),
        (b": comment\nretry: 1\nevent: lost\n\ndata:  two\n\n", [Event(" two")]),
        (BOM + b"data: \xff\n\ndata: no end\n", [Event("�")]),
        (b"", []),
    ],
)
def test_events(stream, expected):
    """A finished stream is read as the standard says."""
    assert list(events(stream)) == expected


def test_a_chunk_of_whole_events_is_looked_at_first():
    """What the look says no to is not taken apart; half an event, or the rest of one, is never skipped."""
    seen = []
    editor = Editor(seen.append, lambda data: b"x" in data)
    for chunk in (b"data: a\n\n", b"data: b\r\n\r\n", b"data: x1\n\ndata: c\n\n", b"data: x", b"2\n\n", b"data: d\n"):
        editor.feed(chunk)
    assert seen == [b"x1", b"c", b"x2", b"d"]
    assert editor.feed(b"\n\n") == b"\n\n"
    assert editor.cut() == b""
