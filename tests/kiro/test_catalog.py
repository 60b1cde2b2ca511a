import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.errors import UpstreamError
from kimi_core.kiro.catalog import (
    FALLBACK,
    FALLBACK_DATE,
    MAX_MODELS,
    Catalog,
    ModelInfo,
    next_token,
    normalise,
    parse,
)

ITEM = {
    "modelId": "claude-opus-4.7",
    "modelName": "Claude Opus 4.7",
    "description": "Slow and good",
    "rateMultiplier": 2.2,
    "rateUnit": "Credit",
    "supportedInputTypes": ["TEXT", "IMAGE"],
    "tokenLimits": {"maxInputTokens": 1000000, "maxOutputTokens": 128000},
    "promptCaching": {"supportsPromptCaching": True, "minimumTokensPerCacheCheckpoint": 4096},
    "additionalModelRequestFieldsSchema": {"type": "object"},
}


@pytest.mark.parametrize(
    ("name", "model_id"),
    [
        ("auto", "auto"),
        ("auto-kiro", "auto"),
        ("kiro/auto", "auto"),
        ("kiro-auto", "auto"),
        ("claude-sonnet-4.5", "claude-sonnet-4.5"),
        ("claude-sonnet-4-5", "claude-sonnet-4.5"),
        ("Claude-Sonnet-4-5", "claude-sonnet-4.5"),
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4.5"),
        ("claude-sonnet-4-5-20250929[1m]", "claude-sonnet-4.5"),
        ("claude-sonnet-4-5-latest", "claude-sonnet-4.5"),
        ("claude-sonnet-4-20250514", "claude-sonnet-4"),
        ("claude-sonnet-4", "claude-sonnet-4"),
        ("claude-4-sonnet", "claude-sonnet-4"),
        ("claude-4.5-sonnet", "claude-sonnet-4.5"),
        ("claude-4-5-haiku-thinking", "claude-haiku-4.5"),
        ("claude-3-7-sonnet-20250219", "claude-sonnet-3.7"),
        ("kiro/claude-opus-4-6", "claude-opus-4.6"),
        ("KIRO/kiro-claude-opus-4-7[1m]", "claude-opus-4.7"),
        ("claude-opus-5", "claude-opus-5"),
        ("claude-opus-4-10", "claude-opus-4.10"),
        ("minimax-m2.5", "minimax-m2.5"),
        ("deepseek-3.2", "deepseek-3.2"),
        ("qwen3-coder-next", "qwen3-coder-next"),
        ("GPT-5.6-sol", "gpt-5.6-sol"),
        ("kimi-k2.5", "kimi-k2.5"),
        ("CLAUDE_SONNET_4_20250514_V1_0", "CLAUDE_SONNET_4_20250514_V1_0"),
        ("My-Own-Model[1m]", "My-Own-Model[1m]"),
        ("kiro/My-Own-Model", "My-Own-Model"),
        ("kiro/", "kiro/"),
        ("claude-opus-4-7-fast", "claude-opus-4-7-fast"),
    ],
)
def test_names(name, model_id):
    """What clients call a model, and what Kiro does."""
    assert normalise(name) == model_id


@given(
    st.one_of(
        st.text(max_size=12),
        st.from_regex(
            re.compile(
                r"(kiro[/-]){0,2}(claude-)?(sonnet|[1-9]|auto)([.-][0-9]{1,2}){0,2}(-20250929|-latest|\[1m\]){0,2}"
            ),
            fullmatch=True,
        ),
    )
)
def test_a_name_of_kiros_stays(name):
    """What is normalised is normal."""
    assert normalise(normalise(name)) == normalise(name)


