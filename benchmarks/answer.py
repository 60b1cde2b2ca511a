"""What watching a streamed chat answer costs per chunk, beside what mitmproxy spends on one anyway.

Run ``python benchmarks/answer.py``. Ratios are against a callable that returns what it gets.
"""

import json
import time
from collections.abc import Callable

from kimi_core.exchange import Story
from kimi_core.kimi.answer import ChatStream, MessagesStream
from kimi_core.kimi.memory import ReasoningMemory

MITMPROXY = 120.0  # µs that mitmproxy 12.2 spends on a chunk of a streamed answer (110 to 130, TLS on both sides)
CHUNKS = 20_000
ROUNDS = 5
SIZE = 1024
GOAL = 10.0  # µs per chunk of 1 KiB


def event(delta: dict[str, object], size: int = 0) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1761264000, "model": "k3"}
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    text = f"data: {json.dumps({**head, 'choices': [choice]}, separators=(',', ':'))}\n\n"
    return text.replace("@", "x" * max(1, size - len(text) + 1)).encode()


def typed(size: int) -> bytes:
    data = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "@"}}
    text = f"event: content_block_delta\ndata: {json.dumps(data)}\n\n"
    return text.replace("@", "x" * max(1, size - len(text) + 1)).encode()


def many(one: bytes) -> bytes:
    return one * (SIZE // len(one))


def turned(chunk: bytes) -> bytes:
    middle = len(chunk) // 2
    return chunk[middle:] + chunk[:middle]


def identity(chunk: bytes) -> bytes:
    return chunk


def chat() -> Callable[[bytes], bytes]:
    return ChatStream(Story("kimi"), ReasoningMemory()).feed


def messages() -> Callable[[bytes], bytes]:
    return MessagesStream(Story("kimi")).feed


def micros(make: Callable[[], Callable[[bytes], bytes]], chunk: bytes) -> float:
    """Return the best of some rounds, in µs of processor time per chunk."""
    best = float("inf")
    for _ in range(ROUNDS):
        feed = make()
        begin = time.process_time()
        for _ in range(CHUNKS):
            feed(chunk)
        best = min(best, time.process_time() - begin)
    return best / CHUNKS * 1e6


CASES = {
    "text, one event of 1 KiB": (chat, event({"content": "@"}, SIZE)),
    "text, one event of 200 bytes": (chat, event({"content": "@"}, 200)),
    "text, small events, 1 KiB together": (chat, many(event({"content": "@"}, 170))),
    "reasoning, one event of 1 KiB": (chat, event({"reasoning_content": "@"}, SIZE)),
    "reasoning, one event of 200 bytes": (chat, event({"reasoning_content": "@"}, 200)),
    "reasoning, small events, 1 KiB together": (chat, many(event({"reasoning_content": "@"}, 170))),
    "text, 1 KiB that begins and ends within an event": (chat, turned(event({"content": "@"}, SIZE))),
    "Anthropic text, one event of 1 KiB": (messages, typed(SIZE)),
}


def main() -> None:
    base = micros(lambda: identity, b"x" * SIZE)
    print(f"identity: {base:.3f} µs per chunk; mitmproxy itself: about {MITMPROXY:g} µs")
    for name, (make, chunk) in CASES.items():
        cost = micros(make, chunk)
        mark = "" if cost < GOAL else f"   over the goal of {GOAL:g} µs"
        print(f"{cost:7.2f} µs  {cost / base:6.0f}x identity  {cost / MITMPROXY:6.1%} of mitmproxy  {name}{mark}")


if __name__ == "__main__":
    main()
