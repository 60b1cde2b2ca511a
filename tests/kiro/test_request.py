import contextlib
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kimi_core.errors import BadRequest
from kimi_core.kiro import history, request
from kimi_core.kiro.catalog import FALLBACK, ModelInfo
from kimi_core.kiro.failures import ContextExceeded
from kimi_core.kiro.request import RequestOptions, translate
from tests.kimi import recordings
from tests.servers.kiro_validator import Rules, violations
from tests.wire.retry_words import RETRY_WORDS

ID = "5f0c0000-0000-4000-8000-000000000000"
ARN = "arn:aws:codewhisperer:us-east-1:638616132270:profile/AAAACCCCXXXX"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
RULES = Rules.of(FALLBACK.to_json()["models"])


def say(role, content, **more):
    """Return a message."""
    return {"role": role, "content": content, **more}


def calls(*ids, name="ls", arguments='{"path":"."}', content=None):
    """Return an assistant message with calls."""
    made = [{"id": i, "type": "function", "function": {"name": name, "arguments": arguments}} for i in ids]
    return {"role": "assistant", "content": content, "tool_calls": made}


def result(call_id, content="done", **more):
    """Return a tool message."""
    return {"role": "tool", "tool_call_id": call_id, "content": content, **more}


def tool(name="ls", **more):
    """Return a function tool."""
    function = {"name": name, "description": "d", "parameters": {"type": "object", "properties": {}}}
    return {"type": "function", "function": {**function, **more}}


def chat(*messages, **fields):
    """Return the bytes of a chat request."""
    return json.dumps({"model": "claude-sonnet-4.6", "messages": list(messages), **fields}).encode()


def go(body, *, model="claude-sonnet-4.6", recall=history.nothing_recalled, **options):
    """Translate, and see that the validator takes what comes out."""
    made = translate(
        body,
        model=FALLBACK.find(model),
        identity_origin="KIRO_CLI",
        conversation_id=ID,
        options=RequestOptions(**options),
        recall=recall,
    )
    assert made.repairs.keys() <= request.REPAIRS.keys()
    assert violations(json.loads(made.body(ARN)), RULES if FALLBACK.find(made.model_id) else Rules()) == []
    return made


def turns(made):
    """Return the turns of a translation: (role, message)."""
    state = json.loads(made.body())["conversationState"]
    return [next(iter(turn.items())) for turn in [*state["history"], state["currentMessage"]]]


def contents(made):
    """Return the content of each turn."""
    return [message["content"] for _, message in turns(made)]


def refused(body, **options):
    """Return the path and the sentence of the refusal of *body*."""
    with pytest.raises(BadRequest) as caught:
        go(body, **options)
    return caught.value.param, str(caught.value)


def test_the_whole_document():
    """A conversation with system text, image, call and result, as the official client would send it."""
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    made = go(
        chat(
            say("system", "Be kind."),
            say("user", [{"type": "text", "text": "What is this?"}, image]),
            calls("tooluse_1", content="Let me see."),
            result("tooluse_1", "a.txt"),
            tools=[tool()],
            stream=True,
            stream_options={"include_usage": True},
            reasoning_effort="high",
        )
    )
    spec = {"name": "ls", "description": "d", "inputSchema": {"json": {"type": "object", "properties": {}}}}
    use = {"toolUseId": "tooluse_1", "name": "ls", "input": {"path": "."}}
    given_back = {"toolUseId": "tooluse_1", "status": "success", "content": [{"text": "a.txt"}]}
    assert json.loads(made.body(ARN)) == {
        "conversationState": {
            "conversationId": ID,
            "chatTriggerType": "MANUAL",
            "agentTaskType": "vibe",
            "history": [
                {"userInputMessage": {"content": "Be kind.", "origin": "KIRO_CLI"}},
                {"assistantResponseMessage": {"content": "OK."}},
                {
                    "userInputMessage": {
                        "content": "What is this?",
                        "origin": "KIRO_CLI",
                        "images": [{"format": "png", "source": {"bytes": PIXEL}}],
                    }
                },
                {"assistantResponseMessage": {"content": "Let me see.", "toolUses": [use]}},
            ],
            "currentMessage": {
                "userInputMessage": {
                    "content": "",
                    "origin": "KIRO_CLI",
                    "userInputMessageContext": {
                        "toolResults": [given_back],
                        "tools": [{"toolSpecification": spec}],
                    },
                    "modelId": "claude-sonnet-4.6",
                }
            },
        },
        "profileArn": ARN,
        "additionalModelRequestFields": {
            "output_config": {"effort": "high"},
            "thinking": {"type": "adaptive", "display": "summarized"},
        },
    }
    assert (made.wants_stream, made.wants_usage, made.ignored, made.repairs) == (True, True, (), {})
    assert {"model": "claude-sonnet-4.6", "effort": "high", "turns": 3}.items() <= made.facts.items()


