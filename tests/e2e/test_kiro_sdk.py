"""The OpenAI Python SDK with Kiro: through the proxy under the real host name, and by the plain base URL."""

import json

import openai
import pytest

from tests.e2e.harness import CLIENT_SECONDS, wait_until
from tests.e2e.kiro_harness import PNG
from tests.e2e.kiro_sdk import ADD, KEY, MODEL, called, make, say, told
from tests.kiro.kiro_frames import INITIAL, METERING, PERCENT, call, text, thought
from tests.servers.kiro import user_of
from tests.servers.kiro_answers import flood, in_one, paced, stream
from tests.servers.script import Gate

THINKER = "claude-sonnet-4.6"  # its efforts are in the catalog


@pytest.fixture(params=["h2", "local"])
def client(request, kiro):
    """Return an SDK client on its way: HTTP/2 through the proxy, HTTP/1.1 to the base URL."""
    with make(kiro, request.param) as made:
        yield made


@pytest.fixture
def plain(kiro):
    """Return an SDK client of the plain base URL."""
    with make(kiro, "local") as made:
        yield made


@pytest.fixture(autouse=True)
def _healthy(kiro):
    """Give the proxy one account that nothing has happened to yet."""
    kiro.accounts(1)


# --- answers ---------------------------------------------------------------------------------------------------------


def test_the_usual_environment_is_all_it_takes(kiro_world, kiro, monkeypatch):
    """HTTPS_PROXY and SSL_CERT_FILE lead an SDK that knows nothing of us to the answer."""
    monkeypatch.setenv("HTTPS_PROXY", kiro.url)
    monkeypatch.setenv("SSL_CERT_FILE", str(kiro.ca_file))
    monkeypatch.setenv("OPENAI_BASE_URL", kiro.base)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with openai.OpenAI(max_retries=0, timeout=CLIENT_SECONDS) as client:
        answer = client.chat.completions.create(**say("a question"))
    assert answer.choices[0].message.content == "a question"
    assert not kiro_world.kiro.refusals()


def test_streams_text_and_reasoning_in_order(kiro_world, client):
    """Each piece is seen before the next is released."""
    gate = Gate()
    frames = [thought(text="Let me "), thought(text="think."), text("The answer "), text("is 42."), PERCENT + METERING]
    kiro_world.kiro.queue(paced(gate, INITIAL, *frames))
    gate.open(2)
    got = []
    for part in client.chat.completions.create(**say("a question", stream=True)):
        delta = part.choices[0].delta if part.choices else None
        if delta and (piece := delta.content or getattr(delta, "reasoning_content", None)):
            got.append(piece)
            gate.open()
    assert got == ["Let me ", "think.", "The answer ", "is 42."]


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
def test_a_client_keeps_its_connection(kiro, streamed):
    """What the identity says of the connection to Kiro does not end the one to the client, which is not told of it."""
    since = kiro.flow_bytes()
    with kiro.local_client() as http:
        for _ in range(3):
            assert http.post("chat/completions", json=say("hello", stream=streamed)).status_code == 200
    flows = wait_until(lambda: (found := kiro.flows(since))[2:] and found, "the flows")
    assert len({flow.client_conn.id for flow in flows}) == 1


def test_what_reaches_the_service_is_an_official_request(kiro_world, kiro, client):
    """The client's key and its own identity stay here; the account's token and kiro-cli's identity go out."""
    client.chat.completions.create(**say("a question"), extra_headers={"X-Title": "mine"})
    (seen,) = kiro_world.kiro.of("generate")
    assert kiro_world.aws.valid(seen.bearer)
    assert seen.header("user-agent").startswith("aws-sdk-rust/")
    assert seen.header("host") == "runtime.us-east-1.kiro.dev"
    assert seen.header("x-title") is None
    assert KEY not in str(seen.headers)
    assert user_of(seen)["modelId"] == MODEL
    assert not kiro_world.kiro.refusals()


def test_usage_comes_in_the_last_chunk_where_it_is_asked_for(client):
    """One chunk without choices has the usage, and says that it is estimated."""
    parts = list(client.chat.completions.create(**say("hello", stream=True, stream_options={"include_usage": True})))
    (last,) = [part for part in parts if part.usage]
    assert last is parts[-1]
    assert last.choices == []
    usage = last.usage
    assert usage.prompt_tokens > 0 < usage.completion_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert (usage.estimated, usage.credits_used) == (True, 0.073)
    assert not [part for part in client.chat.completions.create(**say("hello", stream=True)) if part.usage]


