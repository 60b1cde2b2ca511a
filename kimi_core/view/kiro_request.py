"""The page of a request as Kiro gets it: the `conversationState` as a transcript."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kimi_core.view import parts, text
from kimi_core.view.text import Page, clip, compact, count, items, members, pretty, shorten, word
from kimi_core.view.transcript import Said, transcript

STATE = "conversationState"
MARK = b'"conversationState"'
USER, ASSISTANT = "userInputMessage", "assistantResponseMessage"
CONTEXT = "userInputMessageContext"
FIELD_SHOWN = 400  # characters of a field that has no line of its own
_HEAD = {"conversationId": "cache key", "chatTriggerType": "trigger", "agentTaskType": "task"}
_SHOWN_STATE = {*_HEAD, "history", "currentMessage"}
_SHOWN_BODY = {STATE, "profileArn", "additionalModelRequestFields"}
_SHOWN_USER = {"content", "modelId", "origin", "images", CONTEXT}
_SHOWN_CONTEXT = {"tools", "toolResults"}
_SHOWN_ASSISTANT = {"content", "toolUses", "reasoningContent"}


def is_request(value: Any) -> bool:
    """Tell whether *value* is the body of a request to Kiro."""
    state = members(value).get(STATE)
    return isinstance(state, dict) and ("currentMessage" in state or "history" in state)


def write(page: Page, body: dict[str, Any], size: int, note: str) -> None:
    """Put *body* on the page: what is asked for, with what tools, and the turns."""
    state = members(body.get(STATE))
    current = state.get("currentMessage")
    turns = [*items(state.get("history")), *([] if current is None else [current])]
    message = members(members(current).get(USER))
    tools = items(members(message.get(CONTEXT)).get("tools"))
    page.add(f"Kiro request · {count(len(turns), 'turn')} · {text.size(size)}")
    if note:
        page.add(note)
    page.add()
    rows = {"model": message.get("modelId"), "effort": body.get("additionalModelRequestFields")}
    rows |= {label: state.get(name) for name, label in _HEAD.items()}
    rows |= {"origin": message.get("origin"), "profile": body.get("profileArn")}
    for label, value in rows.items():
        if value is not None:
            page.row(label, clip(value if isinstance(value, str) else compact(value), FIELD_SHOWN))
    page.row("tools", _tools(tools))
    for source, shown in ((body, _SHOWN_BODY), (state, _SHOWN_STATE)):
        _others(page, source, shown)
    transcript(page, turns, _said)


def _others(page: Page, source: dict[str, Any], shown: set[str]) -> None:
    for name, value in source.items():
        if name not in shown and value is not None:
            page.row(clip(name, 60), clip(compact(value), FIELD_SHOWN))


def _tools(tools: list[Any]) -> str:
    names = [word(members(members(tool).get("toolSpecification")).get("name")) or "(no name)" for tool in tools]
    more = f" … {len(names) - text.MAX_ITEMS:,} more" if len(names) > text.MAX_ITEMS else ""
    return f"{len(names)}: {', '.join(names[: text.MAX_ITEMS])}{more}" if names else "none"


def _said(turn: Any, limit: int) -> Said:
    """Return who speaks in *turn*, and what is said."""
    found = members(turn)
    if isinstance(found.get(USER), dict):
        return "user", list(_user(found[USER], limit))
    if isinstance(found.get(ASSISTANT), dict):
        return "assistant", list(_assistant(found[ASSISTANT], limit))
    return "(no message)", [shorten(pretty(turn), limit)]


def _user(message: dict[str, Any], limit: int) -> Iterator[str]:
    context = members(message.get(CONTEXT))
    for given in items(context.get("toolResults"))[: text.MAX_ITEMS]:
        found = members(given)
        texts = [_result(part) for part in items(found.get("content"))[: text.MAX_ITEMS]]
        yield from parts.result(found.get("toolUseId"), texts, limit, failed=found.get("status") == "error")
    yield from parts.content(message.get("content"), limit)
    for given in items(message.get("images"))[: text.MAX_ITEMS]:
        found = members(given)
        yield parts.sized_image(word(found.get("format")), members(found.get("source")).get("bytes"))
    yield from _more(message, _SHOWN_USER)
    yield from _more(context, _SHOWN_CONTEXT)


def _result(part: Any) -> Any:
    found = members(part)
    return found.get("text", found.get("json", part))


def _assistant(message: dict[str, Any], limit: int) -> Iterator[str]:
    thought = members(members(message.get("reasoningContent")).get("reasoningText")).get("text")
    if isinstance(thought, str):
        yield parts.reasoning(thought, limit)
    elif message.get("reasoningContent"):
        yield f"[reasoning, hidden, {count(len(compact(message['reasoningContent'])), 'character')}]"
    yield from parts.content(message.get("content"), limit)
    for given in items(message.get("toolUses"))[: text.MAX_ITEMS]:
        found = members(given)
        yield parts.call(found.get("name"), found.get("toolUseId"), found.get("input"), limit)
    yield from _more(message, _SHOWN_ASSISTANT)


def _more(message: dict[str, Any], shown: set[str]) -> Iterator[str]:
    more = {name: value for name, value in message.items() if name not in shown and value is not None}
    if more:
        yield clip(compact(more), FIELD_SHOWN)
