import gzip
import tracemalloc
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.wire import codings
from kimi_core.wire.codings import TooMuch, decode, decoder_for

PLENTY = 1 << 20


def _raw_deflate(data):
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


ENCODERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    " Deflate ": _raw_deflate,
    "br": brotli.compress,
    "zstd": zstandard.compress,
}


@pytest.mark.parametrize("encoding", ENCODERS)
@given(data=st.binary(max_size=300), size=st.integers(1, 40))
def test_any_chunking_decodes_to_the_same_bytes(encoding, data, size):
    """However the encoded bytes are cut, the decoded ones are the original."""
    decoder = decoder_for(encoding)
    packed = ENCODERS[encoding](data)
    out = b"".join(decoder.feed(packed[at : at + size]) for at in range(0, len(packed), size))
    assert out == data


@pytest.mark.parametrize("encoding", [None, "", "identity", "chocolate"])
def test_what_is_not_encoded_needs_no_decoder(encoding):
    """No coding, and one nobody knows, leave the bytes alone."""
    assert decoder_for(encoding) is None
    assert decode(b"plain", encoding, PLENTY) == b"plain"


def test_gzip_of_several_members():
    """A body of several gzip members (RFC 1952 §2.2) decodes to all of them."""
    packed = gzip.compress(b"one ") + gzip.compress(b"two")
    assert decode(packed, "gzip", PLENTY) == b"one two"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_damaged_bodies_come_back_as_they_are(encoding):
    """A body that does not decode is shown as it came, rather than lost."""
    assert decode(b"\xff\xfe not encoded", encoding, PLENTY) == b"\xff\xfe not encoded"


@pytest.mark.parametrize("encoding", ENCODERS)
def test_a_cut_body_decodes_as_far_as_it_goes(encoding):
    """Of a body that was cut, the beginning can be read."""
    data = bytes(range(256)) * 400
    out = decode(ENCODERS[encoding](data)[:-10], encoding, PLENTY)
    assert data.startswith(out)


BOMBS = {
    "gzip": lambda size: gzip.compress(bytes(size)),
    "deflate": lambda size: zlib.compress(bytes(size)),
    "br": lambda size: brotli.compress(bytes(size), quality=1),
    "zstd": lambda size: zstandard.compress(bytes(size)),
}


@pytest.mark.parametrize("encoding", BOMBS)
def test_a_few_bytes_that_stand_for_many_are_not_undone(encoding):
    """A piece that stands for far more than anybody sends is refused before it is in memory."""
    bomb = BOMBS[encoding](codings.MAX_FED + 3 * codings.PIECE)
    tracemalloc.start()
    with pytest.raises(TooMuch):
        decoder_for(encoding).feed(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * codings.MAX_FED


@pytest.mark.parametrize("encoding", BOMBS)
@pytest.mark.parametrize("limit", [0, 1000, 3 * codings.PIECE])
def test_a_whole_body_is_undone_as_far_as_it_may_go(encoding, limit):
    """Of a body that is longer than the limit comes its beginning, and little more than the limit."""
    out = decode(BOMBS[encoding](8 * codings.PIECE), encoding, limit)
    assert limit < len(out) <= limit + 5 * codings.PIECE
    assert not out.strip(b"\0")


@pytest.mark.parametrize("encoding", BOMBS)
def test_what_is_long_but_plausible_is_undone(encoding):
    """A piece within the bound comes out whole, in however many steps."""
    data = bytes(range(256)) * (12 * codings.PIECE // 256)
    packed = brotli.compress(data, quality=1) if encoding == "br" else ENCODERS[encoding](data)
    assert decoder_for(encoding).feed(packed) == data


def test_members_without_end_are_bounded():
    """Many small members of gzip are counted together."""
    assert len(decode(gzip.compress(bytes(1000)) * 3000, "gzip", 10_000)) < 12_000


@pytest.mark.parametrize("encoding", ENCODERS)
def test_the_end_of_a_coding_is_known(encoding):
    """A body that is cut anywhere is not whole; one without a byte is empty, and whole."""
    packed = ENCODERS[encoding](bytes(range(256)) * 9)
    for size in range(len(packed) + 1):
        decoder = decoder_for(encoding)
        decoder.feed(packed[:size])
        if size in {0, len(packed)}:
            decoder.finish()
        else:
            with pytest.raises(EOFError):
                decoder.finish()


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@given(first=st.binary(max_size=300), second=st.binary(max_size=300), size=st.integers(1, 80))
def test_members_and_frames_follow_each_other(encoding, first, second, size):
    """Both formats may be put one after the other, cut wherever one likes."""
    packed = ENCODERS[encoding](first) + ENCODERS[encoding](second)
    decoder = decoder_for(encoding)
    out = b"".join(decoder.feed(packed[at : at + size]) for at in range(0, len(packed), size))
    decoder.finish()
    assert out == first + second
