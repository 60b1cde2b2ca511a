"""Cost of decoding AWS event streams, against botocore's EventStreamBuffer on the same bytes.

Run `python benchmarks/eventstream.py`. Times are the best of several runs, taken in turns, so that a busy machine slows
both sides alike. The bounds of the project: 2.5 times as fast as botocore, time linear in the bytes however small the
chunks are, and memory that does not grow with the length of a stream.
"""

from __future__ import annotations

import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from botocore.eventstream import EventStreamBuffer

sys.path.insert(0, str(Path(__file__).parent.parent))

from kimi_core.wire.eventstream import Decoder, encode

BOUND = 2.5  # times as fast as botocore
LINEAR = 2.0  # a frame that is ten times as long may cost at most so many times ten times as much
MEMORY = 2_000_000  # bytes at the peak, for frames of 4 KB in chunks of 64 KB
STREAM = 500_000_000  # bytes of the long stream
RUNS = 9


def frame(text: str) -> bytes:
    """Return a text frame of Kiro."""
    headers = {":event-type": "assistantResponseEvent", ":content-type": "application/json", ":message-type": "event"}
    return encode(headers, json.dumps({"content": text, "modelId": "auto"}, separators=(",", ":")).encode())


def pieces(data: bytes, size: int) -> list[bytes]:
    """Return *data* in chunks of *size* bytes."""
    return [data[start : start + size] for start in range(0, len(data), size)]


def ours(chunks: list[bytes]) -> int:
    """Return how many frames our decoder finds."""
    decoder = Decoder()
    return sum(1 for chunk in chunks for _ in decoder.feed(chunk))


def theirs(chunks: list[bytes]) -> int:
    """Return how many frames botocore finds."""
    buffer, count = EventStreamBuffer(), 0
    for chunk in chunks:
        buffer.add_data(chunk)
        for _ in buffer:
            count += 1
    return count


def best(*sides: Callable[[], object]) -> list[float]:
    """Return the best time in seconds of each side."""
    times = [float("inf")] * len(sides)
    for _ in range(RUNS):
        for index, side in enumerate(sides):
            begin = time.perf_counter()
            side()
            times[index] = min(times[index], time.perf_counter() - begin)
    return times


def speed() -> bool:
    """Print one row per shape of stream; tell whether all keep the bound."""
    word, page = frame("Hello wor"), frame("x" * 4000)
    cases = {
        "a word a frame, a frame a chunk": [word] * 4000,
        "a word a frame, 1 KB chunks": pieces(word * 4000, 1024),
        "a word a frame, 16 KB chunks": pieces(word * 4000, 16384),
        "a word a frame, 100 B chunks": pieces(word * 2000, 100),
        "4 KB frames, 16 KB chunks": pieces(page * 1000, 16384),
    }
    print(f"{'stream':<34} {'ours µs/frame':>14} {'botocore':>9} {'ratio':>6}")
    kept = True
    for name, chunks in cases.items():
        frames = ours(chunks)
        assert frames == theirs(chunks)
        us, them = best(lambda chunks=chunks: ours(chunks), lambda chunks=chunks: theirs(chunks))
        kept &= them / us >= BOUND
        print(f"{name:<34} {us / frames * 1e6:>14.2f} {them / frames * 1e6:>9.2f} {them / us:>6.1f}")
    return kept


def linear() -> bool:
    """Print what one long frame costs in chunks of one byte; tell whether ten times the bytes cost ten times."""
    short, long = pieces(frame("x" * 20_000), 1), pieces(frame("x" * 200_000), 1)
    small, big = best(lambda: ours(short), lambda: ours(long))
    factor = big / small / (len(long) / len(short))
    print(f"chunks of one byte: {big / len(long) * 1e9:.0f} ns/byte, {factor:.2f} times that of a shorter frame")
    return factor <= LINEAR


def memory() -> bool:
    """Print the peak of memory over a long stream; tell whether it keeps the bound."""
    chunk = frame("x" * 4000) * 16
    decoder, count, frames = Decoder(), STREAM // len(chunk), 0
    turn = chunk[1000:] + chunk[:1000]  # every chunk ends inside a frame
    list(decoder.feed(chunk[:1000]))
    tracemalloc.start()
    for _ in range(count):
        for _ in decoder.feed(turn):
            frames += 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{count * len(chunk) / 1e6:.0f} MB in {frames} frames: {peak / 1e3:.0f} KB of memory at the peak")
    return peak <= MEMORY and frames == count * 16


def main() -> int:
    """Print the figures; return 1 where a bound is missed."""
    return int(not all([speed(), linear(), memory()]))


if __name__ == "__main__":
    sys.exit(main())
