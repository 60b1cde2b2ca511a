import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.errors import BadRequest
from kimi_core.headers import Headers
from kimi_core.kimi.body import FOREIGN_FIELDS, REPAIRS, BodyOptions, rewrite
from kimi_core.kimi.memory import ReasoningMemory
from kimi_core.kimi.models import Catalog, Model
from kimi_core.kimi.thinking import SCALE

CODING = Model("kimi-for-coding-2", context_length=10_000, reasoning=True, thinking_type="both")
K3 = Model("k3", context_length=1_000_000, reasoning=True, efforts=("low", "high", "max"), default_effort="high")
ALWAYS = Model("k3-always", reasoning=True, thinking_type="only", efforts=("low", "high"), default_effort="high")
CATALOG = Catalog((K3, CODING, ALWAYS))
SESSION = Headers([("x-session-id", "ses_1")])
MESSAGES = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "a", "parameters": {"type": "object", "properties": {}}}}
IDENTITIES = ["kimi-cli", "kimi-code", "own"]
MODES = ["plugin", "kimi-cli", "kimi-code"]


def run(body, headers=SESSION, *, identity="kimi-cli", mode="plugin", clamp=False, prefer_parent=True, memory=None):
    """Return the decoded body that goes out, and all that was returned; *body* may be bytes."""
    if not isinstance(body, bytes):
        body = json.dumps({"model": "k3", "messages": MESSAGES, **body}).encode()
    options = BodyOptions(mode, identity, "fake-salt", prefer_parent=prefer_parent, clamp=clamp)
    out = rewrite(body, headers, catalog=CATALOG, options=options, memory=memory or ReasoningMemory())
    assert set(out.repairs) <= REPAIRS.keys()
    return json.loads(out.body), out


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"[]", None),
        (b"{", None),
        (b'{"messages":[]}', "model"),
        (b'{"model":7,"messages":[]}', "model"),
        (b'{"model":"","messages":[]}', "model"),
        (b'{"model":"k3"}', "messages"),
        (b'{"model":"k3","messages":{}}', "messages"),
        (b'{"model":"k3","messages":[{},7]}', "messages[1]"),
        (b'{"model":"k3","messages":[],"tools":{}}', "tools"),
        (b'{"model":"k3","messages":[],"tools":[1]}', "tools[0]"),
        (b'{"model":"k3","messages":[],"reasoning_effort":"turbo"}', "reasoning_effort"),
    ],
)
def test_what_cannot_be_served_is_refused_by_field(body, param):
    """The client learns which field it is."""
    with pytest.raises(BadRequest) as caught:
        run(body)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("wanted", "sent"), [("kimi-for-coding", "kimi-for-coding-2"), ("k3", "k3"), ("k9-unlisted", "k9-unlisted")]
)
def test_the_alias_becomes_the_slug_and_other_ids_pass(wanted, sent):
    """The wire model is what the plan lists."""
    got, out = run({"model": wanted})
    assert got["model"] == out.facts["model"] == sent


@pytest.mark.parametrize("identity", IDENTITIES)
def test_the_cache_key_has_the_shape_of_the_identity(identity):
    """A dashed UUID for kimi-cli, session_ and one for Kimi Code; the layer is told."""
    got, out = run({"promptCacheKey": "ses_1"}, identity=identity)
    assert got["prompt_cache_key"].startswith("session_") == (identity == "kimi-code")
    assert "promptCacheKey" not in got
    assert out.facts["key"] == "camel-case"
    assert out.repairs["camel-case-dropped"] == 1


@pytest.mark.parametrize(
    "native", ["0d9f7f2e-5b1c-4d36-9c36-6f1f6c2f9b10", "session_0d9f7f2e-5b1c-4d36-9c36-6f1f6c2f9b10"]
)
@pytest.mark.parametrize("identity", IDENTITIES)
def test_a_native_cache_key_passes(identity, native):
    """Whichever official client made it."""
    assert run({"prompt_cache_key": native}, identity=identity)[0]["prompt_cache_key"] == native


