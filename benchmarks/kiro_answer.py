"""Cost of turning a Kiro answer into chunks for an OpenAI client, per frame and against decoding alone.

Run `python benchmarks/kiro_answer.py`. Times are the best of several runs, taken in turns. mitmproxy itself spends
110–130 µs on a chunk of 1 KB that it streams through a callable; the bound of the project is 1.3 times that in all, so
that a frame of the usual 130 bytes may cost 25 µs where each comes in a chunk of its own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from kimi_core.exchange import Story
from kimi_core.kiro.answer import AnswerOptions
from kimi_core.kiro.converter import ChatStream
from kimi_core.wire.chat_chunks import ChunkWriter
from kimi_core.wire.eventstream import Decoder, encode

BOUND = 25e-6  # seconds per frame
MITMPROXY = 120e-6  # seconds that mitmproxy 12.2 spends on a chunk of a streamed answer
RUNS = 9
FRAMES = 4000

PLAIN = AnswerOptions(window=200_000)
EVERYTHING = AnswerOptions(
    window=200_000, stop=("\n\nHuman:", "STOP"), max_tokens=10**9, thinking_tags=True, bare_json=True
)


def frame(kind: str, **fields: Any) -> bytes:
    """Return an event frame of Kiro."""
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return encode(headers, json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode())


def call(number: int) -> list[bytes]:
    """Return the frames of a tool call with a few fragments of arguments."""
    named = {"name": "write", "toolUseId": f"tooluse_{number:022}"}
    pieces = ['{"path":"src/main.py",', '"content":"', *["line of code\\n"] * 15, '"}']
    inputs = [frame("toolUseEvent", input=piece, **named) for piece in pieces]
    return [frame("toolUseEvent", **named), *inputs, frame("toolUseEvent", stop=True, **named)]


def convert(chunks: list[bytes], options: AnswerOptions) -> int:
    """Return how many bytes the converter makes of *chunks*."""
    writer = ChunkWriter(completion_id="chatcmpl-benchmark", model="claude-sonnet-4.5", created=1, usage=True)
    converter = ChatStream(writer, options, Story("kiro"))
    return sum(len(converter.feed(chunk)) for chunk in chunks) + len(converter.finish())


def decode(chunks: list[bytes]) -> int:
    """Return how many frames there are in *chunks*."""
    decoder = Decoder()
    return sum(1 for chunk in chunks for _ in decoder.feed(chunk))


def best(*sides: Callable[[], object]) -> list[float]:
    """Return the best time in seconds of each side."""
    times = [float("inf")] * len(sides)
    for _ in range(RUNS):
        for index, side in enumerate(sides):
            begin = time.perf_counter()
            side()
            times[index] = min(times[index], time.perf_counter() - begin)
    return times


def main() -> int:
    """Print one row per kind of answer; return 1 where the bound is missed."""
    end = [frame("contextUsageEvent", contextUsagePercentage=1.5), frame("meteringEvent", usage=0.07, unit="credit")]
    words = [frame("assistantResponseEvent", content=f"wor{n % 10} ", modelId="auto") for n in range(FRAMES)]
    wide = [frame("assistantResponseEvent", content="思考 naïve", modelId="auto") for _ in range(FRAMES)]
    thoughts = [frame("reasoningContentEvent", text="hm, well ") for _ in range(FRAMES)]
    calls = [fragment for number in range(FRAMES // 20) for fragment in call(number)]
    cases = {
        "text": (words, PLAIN),
        "text, 8 frames a chunk": ([b"".join(words[n : n + 8]) for n in range(0, FRAMES, 8)], PLAIN),
        "text beyond ASCII": (wide, PLAIN),
        "text, every option on": (words, EVERYTHING),
        "reasoning": (thoughts, PLAIN),
        "tool calls": (calls, PLAIN),
    }
    print(f"{'answer':<24} {'bytes/frame':>11} {'decode µs':>10} {'convert µs':>11} {'chunk in all':>12}")
    missed = False
    for name, (chunks, options) in cases.items():
        frames = decode(chunks)
        alone, whole = best(lambda c=chunks: decode(c), lambda c=chunks, o=options: convert([*c, *end], o))
        missed |= whole / frames > BOUND
        size = sum(map(len, chunks)) / frames
        print(
            f"{name:<24} {size:>11.0f} {alone / frames * 1e6:>10.2f} {whole / frames * 1e6:>11.2f} "
            f"{1 + whole / len(chunks) / MITMPROXY:>11.2f}x"
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