def test_a_list_is_read():
    """Every field that is of use; written again it is the same."""
    catalog = parse({"defaultModel": {"modelId": "auto"}, "models": [ITEM], "nextToken": "n"}, 5.0)
    (model,) = catalog.models
    assert model == ModelInfo(
        id="claude-opus-4.7",
        name="Claude Opus 4.7",
        max_input=1_000_000,
        max_output=128_000,
        inputs=frozenset({"TEXT", "IMAGE"}),
        effort_schema={"type": "object"},
        rate=2.2,
        description="Slow and good",
        cache_minimum=4096,
    )
    assert (catalog.default, catalog.fetched_at) == ("auto", 5.0)
    assert parse(json.loads(json.dumps(catalog.to_json())), 5.0) == catalog
    assert catalog.to_json()["models"][0] == {name: value for name, value in ITEM.items() if name != "rateUnit"}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, ModelInfo("m")),
        ({"modelName": " ", "description": 3}, ModelInfo("m")),
        ({"rateMultiplier": "2"}, ModelInfo("m")),
        ({"rateMultiplier": True}, ModelInfo("m")),
        ({"rateMultiplier": 2}, ModelInfo("m", rate=2.0)),
        ({"rateMultiplier": float("inf")}, ModelInfo("m")),
        ({"rateMultiplier": float("nan")}, ModelInfo("m")),
        ({"rateMultiplier": 10**400, "tokenLimits": {"maxInputTokens": 10**400}}, ModelInfo("m")),
        ({"tokenLimits": {"maxInputTokens": 0, "maxOutputTokens": float("nan")}}, ModelInfo("m")),
        ({"tokenLimits": {"maxInputTokens": 9.0, "maxOutputTokens": 1e13}}, ModelInfo("m", max_input=9)),
        ({"tokenLimits": 3, "promptCaching": 3, "supportedInputTypes": 3}, ModelInfo("m")),
        ({"supportedInputTypes": ["text", 3]}, ModelInfo("m", inputs=frozenset({"TEXT"}))),
        ({"additionalModelRequestFieldsSchema": "{}"}, ModelInfo("m")),
        ({"promptCaching": {"supportsPromptCaching": False}}, ModelInfo("m", cache_minimum=0)),
        ({"supportsPromptCache": True}, ModelInfo("m", cache_minimum=1)),
    ],
)
def test_odd_fields_are_not_known(more, expected):
    """The rest of the item counts."""
    assert parse({"models": [{"modelId": "m", **more}]}, None).models == (expected,)


@pytest.mark.parametrize("data", [None, [], {}, {"models": {}}, {"models": []}, {"models": [3, {}, {"modelId": ""}]}])
def test_what_holds_no_model_is_no_list(data):
    """So that it never replaces a good one."""
    with pytest.raises(UpstreamError):
        parse(data, 0)


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.floats(), st.text(max_size=3)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.sampled_from([*ITEM, "models"]), inner, max_size=4)
        ),
    )
)
def test_any_item_is_read(value):
    """In whatever shape its fields are."""
    item = {**(value if isinstance(value, dict) else {}), "modelId": "m"}
    assert parse({"models": [item]}, 0).find("m")


def test_the_first_of_two_counts_and_lists_are_bounded():
    """An endless list of pages ends."""
    twice = parse({"models": [{"modelId": "m"}, {"modelId": "m", "modelName": "x"}]}, 0)
    assert (twice.models, twice.default) == ((ModelInfo("m"),), "m")
    many = parse({"models": [{"modelId": f"m{number}"} for number in range(MAX_MODELS + 9)]}, 0)
    more = Catalog((ModelInfo("x"), ModelInfo("m")))
    assert len(many.models) == len(many.joined(more).models) == MAX_MODELS
    assert twice.joined(more).models == (ModelInfo("m"), ModelInfo("x"))
    assert Catalog((ModelInfo("m"), ModelInfo("m", "x"))).find("m") == ModelInfo("m")


@pytest.mark.parametrize(
    ("data", "token"), [({"nextToken": "n"}, "n"), ({"nextToken": ""}, None), ({}, None), ([], None)]
)
def test_the_next_page(data, token):
    """Is asked for by a token, while there is one."""
    assert next_token(data) == token


def test_names_are_looked_up():
    """As they are, then normalised; a name that the list does not hold passes."""
    live = Catalog((ModelInfo("claude-opus-4.7"), ModelInfo("Odd[1m]"), ModelInfo("claude-sonnet-4-5")))
    assert live.resolve("kiro/claude-opus-4-7[1m]") == ("claude-opus-4.7", ModelInfo("claude-opus-4.7"))
    assert live.resolve("kiro/Odd[1m]") == ("Odd[1m]", ModelInfo("Odd[1m]"))
    assert live.resolve("claude-sonnet-4-5")[0] == "claude-sonnet-4-5"
    assert live.resolve("claude-opus-9-1") == ("claude-opus-9.1", None)


def test_the_fallback_is_dated_and_sound():
    """Its ids are normal, its default is in it, and it is said how old it is."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", FALLBACK_DATE)
    assert FALLBACK.fetched_at is None
    assert FALLBACK.find(FALLBACK.default)
    assert [normalise(model.id) for model in FALLBACK.models] == [model.id for model in FALLBACK.models]
    assert parse(FALLBACK.to_json(), None).models == FALLBACK.models
    assert FALLBACK.find("auto").max_input == 1_000_000
    assert [model.id for model in FALLBACK.models if not model.takes_images] == ["minimax-m2.5", "glm-5"]


def test_a_model_of_which_nothing_is_known_may_get_images():
    """The service will say."""
    assert ModelInfo("m").takes_images