def test_an_answer_that_is_not_streamed(kiro_world, client):
    """``stream: false`` gives one JSON object with text, reasoning, calls and usage."""
    kiro_world.kiro.queue(
        stream(INITIAL, thought(text="by adding"), text("wait"), call("tooluse_1", "add", '{"a":', "1}"), PERCENT)
    )
    answer = client.chat.completions.create(**say("a question", tools=[ADD]))
    (choice,) = answer.choices
    assert (choice.message.content, choice.message.reasoning_content) == ("wait", "by adding")
    assert [(c.id, c.function.name, c.function.arguments) for c in choice.message.tool_calls] == [
        ("tooluse_1", "add", '{"a":1}')
    ]
    assert choice.finish_reason == "tool_calls"
    assert answer.usage.total_tokens > 0


def test_a_tool_round_trip_of_three_turns(kiro_world, client):
    """Three calls and their results go back and forth with their ids, streamed, and every request is in order."""
    messages = [{"role": "system", "content": "be brief"}]
    for turn in range(3):
        messages.append({"role": "user", "content": f'[[call add {{"a": {turn}}}]]'})
        parts = list(client.chat.completions.create(model=MODEL, messages=messages, tools=[ADD], stream=True))
        ids = [c.id for p in parts if p.choices for c in p.choices[0].delta.tool_calls or () if c.id]
        assert called(parts) == [("add", {"a": turn})]
        assert len(ids) == 1
        function = {"name": "add", "arguments": json.dumps({"a": turn})}
        calls = [{"id": ids[0], "type": "function", "function": function}]
        messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        messages.append({"role": "tool", "tool_call_id": ids[0], "content": f"sum {turn}"})
        answer, reason = told(client.chat.completions.create(model=MODEL, messages=messages, tools=[ADD], stream=True))
        assert (answer, reason) == (f"tool said: sum {turn}", "stop")
        messages.append({"role": "assistant", "content": answer})
    assert not kiro_world.kiro.refusals()
    seen = kiro_world.kiro.of("generate")
    assert len({one.json["conversationState"]["conversationId"] for one in seen}) == 1
    said = json.dumps(seen[-1].json)
    assert all(f"sum {turn}" in said for turn in range(3))
    assert "be brief" in said


@pytest.mark.parametrize("turn", ["now", "before"])
def test_images_reach_the_service(kiro_world, client, turn):
    """An image in the present or an earlier turn of the user goes out with its bytes."""
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "what is it"}, image]}]
    if turn == "before":
        messages += [{"role": "assistant", "content": "a pixel"}, {"role": "user", "content": "sure?"}]
    answer = client.chat.completions.create(model=MODEL, messages=messages)
    assert answer.choices[0].message.content == ("what is it" if turn == "now" else "sure?")
    (seen,) = kiro_world.kiro.of("generate")
    assert json.dumps(seen.json).count(PNG) == 1
    assert not kiro_world.kiro.refusals()


def test_an_effort_becomes_the_models_own_field(kiro_world, kiro, client):
    """reasoning_effort is sent as the catalog's schema has it, and the thoughts come back."""
    client.models.list()  # the catalog is known from here on
    answer = client.chat.completions.create(**say("[[think hard]]", model=THINKER, reasoning_effort="high"))
    message = answer.choices[0].message
    assert (message.reasoning_content, message.content) == ("hard", "thought")
    fields = kiro_world.kiro.of("generate")[0].json["additionalModelRequestFields"]
    assert fields["output_config"] == {"effort": "high"}
    assert not kiro_world.kiro.refusals()


def test_lists_models(kiro_world, client):
    """The models are those that the account lists, with their sizes and inputs."""
    found = {model.id: model for model in client.models.list()}
    assert set(found) == {entry["modelId"] for entry in kiro_world.kiro.models}
    assert found[MODEL].context_length == 200_000
    assert found["glm-5"].input_modalities == ["text"]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


# --- limits that are kept here ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "reason"),
    [({"stop": ["5 "]}, "stop"), ({"max_tokens": 3}, "length"), ({"max_completion_tokens": 3}, "length")],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_an_answer_is_ended_here_and_cancelled_there(kiro_world, client, limit, reason):
    """Kiro knows neither stop nor max_tokens: the client gets its end, and Kiro is not asked to go on."""
    gate = Gate()
    kiro_world.kiro.queue(stream(*flood(200)[:-2], gate))
    got, end = told(client.chat.completions.create(**say("count", stream=True, **limit)))
    assert end == reason
    assert got.startswith("0 1 2")
    assert len(got) < 30
    assert "5" not in got or "stop" not in limit
    kiro_world.kiro.wait_for_disconnect(kiro_world.kiro.of("generate")[0])


