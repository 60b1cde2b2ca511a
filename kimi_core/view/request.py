"""The page of a chat request: what is asked for, with what, and the conversation as a transcript.

Requests in the OpenAI and the Anthropic dialect are read alike: their fields and parts have names of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kimi_core.view import kiro_request, parts, text
from kimi_core.view.text import Page, compact, count, items, members, pretty, shorten, word
from kimi_core.view.transcript import Said, transcript

FIELD_SHOWN = 400  # characters of a field that has no line of its own
SYSTEM_SHOWN = 4_000
RAW_SHOWN = 60_000  # characters of what is no request
SAMPLE = 64 * 1024  # bytes that are looked at first, to tell what a body is
_FIELDS = {
    "model": ("model",),
    "effort": ("reasoning_effort", "reasoningEffort", "reasoning", "thinking", "enable_thinking", "output_config"),
    "cache key": ("prompt_cache_key", "promptCacheKey"),
    "stream": ("stream", "stream_options"),
    "limits": ("max_completion_tokens", "max_tokens", "stop", "stop_sequences", "n"),
    "sampling": ("temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty", "seed"),
    "answer": ("response_format", "tool_choice", "parallel_tool_calls"),
}
"""Rows of the head, and the fields that stand in each."""
_SHOWN = {"messages", "tools", "functions", "system"}.union(*_FIELDS.values())
_UNSAID = frozenset({"role", "content", "reasoning_content", "reasoning", "tool_calls", "tool_call_id", "name"})


def render(data: bytes, note: str = "") -> str:
    """Return the page for *data*; *note* is said at the top. Never raises."""
    page = Page()
    value, problem = text.read_most(data)
    if kiro_request.is_request(value):
        kiro_request.write(page, value, len(data), note or problem)
    elif isinstance(value, dict) and isinstance(value.get("messages"), list):
        _write(page, value, len(data), [note, problem])
    else:
        page.add(f"No chat request · {text.size(len(data))}")
        page.add(note or problem)
        page.add(
            shorten(data.decode(errors="replace"), RAW_SHOWN) if value is None else shorten(pretty(value), RAW_SHOWN)
        )
    return page.render()


def is_request(data: bytes) -> bool:
    """Tell whether *data* is a chat request in either dialect, or Kiro's."""
    if not (b'"messages"' in data or kiro_request.MARK in data):
        return False
    value = _sample(data)
    if not isinstance(value, dict):
        return False
    if not ("messages" in value or kiro_request.STATE in value) and len(data) > SAMPLE:
        value, _ = text.read_most(data)  # something long stands before it
    return kiro_request.is_request(value) or _is_chat(value, data)


def _is_chat(value: Any, data: bytes) -> bool:
    messages = value.get("messages")
    first = messages[0] if isinstance(messages, list) and messages else None
    return isinstance(first, dict) and isinstance(first.get("role"), str) and ("model" in value or b'"model"' in data)


def _sample(data: bytes) -> Any:
    try:
        return text.read_json(data[:SAMPLE], partial=True)
    except text.Unreadable:
        return None


def _write(page: Page, body: dict[str, Any], size: int, notes: list[str]) -> None:
    messages = items(body["messages"])
    dialect = "Anthropic" if _anthropic(body) else "OpenAI"
    page.add(f"Chat request, {dialect} · {count(len(messages), 'message')} · {text.size(size)}")
    for note in filter(None, notes):
        page.add(note)
    page.add()
    for label, names in _FIELDS.items():
        shown = [_field(name, body[name]) for name in names if body.get(name) is not None]
        if shown:
            page.row(label, ", ".join(shown))
    tools = items(body.get("tools")) or items(body.get("functions"))
    page.row("tools", _tools(tools))
    for name, value in body.items():
        if name not in _SHOWN:
            page.row(text.clip(name, 60), text.clip(compact(value), FIELD_SHOWN))
    if body.get("system"):
        page.section("system")
        for block in parts.content(body["system"], SYSTEM_SHOWN):
            page.prose(block)
    transcript(page, messages, _said)


def _field(name: str, value: Any) -> str:
    shown = text.clip(value if isinstance(value, str) else compact(value), FIELD_SHOWN)
    return shown if name in {"model", "prompt_cache_key"} else f"{name} {shown}"


def _anthropic(body: dict[str, Any]) -> bool:
    if "system" in body or any("input_schema" in members(tool) for tool in items(body.get("tools"))[:1]):
        return True
    kinds = {part.get("type") for message in items(body["messages"])[-4:] for part in _parts(message)}
    return bool(kinds & {"tool_use", "tool_result", "thinking"})


def _parts(message: Any) -> Iterator[dict[str, Any]]:
    return (part for part in items(members(message).get("content"))[:4] if isinstance(part, dict) and _hashable(part))


def _hashable(part: dict[str, Any]) -> bool:
    return isinstance(part.get("type"), str)


def _tools(tools: list[Any]) -> str:
    names = [_tool_name(tool) for tool in tools[: text.MAX_ITEMS]]
    more = f" … {len(tools) - text.MAX_ITEMS:,} more" if len(tools) > text.MAX_ITEMS else ""
    return f"{len(tools)}: {', '.join(names)}{more}" if tools else "none"


def _tool_name(tool: Any) -> str:
    found = members(tool)
    name = members(found.get("function")).get("name") or found.get("name") or found.get("type")
    return word(name) or "(no name)"


def _said(message: Any, limit: int) -> Said:
    """Return who speaks in *message*, and what is said."""
    if not isinstance(message, dict):
        return "(no message)", [shorten(pretty(message), limit)]
    role = word(message.get("role")) or "(no role)"
    title = " · ".join(filter(None, (role, word(message.get("name")), word(message.get("tool_call_id")))))
    return title, list(_blocks(message, limit))


def _blocks(message: dict[str, Any], limit: int) -> Iterator[str]:
    for name in ("reasoning_content", "reasoning"):
        thought = message.get(name)
        if thought:
            yield parts.reasoning(thought if isinstance(thought, str) else compact(thought), limit)
    yield from parts.content(message.get("content"), limit)
    for given in items(message.get("tool_calls"))[: text.MAX_ITEMS]:
        call = members(given)
        function = members(call.get("function"))
        yield parts.call(function.get("name"), call.get("id"), function.get("arguments"), limit)
    more = {name: value for name, value in message.items() if name not in _UNSAID and value is not None}
    if more:
        yield text.clip(compact(more), FIELD_SHOWN)
