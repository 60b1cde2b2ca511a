"""The events of a recorded SSE stream (WHATWG HTML §9.2), read in bulk and without trust.

A long answer has tens of thousands of events, and reading each on its own takes too long for a view. So the values of
all ``data:`` lines are read as one JSON list, and one by one only where that fails.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kimi_core.view import text

HEAD_BYTES = 1280 * 1024  # of a longer stream, what is read of its beginning
HEAD_EVENTS = 6_000  # about as many tokens
TAIL_BYTES = 96 * 1024  # and of its end, where finish reason and usage stand
TAIL_EVENTS = 500
DONE = b"[DONE]"
BOM = b"\xef\xbb\xbf"


class Gap(NamedTuple):
    """Stands in `Stream.values` for so many events that were not read."""

    events: int


class Stream(NamedTuple):
    """What a stream holds.

    `values`: the JSON values of its events in order, perhaps with a `Gap` among them. `raw`, `raw_end`: the same as
    they came, of the beginning and of the end. `done`: ``[DONE]`` stands there. `damaged`: how many events are no
    JSON, `examples` the first of them. `total`: how many events there are. `comments`: how many lines of comment were
    met. `rest`: a last line that has no end.
    """

    values: list[Any]
    raw: list[bytes]
    raw_end: list[bytes]
    done: bool
    damaged: int
    examples: list[bytes]
    total: int
    comments: int
    rest: bytes


def looks_like(data: bytes) -> bool:
    """Tell whether *data* begins as an event stream does."""
    start = data[:64].removeprefix(BOM).lstrip()
    return start.startswith((b"data:", b"event:", b"id:", b":", b"retry:"))


def read(data: bytes) -> Stream:
    """Return the events of *data*. Never raises.

    Chat services write one ``data:`` line per event; a value of several lines is taken for several events, and shown.
    """
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    data = data.removeprefix(BOM)
    stop = data.rfind(b"\n") + 1
    rest, data = data[stop:], data[:stop]
    end = len(data) if len(data) <= HEAD_BYTES + TAIL_BYTES else data.rfind(b"\n", 0, HEAD_BYTES) + 1
    head = _Lines(data[:end])
    tail = _Lines(data[max(end, data.find(b"\n", len(data) - TAIL_BYTES) + 1) :])
    raw, raw_end = head.payloads[:HEAD_EVENTS], [*head.payloads[HEAD_EVENTS:], *tail.payloads][-TAIL_EVENTS:]
    total = len(head.payloads) + data.count(b"\ndata:", max(end - 1, 0))
    done = DONE in raw[-3:] + raw_end[-3:]
    values, damaged = _values([payload for payload in raw if payload != DONE])
    skipped = total - len(raw) - len(raw_end)
    if skipped > 0:
        values.append(Gap(skipped))
    end_values, end_damaged = _values([payload for payload in raw_end if payload != DONE])
    damaged += end_damaged
    return Stream(
        [*values, *end_values],
        raw,
        raw_end,
        done,
        len(damaged),
        damaged[:3],
        total,
        head.comments + tail.comments,
        rest,
    )


class _Lines:
    """The values of the ``data:`` lines of a piece, and how many lines of comment there are."""

    def __init__(self, piece: bytes) -> None:
        lines = piece.split(b"\n")
        self.payloads = [line[5:].strip() for line in lines if line.startswith(b"data:")]
        self.comments = sum(line.startswith(b":") for line in lines)


def _values(raw: list[bytes]) -> tuple[list[Any], list[bytes]]:
    """Return the JSON values of *raw*, and what of it is no JSON."""
    try:
        values = text.read_json(b"[" + b",".join(raw) + b"]")
    except text.Unreadable:
        return _one_by_one(raw)
    # "1,2" is no event, although it makes two members of a list
    return (values, []) if len(values) == len(raw) else _one_by_one(raw)


def _one_by_one(raw: list[bytes]) -> tuple[list[Any], list[bytes]]:
    values: list[Any] = []
    damaged: list[bytes] = []
    for payload in raw:
        try:
            values.append(text.read_json(payload))
        except text.Unreadable:
            damaged.append(payload)
    return values, damaged
