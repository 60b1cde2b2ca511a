"""The OpenAI Python SDK, through the proxy under the real host name and by the plain base URL."""

import httpx2
import openai
import pytest

from tests.e2e.harness import CLIENT_SECONDS
from tests.servers.script import USAGE, Break, Gate, Script, chat_events, chat_script, completion, error

MODEL = "kimi-for-coding"
KEY = "client-key"
QUESTION = [{"role": "user", "content": "a question"}]
WEATHER = {
    "type": "function",
    "function": {"name": "Weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def make(proxy, way):
    """Return an SDK client that reaches *proxy* over HTTP/1.1, HTTP/2, or as its plain base URL."""
    if way == "local":
        http = openai.DefaultHttpxClient(trust_env=False)
        return openai.OpenAI(base_url=proxy.local, api_key=KEY, http_client=http, max_retries=0, timeout=CLIENT_SECONDS)
    trust = proxy.trust([{"h1": "http/1.1", "h2": "h2"}[way]])
    http = openai.DefaultHttpxClient(proxy=proxy.url, verify=trust, http2=way == "h2", trust_env=False)
    return openai.OpenAI(base_url=proxy.base, api_key=KEY, http_client=http, max_retries=0, timeout=CLIENT_SECONDS)


@pytest.fixture(params=["h1", "h2", "local"])
def client(request, proxy):
    """Return an SDK client on its way through the proxy."""
    with make(proxy, request.param) as made:
        yield made


def test_the_usual_environment_is_all_it_takes(proxy, monkeypatch):
    """HTTPS_PROXY and SSL_CERT_FILE lead an SDK that knows nothing of us to the answer."""
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.setenv("SSL_CERT_FILE", str(proxy.ca_file))
    monkeypatch.setenv("OPENAI_BASE_URL", proxy.base)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with openai.OpenAI(max_retries=0, timeout=CLIENT_SECONDS) as client:
        answer = client.chat.completions.create(model=MODEL, messages=QUESTION)
    assert answer.choices[0].message.content == "a question"


def test_streams_text_and_reasoning_in_order(world, client):
    """Each piece is seen before the next is released."""
    gate = Gate()
    world.kimi.queue(chat_script("The answer ", "is 42.", reasoning=["Let me ", "think."], gate=gate))
    stream = client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
    got = []
    for part in stream:
        delta = part.choices[0].delta if part.choices else None
        if delta and (text := delta.content or getattr(delta, "reasoning_content", None)):
            got.append(text)
        gate.open()
    assert got == ["Let me ", "think.", "The answer ", "is 42."]
    assert world.kimi.of("chat")[0].finished


def test_usage_stands_at_the_top_of_the_last_chunk(world, client):
    """Clients that read only the top level find usage there, cached tokens where OpenAI has them."""
    world.kimi.queue(chat_script("hello"))
    stream = client.chat.completions.create(
        model=MODEL, messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    (usage,) = [part.usage for part in stream if part.usage]
    assert (usage.prompt_tokens, usage.completion_tokens) == (USAGE["prompt_tokens"], USAGE["completion_tokens"])
    assert usage.prompt_tokens_details.cached_tokens == USAGE["cached_tokens"]


def test_tool_calls_keep_their_ids(world, client):
    """A call and its result make the round with the id that the service gave."""
    world.kimi.queue(chat_script(calls=[("Weather", '{"city": "Bern"}')], reasoning=["look it up"]))
    stream = client.chat.completions.create(model=MODEL, messages=QUESTION, tools=[WEATHER], stream=True)
    calls = [call for part in stream if part.choices for call in part.choices[0].delta.tool_calls or ()]
    assert calls[0].id == "Weather:0"
    assert "".join(call.function.arguments for call in calls) == '{"city": "Bern"}'
    function = {"name": "Weather", "arguments": '{"city": "Bern"}'}
    history = [
        *QUESTION,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "Weather:0", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "Weather:0", "content": "rain"},
    ]
    answer = client.chat.completions.create(model=MODEL, messages=history, tools=[WEATHER])
    assert answer.choices[0].message.content == "tool said: rain"
    sent = world.kimi.of("chat")[1].json["messages"][1]
    assert sent["tool_calls"][0]["id"] == "Weather:0"
    assert sent["reasoning_content"] == "look it up"
    assert "content" not in sent


def test_an_answer_that_is_not_streamed(world, client):
    """``stream: false`` gives one JSON object with its reasoning."""
    world.kimi.queue(completion("forty-two", reasoning="by adding"))
    message = client.chat.completions.create(model=MODEL, messages=QUESTION).choices[0].message
    assert (message.content, message.reasoning_content) == ("forty-two", "by adding")


def test_what_reaches_the_service_is_an_official_request(world, proxy, client):
    """The client's key and its own identity stay here; the login and kimi-cli's identity go out."""
    client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=99, extra_headers={"X-Title": "mine"})
    seen = world.kimi.of("chat")[0]
    assert world.kimi.oauth.valid(seen.bearer)
    assert seen.header("user-agent").startswith("KimiCLI/")
    assert seen.header("x-msh-platform") == "kimi_cli"
    assert seen.header("x-title") is None
    assert KEY not in str(seen.headers)
    assert seen.json["max_completion_tokens"] == 99
    assert "max_tokens" not in seen.json


def test_lists_models(client):
    """The models are those of the plan."""
    assert [model.id for model in client.models.list()] == ["k3", "kimi-for-coding"]


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (400, openai.BadRequestError, "structure"),
        (402, openai.APIStatusError, "membership"),
        (403, openai.PermissionDeniedError, "quota"),
        (404, openai.NotFoundError, "model"),
        (429, openai.RateLimitError, "overload"),
        (500, openai.InternalServerError, "transient"),
        (503, openai.InternalServerError, "transient"),
    ],
)
def test_an_error_of_the_service_is_passed_on_and_named(world, client, status, kind, reason):
    """Status and wording reach the client; a header says what it means; nothing is refreshed or sent twice."""
    world.kimi.queue(error(status))
    before = world.kimi.oauth.refreshes
    with pytest.raises(kind) as caught:
        client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
    assert caught.value.status_code == status
    assert caught.value.response.headers["x-kimi-mitm-reason"] == reason
    assert len(world.kimi.of("chat")) == 1
    assert world.kimi.oauth.refreshes == before