def test_a_sub_agent_shares_the_key_but_not_the_memory():
    """Its call ids begin anew, so what it thought must not be taken for its parent's."""
    parent = run({})
    child = run({}, Headers([("x-session-id", "ses_2"), ("x-parent-session-id", "ses_1")]))
    assert child[0]["prompt_cache_key"] == parent[0]["prompt_cache_key"]
    assert child[1].conversation != parent[1].conversation
    alone = run({}, Headers([("x-session-id", "ses_2"), ("x-parent-session-id", "ses_1")]), prefer_parent=False)
    assert alone[0]["prompt_cache_key"] != parent[0]["prompt_cache_key"]
    assert alone[1].conversation == child[1].conversation


def test_what_was_thought_is_recalled_in_the_conversation_it_belongs_to():
    """The same call id in another conversation has nothing to do with it."""
    memory = ReasoningMemory()
    turn = {"role": "assistant", "tool_calls": [{"id": "a:0", "type": "function", "function": {"name": "a"}}]}
    memory.scope(run({})[1].conversation).remember(["a:0"], "remembered")
    mine, _ = run({"messages": [turn]}, memory=memory)
    other, _ = run({"messages": [turn]}, Headers([("x-session-id", "ses_9")]), memory=memory)
    assert mine["messages"][0]["reasoning_content"] == "remembered"
    assert other["messages"][0]["reasoning_content"] != "remembered"


@pytest.mark.parametrize(
    ("body", "mode", "fields", "repairs"),
    [
        ({"reasoning_effort": "low"}, "plugin", {"thinking": {"type": "enabled"}, "reasoning_effort": "low"}, {}),
        ({"reasoningEffort": "off"}, "plugin", {"thinking": {"type": "disabled"}}, {"camel-case-dropped": 1}),
        (
            {"reasoning": {"effort": "high"}},
            "kimi-cli",
            {"thinking": {"type": "enabled"}},
            {"thinking-field-dropped": 1, "effort-not-sent": 1},
        ),
        ({"enable_thinking": False}, "plugin", {"thinking": {"type": "disabled"}}, {"thinking-field-dropped": 1}),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 9}},
            "kimi-code",
            {"thinking": {"type": "enabled", "effort": "high", "keep": "all"}},
            {"thinking-field-dropped": 1},
        ),
        (
            {"thinking": "high"},
            "plugin",
            {"thinking": {"type": "enabled"}, "reasoning_effort": "high"},
            {"thinking-field-dropped": 1},
        ),
        ({"thinking": {"type": "enabled"}, "reasoning_effort": "auto"}, "plugin", {}, {}),
        ({}, "plugin", {"thinking": {"type": "enabled"}}, {}),
    ],
)
def test_the_effort_goes_out_in_the_dialect_alone(body, mode, fields, repairs):
    """Whatever fields it came in, no other is left."""
    got, out = run(body, mode=mode)
    names = {"thinking", "reasoning_effort", "reasoningEffort", "reasoning", "enable_thinking"}
    assert {key: value for key, value in got.items() if key in names} == fields
    assert out.repairs == repairs


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", ["k3", "kimi-for-coding", "k3-always", "unlisted"])
def test_no_effort_changes_anything_but_the_effort(mode, model):
    """K45: model and every other field are the same for all of them."""
    history = [*MESSAGES, {"role": "assistant", "content": "yes", "reasoning_content": "r"}]
    bodies = []
    for level in (*SCALE, "off", "none", "auto", "on"):
        got, _ = run({"model": model, "messages": history, "reasoning_effort": level}, mode=mode)
        bodies.append({key: value for key, value in got.items() if key not in {"thinking", "reasoning_effort"}})
    assert all(body == bodies[0] for body in bodies)


@pytest.mark.parametrize(
    ("fields", "sent", "repairs"),
    [
        ({}, ..., {}),
        ({"max_tokens": 32000}, 32000, {"max-tokens-renamed": 1}),
        ({"max_tokens": 32000, "max_completion_tokens": None}, 32000, {"max-tokens-renamed": 1}),
        ({"max_tokens": 1, "max_completion_tokens": 2}, 2, {"max-tokens-dropped": 1}),
        ({"max_tokens": None}, ..., {"max-tokens-dropped": 1}),
        ({"max_completion_tokens": 5}, 5, {}),
    ],
)
def test_there_is_one_token_cap_under_its_new_name(fields, sent, repairs):
    """Never both; the new name wins."""
    got, out = run(fields)
    assert "max_tokens" not in got
    assert got.get("max_completion_tokens", ...) == sent
    assert out.repairs == repairs


