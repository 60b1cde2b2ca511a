"""Errors that an answer of Kiro ends with, as a client meets them.

::

    AnswerFailed              the service reports an error in the answer; `failure` is what it said
    ├── ContextExceeded       the conversation is longer than the model's window
    ├── AnswerCut             the answer ended without a sign that it was complete
    └── ToolCallBroken        a tool call is not one: cut arguments, no object, no name

`explain` is the plain mapping. Who knows the accounts and their verdicts (quota, suspension, capacity) passes a
function of the same shape to the converter instead.
"""

from __future__ import annotations

from kimi_core.errors import KimiMitmError
from kimi_core.kiro.events import Failure

OVERFLOW_TYPES = frozenset({"ContentLengthExceededException"})
OVERFLOW_REASONS = frozenset({"CONTENT_LENGTH_EXCEEDS_THRESHOLD", "MODEL_CONTEXT_WINDOW_EXCEEDED"})
OVERFLOW_MESSAGE = "input is too long"  # lower case, within a message


class AnswerFailed(KimiMitmError):
    """The service reports an error inside an answer that had begun."""

    code = "kiro_answer_failed"
    status = 502

    def __init__(self, message: str, failure: Failure | None = None) -> None:
        super().__init__(message)
        self.failure = failure


class ContextExceeded(AnswerFailed):
    """The conversation is longer than the model's context window; clients know it by its code and words."""

    code = "context_length_exceeded"
    status = 400
    type = "invalid_request_error"
    hint = "Compact or shorten the conversation, or start a new one."


class AnswerCut(AnswerFailed):
    """The answer ended without a sign that it was complete (kiro.md §2.6)."""

    code = "kiro_answer_cut"
    hint = "Try again."
    retryable = True


class ToolCallBroken(AnswerFailed):
    """A tool call came that no client could run (kiro.md §2.4); it is reported, never mended."""

    code = "kiro_tool_call_broken"
    hint = "Ask for smaller steps: the service cuts tool arguments of some ten kilobytes."


def is_overflow(failure: Failure) -> bool:
    """Tell whether *failure* says that there was more than the model's window holds."""
    return (
        failure.type in OVERFLOW_TYPES
        or failure.reason in OVERFLOW_REASONS
        or OVERFLOW_MESSAGE in failure.message.lower()
    )


def overflow(failure: Failure | None = None) -> ContextExceeded:
    """Return the error of a conversation that is too long."""
    said = f' ("{failure.message}")' if failure is not None and failure.message else ""
    return ContextExceeded(
        f"The prompt is too long: the conversation exceeds the model's maximum context length{said}.", failure
    )


def explain(failure: Failure) -> KimiMitmError:
    """Return the client's error for *failure*, by the words of the service alone."""
    if is_overflow(failure):
        return overflow(failure)
    name = failure.type + (f" ({failure.reason})" if failure.reason else "")
    return AnswerFailed(f"Kiro reports {name}{': ' + failure.message if failure.message else '.'}", failure)
