"""Frames of a Kiro answer read as typed events (kiro.md §1.3, §2.2); a pure function of one frame.

An event whose payload is not what its type promises becomes a `Failure`: half of what the model said is never passed
off as the whole. Numbers that only inform (credits, percentages, token counts) are left out instead where they make no
sense.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import from_json

from kimi_core.kiro.events import (
    ContextUsage,
    Event,
    Failure,
    Ignored,
    Metadata,
    Metering,
    Reasoning,
    Stopped,
    Text,
    TokenUsage,
    ToolUse,
    Unknown,
)
from kimi_core.wire.eventstream import Frame

MAX_MESSAGE = 1000  # characters of a service's error message that are kept; they are a sentence or two
MAX_NAME = 80  # characters of a foreign name that are kept
MAX_TOKENS = 10**12  # tokens; beyond it a count is nonsense

MALFORMED = "MalformedEvent"  # type of a failure that lies in the event itself
UNMODELLED = "UnmodelledError"  # type of an error frame without a code

# Known, and nothing in them is for a client of ours. Not here: codeReferenceEvent, which kiro-cli takes for a reason to
# withdraw the text before it and which nobody has met; it is worth a note when it comes.
IGNORED = frozenset(
    {
        "initial-response",
        "messageMetadataEvent",
        "supplementaryWebLinksEvent",
        "followupPromptEvent",
        "citationEvent",
        "codeEvent",
        "intentsEvent",
        "interactionComponentsEvent",
        "dryRunSucceedEvent",
        "toolResultEvent",
    }
)


def parse(frame: Frame) -> Event:
    """Return the event that *frame* carries; total."""
    headers = frame.headers
    kind = headers.get(":message-type", "event")
    if kind != "event":
        return _no_event(kind, frame)
    name = headers.get(":event-type")
    if not isinstance(name, str):
        return Failure(MALFORMED, "A frame says neither what message nor what event it is.")
    reader = _READERS.get(name)
    if reader is None:
        return Ignored(name) if name in IGNORED else Unknown(name[:MAX_NAME])
    payload = frame.payload
    document = read_json(payload) if payload else {}
    event = reader(document) if isinstance(document, dict) else None
    if event is None:
        return Failure(MALFORMED, f"The payload of a {name} of {len(payload)} bytes is not what it should be.")
    return event


def _no_event(kind: object, frame: Frame) -> Failure:
    headers = frame.headers
    if kind == "exception":
        return failure(frame.payload, printable(headers.get(":exception-type")))
    if kind == "error":
        code, message = headers.get(":error-code"), headers.get(":error-message")
        return Failure(printable(code) or UNMODELLED, printable(message, MAX_MESSAGE))
    return Failure(MALFORMED, f"A frame has the message type {printable(kind)!r}.")


def failure(body: bytes, kind: str = "") -> Failure:
    """Return what an AWS error document says: ``{"__type": "namespace#Name", "message" or "Message", "reason"}``.

    *kind* is the name where something beside the document tells it. What is no such document becomes the message.
    """
    document = read_json(body)
    if isinstance(document, dict):
        return _reported(document, kind)
    return Failure(kind or UNMODELLED, body[:MAX_MESSAGE].decode(errors="replace"))


def read_json(text: bytes | str) -> Any:
    """Return the JSON value of *text*, None where it is none; lone surrogates come through (kiro.md §2.3)."""
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError:
        pass
    try:  # half of a surrogate pair is legal JSON, and only the slow parser takes it
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None


def printable(value: object, limit: int = MAX_NAME) -> str:
    """Return *limit* characters of a foreign string, in a form that can be written anywhere; "" for no string."""
    return value[:limit].encode(errors="replace").decode() if isinstance(value, str) else ""


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _text(document: dict[str, Any]) -> Text | None:
    content, model = document.get("content"), document.get("modelId")
    if content is None or isinstance(content, str):
        return Text(content or "", model if isinstance(model, str) else None)
    return None


def _reasoning(document: dict[str, Any]) -> Reasoning | None:
    text, signature, redacted = document.get("text"), document.get("signature"), document.get("redactedContent")
    if _strings(text) and _sound(signature, redacted):
        return Reasoning(text or "", signature or None, redacted or None)
    return None


def _tool_use(document: dict[str, Any]) -> ToolUse | None:
    call_id, name, given = document.get("toolUseId"), document.get("name"), document.get("input")
    if _sound(call_id, name) and (given is None or isinstance(given, str | dict)):
        return ToolUse(call_id or None, name or None, given, document.get("stop") is True)
    return None


def _context_usage(document: dict[str, Any]) -> ContextUsage:
    return ContextUsage(_number(document.get("contextUsagePercentage")))


def _metering(document: dict[str, Any]) -> Metering:
    return Metering(_number(document.get("usage")), printable(document.get("unit")) or "credit")


def _metadata(document: dict[str, Any]) -> Metadata:
    reason, usage = document.get("stopReason"), document.get("tokenUsage")
    counts = usage if isinstance(usage, dict) else {}
    percentage = document.get("contextUsagePercentage")
    return Metadata(
        printable(reason) or None,
        _tokens(counts, _TOKEN_USAGE),
        _number(counts.get("contextUsagePercentage") if percentage is None else percentage),
    )


def _metrics(document: dict[str, Any]) -> Metadata:
    return Metadata(tokens=_tokens(document, _METRICS))


def _invalid_state(document: dict[str, Any]) -> Failure:
    return _reported(document, "InvalidState")


def _error_member(document: dict[str, Any]) -> Failure:
    return _reported(document, "InternalServerException")


def _stopped(_document: dict[str, Any]) -> Stopped:
    return Stopped()


def _reported(document: Mapping[str, Any], kind: str) -> Failure:
    message = document.get("message") or document.get("Message")
    own = printable(document.get("__type"), MAX_MESSAGE).rpartition("#")[2].partition(":")[0]
    return Failure(
        kind or own[:MAX_NAME] or UNMODELLED, printable(message, MAX_MESSAGE), printable(document.get("reason")) or None
    )


_READERS: dict[str, Callable[[dict[str, Any]], Event | None]] = {
    "assistantResponseEvent": _text,
    "reasoningContentEvent": _reasoning,
    "toolUseEvent": _tool_use,
    "contextUsageEvent": _context_usage,
    "meteringEvent": _metering,
    "metadataEvent": _metadata,
    "metricsEvent": _metrics,
    "messageStopEvent": _stopped,
    "invalidStateEvent": _invalid_state,
    "error": _error_member,
}

_TOKEN_USAGE = {
    "uncached": "uncachedInputTokens",
    "output": "outputTokens",
    "total": "totalTokens",
    "cache_read": "cacheReadInputTokens",
    "cache_write": "cacheWriteInputTokens",
}
_METRICS = {"uncached": "inputTokens", "output": "outputTokens"}


def _tokens(document: Mapping[str, Any], names: Mapping[str, str]) -> TokenUsage | None:
    counts = {field: _count(document.get(name)) for field, name in names.items()}
    return None if all(count is None for count in counts.values()) else TokenUsage(**counts)


def _strings(*values: object) -> bool:
    """Tell whether each of *values* is a string or nothing."""
    return all(value is None or isinstance(value, str) for value in values)


def _sound(*values: object) -> bool:
    """Tell whether each of *values* is a string that can be written again, or nothing."""
    return _strings(*values) and all(value is None or printable(value, sys.maxsize) == value for value in values)


def _number(value: object) -> float | None:
    """Return *value* where it is a number from 0 to MAX_TOKENS."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= MAX_TOKENS else None


def _count(value: object) -> int | None:
    number = _number(value)
    return None if number is None else int(number)
