"""How long the readable views take for bodies of 5 MB, in milliseconds of this thread's processor.

Run `python benchmarks/views.py`. The bound is 100 ms for each, the choice of the view included; the best of several
runs counts, so that a busy machine does not.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.rewrite import conversation
from kimi_core.kiro.request import translate
from kimi_core.view import answer, eventstream, request
from kimi_core.wire.eventstream import encode

BOUND = 100.0  # ms
SIZE = 5_000_000  # bytes
RUNS = 5
FRAME = {":event-type": "assistantResponseEvent", ":content-type": "application/json", ":message-type": "event"}

type View = Callable[[bytes], object]


def _event(delta: dict[str, object]) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "k3", "choices": [choice]}
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def _filled(piece: bytes) -> bytes:
    return piece * (SIZE // len(piece))


def cases() -> Iterator[tuple[str, View, bytes]]:
    """Yield what each body is, the view of it, and the body."""
    delta = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta",'
    yield "answer, OpenAI, small events", _answer, _filled(_event({"content": "Hello "}))
    yield "answer, OpenAI, large events", _answer, _filled(_event({"content": "Hello " * 200}))
    yield "answer, OpenAI, damaged events", _answer, _filled(_event({"content": "Hello "}) + b"data: {bad\n\n")
    yield "answer, Anthropic", _answer, _filled(delta + b'"text":"Hello "}}\n\n')
    whole = {"object": "chat.completion", "choices": [{"message": {"content": "Hello " * (SIZE // 6)}}]}
    yield "answer, in one piece", _answer, json.dumps(whole).encode()
    yield "request, 2000 messages", _request, conversation(2000)
    yield "request, Kiro's form", _request, _kiro(conversation(2000))
    yield "frames, small", eventstream.render, _filled(encode(FRAME, b'{"content":"Hello"}'))
    yield "frames, large", eventstream.render, _filled(encode(FRAME, b'{"content":"' + b"Hello " * 500 + b'"}'))
    yield "frames, damaged", eventstream.render, _filled(encode(FRAME, b'{"content":"Hello"}')[:-1])
    yield "frames, none", eventstream.render, bytes(SIZE)


def _kiro(body: bytes) -> bytes:
    return translate(body, model=None, identity_origin="KIRO_CLI", conversation_id="benchmark").body()


def _answer(body: bytes) -> None:
    answer.is_answer(body)
    answer.render(body)


def _request(body: bytes) -> None:
    request.is_request(body)
    request.render(body)


def took(view: View, body: bytes) -> float:
    """Return the best time in milliseconds."""
    times = []
    for _ in range(RUNS):
        begin = time.thread_time()
        view(body)
        times.append(time.thread_time() - begin)
    return min(times) * 1e3


def main() -> int:
    """Print one row per body; return 1 where one misses the bound."""
    print(f"{'body':<34} {'bytes':>10} {'ms':>7}")
    missed = False
    for what, view, body in cases():
        ms = took(view, body)
        missed |= ms > BOUND
        print(f"{what:<34} {len(body):>10,} {ms:>7.1f}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
