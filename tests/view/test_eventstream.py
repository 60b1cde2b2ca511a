import json
from binascii import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.view import eventstream
from kimi_core.view.eventstream import render
from kimi_core.view.frames import MAX_TRIES, walk
from kimi_core.view.text import PAGE
from kimi_core.wire.eventstream import MAX_HEADERS, Decoder, encode
from tests.view.bodies import FRAME, frame

GOOD = frame({"content": "hello"})
LONG = frame({"content": "long " * 200})


def spoiled(data, at):
    """Return *data* with one byte changed."""
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def test_one_line_per_frame():
    """Offset, length, checks, name and payload stand on one line, a longer payload is folded below."""
    page = render(GOOD + LONG, "a note")
    assert "2 frames" in page
    assert "all checksums good" in page
    assert "a note" in page
    (line,) = [line for line in page.splitlines() if '"hello"' in line]
    assert line.split() == ["0", str(len(GOOD)), "ok/ok", "assistantResponseEvent", '{"content":"hello"}']
    assert "(1,014 characters)" in page
    assert "  │ {\n" in page


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"message_type": "exception", "exception_type": "ThrottlingException"}, "EXCEPTION ThrottlingException"),
        ({"message_type": "error", "error_code": "Gone"}, "ERROR Gone"),
        ({"message_type": "event", "event_type": "meteringEvent"}, " meteringEvent"),
        ({"other": "value"}, "(no name)"),
    ],
)
def test_names_of_frames(headers, name):
    """Events go by their name, exceptions and errors in capitals."""
    assert name in render(frame({}, **headers))


def test_headers_of_no_name_are_shown():
    """A header that has no column of its own stands below its frame."""
    assert ":other=value" in render(frame({}, event_type="e", other="value"))


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (b"", "assistantResponseEvent"),
        (b"\xff\x00\x01", "(3 bytes)"),
        (b"plain", "plain"),
        (b"line\n" * 100, "(500 characters)"),
        (b'{\n  "a": 1}', '{"a":1}'),
        (b"x" * 70_000, "(70,000 bytes)"),
    ],
)
def test_payloads(payload, shown):
    """Payloads that are no JSON are shown as text or in hexadecimal, huge ones as they begin."""
    assert shown in render(encode(FRAME, payload))


def test_a_wrong_checksum_is_shown_and_decoding_goes_on():
    """A frame whose content was changed is shown as damaged, with its first bytes, and the next one as good."""
    page = render(GOOD + spoiled(GOOD, len(GOOD) - 10) + GOOD)
    assert "3 frames" in page
    assert "1 DAMAGED PIECE" in page
    assert "ok/BAD" in page
    assert "the frame's checksum is" in page
    assert GOOD[:16].hex(" ") in page
    assert f"decoding resumes at {2 * len(GOOD)}" in page


def test_a_broken_prelude_is_shown_and_the_next_frame_is_found():
    """Where not even the length can be trusted the next sound beginning is looked for."""
    page = render(GOOD + spoiled(GOOD, 2) + GOOD)
    assert "BAD/—" in page
    assert "NO FRAME" in page
    assert page.count('"hello"') == 2
    assert f"decoding resumes at {2 * len(GOOD)}" in page


def test_a_frame_that_misses_bytes_costs_no_other():
    """Where bytes of a frame are lost its length leads into the next one, which is found all the same."""
    page = render(GOOD[:-20] + GOOD)
    assert page.count('"hello"') == 1
    assert "1 DAMAGED PIECE" in page
    assert f"decoding resumes at {len(GOOD) - 20}" in page


@pytest.mark.parametrize(
    ("cut", "said"), [(5, "after 5 of 12 bytes of a prelude"), (40, f"after 40 of {len(GOOD)} bytes of this frame")]
)
def test_a_cut_end_is_shown(cut, said):
    """A stream that ends within a frame says where, and nothing is hidden of what came."""
    page = render(GOOD + GOOD[:cut])
    assert said in page
    assert "decoding ends here" in page


def test_damaged_headers_are_shown():
    """A frame whose checksums fit, but whose headers cannot be read, is shown with their bytes."""
    data = spoiled(GOOD, 12)
    data = data[:-4] + crc32(data[:-4]).to_bytes(4, "big")
    page = render(data)
    assert "(unreadable headers)" in page
    assert "goes beyond its block" in page


@pytest.mark.parametrize(("total", "headers"), [(8, 0), (100, 200), (16 + MAX_HEADERS + 1, MAX_HEADERS + 1)])
def test_impossible_lengths(total, headers):
    """A prelude whose checksum fits may still announce what cannot be."""
    prelude = total.to_bytes(4, "big") + headers.to_bytes(4, "big")
    prelude += crc32(prelude).to_bytes(4, "big")
    (piece,) = walk(prelude + bytes(20))
    assert piece.prelude_ok
    assert not piece.is_frame
    assert "cannot hold" in piece.problem or "beyond the format's limits" in piece.problem