@pytest.mark.parametrize(
    ("model", "cap", "sent"),
    [
        ("kimi-for-coding", 32000, 10_000 - 1 - 1024),
        ("kimi-for-coding", 5, 5),
        ("unlisted", 32000, 32000),
        ("kimi-for-coding", True, True),
        ("kimi-for-coding", "many", "many"),
    ],
)
def test_the_cap_is_lowered_to_what_is_left_only_where_the_user_says_so(model, cap, sent):
    """kimi-cli's arithmetic; what is no number is upstream's to judge."""
    body = {"model": model, "max_tokens": cap}
    assert run(body, clamp=True)[0]["max_completion_tokens"] == sent
    assert run(body)[0]["max_completion_tokens"] == cap


def test_at_least_one_token_is_left():
    """A history that fills the context is upstream's to refuse."""
    body = {"model": "kimi-for-coding", "max_tokens": 9, "messages": [{"role": "user", "content": "é" * 20_000}]}
    got, out = run(body, clamp=True)
    assert got["max_completion_tokens"] == 1
    assert out.repairs["max-tokens-clamped"] == 1


@pytest.mark.parametrize(
    ("fields", "sent", "repairs"),
    [
        ({"stream": True}, {"include_usage": True}, {}),
        ({"stream": True, "stream_options": None}, {"include_usage": True}, {}),
        ({"stream": True, "stream_options": {"x": 1, "include_usage": False}}, {"x": 1, "include_usage": True}, {}),
        ({"stream": False, "stream_options": {"include_usage": True}}, ..., {"stream-options-dropped": 1}),
        ({"stream_options": {}}, ..., {"stream-options-dropped": 1}),
        ({}, ..., {}),
    ],
)
def test_usage_is_asked_for_where_the_answer_streams(fields, sent, repairs):
    """Elsewhere stream_options would be an error."""
    got, out = run(fields)
    assert got.get("stream_options", ...) == sent
    assert out.repairs == repairs


@pytest.mark.parametrize(
    ("identity", "fields", "sent"),
    [
        ("kimi-cli", {}, []),
        ("kimi-cli", {"tools": None}, []),
        ("kimi-cli", {"tools": []}, []),
        ("kimi-code", {}, ...),
        ("kimi-code", {"tools": []}, ...),
        ("kimi-code", {"tools": None}, ...),
        ("own", {}, ...),
        ("own", {"tools": []}, []),
        ("own", {"tools": None}, ...),
        *((identity, {"tools": [TOOL]}, [TOOL]) for identity in IDENTITIES),
    ],
)
def test_an_empty_tool_list_is_what_the_identity_makes_of_it(identity, fields, sent):
    """kimi-cli always has the key, Kimi Code only with tools in it."""
    assert run(fields, identity=identity)[0].get("tools", ...) == sent


@pytest.mark.parametrize(
    ("choice", "stays"),
    [("auto", False), (None, False), ("none", True), ("required", True), ({"type": "function"}, True)],
)
def test_the_tool_choice_goes_out_unless_it_is_the_default(choice, stays):
    """No official client sends auto."""
    got, out = run({"tools": [TOOL], "tool_choice": choice})
    assert ("tool_choice" in got) == stays
    assert ("tool-choice-dropped" in out.repairs) != stays


@pytest.mark.parametrize("name", FOREIGN_FIELDS)
def test_fields_of_other_apis_are_dropped_and_counted(name):
    """Each under a name of its own."""
    got, out = run({name: 0.5})
    assert name not in got
    assert out.repairs == {f"{name}-dropped".replace("_", "-"): 1}


def test_camel_case_leftovers_are_dropped():
    """The AI SDK puts provider options into the body as they are spelled."""
    got, out = run({"topP": 0.9, "reasoningEffort": "low", "promptCacheKey": "x"})
    assert not {"topP", "reasoningEffort", "promptCacheKey"} & got.keys()
    assert out.repairs == {"camel-case-dropped": 3}


@pytest.mark.parametrize("name", ["top_p", "stop", "response_format", "n", "extra_field", "frequency_penalty"])
def test_other_fields_are_the_users_own(name):
    """They go out untouched."""
    got, out = run({name: {"a": [1]}})
    assert got[name] == {"a": [1]}
    assert out.repairs == {}


