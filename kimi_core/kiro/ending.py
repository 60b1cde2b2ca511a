"""How a Kiro answer ends: in the client's words, or as none at all (kiro.md §2.6)."""

from __future__ import annotations

from kimi_core.errors import KimiMitmError
from kimi_core.kiro import failures

STOP, LENGTH, TOOL_CALLS, CONTENT_FILTER = "stop", "length", "tool_calls", "content_filter"
OVERFLOW = "MODEL_CONTEXT_WINDOW_EXCEEDED"
TOOL_USE = "TOOL_USE"
MALFORMED = frozenset({"MALFORMED_TOOL_USE", "MALFORMED_MODEL_OUTPUT"})

FINISH_REASONS = {
    "MAX_TOKENS": LENGTH,
    "STOP_SEQUENCE": STOP,
    OVERFLOW: LENGTH,
    "CONTENT_FILTERED": CONTENT_FILTER,
    "GUARDRAIL_INTERVENED": CONTENT_FILTER,
}
"""Kiro's stop reason -> finish_reason; END_TURN, TOOL_USE and new ones say `tool_calls` after a call, else `stop`."""


def finish_reason(stop_reason: str | None, *, full: bool) -> str:
    """Return the finish_reason for Kiro's *stop_reason*; where that says nothing, a *full* window counts."""
    return FINISH_REASONS.get(stop_reason or "", LENGTH if full else STOP)


def flaw(stop_reason: str | None, *, complete: bool, visible: bool, called: bool, full: bool) -> KimiMitmError | None:
    """Return why an answer that has come to its end is none, None where it is one.

    *complete*: a completion signal came. *visible*: the client sees something of it. *called*: it has tool calls.
    """
    if not complete:
        return failures.AnswerCut("Kiro's answer ended before it was complete: the connection was lost.")
    if stop_reason in MALFORMED:
        return failures.AnswerFailed(f"Kiro ended its answer with {stop_reason}.")
    if not visible and (stop_reason == OVERFLOW or full):
        return failures.overflow()
    if stop_reason == TOOL_USE and not called:
        return failures.ToolCallBroken("Kiro announced a tool call and sent none.")
    return None
