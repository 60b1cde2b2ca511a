import json

import pytest

from kimi_core.errors import LoginDead, UpstreamError
from kimi_core.wire import chat, sse

ERRORS = [UpstreamError("The answer broke off."), LoginDead("Two\nlines,\r\nand \u2028 more \ud800.")]


@pytest.mark.parametrize("error", ERRORS)
def test_openai_error_event(error):
    """The error is one event of its own, in the shape that OpenAI's SDKs raise on."""
    (event,) = sse.events(chat.openai_error_event(error))
    assert event.event == "message"
    assert json.loads(event.data) == {
        "error": {"message": error.sentence, "type": error.type, "param": None, "code": error.code}
    }


@pytest.mark.parametrize("error", ERRORS)
def test_anthropic_error_event(error):
    """The error is an event named error, in the shape that Anthropic's SDKs raise on."""
    (event,) = sse.events(chat.anthropic_error_event(error))
    assert event.event == "error"
    assert json.loads(event.data) == {
        "type": "error",
        "error": {"type": error.type, "message": error.sentence, "code": error.code},
    }
