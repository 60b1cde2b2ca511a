"""The codec against vectors, against botocore's, and against every way of cutting a stream."""

import struct
import tracemalloc
from itertools import pairwise
from uuid import UUID
from zlib import crc32

import pytest
from botocore.eventstream import EventStreamBuffer, ParserError
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.errors import KimiMitmError
from kimi_core.wire.eventstream import Decoder, Frame, FrameTooLong, StreamTruncated, encode
from kimi_core.wire.eventstream_headers import FrameDamaged, HeaderType
from tests.wire.eventstream_values import headers_of_all_types, plain

SMALLEST = bytes.fromhex("000000100000000005c248eb7d98c8ff")
JSON = "application/json"

# bytes of whole frames, with the headers in wire order
VECTORS = {
    "smallest": (SMALLEST, {}, b""),
    "text": (
        bytes.fromhex(
            "0000007c0000005c3bddcf780b3a6576656e742d74797065070016617373697374616e74526573706f6e73654576656e740d3a636f6e"
            "74656e742d747970650700106170706c69636174696f6e2f6a736f6e0d3a6d6573736167652d747970650700056576656e747b22636f"
            "6e74656e74223a224869227db02babdc"
        ),
        {":event-type": "assistantResponseEvent", ":content-type": JSON, ":message-type": "event"},
        b'{"content":"Hi"}',
    ),
    "percentage": (
        bytes.fromhex(
            "0000008600000057ae8b5e0c0b3a6576656e742d74797065070011636f6e7465787455736167654576656e740d3a636f6e74656e742d"
            "747970650700106170706c69636174696f6e2f6a736f6e0d3a6d6573736167652d747970650700056576656e747b22636f6e74657874"
            "557361676550657263656e74616765223a31322e357d775490df"
        ),
        {":event-type": "contextUsageEvent", ":content-type": JSON, ":message-type": "event"},
        b'{"contextUsagePercentage":12.5}',
    ),
    "exception": (
        bytes.fromhex(
            "0000008800000061de0175f40d3a6d6573736167652d74797065070009657863657074696f6e0f3a657863657074696f6e2d74797065"
            "0700135468726f74746c696e67457863657074696f6e0d3a636f6e74656e742d747970650700106170706c69636174696f6e2f6a736f"
            "6e7b226d657373616765223a22736c6f7720646f776e227d1f18242b"
        ),
        {":message-type": "exception", ":exception-type": "ThrottlingException", ":content-type": JSON},
        b'{"message":"slow down"}',
    ),
}
TEXT = VECTORS["text"][0]


def decode(*chunks, **limits):
    """Return the frames of *chunks* and the error that ended them, or None."""
    decoder = Decoder(**limits)
    frames = []
    try:
        for chunk in chunks:
            frames += decoder.feed(chunk)
        decoder.finish()
    except KimiMitmError as error:
        return frames, error
    return frames, None


def botocores(data):
    """Return botocore's headers and payloads, and whether it was content."""
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    frames = []
    try:
        frames.extend((message.headers, message.payload) for message in buffer)
    except (ParserError, UnicodeDecodeError, struct.error, KeyError):
        return frames, False
    return frames, True


