import json

import httpx
import openai
import pytest

from kimi_core.errors import LoginDead, UpstreamError
from kimi_core.wire import chat, sse

CUT = UpstreamError("The answer broke off.")
ERRORS = [CUT, LoginDead("Two\nlines,\r\nand \u2028 more \ud800.")]


@pytest.mark.parametrize("error", ERRORS)
def test_openai_error_event(error):
    """The error is one event of its own with the OpenAI error object."""
    (event,) = sse.events(chat.openai_error_event(error))
    assert event.event == "message"
    assert json.loads(event.data) == {
        "error": {"message": error.sentence, "type": error.type, "param": None, "code": error.code}
    }


@pytest.mark.parametrize("error", ERRORS)
def test_anthropic_error_event(error):
    """The error is an event named error with the Anthropic error object."""
    (event,) = sse.events(chat.anthropic_error_event(error))
    assert event.event == "error"
    assert json.loads(event.data) == {
        "type": "error",
        "error": {"type": error.type, "message": error.sentence, "code": error.code},
    }


def _answers(body):
    def handler(_):
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    return httpx.Client(transport=httpx.MockTransport(handler))


def test_the_openai_sdk_raises():
    """The real OpenAI SDK takes the event for a failure, with our sentence."""
    chunk = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
    with _answers(chunk + chat.openai_error_event(CUT)) as transport:
        client = openai.OpenAI(api_key="fake-key", base_url="http://127.0.0.1/v1", http_client=transport)
        stream = client.chat.completions.create(model="k3", messages=[], stream=True)
        assert next(stream).choices[0].delta.content == "Hi"
        with pytest.raises(openai.APIError, match=r"The answer broke off\."):
            next(stream)
