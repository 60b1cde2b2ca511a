"""The Anthropic SDK, through the proxy under the real host name and by the plain base URL."""

import anthropic
import pytest

from tests.e2e.harness import CLIENT_SECONDS
from tests.servers.script import Gate, Script, error, messages_events

MODEL = "kimi-for-coding"
QUESTION = [{"role": "user", "content": "a question"}]


def make(proxy, way):
    """Return an SDK client that reaches *proxy* over HTTP/1.1, HTTP/2, or as its plain base URL."""
    if way == "local":
        http = anthropic.DefaultHttpxClient(trust_env=False)
        base = f"{proxy.url}/kimi"
    else:
        trust = proxy.trust([{"h1": "http/1.1", "h2": "h2"}[way]])
        http = anthropic.DefaultHttpxClient(proxy=proxy.url, verify=trust, http2=way == "h2", trust_env=False)
        base = "https://api.kimi.com/coding/"
    return anthropic.Anthropic(
        base_url=base, api_key="client-key", http_client=http, max_retries=0, timeout=CLIENT_SECONDS
    )


@pytest.fixture(params=["h1", "h2", "local"])
def client(request, proxy):
    """Return an SDK client on its way through the proxy."""
    with make(proxy, request.param) as made:
        yield made


def test_an_answer_that_is_not_streamed(world, client):
    """One message comes back whole."""
    answer = client.messages.create(model=MODEL, max_tokens=64, messages=QUESTION)
    assert answer.content[0].text == "a question"
    seen = world.kimi.of("messages")[0]
    assert world.kimi.oauth.valid(seen.bearer)
    assert seen.header("x-api-key") is None
    assert seen.header("user-agent").startswith("KimiCLI/")
    assert seen.json == {"model": MODEL, "max_tokens": 64, "messages": QUESTION}


def test_streams_in_order(world, client):
    """Each piece is seen before the next is released."""
    gate = Gate()
    first, *rest = messages_events("one ", "two ", "three")
    world.kimi.queue(Script([first, *(step for piece in rest for step in (gate, piece))]), operation="messages")
    texts = []
    for event in client.messages.create(model=MODEL, max_tokens=64, messages=QUESTION, stream=True):
        if event.type == "content_block_delta":
            texts.append(event.delta.text)
        gate.open()
    assert texts == ["one ", "two ", "three"]


def test_counts_tokens(client):
    """count_tokens is served as well."""
    assert client.messages.count_tokens(model=MODEL, messages=QUESTION).input_tokens == 42


def test_a_rejected_token_is_healed_unseen(world, client):
    """After a 401 the login is refreshed once and the same request sent again."""
    world.kimi.oauth.reject_access()
    before = world.kimi.oauth.refreshes
    answer = client.messages.create(model=MODEL, max_tokens=64, messages=QUESTION)
    assert answer.content[0].text == "a question"
    assert world.kimi.oauth.refreshes == before + 1
    first, second = world.kimi.of("messages")
    assert first.sha256 == second.sha256


def test_errors_come_in_the_anthropic_dialect(world, client):
    """The error of the service passes as it is."""
    world.kimi.queue(error(429, dialect="anthropic"), operation="messages")
    with pytest.raises(anthropic.RateLimitError, match="overloaded"):
        client.messages.create(model=MODEL, max_tokens=64, messages=QUESTION)


def test_without_a_login_the_error_names_the_command(start_proxy):
    """The 401 is an Anthropic error that says what to run."""
    proxy = start_proxy(login=False)
    with make(proxy, "local") as client, pytest.raises(anthropic.AuthenticationError) as caught:
        client.messages.create(model=MODEL, max_tokens=64, messages=QUESTION)
    body = caught.value.response.json()
    assert body["type"] == "error"
    assert "kimi-mitm login kimi" in body["error"]["message"]
