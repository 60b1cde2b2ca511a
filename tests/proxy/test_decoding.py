import gzip
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.proxy.decoding import decode, decoder_for


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
    assert decode(b"plain", encoding) == b"plain"


def test_gzip_of_several_members():
    """A body of several gzip members (RFC 1952 §2.2) decodes to all of them."""
    packed = gzip.compress(b"one ") + gzip.compress(b"two")
    assert decode(packed, "gzip") == b"one two"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_damaged_bodies_come_back_as_they_are(encoding):
    """A body that does not decode is shown as it came, rather than lost."""
    assert decode(b"\xff\xfe not encoded", encoding) == b"\xff\xfe not encoded"


@pytest.mark.parametrize("encoding", ENCODERS)
def test_a_cut_body_decodes_as_far_as_it_goes(encoding):
    """Of a body that was cut, the beginning can be read."""
    data = bytes(range(256)) * 400
    out = decode(ENCODERS[encoding](data)[:-10], encoding)
    assert data.startswith(out)