@pytest.mark.parametrize(
    ("body", "param"),
    [(b"{not json", None), (b"[1]", None), (b'{"model": "kimi-for-coding", "messages": "x"}', "messages")],
    ids=["no JSON", "no object", "messages no list"],
)
def test_a_body_that_cannot_be_served_gets_a_400(world, proxy, body, param):
    """What is no chat request is answered here and goes nowhere."""
    with proxy.client() as http:
        answer = http.post("chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    detail = answer.json()["error"]
    assert detail["type"] == "invalid_request_error"
    if param:
        assert detail["param"] == param
    assert not world.kimi.of("chat")


@pytest.fixture(scope="module")
def logged_out(start_module_proxy):
    """Return a proxy without a login."""
    return start_module_proxy(login=False)


@pytest.mark.parametrize("way", ["h1", "local"])
def test_without_a_login_the_error_names_the_command(world, logged_out, way):
    """The 401 says what to run, in words that no retry test takes for a passing fault."""
    with make(logged_out, way) as client, pytest.raises(openai.AuthenticationError, match="kimi-mitm login kimi"):
        client.chat.completions.create(model=MODEL, messages=QUESTION)
    assert not world.kimi.requests


def test_an_interrupted_stream_is_no_silent_end(world, client):
    """A break in mid-stream reaches the SDK as an error after the text that came."""
    events, gate = chat_events("partial ", "never seen"), Gate()
    world.kimi.queue(Script([*events[:2], gate, Break.RESET]))
    stream = client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
    parts = iter(stream)
    got = [next(parts).choices[0].delta.content for _ in range(2)]
    assert got == ["", "partial "]
    gate.open()  # not before: a reset overtakes what is still on its way
    with pytest.raises((openai.APIError, httpx2.TransportError)):
        next(parts)