def test_an_answer_that_is_not_streamed_keeps_its_limits(kiro_world, client):
    """Both limits hold for ``stream: false``, too."""
    kiro_world.kiro.queue(in_one(*flood(100)), in_one(*flood(100)))
    (stopped,) = client.chat.completions.create(**say("count", stop="5 ")).choices
    assert (stopped.message.content, stopped.finish_reason) == ("0 1 2 3 4 ", "stop")
    (cut,) = client.chat.completions.create(**say("count", max_tokens=3)).choices
    assert cut.finish_reason == "length"
    assert len(cut.message.content) < 30


def test_what_has_no_effect_is_named(client):
    """Fields that Kiro has nothing like are named in a header of the answer, streamed or not."""
    for streamed in (False, True):
        answer = client.chat.completions.with_raw_response.create(
            **say("hello", stream=streamed, temperature=0.1, top_p=0.5, seed=7)
        )
        named = answer.headers["x-kimi-mitm-ignored"].split(", ")
        assert {"temperature", "top_p", "seed"} <= set(named)
        answer.http_response.read()


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "nobody", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type"),
        ({"messages": []}, "messages"),
        ({"messages": "x"}, "messages"),
        ({"n": 2}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]}, None),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"logprobs": True}, "logprobs"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_request_that_cannot_be_served_names_the_field(kiro_world, plain, fields, param):
    """The 400 has the path of the field at fault, and nothing is sent."""
    with pytest.raises(openai.BadRequestError) as caught:
        plain.chat.completions.create(**(say("x") | fields))
    assert caught.value.type == "invalid_request_error"
    assert caught.value.param == param if param else caught.value.param.startswith("messages[0].content[0]")
    assert not kiro_world.kiro.of("generate")


@pytest.mark.parametrize(
    "body", [b"{not json", b"[1]", b"", b"\xff\xfe"], ids=["no JSON", "no object", "empty", "binary"]
)
def test_a_body_that_is_no_request_gets_a_400(kiro_world, kiro, body):
    """What is no chat request is answered here and goes nowhere."""
    with kiro.client() as http:
        answer = http.post("chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert not kiro_world.kiro.of("generate")


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("too_long", openai.BadRequestError, "context_length_exceeded"),
        ("malformed", openai.BadRequestError, "kiro_invalid_request"),
        ("image", openai.BadRequestError, "kiro_image_unsupported"),
        ("model", openai.NotFoundError, "model_not_found"),
        ("feature", openai.PermissionDeniedError, "kiro_feature_unsupported"),
        ("unauthorized", openai.PermissionDeniedError, "kiro_not_authorized"),
        ("capacity", openai.InternalServerError, "overloaded"),
        ("unavailable", openai.InternalServerError, "kiro_unavailable"),
        ("rate", openai.RateLimitError, "kiro_accounts_unavailable"),
        ("quota", openai.RateLimitError, "kiro_accounts_unavailable"),
        ("suspended", openai.AuthenticationError, "kiro_no_usable_account"),
    ],
)
def test_a_refusal_of_the_service_reaches_the_client_by_its_meaning(kiro_world, plain, name, kind, code):
    """Status and code are those that clients know; the words of the service are in the message."""
    with pytest.raises(kind) as caught:
        plain.chat.completions.create(**say(f"[[error {name}]]", stream=True))
    assert caught.value.code == code
    assert len(kiro_world.kiro.of("generate")) <= 2
    assert "fake-" not in str(caught.value).replace("d-fake", "")


def test_what_is_too_long_is_said_in_the_words_that_clients_know(plain):
    """Clients such as opencode compact a conversation by these words."""
    with pytest.raises(openai.BadRequestError, match=r"prompt is too long.*maximum context length"):
        plain.chat.completions.create(**say("[[error too_long]]"))


def test_without_an_account_the_error_names_the_command(kiro_world, start_kiro):
    """The 401 says what to run, in words that no retry test takes for a passing fault."""
    with make(start_kiro(), "local") as client, pytest.raises(openai.AuthenticationError, match="kimi-mitm login kiro"):
        client.chat.completions.create(**say("x"))
    assert not kiro_world.kiro.requests
