"""kimi-cli's estimate of how many tokens a history has (kimi.md §3.4)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

CHARACTERS_PER_TOKEN = 4  # of ASCII text; every other character counts as one token
MEDIA_TOKENS = 2000  # one image, sound or video, whatever its size


def estimate(messages: Iterable[dict[str, Any]]) -> int:
    """Return the estimated tokens of *messages*: their text, reasoning, tool-call arguments and media."""
    return sum(map(_message, messages))


def text_tokens(text: str) -> int:
    """Return the estimated tokens of *text*."""
    ascii_characters = len(text.encode("ascii", "ignore"))
    return -(-ascii_characters // CHARACTERS_PER_TOKEN) + len(text) - ascii_characters


def _message(message: dict[str, Any]) -> int:
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    calls = message.get("tool_calls")
    tokens = sum(map(_part, parts)) + _part(message.get("reasoning_content"))
    return tokens + sum(map(_call, calls if isinstance(calls, list) else ()))


def _part(part: object) -> int:
    if isinstance(part, str):
        return text_tokens(part)
    if not isinstance(part, dict):
        return 0
    return _part(part.get("text")) if part.get("type") == "text" else MEDIA_TOKENS


def _call(call: object) -> int:
    function = call.get("function") if isinstance(call, dict) else None
    return _part(function.get("arguments")) if isinstance(function, dict) else 0