def cut(data, places):
    """Return *data* in pieces, cut at *places*."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def resealed(frame, **changes):
    """Return *frame* with other lengths or another header block, and checksums that are right again."""
    _, headers = struct.unpack_from(">II", frame)
    block = changes.get("block", frame[12 : 12 + headers])
    body = block + frame[12 + headers : -4]
    prelude = struct.pack(">II", changes.get("total", len(body) + 16), changes.get("headers", len(block)))
    message = prelude + struct.pack(">I", crc32(prelude)) + body
    return message + struct.pack(">I", crc32(message))


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_decode(name):
    """Known frames are read as what they are."""
    raw, headers, payload = VECTORS[name]
    assert decode(raw) == ([Frame(headers, payload)], None)


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_encode(name):
    """Known frames are written bit for bit."""
    raw, headers, payload = VECTORS[name]
    assert encode(headers, payload) == raw


def test_frame_of_a_real_server():
    """The first frame of a recorded answer, built from its headers, has the lengths and checksums recorded."""
    headers = {
        ":event-type": "initial-response",
        ":content-type": "application/x-amz-json-1.0",
        ":message-type": "event",
    }
    frame = encode(headers, b'{"conversationId":""}')
    assert struct.unpack_from(">III", frame) == (133, 96, 0x519681D3)
    assert frame[-4:] == bytes.fromhex("77ad4ee8")


@given(st.lists(st.tuples(headers_of_all_types(), st.binary(max_size=60)), max_size=4), st.lists(st.integers(0, 4000)))
@settings(max_examples=75, deadline=None)
def test_round_trip_and_botocore(messages, places):
    """All ten types come back as they were, in any chunks, and botocore reads the same bytes alike."""
    data = b"".join(encode(headers, payload) for headers, payload in messages)
    expected = [({name: value for name, (_, value) in headers.items()}, payload) for headers, payload in messages]
    frames, error = decode(*cut(data, places))
    assert error is None
    assert [(dict(frame.headers), frame.payload) for frame in frames] == expected
    theirs, content = botocores(data)
    assert content
    assert theirs == [({name: plain(value) for name, value in headers.items()}, raw) for headers, raw in expected]


@given(
    st.lists(st.sampled_from([raw for raw, _, _ in VECTORS.values()]), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 700), st.integers(1, 255)), max_size=3),
    st.integers(0, 30),
    st.lists(st.integers(0, 700), max_size=6),
)
@settings(max_examples=100, deadline=None)
def test_damage_is_found_at_the_same_place_in_any_chunks(parts, flips, lost, places):
    """Flipped bits and a lost end give the frames before them and one error, however the bytes are cut."""
    data = bytearray(b"".join(parts))
    for place, mask in flips:
        data[place % len(data)] ^= mask
    data = bytes(data[: len(data) - lost])
    whole, error = decode(data)
    pieces, same = decode(*cut(data, places))
    assert pieces == whole
    assert (type(same), str(same)) == (type(error), str(error))
    theirs, content = botocores(data)
    assert [(dict(frame.headers), frame.payload) for frame in whole] == theirs
    assert content == (error is None or isinstance(error, StreamTruncated))


@pytest.mark.parametrize("value", [True, False, 7, -1, "text", b"bytes", UUID(int=5)])
def test_plain_values_find_their_type(value):
    """A value without a type is written so that it is read as itself."""
    (frame,), _ = decode(encode({"name": value}))
    assert (type(frame.headers["name"]), frame.headers["name"]) == (type(value), value)


def test_single_bytes():
    """Chunks of one byte give the same frames as one chunk."""
    data = b"".join(raw for raw, _, _ in VECTORS.values()) * 3
    assert decode(*(data[i : i + 1] for i in range(len(data)))) == decode(data)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        pytest.param(b"\x01" + TEXT[1:], FrameDamaged, "prelude \\(12 bytes\\)", id="prelude checksum"),
        pytest.param(
            TEXT[:-1] + b"\0", FrameDamaged, "\\(124 bytes\\) is 0xb02babdc, it says 0xb02bab00", id="checksum"
        ),
        pytest.param(resealed(TEXT, total=15, headers=0), FrameDamaged, "of 15 bytes cannot hold 0", id="total < 16"),
        pytest.param(resealed(TEXT, headers=109), FrameDamaged, "of 124 bytes cannot hold 109", id="headers > total"),
        pytest.param(resealed(SMALLEST, block=b"\1a"), FrameDamaged, "beyond its block of 2 bytes", id="no type"),
        pytest.param(resealed(SMALLEST, block=b"\5a"), FrameDamaged, "beyond its block of 2 bytes", id="half a name"),
        pytest.param(resealed(SMALLEST, block=b"\1a\4\0"), FrameDamaged, "beyond its block", id="half an int32"),
        pytest.param(resealed(SMALLEST, block=b"\1a\7\0\5abc"), FrameDamaged, "beyond its block", id="half a string"),
        pytest.param(resealed(SMALLEST, block=b"\1a\x09abc"), FrameDamaged, "beyond its block", id="half a uuid"),
        pytest.param(resealed(SMALLEST, block=b"\1a\x0a"), FrameDamaged, "type 10", id="unknown type"),
        pytest.param(resealed(SMALLEST, block=b"\0\0"), FrameDamaged, "twice or not at all: ''", id="no name"),
        pytest.param(resealed(SMALLEST, block=b"\1a\0\1a\1"), FrameDamaged, "not at all: 'a'", id="twice"),
        pytest.param(resealed(SMALLEST, block=b"\1\xff\0"), FrameDamaged, "not UTF-8 at byte 1", id="name not UTF-8"),
        pytest.param(TEXT[:5], StreamTruncated, "after 5 of 16 bytes", id="end in the prelude"),
        pytest.param(TEXT + TEXT[:99], StreamTruncated, "after 99 of 124 bytes", id="end in a frame"),
    ],
)
def test_errors_say_numbers(data, error, words):
    """Each kind of damage has its error, with the numbers that tell what was wrong."""
    with pytest.raises(error, match=words):
        raise decode(data)[1]


@pytest.mark.parametrize(
    ("lengths", "fits"),
    [
        pytest.param((16 + 20, 10), True, id="at the limits"),
        pytest.param((16 + 21, 11), False, id="headers"),
        pytest.param((16 + 11, 0), False, id="payload"),
        pytest.param((0xFFFFFFFF, 0), False, id="4 GiB"),
        pytest.param((0xFFFFFFFF, 0xFFFFFFFF - 16), False, id="4 GiB of headers"),
    ],
)
def test_limits_hold_before_the_frame_is_there(lengths, fits):
    """A prelude that announces too much is refused with its twelfth byte."""
    prelude = struct.pack(">II", *lengths)
    decoder = Decoder(max_headers=10, max_payload=10)
    assert list(decoder.feed(prelude)) == []
    rest = decoder.feed(struct.pack(">I", crc32(prelude)))
    if fits:
        assert list(rest) == []
    else:
        with pytest.raises(FrameTooLong, match=f"{lengths[1]} bytes of headers .* at most 10 and 10"):
            list(rest)


def test_frames_before_the_damage_come_out():
    """Damage in a chunk does not take the frames before it along, and the error stays."""
    decoder = Decoder()
    frames = decoder.feed(TEXT + SMALLEST[:-1] + b"\0" + TEXT)
    assert next(frames).payload == b'{"content":"Hi"}'
    for again in (lambda: next(frames), lambda: list(decoder.feed(TEXT)), decoder.finish):
        with pytest.raises(FrameDamaged, match=r"\(16 bytes\)"):
            again()


def test_frames_left_in_an_iterator_are_not_lost():
    """Who stops iterating gets the rest with the next call; who never does gets an error at the end."""
    decoder = Decoder()
    next(decoder.feed(TEXT * 2 + TEXT[:10]))
    assert len(list(decoder.feed(TEXT[10:]))) == 2
    decoder.feed(TEXT)
    with pytest.raises(StreamTruncated, match="after 124 of 16 bytes"):
        decoder.finish()


def test_headers_are_read_only():
    """Frames share the headers of the same bytes, so that nobody may change them."""
    (one, two), _ = decode(TEXT * 2)
    assert one.headers is two.headers
    with pytest.raises(TypeError):
        one.headers[":event-type"] = "other"


def test_memory_of_header_blocks_is_bounded():
    """Streams that never repeat a header block are decoded in constant memory, however many there are at a time."""
    decoders = [Decoder() for _ in range(10)]
    list(decoders[0].feed(TEXT))
    tracemalloc.start()
    try:
        for number in range(3000):
            assert len(list(decoders[number % 10].feed(encode({"name": f"{number:0500}"}, b"x" * number)))) == 1
        ours = tracemalloc.Filter(inclusive=True, filename_pattern="*/kimi_core/wire/*")  # other threads run as well
        kept = tracemalloc.take_snapshot().filter_traces([ours])
    finally:
        tracemalloc.stop()
    assert sum(place.size for place in kept.statistics("filename")) < 300_000


def test_limits_are_each_decoders_own():
    """What one decoder has taken, and remembers, is still too long for another one with narrower limits."""
    assert len(list(Decoder().feed(TEXT))) == 1
    for limits in ({"max_headers": 10}, {"max_payload": 10}):
        with pytest.raises(FrameTooLong):
            list(Decoder(**limits).feed(TEXT))
    assert len(list(Decoder().feed(TEXT))) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("", "a", id="empty name"),
        pytest.param("n" * 256, "a", id="long name"),
        pytest.param("n", "a" * 65536, id="long string"),
        pytest.param("n", b"a" * 65536, id="long bytes"),
        pytest.param("n", (HeaderType.INT8, 128), id="int8 too big"),
        pytest.param("n", (HeaderType.INT16, "1"), id="no number"),
        pytest.param("n", (HeaderType.STRING, 1), id="no string"),
    ],
)
def test_encoder_refuses_what_the_format_cannot_hold(name, value):
    """Nothing is written that could not be read again."""
    with pytest.raises(ValueError, match=r"bytes|is no INT"):
        encode({name: value})