def test_without_a_profile_the_field_is_left_out():
    """Some accounts are refused where one is sent."""
    assert "profileArn" not in json.loads(go(chat(say("user", "hi"))).body())


def test_a_request_that_was_read_already_is_taken():
    """Whoever opens the exchange has looked at the model and the session before."""
    read = request.read(chat(say("user", "hi"), metadata={"user_id": "u"}))
    assert (read.request.model, read.values["metadata"]) == ("claude-sonnet-4.6", {"user_id": "u"})
    assert contents(go(read)) == ["hi"]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([say("system", "a"), say("developer", "b"), say("user", "c")], ["a\n\nb", "OK.", "c"]),
        ([say("system", [{"type": "text", "text": "a"}]), say("assistant", "b")], ["a", "b", "Continue."]),
        ([say("system", "a")], ["a"]),
        ([say("system", "a"), say("user", "")], ["a"]),
        ([say("system", " "), say("user", "b")], ["b"]),
        ([say("user", "a"), say("system", "b"), say("user", "c")], ["a\n\nb\n\nc"]),
    ],
)
def test_system_text(messages, expected):
    """What leads goes into a turn of its own; later it stays where it is."""
    assert contents(go(chat(*messages))) == expected


def test_unknown_models_pass():
    """By the rules of names, and with nothing known of them."""
    made = go(chat(say("user", "hi"), model="kiro/My-Model", max_tokens=9), model="My-Model")
    assert (made.model_id, made.max_tokens, made.fields) == ("My-Model", 9, {})


