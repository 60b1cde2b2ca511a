"""Chat answers in the Anthropic dialect, streamed or whole, as a `Turn`; whatever does not fit is passed over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kimi_core.view.text import MAX_ITEMS, compact, items, members, word
from kimi_core.view.turn import Call, Choice, Turn, no_event

DIALECT = "Anthropic"
EVENTS = frozenset(
    {
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "ping",
        "error",
    }
)
CALLS = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
_DELTAS = {"text_delta": ("text", "text"), "thinking_delta": ("thinking", "reasoning")}
_BLOCKS = {"text": ("text", "text"), "thinking": ("thinking", "reasoning")}
_UNSAID = frozenset({"signature_delta", "citations_delta"})  # proofs and sources, in the raw events below
_USAGE = {
    "input_tokens": "input",
    "cache_read_input_tokens": "read from cache",
    "cache_creation_input_tokens": "written to cache",
    "output_tokens": "output",
}


def is_event(value: Any) -> bool:
    """Tell whether *value* is an event of a streamed answer."""
    return isinstance(value, dict) and isinstance(value.get("type"), str) and value["type"] in EVENTS


def is_answer(value: Any) -> bool:
    """Tell whether *value* is a whole answer."""
    return isinstance(value, dict) and value.get("type") == "message" and isinstance(value.get("content"), list)


def streamed(events: Iterable[Any]) -> Turn:
    """Return what the events of a stream say together."""
    turn = Turn(DIALECT)
    choice = turn.choice()
    for event in events:
        if not isinstance(event, dict):
            no_event(turn, event)
            continue
        match event.get("type"):
            case "content_block_delta":
                _delta(choice, event.get("index"), members(event.get("delta")))
            case "content_block_start":
                _block(choice, event.get("index"), members(event.get("content_block")))
            case "message_start":
                _head(turn, members(event.get("message")))
            case "message_delta":
                _finish(choice, members(event.get("delta")))
                turn.usage |= usage(event.get("usage"))
            case "message_stop":
                turn.ended = True
            case "error":
                turn.errors.append(event.get("error", event))
            case _:  # ping, content_block_stop, and events to come
                pass
    return turn


def whole(answer: dict[str, Any]) -> Turn:
    """Return what an answer in one piece says."""
    turn = Turn(DIALECT, ended=True)
    choice = turn.choice()
    _head(turn, answer)
    for place, block in enumerate(items(answer.get("content"))[:MAX_ITEMS]):
        _block(choice, place, members(block))
    _finish(choice, answer)
    return turn


def _head(turn: Turn, message: dict[str, Any]) -> None:
    turn.model = word(message.get("model"))
    turn.id = word(message.get("id"))
    turn.usage |= usage(message.get("usage"))


def _finish(choice: Choice, given: dict[str, Any]) -> None:
    reason, stop = given.get("stop_reason"), given.get("stop_sequence")
    if reason:
        choice.finish = f"{word(reason)} ({word(stop)})" if stop else word(reason)


def _block(choice: Choice, index: Any, block: dict[str, Any]) -> None:
    kind = block.get("type")
    if isinstance(kind, str) and kind in CALLS:
        call = _call_of(choice, index)
        call.name, call.id = word(block.get("name")), word(block.get("id"))
        if block.get("input"):
            call.pieces.append(compact(block["input"]))
        return
    member, target = _BLOCKS.get(kind, ("", "")) if isinstance(kind, str) else ("", "")
    value = block.get(member)
    if target and isinstance(value, str):
        if value:
            getattr(choice, target).append(value)
    elif block:
        choice.other.append(block)


def _delta(choice: Choice, index: Any, delta: dict[str, Any]) -> None:
    kind = delta.get("type")
    member, target = _DELTAS.get(kind, ("", "")) if isinstance(kind, str) else ("", "")
    value = delta.get(member)
    if target and isinstance(value, str):
        getattr(choice, target).append(value)
    elif kind == "input_json_delta":
        _call_of(choice, index).pieces.append(_piece(delta.get("partial_json")))
    elif delta and not (isinstance(kind, str) and kind in _UNSAID):
        choice.other.append(delta)


def _piece(value: Any) -> str:
    return value if isinstance(value, str) else word(value)


def _call_of(choice: Choice, index: Any) -> Call:
    return choice.calls.setdefault(index if isinstance(index, int) else None, Call())


def usage(given: Any) -> dict[str, Any]:
    """Return the rows of a usage table: known counts first, the rest as it is called."""
    found = {name: value for name, value in members(given).items() if value is not None}
    rows = {label: found[name] for name, label in _USAGE.items() if name in found}
    return rows | {word(name): value for name, value in found.items() if name not in _USAGE}
