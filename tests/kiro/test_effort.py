import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.errors import BadRequest
from kimi_core.kiro.catalog import FALLBACK
from kimi_core.kiro.effort import LEVELS, OFF, ON, Asked, Effort, asked, levels, resolve
from tests.servers.kiro_validator import _fits

OPUS = FALLBACK.find("claude-opus-4.7").effort_schema
SONNET = FALLBACK.find("claude-sonnet-4.6").effort_schema
GPT = {
    "type": "object",
    "properties": {
        "reasoning": {
            "type": "object",
            "properties": {"effort": {"type": "string", "enum": ["none", "low", "high", "ultra"]}},
        }
    },
    "additionalProperties": False,
}
LIMIT_ONLY = {"properties": {"max_tokens": {"type": "integer"}}}
ADAPTIVE = {"type": "adaptive", "display": "summarized"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, Asked()),
        ({"reasoning_effort": None}, Asked()),
        ({"reasoning_effort": "High "}, Asked("high", "reasoning_effort")),
        ({"reasoning_effort": "auto"}, Asked()),
        ({"reasoning_effort": ""}, Asked()),
        ({"reasoning_effort": "on"}, Asked(ON, "reasoning_effort")),
        ({"reasoning_effort": "off"}, Asked(OFF, "reasoning_effort")),
        ({"reasoning_effort": "default", "thinking": {"type": "disabled"}}, Asked(OFF, "thinking")),
        ({"reasoning": {"effort": "low"}}, Asked("low", "reasoning.effort")),
        ({"reasoning": {}}, Asked()),
        ({"reasoning": "low"}, Asked("low", "reasoning")),
        ({"reasoning": {"enabled": True}}, Asked(ON, "reasoning.enabled")),
        ({"reasoning": {"enabled": False, "effort": "low"}}, Asked("low", "reasoning.effort")),
        ({"reasoningEffort": "maximum"}, Asked("max", "reasoningEffort")),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, Asked(ON, "thinking")),
        ({"thinking": {"type": "enabled", "effort": "low"}}, Asked("low", "thinking.effort")),
        ({"thinking": {"type": []}}, Asked()),
        ({"thinking": {"type": "odd"}}, Asked()),
        ({"thinking": 3}, Asked()),
        ({"enable_thinking": True}, Asked(ON, "enable_thinking")),
        ({"enable_thinking": False}, Asked(OFF, "enable_thinking")),
        ({"enable_thinking": "yes"}, Asked()),
    ],
)
def test_dialects(body, expected):
    """The first that says something counts."""
    assert asked(body) == expected


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"reasoning_effort": 3}, "reasoning_effort"),
        ({"reasoning": {"effort": []}}, "reasoning.effort"),
        ({"reasoning": True}, "reasoning"),
    ],
)
def test_an_effort_is_a_word(body, param):
    """Anything else is refused by its path."""
    with pytest.raises(BadRequest) as caught:
        asked(body)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("schema", "level", "sent", "folded"),
    [
        (OPUS, "low", "low", False),
        (OPUS, "xhigh", "xhigh", False),
        (OPUS, "max", "max", False),
        (OPUS, "minimal", "low", True),
        (SONNET, "xhigh", "high", True),
        (SONNET, "max", "max", False),
    ],
)
def test_claude(schema, level, sent, folded):
    """The effort, and thoughts that can be read; never more than was asked for."""
    fields = {"output_config": {"effort": sent}, "thinking": ADAPTIVE}
    assert resolve(Asked(level), schema, "native") == Effort(fields, level=sent, folded=folded)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("high", Effort({"reasoning": {"effort": "high"}}, level="high")),
        ("ultra", Effort({"reasoning": {"effort": "ultra"}}, level="ultra")),
        ("max", Effort({"reasoning": {"effort": "high"}}, level="high", folded=True)),
        (OFF, Effort({"reasoning": {"effort": "none"}}, level=OFF)),
        (ON, Effort(ignored=True)),
    ],
)
def test_gpt(level, expected):
    """Another field, an off of its own, and a level that is its own."""
    assert resolve(Asked(level), GPT, "native") == expected


def test_thinking_without_a_level():
    """As much as the model likes."""
    assert resolve(Asked(ON), OPUS, "native") == Effort({"thinking": ADAPTIVE}, level="on")


def test_off():
    """By the model's own switch; where it has none, that is told; a model that has no field thinks of itself."""
    assert resolve(Asked(OFF), OPUS, "native") == Effort({"thinking": {"type": "disabled"}}, level=OFF)
    no_switch = {"properties": {"output_config": {"properties": {"effort": {"enum": ["low"]}}}}}
    assert resolve(Asked(OFF), no_switch, "native") == Effort(ignored=True)
    assert resolve(Asked("high"), no_switch, "native").fields == {"output_config": {"effort": "low"}}
    for mode in ("native", "tags", "off"):
        assert resolve(Asked(OFF), None, mode) == Effort()


@pytest.mark.parametrize("schema", [None, {}, LIMIT_ONLY, {"properties": {"output_config": 3}}, {"properties": 3}])
def test_a_model_without_a_field(schema):
    """Is asked by tags where the user chose that, else not at all; a silent client never."""
    assert resolve(Asked("high"), schema, "native") == Effort(ignored=True)
    found = resolve(Asked("high"), schema, "tags")
    assert found.tags == "<thinking_mode>enabled</thinking_mode>\n<max_thinking_length>16000</max_thinking_length>"
    assert (found.level, found.fields, found.ignored) == ("high", {}, False)
    assert resolve(Asked(ON), schema, "tags").level == "on"
    assert resolve(Asked(), schema, "tags") == Effort()
    assert levels(schema) == ()


def test_where_nothing_is_to_be_asked():
    """The client is told that its word has no effect."""
    assert resolve(Asked("high"), OPUS, "off") == Effort(ignored=True)


@pytest.mark.parametrize("schema", [None, OPUS])
def test_unknown_words_are_refused(schema):
    """With those that there are."""
    with pytest.raises(BadRequest, match=r"'very' is no effort; there are .*low, medium") as caught:
        resolve(Asked("very", "reasoning.effort"), schema, "native")
    assert caught.value.param == "reasoning.effort"


def test_levels_of_a_model():
    """As it lists them."""
    assert levels(SONNET) == ("low", "medium", "high", "max")
    assert levels(GPT) == ("none", "low", "high", "ultra")


@given(
    st.sampled_from([*LEVELS, ON]),
    st.lists(st.sampled_from([*LEVELS, "ultra"]), unique=True),
    st.lists(st.sampled_from(["adaptive", "disabled", "enabled"]), unique=True),
    st.lists(st.sampled_from(["summarized", "omitted"]), unique=True),
)
def test_what_is_sent_fits_the_schema(level, efforts, types, displays):
    """Whatever the catalog says: a wrong key is a 400."""
    schema = {
        "type": "object",
        "properties": {
            "output_config": {
                "type": "object",
                "properties": {"effort": {"enum": efforts}},
                "additionalProperties": False,
            },
            "thinking": {
                "type": "object",
                "properties": {"type": {"enum": types}, "display": {"enum": displays}},
                "additionalProperties": False,
            },
        },
        "additionalProperties": False,
    }
    found = resolve(Asked(level), schema, "native")
    assert list(_fits(found.fields, schema, "$")) == []
    assert bool(found.fields) != (found.ignored or found.level is None)