@pytest.mark.parametrize(
    ("model", "fields", "native", "local"),
    [
        ("claude-opus-4.7", {"max_tokens": 32000}, 32000, None),
        ("claude-opus-4.7", {"max_tokens": 5, "max_completion_tokens": 2000}, 2000, None),
        ("claude-opus-4.7", {"max_tokens": 10}, 1024, 10),
        ("claude-opus-4.7", {"max_tokens": 10**6}, 128000, None),
        ("claude-opus-4.7", {}, None, None),
        ("claude-haiku-4.5", {"max_tokens": 10}, None, 10),
        ("claude-haiku-4.5", {"max_tokens": 64000}, None, None),
        ("glm-5", {"max_tokens": 64000}, None, 64000),
    ],
)
def test_the_limit_of_tokens(model, fields, native, local):
    """Goes into the model's own field where there is one; what no field says is left to the answer."""
    made = go(chat(say("user", "hi"), model=model, **fields), model=model)
    assert (made.fields.get("max_tokens"), made.max_tokens) == (native, local)
    asked = fields.get("max_completion_tokens", fields.get("max_tokens"))
    assert ("max-tokens-clamped" in made.repairs) == (native not in (None, asked))


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"properties": {"max_tokens": {"type": "integer"}}}, ({"max_tokens": 70}, None)),
        ({"properties": {"max_tokens": {"minimum": "odd"}}}, ({}, 70)),
        ({"properties": {"max_tokens": {"maximum": float("inf")}}}, ({}, 70)),
        ({"properties": {"max_tokens": {"minimum": float("nan")}}}, ({}, 70)),
        ({"properties": {"max_tokens": {"minimum": 9, "maximum": 8}}}, ({}, 70)),
        ({"properties": {"max_tokens": True}}, ({}, 70)),
        ({"properties": []}, ({}, 70)),
        ({}, ({}, 70)),
    ],
)
def test_odd_schemas_of_the_catalog(schema, expected):
    """Cost nothing but the field."""
    model = ModelInfo("m", effort_schema=schema)
    made = translate(
        chat(say("user", "hi"), max_tokens=70), model=model, identity_origin="AI_EDITOR", conversation_id=ID
    )
    assert (made.fields, made.max_tokens) == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"functions": [{}]}, "functions"),
        ({"function_call": {"name": "x"}}, "function_call"),
        ({"stop": 3}, "stop"),
        ({"stop": ["a", 3]}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"stream": 1}, "stream"),
        ({"stream_options": 1}, "stream_options"),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": [3]}, "messages[0]"),
        ({"messages": [{}]}, "messages[0].role"),
        ({"messages": [say("function", "x")]}, "messages[0].role"),
        ({"messages": [say("user", None)]}, "messages[0].content"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [say("user", [3])]}, "messages[0].content[0]"),
        ({"messages": [say("user", [{"type": "file"}])]}, "messages[0].content[0].type"),
        ({"messages": [say("user", [{"type": "input_audio"}])]}, "messages[0].content[0].type"),
        ({"messages": [say("user", [{"type": "text"}])]}, "messages[0].content[0].text"),
        ({"messages": [say("user", [{"type": "image_url"}])]}, "messages[0].content[0].image_url"),
        ({"messages": [say("user", [{"type": "image_url", "image_url": {}}])]}, "messages[0].content[0].image_url.url"),
        ({"messages": [say("user", "a"), calls(7)]}, "messages[1].tool_calls[0].id"),
        ({"messages": [say("user", "a"), calls("7", name=7)]}, "messages[1].tool_calls[0].function.name"),
        ({"messages": [say("tool", "a")]}, "messages[0].tool_call_id"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [tool("")]}, "tools[0].function.name"),
        ({"tools": [tool(parameters=[])]}, "tools[0].function.parameters"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "strict": True}}},
            "response_format.json_schema.strict",
        ),
        ({"reasoning_effort": "very"}, "reasoning_effort"),
        ({"tool_choice": "any"}, "tool_choice"),
    ],
)
def test_refusals_name_the_field(fields, param):
    """By its path in the request, with a sentence."""
    path, sentence = refused(
        chat(**{"messages": [say("user", "hi")], **fields})
        if "messages" not in fields
        else json.dumps({"model": "m", **fields}).encode()
    )
    assert path == param
    assert sentence.endswith(".")
    assert not RETRY_WORDS.search(sentence)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"3", b"{", b"\xff", b'{"model":"m","messages":[' + b"[" * 5000 + b"]" * 5000 + b"]}"]
)
def test_what_is_no_request_is_refused(body):
    """With a sentence, whatever it is."""
    _, sentence = refused(body)
    assert sentence.endswith(".")


def test_values_that_ask_for_nothing_pass():
    """A field may be there as long as it says what Kiro does anyway; nothing is listed then."""
    made = go(
        chat(
            say("user", "hi"),
            n=1,
            logprobs=False,
            top_logprobs=0,
            service_tier="auto",
            modalities=["text"],
            audio=None,
            functions=[],
            function_call="auto",
            store=False,
            seed=None,
            parallel_tool_calls=True,
            stop=None,
            tools=None,
            response_format={"type": "text"},
            user="u",
            metadata={},
            prompt_cache_key="k",
            stream_options=None,
            presence_penalty=0,
            frequency_penalty=0.0,
        )
    )
    assert (made.ignored, made.stop, made.response_format, made.wants_stream) == ((), (), "text", False)


