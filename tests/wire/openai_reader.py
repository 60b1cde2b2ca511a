"""What the OpenAI SDK makes of a body, without a socket."""

import httpx
import openai


def client(body, *, status=200, kind="text/event-stream"):
    """Return an OpenAI client to which every request is answered with *body*."""
    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=body, headers={"content-type": kind}))
    return openai.OpenAI(
        api_key="fake-key",
        base_url="http://127.0.0.1:9/v1",
        http_client=httpx.Client(transport=transport),
        max_retries=0,
    )


def chunks(body):
    """Return the chunks that the SDK reads from *body*. Raises openai.APIError for an error event."""
    return list(client(body).chat.completions.create(model="m", messages=[], stream=True))


def accumulated(body):
    """Return the completion that the SDK accumulates from *body*."""
    with client(body).chat.completions.stream(model="m", messages=[], stream_options={"include_usage": True}) as stream:
        return stream.get_final_completion()
