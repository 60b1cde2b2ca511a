"""Errors that an answer ends with, in words that clients understand."""

import pytest

from kimi_core.kiro.events import Failure
from kimi_core.kiro.failures import AnswerCut, AnswerFailed, ContextExceeded, ToolCallBroken, explain, overflow
from tests.wire.retry_words import RETRY_WORDS


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (Failure("ContentLengthExceededException"), ContextExceeded),
        (Failure("ValidationException", "x", "CONTENT_LENGTH_EXCEEDS_THRESHOLD"), ContextExceeded),
        (Failure("ValidationException", "Input is too long."), ContextExceeded),
        (Failure("ValidationException", "Improperly formed request."), AnswerFailed),
        (Failure("ThrottlingException"), AnswerFailed),
    ],
)
def test_explain(failure, kind):
    """Overflow is known by type, reason or words; all else is reported in the service's own."""
    error = explain(failure)
    assert type(error) is kind
    assert error.failure == failure
    assert failure.message in str(error)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (overflow(), False),
        (overflow(Failure("X", "Input is too long.")), False),
        (ToolCallBroken("A tool call is broken."), False),
        (AnswerCut("The answer was cut."), True),
    ],
)
def test_clients_ask_again_where_it_may_help(error, again):
    """Final errors avoid the words that make opencode ask again, passing ones have them."""
    assert bool(RETRY_WORDS.search(error.sentence)) is again


def test_overflow_in_the_words_that_clients_know():
    """Clients compact a conversation when they read one of these."""
    error = overflow()
    assert error.code == "context_length_exceeded"
    assert "prompt is too long" in str(error).lower()
    assert "maximum context length" in str(error)