@pytest.mark.parametrize(
    ("name", "value"),
    [("thinking", "enabled"), ("thinking", True), ("enable_thinking", "yes"), ("seed", 0), ("top_p", 0.0)],
)
def test_what_is_not_understood_is_listed(name, value):
    """A field in use that comes in another form has no effect either; and a number of 0 asks for something."""
    assert go(chat(say("user", "hi"), **{name: value})).ignored == (name,)


def test_what_has_no_effect_is_listed():
    """By its path, each once, and fit for a header."""
    part = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "high"}}
    made = go(
        chat(
            say("user", [part, part, image], name="Eve"),
            {**calls("1", content="b"), "reasoning_content": "hm"},
            result("1", "x"),
            tools=[tool(strict=True), {**tool("b"), "defer": 1}],
            temperature=0,
            top_p=1,
            seed=3,
            logit_bias={},
            parallel_tool_calls=False,
            reasoning_effort="high",
            thinking={"type": "enabled", "budget_tokens": 9},
            stream_options={"include_usage": True, "include_obfuscation": True},
            **{"a\nb: é": 1},
        ),
        reasoning="off",
    )
    assert made.ignored == (
        "temperature",
        "top_p",
        "seed",
        "logit_bias",
        "thinking.budget_tokens",
        "a?b???",
        "parallel_tool_calls",
        "stream_options.include_obfuscation",
        "tools[].defer",
        "messages[].name",
        "messages[].content[].cache_control",
        "messages[].content[].image_url.detail",
        "reasoning_effort",
        "tools[].function.strict",
        "messages[].reasoning_content",
    )
    assert not made.wants_usage


def test_the_list_is_bounded():
    """Since it goes into a header."""
    made = go(chat(say("user", "hi", odd=None), **{f"{number}-{'x' * 99}": 1 for number in range(40)}))
    assert len(made.ignored) == 33
    assert made.ignored[-1] == "and-8-more"
    assert max(map(len, made.ignored)) == 64


@pytest.mark.parametrize(("stop", "expected"), [("a", ("a",)), (["a", "", "b"], ("a", "b")), ("", ()), ([], ())])
def test_stop_sequences_are_for_the_answer(stop, expected):
    """Kiro has no field for them."""
    assert go(chat(say("user", "hi"), stop=stop)).stop == expected


def test_json_is_asked_for_in_words():
    """At the beginning, where it stays from turn to turn."""
    made = go(chat(say("system", "a"), say("user", "b"), response_format={"type": "json_object"}))
    assert made.response_format == "json_object"
    assert contents(made)[0].startswith("a\n\nAnswer with one JSON object")
    schema = {"type": "object", "description": "Größe"}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    made = go(chat(say("user", "b"), response_format=form))
    assert made.response_format == "json_schema"
    assert contents(made)[0].endswith('{"type":"object","description":"Größe"}')
    form["json_schema"]["schema"] = {"maximum": 0}
    huge = chat(say("user", "b"), response_format=form).replace(b'"maximum": 0', b'"maximum": 1e999')
    assert refused(huge)[0] == "response_format.json_schema.schema"


def test_thinking_by_tags_is_a_choice():
    """Only then, only where the model has no field of its own, and the answer is told."""
    body = chat(say("user", "hi"), model="glm-5", reasoning_effort="low")
    assert go(body, model="glm-5").ignored == ("reasoning_effort",)
    made = go(body, model="glm-5", reasoning="tags")
    assert (made.thinking_tags, made.ignored, made.facts["effort"]) == (True, (), "low")
    assert contents(made)[0] == (
        "<thinking_mode>enabled</thinking_mode>\n<max_thinking_length>4000</max_thinking_length>"
    )
    assert not go(chat(say("user", "hi"), reasoning_effort="low"), reasoning="tags").thinking_tags


