"""Cost of rewriting a chat request, against parsing and dumping the same body once with pydantic_core.

Run `python benchmarks/rewrite.py`. Times are of this thread's processor, the best of several runs taken in turns, so
that a busy machine slows both sides alike. The bound is a ratio of 2 for a conversation of 400 messages and 1 MB.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic_core import from_json, to_json

sys.path.insert(0, str(Path(__file__).parent.parent))

from kimi_core.headers import Headers
from kimi_core.kimi.body import BodyOptions, rewrite
from kimi_core.kimi.memory import ReasoningMemory
from kimi_core.kimi.models import Catalog, Model

BOUND = 2.0
RUNS = 25
CATALOG = Catalog((Model("kimi-for-coding", context_length=262144, reasoning=True, thinking_type="both"),))
OPTIONS = BodyOptions("plugin", "kimi-cli", "fake-salt", prefer_parent=True, clamp=False)
HEADERS = Headers([("user-agent", "opencode/1.18.33"), ("x-session-id", "ses_benchmark")])
LINE = '    if name != "main":  # a line of code with "quotes",\ttabs and \\ back-slashes\n'


def conversation(messages: int, *, ascii_only: bool = False, **style: object) -> bytes:
    """Return an opencode request of so many messages: tool turns, with an answer in words every tenth message.

    *style* goes to json.dumps; without it the body is written as JSON.stringify writes it.
    """
    wide = "" if ascii_only else "naïve — 思考 "
    history = [{"role": "system", "content": "You are a coding agent.\n" + LINE * 120}]
    while len(history) < messages:
        number = len(history)
        if number % 10 == 1:
            history.append({"role": "user", "content": f"Step {number}: go on, please. {wide}"})
            history.append({"role": "assistant", "content": LINE * 12, "reasoning_content": wide + "I think. " * 40})
            continue
        call = {"name": "bash", "arguments": json.dumps({"command": "grep -rn main .", "description": LINE})}
        history.append(
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": wide + "I should look at that. " * 20,
                "tool_calls": [{"id": f"bash:{number}", "type": "function", "function": call}],
            }
        )
        history.append({"role": "tool", "tool_call_id": f"bash:{number}", "content": LINE * 56})
    body = {
        "model": "kimi-for-coding",
        "max_tokens": 32000,
        "reasoning_effort": "high",
        "messages": history[:messages],
        "tools": [_tool(number) for number in range(20)],
        "tool_choice": "auto",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(body, **(style or {"ensure_ascii": False, "separators": (",", ":")})).encode()


def _tool(number: int) -> dict[str, object]:
    properties = {f"field{n}": {"type": "string", "description": "What it is for. " * 6} for n in range(5)}
    parameters = {"type": "object", "properties": properties, "required": ["field0"], "additionalProperties": False}
    function = {"name": f"tool{number}", "description": "What it does. " * 40, "parameters": parameters}
    return {"type": "function", "function": function}


def ratio(body: bytes) -> tuple[float, float]:
    """Return the best times in seconds of the rewrite and of parse and dump."""
    memory = ReasoningMemory()
    sides = (
        lambda: rewrite(body, HEADERS, catalog=CATALOG, options=OPTIONS, memory=memory),
        lambda: to_json(from_json(body)),
    )
    best = [float("inf")] * len(sides)
    for _ in range(RUNS):
        for index, side in enumerate(sides):
            begin = time.thread_time()
            side()
            best[index] = min(best[index], time.thread_time() - begin)
    return best[0], best[1]


def cases() -> Iterator[tuple[int, str, bytes]]:
    """Yield each conversation with its number of messages and what is special about it."""
    for messages in (10, 100, 400, 1000, 2000):
        yield messages, "", conversation(messages)
    yield 400, "ASCII text", conversation(400, ascii_only=True)
    yield 400, "with spaces", conversation(400, ensure_ascii=False)
    yield 400, "with spaces and escapes", conversation(400, indent=None)
    yield 400, "with a number that asks for the exact way", conversation(400)[:-1] + b',"extra":1e400}'


def main() -> int:
    """Print one row per conversation; return 1 where the plain case of 400 messages misses the bound."""
    print(f"{'messages':>8} {'bytes':>10} {'rewrite ms':>11} {'parse+dump ms':>14} {'ratio':>6}")
    missed = False
    for messages, what, body in cases():
        ours, theirs = ratio(body)
        missed |= messages == 400 and not what and ours / theirs > BOUND
        print(f"{messages:>8} {len(body):>10} {ours * 1e3:>11.2f} {theirs * 1e3:>14.2f} {ours / theirs:>6.2f} {what}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
