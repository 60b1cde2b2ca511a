"""Cost of translating a chat request for Kiro, against parsing and dumping the same body once with pydantic_core.

Run `python benchmarks/kiro_request.py`. Times are of this thread's processor, the best of several runs taken in turns,
so that a busy machine slows both sides alike. The bound is a ratio of 4 for a conversation of 400 messages and 1 MB;
what it costs per message must not grow with their number.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from pydantic_core import from_json, to_json

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.rewrite import conversation
from kimi_core.kiro.catalog import FALLBACK
from kimi_core.kiro.request import translate

BOUND = 4.0
GROWTH = 1.5  # most that the ratio of the longest conversation may be above that of 400 messages
RUNS = 25
MODEL = FALLBACK.find("claude-sonnet-4.6")


def times(body: bytes) -> tuple[float, float]:
    """Return the best times in seconds of the translation and of parse and dump."""
    sides = (
        lambda: translate(body, model=MODEL, identity_origin="KIRO_CLI", conversation_id="benchmark").body("arn"),
        lambda: to_json(from_json(body)),
    )
    best = [float("inf")] * len(sides)
    for _ in range(RUNS):
        for index, side in enumerate(sides):
            begin = time.thread_time()
            side()
            best[index] = min(best[index], time.thread_time() - begin)
    return best[0], best[1]


def main() -> int:
    """Print one row per conversation; return 1 where a bound is missed."""
    print(f"{'messages':>8} {'bytes':>10} {'translate ms':>13} {'parse+dump ms':>14} {'ratio':>6}")
    ratios = {}
    for messages, plain in ((10, False), (100, False), (400, False), (1600, False), (400, True)):
        body = conversation(messages, ascii_only=plain)
        ours, theirs = times(body)
        ratios.setdefault(messages, ours / theirs)
        what = "ASCII text" if plain else ""
        print(f"{messages:>8} {len(body):>10} {ours * 1e3:>13.2f} {theirs * 1e3:>14.2f} {ours / theirs:>6.2f} {what}")
    return int(ratios[400] > BOUND or ratios[1600] > ratios[400] * GROWTH)


if __name__ == "__main__":
    sys.exit(main())