def test_an_effort_between_two_levels_is_folded():
    """And counted."""
    made = go(chat(say("user", "hi"), reasoning_effort="xhigh"))
    assert (made.fields["output_config"], made.repairs) == ({"effort": "high"}, {"effort-folded": 1})


def test_forced_calls():
    """Are refused, or asked for in words behind what the user says."""
    body = chat(say("user", "hi"), tools=[tool("a b")], tool_choice="required")
    assert refused(body)[0] == "tool_choice"
    made = go(body, forced_tools="prompt")
    assert contents(made) == ["hi\n\nCall at least one of the tools now."]
    assert made.ignored == ("tool_choice",)
    choice = {"type": "function", "function": {"name": "a b"}}
    made = go(chat(say("user", "hi"), tools=[tool("a b")], tool_choice=choice), forced_tools="prompt")
    (alias,) = made.tool_aliases
    assert made.tool_aliases == {alias: "a b"}
    assert contents(made) == [f"hi\n\nCall the tool {alias} now."]


def test_a_history_without_its_tools_gets_stubs():
    """Kiro refuses a call of a tool that it does not know."""
    made = go(chat(say("user", "a"), calls("1"), result("1"), say("user", "b"), tools=[tool()], tool_choice="none"))
    assert (made.stubs, made.repairs) == (("ls",), {"tool-stub-added": 1})


def test_long_descriptions_stand_in_the_system_text():
    """Whole."""
    long = "word " * 3000
    made = go(chat(say("user", "a"), tools=[tool(description=long)]))
    assert long in contents(made)[0]
    assert made.repairs == {"tool-description-moved": 1}


def test_many_tools_are_told_and_sent():
    """Services have refused a hundred; nobody knows where the bound lies."""
    made = go(chat(say("user", "a"), tools=[tool(f"t{number}") for number in range(70)]))
    assert made.facts["many tools"] == 70
    assert len(turns(made)[-1][1]["userInputMessageContext"]["tools"]) == 70


def test_more_turns_than_kiro_takes():
    """The words are those that clients compact on."""
    body = chat(*(say(role, "x") for _ in range(5001) for role in ("user", "assistant")))
    with pytest.raises(ContextExceeded, match="maximum context length") as caught:
        go(body)
    assert caught.value.code == "context_length_exceeded"


def test_the_size_counts_text_and_no_images():
    """ASCII once, other characters eight times; tokens by the measure of the answers."""
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    plain = go(chat(say("user", "a" * 1000)))
    assert 1000 < plain.weight < 1400
    assert 250 < plain.prompt_tokens < 350
    pictured = go(chat(say("user", [image, {"type": "text", "text": "a" * 1000}])))
    assert pictured.weight - plain.weight < 100
    wide = go(chat(say("user", "é" * 500 + "😀" * 500)))
    assert wide.weight - plain.weight == 7000
    assert wide.prompt_tokens - plain.prompt_tokens == 500
    assert wide.facts["bytes"] == len(wide.conversation)


def test_a_guard_of_size_is_a_choice():
    """The refusal names bytes and limit, in words that clients compact on."""
    body = chat(say("user", "a" * 1000))
    weight = go(body).weight
    assert go(body, max_weight=weight)
    with pytest.raises(
        ContextExceeded, match=r"0\.00 MiB weigh 0\.00 million and exceed the maximum context length of 0\.00 million"
    ):
        go(body, max_weight=weight - 1)


def test_reasoning_that_is_known_goes_back():
    """With the turn in which it was."""
    block = {"reasoningText": {"text": "hm", "signature": "s"}}
    made = go(chat(say("user", "a"), say("assistant", "b"), say("user", "c")), recall=lambda _ids, _text: block)
    assert turns(made)[1] == ("assistantResponseMessage", {"content": "b", "reasoningContent": block})


