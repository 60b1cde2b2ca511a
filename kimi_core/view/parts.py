"""Content of messages as text: parts of the OpenAI and the Anthropic dialect and of Kiro's, images as type and size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kimi_core.view import text
from kimi_core.view.text import MAX_ITEMS, clip, compact, count, members, pretty, pretty_source, shorten, word

_BASE64 = ";base64,"
_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


def content(value: Any, limit: int) -> Iterator[str]:
    """Yield the blocks of a message's content, each shortened to *limit* characters."""
    if isinstance(value, str):
        if value:
            yield shorten(value, limit)
    elif isinstance(value, list):
        for part in value[:MAX_ITEMS]:
            yield from _part(part, limit)
        if len(value) > MAX_ITEMS:
            yield f"[… {count(len(value) - MAX_ITEMS, 'part')} left out …]"
    elif value is not None:
        yield shorten(pretty(value), limit)


def _part(part: Any, limit: int) -> Iterator[str]:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        yield shorten(part if isinstance(part, str) else pretty(part), limit)
    elif isinstance(said := part.get(_TEXTS.get(kind, "")), str):
        yield shorten(said, limit)
    elif kind in ("image_url", "image", "input_image"):
        yield image(part)
    elif kind == "thinking" and isinstance(thought := part.get("thinking"), str):
        yield reasoning(thought, limit)
    elif kind == "tool_use":
        yield call(part.get("name"), part.get("id"), part.get("input"), limit)
    elif kind == "tool_result":
        yield from result(part.get("tool_use_id"), part.get("content"), limit, failed=part.get("is_error") is True)
    else:
        yield f"[{clip(kind, 40)}] {shorten(_sized(part), limit)}"


def _sized(part: dict[str, Any]) -> str:
    """Return a part of another kind with long strings, such as files, as their length."""
    return compact(
        {
            name: f"({len(value):,} characters)" if isinstance(value, str) and len(value) > text.INLINE else value
            for name, value in part.items()
            if name != "type"
        }
    )


def image(part: dict[str, Any]) -> str:
    """Return what kind of image a part holds, and its size or address."""
    given = part.get("image_url", part.get("source"))
    source = members(given)
    url = given if isinstance(given, str) else source.get("url")
    if isinstance(url, str):
        if not url.startswith("data:"):
            return f"[image at {clip(url, 200)}]"
        head, _, data = url.partition(_BASE64)
        return sized_image(head.removeprefix("data:"), data)
    return sized_image(word(source.get("media_type")), source.get("data"))


def sized_image(kind: str, data: Any) -> str:
    """Return an image in base64 as its type and the size that it has when decoded."""
    size = text.size(len(data) * 3 // 4) if isinstance(data, str) else "no data"
    return f"[image {clip(kind, 40) or 'of unknown type'}, {size}]"


def reasoning(said: str, limit: int) -> str:
    """Return what a model thought."""
    return f"[reasoning, {count(len(said), 'character')}]\n{shorten(said, limit)}"


def call(name: Any, call_id: Any, arguments: Any, limit: int) -> str:
    """Return a tool call with its arguments, which are a text of JSON or a value."""
    shown = pretty_source(arguments, limit) if isinstance(arguments, str) else shorten(pretty(arguments), limit)
    title = f"→ {word(name) or '(no name)'}"
    title += f" · {word(call_id)}" if call_id else ""
    return f"{title}\n{shown}"


def result(call_id: Any, value: Any, limit: int, *, failed: bool = False) -> Iterator[str]:
    """Yield the result of a tool call."""
    yield f"← result{' (error)' if failed else ''}{f' · {word(call_id)}' if call_id else ''}"
    yield from content(value, limit)
