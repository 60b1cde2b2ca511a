"""Header values of all ten types, as hypothesis strategies and as botocore gives them."""

from uuid import UUID

from hypothesis import strategies as st

from kimi_core.wire.eventstream_headers import HeaderType


def _int(bits):
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


VALUES = {
    HeaderType.TRUE: st.just(True),
    HeaderType.FALSE: st.just(False),
    HeaderType.INT8: _int(8),
    HeaderType.INT16: _int(16),
    HeaderType.INT32: _int(32),
    HeaderType.INT64: _int(64),
    HeaderType.BYTES: st.binary(max_size=40),
    HeaderType.STRING: st.text(max_size=20),
    HeaderType.TIMESTAMP: _int(64),
    HeaderType.UUID: st.uuids(),
}


def headers_of_all_types():
    """Return dictionaries of name -> (type, value)."""
    pairs = st.one_of([st.tuples(st.just(kind), values) for kind, values in VALUES.items()])
    names = st.text(min_size=1, max_size=20).filter(lambda name: len(name.encode()) < 256)
    return st.dictionaries(names, pairs, max_size=6)


def plain(value):
    """Return *value* as botocore decodes it."""
    return value.bytes if isinstance(value, UUID) else value