def test_odd_spellings_of_numbers_and_bytes_are_read():
    """A byte order mark, and numbers that the patient reader keeps by their digits."""
    spec = tool(parameters={"properties": {"x": {"minimum": 0.25, "maximum": 1}}})
    body = chat(say("user", "a\ud83d"), tools=[spec]).replace(b'"maximum": 1', b'"maximum": 1.50')
    made = go(b"\xef\xbb\xbf" + body)
    (sent,) = turns(made)[-1][1]["userInputMessageContext"]["tools"]
    assert sent["toolSpecification"]["inputSchema"]["json"]["properties"]["x"] == {"minimum": 0.25, "maximum": 1.5}


def test_half_a_character_is_replaced():
    """In texts, keys and arguments: it could not be sent."""
    made = go(
        chat(say("user", "a\ud83d"), calls("1", arguments='{"\\ud83d":["\\ude00",1]}'), result("1"), tools=[tool()])
    )
    assert contents(made)[0] == "a\ufffd"
    assert turns(made)[1][1]["toolUses"][0]["input"] == {"\ufffd": ["\ufffd", 1]}
    assert made.repairs == {"surrogate-replaced": 1}


def test_deep_values_go_through_and_endless_ones_are_refused():
    """The fast reader and writer give up early, the others where Python does."""
    deep = '{"a":' * 300 + "1" + "}" * 300
    made = go(chat(say("user", "a"), calls("1", arguments=deep), result("1"), tools=[tool()]))
    assert turns(made)[1][1]["toolUses"][0]["input"] == json.loads(deep)
    endless = '{"a":' * 100_000 + "1" + "}" * 100_000
    assert "deeply" in refused(chat(say("user", "a"), calls("1", arguments=endless)))[1]


def test_no_text_shows_in_a_repr():
    """A traceback may hold one."""
    assert "secret words" not in repr(go(chat(say("user", "secret words"))))


# --- any history -----------------------------------------------------------------------------------------------------

words = st.text(st.characters(codec="utf-8"), max_size=6).map(lambda text: f"<{text}>")
maybe = st.one_of(words, st.sampled_from(["", " ", "\n"]))
ids = st.sampled_from(["a", "b", "tooluse_1", "", "call:1", "x" * 70, "é"])
names = st.sampled_from(["ls", "read", "a b", "n" * 80, "n" * 81, "", "ls_7c2f36f9"])
images = st.just({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}})
text_parts = st.builds(lambda text: {"type": "text", "text": text}, maybe)
plain = st.one_of(maybe, st.lists(text_parts, max_size=2))
pictured = st.one_of(plain, st.builds(lambda parts, image: [*parts, image], st.lists(text_parts, max_size=2), images))
arguments = st.one_of(
    st.just(""), st.dictionaries(words, st.one_of(words, st.integers(), st.none()), max_size=2).map(json.dumps)
)
made_calls = st.lists(
    st.builds(
        lambda i, name, args: {"id": i, "type": "function", "function": {"name": name, "arguments": args}},
        ids,
        names,
        arguments,
    ),
    max_size=3,
)
messages = st.lists(
    st.one_of(
        st.builds(say, st.sampled_from(["system", "developer"]), plain),
        st.builds(say, st.just("user"), pictured),
        st.builds(lambda text, made: say("assistant", text, tool_calls=made), st.one_of(st.none(), plain), made_calls),
        st.builds(result, ids, pictured),
    ),
    min_size=1,
    max_size=9,
)
schemas = st.recursive(
    st.one_of(st.booleans(), st.fixed_dictionaries({}, optional={"type": st.just("string"), "const": words})),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(st.sampled_from(["not", "$schema", "required", "x"]), inner, max_size=3),
            "required": st.one_of(st.none(), st.lists(words, max_size=2)),
            "anyOf": st.lists(inner, max_size=2),
            "items": inner,
            "$ref": st.sampled_from(["#", "#/$defs/a", "#/properties/x", "#/nowhere", "other"]),
            "$defs": st.fixed_dictionaries({"a": inner}),
            "additionalProperties": inner,
            "$schema": st.just("s"),
        },
    ),
    max_leaves=6,
)