def test_a_key_that_stands_twice_is_one_key_for_everybody():
    """The last model is resolved, sent and told."""
    got, out = run(b'{"model":"k9","messages":[{"role":"user","content":"a"}],"model":"k3"}')
    assert got["model"] == out.facts["model"] == "k3"
    assert out.body.count(b'"model"') == 1
    assert out.repairs == {"duplicate-key-dropped": 1}


def test_digits_and_half_characters_survive_beside_repairs():
    """What is not repaired goes out as it came, even in a message that is."""
    body = (
        b'{"model":"k3","messages":[{"role":"assistant","content":"","x":1e400,'
        b'"tool_calls":[{"id":"a","n":0.10,"s":"\\ud800"}]}],"seed_":12345678901234567890123.0}'
    )
    out = run(body)[1].body
    for piece in (b'"x":1e400', b'"n":0.10', b'"s":"\\ud800"', b'"seed_":12345678901234567890123.0'):
        assert piece in out


@pytest.mark.parametrize("depth", [400, 5_000])
def test_a_schema_that_is_nested_beyond_all_reason_is_refused(depth):
    """With a sentence, not a crash."""
    schema = '{"properties":{"a":' * depth + "{}" + "}}" * depth
    tool = f'{{"type":"function","function":{{"name":"a","parameters":{schema}}}}}'
    body = f'{{"model":"k3","messages":[],"tools":[{tool}]}}'.encode()
    with pytest.raises(BadRequest, match="nested too deeply"):
        run(body)


def test_what_is_returned_tells_no_text():
    """The body may hold anything, its repr goes to logs."""
    out = run({"messages": [{"role": "user", "content": "secret plan"}]})[1]
    assert "secret plan" not in repr(out)


def test_every_repair_has_a_sentence_and_a_stable_name():
    """The README prints them."""
    for name, sentence in REPAIRS.items():
        assert name == name.lower()
        assert "_" not in name
        assert sentence.endswith(".")


OWNED = {
    "model",
    "messages",
    "tools",
    "tool_choice",
    "stream",
    "stream_options",
    "prompt_cache_key",
    "promptCacheKey",
    "max_tokens",
    "max_completion_tokens",
    "thinking",
    "reasoning",
    "reasoning_effort",
    "reasoningEffort",
    "enable_thinking",
    "topP",
    *FOREIGN_FIELDS,
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
own_fields = st.dictionaries(st.text(max_size=4).filter(lambda name: name not in OWNED), json_values, max_size=4)
known_fields = st.fixed_dictionaries(
    {
        "messages": st.lists(
            st.fixed_dictionaries(
                {"role": st.sampled_from(["user", "assistant", "tool"])},
                optional={
                    "content": json_values,
                    "tool_calls": json_values,
                    "tool_call_id": json_values,
                    "reasoning": json_values,
                    "reasoning_details": json_values,
                },
            ),
            max_size=3,
        )
    },
    optional={
        "max_tokens": json_values,
        "stream": json_values,
        "stream_options": json_values,
        "temperature": json_values,
        "prompt_cache_key": json_values,
        "metadata": json_values,
        "tool_choice": json_values,
        "reasoning_effort": st.sampled_from([*SCALE, "off", "on", None]),
        "thinking": st.sampled_from([None, True, {}, {"type": "enabled", "keep": "all"}, {"type": "disabled"}]),
        "tools": st.none()
        | st.lists(st.builds(lambda schema: {"function": {"parameters": schema}}, json_values), max_size=2),
    },
)


@settings(max_examples=75, deadline=None)
@given(own=own_fields, known=known_fields, identity=st.sampled_from(IDENTITIES), mode=st.sampled_from(MODES))
def test_any_body_survives_and_twice_is_once(own, known, identity, mode):
    """The user's own fields keep their meaning and order, and a second rewrite finds nothing to do."""
    body = json.dumps({"model": "k3", **own, **known}).encode()
    got, out = run(body, identity=identity, mode=mode)
    kept = [(key, value) for key, value in got.items() if key in own]
    assert json.dumps(kept) == json.dumps(list(own.items()), default=str)
    again = run(out.body, identity=identity, mode=mode)[1]
    assert json.loads(again.body) == got | {"prompt_cache_key": json.loads(again.body)["prompt_cache_key"]}
    assert again.repairs.keys() <= {"effort-not-sent"}