def test_a_long_stream_is_shown_from_both_ends():
    """Of very many frames the beginning and the end are shown, the rest is counted, damage is shown anyway."""
    many = GOOD * (eventstream.FIRST + 10) + spoiled(GOOD, 100) + GOOD * (eventstream.LAST + 10)
    page = render(many + frame({"last": 1}))
    assert "21 good frames left out (assistantResponseEvent 21)" in page
    assert "ok/BAD" in page
    assert '{"last":1}' in page


def test_much_damage_is_bounded(monkeypatch):
    """Damage in the middle is shown up to a bound, and the rest of it counted."""
    monkeypatch.setattr(eventstream, "FIRST", 2)
    monkeypatch.setattr(eventstream, "LAST", 2)
    monkeypatch.setattr(eventstream, "MAX_DAMAGED", 3)
    page = render(GOOD * 2 + spoiled(GOOD, 100) * 10 + GOOD * 2)
    assert "7 damaged pieces more left out" in page


def test_a_stream_without_end_is_looked_at_in_part(monkeypatch):
    """Beyond so many frames the rest is not looked at, which is said."""
    monkeypatch.setattr(eventstream, "LOOKED_AT", eventstream.FIRST + 5)
    page = render(GOOD * (eventstream.FIRST + 9))
    assert f"the last {4 * len(GOOD)} bytes were not looked at" in page


def test_nothing():
    """An empty body is an empty stream."""
    assert "0 frames · 0 bytes · empty" in render(b"")


@given(st.lists(st.binary(max_size=40), max_size=5), st.data())
@settings(max_examples=120)
def test_pieces_are_the_whole_stream(payloads, data):
    """Whatever is changed or cut, the pieces follow each other without a gap, and a page comes of it."""
    stream = bytearray(b"".join(encode(FRAME, payload) for payload in payloads))
    for at in data.draw(st.lists(st.integers(0, max(len(stream) - 1, 0)), max_size=3)):
        if stream:
            stream[at] ^= data.draw(st.integers(1, 255))
    body = bytes(stream[: data.draw(st.integers(0, len(stream)))])
    position = 0
    for piece in walk(body):
        assert piece.offset == position
        assert piece.length > 0
        position += piece.length
    assert position == len(body)
    render(body)


@given(st.binary(max_size=300))
@settings(max_examples=120)
def test_any_bytes_give_a_page(data):
    """Bytes of any kind are shown."""
    render(data).encode()


@given(st.lists(st.binary(max_size=60), max_size=6))
@settings(max_examples=100)
def test_what_the_decoder_takes_is_good(payloads):
    """Frames that the strict decoder takes are good ones here, with the same payloads."""
    stream = b"".join(encode(FRAME, payload) for payload in payloads)
    strict = [found.payload for found in Decoder().feed(stream)]
    assert [piece.payload for piece in walk(stream) if piece.good] == strict == payloads


@pytest.mark.parametrize(
    "body",
    [bytes(5_000_000), b"\1\0\0\1\0\1ab" * 625_000, GOOD * 37_000, encode({}, b"") * 300_000],
    ids=["zeros", "beginnings", "frames", "smallest"],
)
def test_five_megabytes_make_a_bounded_page(body):
    """Neither many frames nor damage that looks like many beginnings makes a page that a browser cannot take."""
    page = render(body)
    assert 0 < len(page) < 2 * PAGE
    assert len(body) > MAX_TRIES


def test_json_payloads_with_line_breaks_are_one_line():
    """A payload that is short once written anew stays on the line."""
    assert '{"a":1}' in render(encode(FRAME, json.dumps({"a": 1}, indent=4).encode()))


def test_a_stream_of_nothing_but_damage_is_looked_at_in_part(monkeypatch):
    """Where everything is damaged it is enough to show the beginning; the page says that the rest was not looked at."""
    monkeypatch.setattr(eventstream, "FIRST", 20)
    monkeypatch.setattr(eventstream, "MAX_FAULTS", 10)
    page = render(spoiled(GOOD, 100) * 50)
    assert f"the last {29 * len(GOOD):,} bytes were not looked at" in page


def test_a_page_that_is_full_still_shows_the_end():
    """However long the payloads are, the last frames have room."""
    page = render(frame({"content": "x" * 3000}) * 200 + frame({"content": "y"}) * 1400 + frame({"last": 1}))
    assert "had no room here" in page
    assert '{"last":1}' in page