def is_object(schema):
    """Tell whether *schema* is sure to be that of an object."""
    return isinstance(schema, dict) and not schema.keys() & {"type", "$ref"}


tools = st.lists(
    st.builds(
        lambda name, description, schema: tool(name, description=description, parameters=schema),
        names.filter(bool),
        st.one_of(st.none(), maybe, st.just("long " * 2000)),
        st.one_of(st.none(), schemas.filter(is_object)),
    ),
    max_size=3,
    unique_by=lambda made: made["function"]["name"],
)


def strings(value):
    """Yield every string below *value*."""
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings(item)


def spoken(message):
    """Yield every text of a message."""
    content = message["content"]
    for part in content if isinstance(content, list) else [{"text": content}]:
        if (part.get("text") or "").strip():
            yield part["text"]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(messages, tools, st.sampled_from(["auto", "none", None]))
def test_any_history_gives_a_body_that_kiro_takes_and_loses_no_text(history, tools, choice):
    """Whatever stands in it, in whatever order; translated again it is the same."""
    body = json.dumps({"model": "auto", "messages": history, "tools": tools, "tool_choice": choice}).encode()
    made = go(body, model="auto")
    document = json.loads(made.body())
    sent = "\0".join(strings(document))
    for message in history:
        for text in spoken(message):
            assert text in sent
        for call in message.get("tool_calls") or ():
            for text in strings(json.loads(call["function"]["arguments"] or "{}")):
                assert text in sent
    pictures = sum(str(message["content"]).count(PIXEL) for message in history)
    assert made.body().count(PIXEL.encode()) == pictures
    for spec in tools if choice != "none" else ():
        assert (spec["function"]["description"] or "").strip() in sent
    assert go(body, model="auto").body() == made.body()


@settings(max_examples=75, deadline=None)
@given(messages, messages)
def test_the_past_stays_as_it_was(first, more):
    """Turns that were sent are sent again the same as the conversation grows, so that they stay cached.

    All but the last two: the open turn of the user, and an assistant's at the end, may still grow.
    """
    before = turns(go(chat(*first), model="auto"))
    after = turns(go(chat(*first, *more), model="auto"))
    if any(message["role"] not in ("system", "developer") for message in first):
        assert [strip(turn) for turn in after[: max(0, len(before) - 2)]] == [strip(turn) for turn in before[:-2]]


def strip(turn):
    """Return a turn without what only the current one has."""
    role, message = turn
    return role, {key: value for key, value in message.items() if key != "modelId"}


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(
                    [
                        "model",
                        "messages",
                        "role",
                        "content",
                        "tools",
                        "type",
                        "function",
                        "name",
                        "tool_calls",
                        "id",
                        "arguments",
                        "parameters",
                        "stop",
                        "user",
                    ]
                ),
                inner,
                max_size=5,
            ),
        ),
        max_leaves=20,
    )
)
def test_anything_else_is_refused_in_words(document):
    """No shape of a document gives another error than BadRequest."""
    if isinstance(document, dict):
        document = {"model": "m", "messages": [{"role": "user", "content": "x"}], **document}
    with contextlib.suppress(BadRequest):
        go(json.dumps(document).encode())


@pytest.mark.parametrize("recording", recordings.chats(recordings.OPENCODE), ids=lambda recording: recording.case)
def test_what_opencode_sends_is_taken_as_it_is(recording):
    """Every recorded request of a real client; the recordings lack the ends of images and some of the tools."""
    made = go(re.sub(r"(data:image/png;base64,)[^\"]*", rf"\g<1>{PIXEL}", recording.raw.decode()).encode())
    assert not made.repairs.keys() - {"schema-keyword-dropped", "tool-stub-added"}
    assert set(made.ignored) <= {"temperature", "topP", "extra_field", "messages[].reasoning_content"}
    assert made.wants_stream
