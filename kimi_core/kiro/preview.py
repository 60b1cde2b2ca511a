"""What a request to Kiro looks like, without what it says: for a log that the user asked for (DEBUG_KIRO_PAYLOAD)."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

MAX_PREVIEW = 16_384  # characters of a preview; a long history gives one line per turn
SHOWN = frozenset(
    {"name", "modelId", "origin", "format", "status", "chatTriggerType", "agentTaskType", "effort", "type", "display"}
)
"""Members whose text is shown: words of the protocol, and names of tools and models."""
_TURNS = {"userInputMessage": "user", "assistantResponseMessage": "assistant"}


def preview(body: bytes) -> str:
    """Return one line per turn of *body*, with the length of each text in its place; total.

    Tools are listed by name; nothing of texts, arguments, images, ids or the profile is shown.
    """
    try:
        document = from_json(body)
        lines = list(_lines(document))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{len(body)} bytes that are no request"
    text = "\n".join(lines)
    return text if len(text) <= MAX_PREVIEW else f"{text[:MAX_PREVIEW]}… ({len(text)} characters)"


def _lines(document: dict[str, Any]) -> list[str]:
    state = document["conversationState"]
    turns = [*state["history"], state["currentMessage"]]
    head = {name: value for name, value in document.items() if name != "conversationState"}
    return [f"request {_outline(head)}", *(_line(number, turn) for number, turn in enumerate(turns))]


def _line(number: int, turn: dict[str, Any]) -> str:
    ((kind, message),) = turn.items()
    message = dict(message)
    context = dict(message.pop("userInputMessageContext", {}))
    tools = [tool["toolSpecification"]["name"] for tool in context.pop("tools", [])]
    named = f" tools: {', '.join(tools)}" if tools else ""
    return f"{number} {_TURNS[kind]} {_outline({**message, **context})}{named}"


def _outline(value: Any, name: str = "") -> str:
    match value:
        case str():
            return value if name in SHOWN else f"<{len(value)}>"
        case dict() if name == "input":
            return f"{{{len(value)} members}}"
        case dict():
            return "{" + ", ".join(f"{key}: {_outline(item, key)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(_outline(item, name) for item in value) + "]"
        case _:
            return type(value).__name__
