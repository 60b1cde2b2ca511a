"""Cost of rewriting a request (Kimi) and of translating it (Kiro) against the length of the conversation.

Run `python benchmarks/curve.py` (about half a minute). The time should grow as the conversation does: the exponent is
that of a power of the number of messages, fitted from `FROM` messages on, below which what every request has (tools,
system prompt) counts most. It fails where an exponent is above `LINEAR`. Times are of this thread's processor, the best
of several runs taken in turns, and the same body is parsed and dumped once with pydantic_core beside them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import kiro_request, rewrite
from benchmarks._plot import Line, chart
from benchmarks._table import Found, Picture, Table, publish

LENGTHS = (10, 20, 50, 100, 200, 400, 700, 1000, 1400, 2000)  # messages
MEGABYTE = 400  # messages that make 1 MB
FROM = 100  # messages
LINEAR = 1.10
BOUND = rewrite.BOUND
NAMES = ("Kiro translation", "Kimi rewrite", "parse and dump")
FILE = "cost-curve.svg"


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """Return b of y = a·x^b, by least squares of the logarithms."""
    logs = [(math.log(x), math.log(y)) for x, y in points]
    across = sum(x for x, _ in logs) / len(logs)
    up = sum(y for _, y in logs) / len(logs)
    return sum((x - across) * (y - up) for x, y in logs) / sum((x - across) ** 2 for x, _ in logs)


def measure() -> Iterator[Found]:
    columns = ["messages", "size", "Kimi rewrite", "Kiro translation", "parse + dump", "Kimi ratio", "target"]
    table = Table("Cost against the length of a conversation", columns)
    table.begin()
    lines: list[list[tuple[float, float]]] = [[], [], []]
    for messages in LENGTHS:
        body = rewrite.conversation(messages)
        kimi, both = rewrite.ratio(body)
        kiro, _ = kiro_request.times(body)
        for line, seconds in zip(lines, (kiro, kimi, both), strict=True):
            line.append((messages, seconds * 1e3))
        judged = messages == MEGABYTE
        times = (f"{seconds * 1e3:.2f} ms" for seconds in (kimi, kiro, both))
        target = f"≤ {BOUND:.2f}x" if judged else ""
        size = f"{len(body) / 1e6:.2f} MB"
        table.add(str(messages), size, *times, f"{kimi / both:.2f}x", target, missed=judged and kimi / both > BOUND)
    for name, line in zip(NAMES[:2], lines[:2], strict=True):
        power = exponent([point for point in line if point[0] >= FROM])
        says = "it is linear" if power <= LINEAR else "that is more than linear"
        table.note(f"{name}: time grows with the number of messages to the power of {power:.2f}; {says}.")
    yield table
    drawn = [Line(name, line) for name, line in zip(NAMES, lines, strict=True)]
    title = "Time for one request against the length of its conversation"
    yield Picture(FILE, title, chart(title, "messages", "ms", drawn))


if __name__ == "__main__":
    sys.exit(publish(measure))
