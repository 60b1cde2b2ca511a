import json
from pathlib import Path

import pytest

from kimi_core.blocks.kiro import BLOCK_NAMES, agent_model, blocks, client_id, efforts, opencode, opencode_v2
from kimi_core.blocks.place import Key, Place
from kimi_core.kiro.catalog import FALLBACK, Catalog, ModelInfo, normalise
from tests.blocks.test_kimi_blocks import V2, ProviderV1

PLACE = Place("http://127.0.0.1:8080", "https://runtime.us-east-1.kiro.dev/v1", Path("/home/x/ca.pem"), provider="kiro")


def test_every_block_is_listed():
    """`--block` offers what there is, each with something to paste."""
    made = blocks(FALLBACK, PLACE)
    assert tuple(block.name for block in made) == BLOCK_NAMES
    assert all(block.text and block.title for block in made)


def test_opencode_takes_the_blocks():
    """The providers have the shapes of opencode 1 and 2, every model with its limit."""
    first = opencode(FALLBACK.models, PLACE)
    provider = ProviderV1.model_validate(first["provider"]["kiro"])
    assert set(first) == {"$schema", "provider", "agent"}
    assert len(provider.models) == len(FALLBACK.models)
    assert all(model.limit for model in provider.models.values())
    second = V2.model_validate(opencode_v2(FALLBACK.models, PLACE))
    assert second.providers["kiro"].models["claude-opus-4-6"].variants[0].id == "off"


def test_images_follow_the_catalog():
    """A model that takes text alone is offered as that, or clients would send it images."""
    models = opencode(FALLBACK.models, PLACE)["provider"]["kiro"]["models"]
    assert (models["glm-5"]["attachment"], models["glm-5"]["modalities"]["input"]) == (False, ["text"])
    assert models["claude-opus-4-6"]["attachment"]


@pytest.mark.parametrize("model", FALLBACK.models, ids=lambda model: model.id)
def test_names_for_clients_find_their_model(model):
    """Whatever a client is told, the proxy understands."""
    assert normalise(client_id(model.id)) == model.id
    assert normalise(f"kiro/{client_id(model.id)}") == model.id


def test_only_claude_has_dashes():
    """Other names stay as they are."""
    assert (client_id("minimax-m2.5"), client_id("claude-sonnet-4.5")) == ("minimax-m2.5", "claude-sonnet-4-5")


def test_the_agent_uses_a_model_of_the_plan():
    """Without any of the known ones there is no example."""
    assert agent_model([ModelInfo("claude-opus-4.7")]) == "claude-opus-4.7"
    small = Catalog((ModelInfo("auto"),))
    assert "agent" not in opencode(small.models, PLACE)
    made = {block.name: block for block in blocks(small, PLACE)}
    assert "The model is auto." in made["openai"].notes[0]
    assert '"model": "auto"' in made["curl"].text


def test_efforts_come_from_the_schema():
    """Levels of the model's own, after `off`; none where it lists none."""
    assert efforts(FALLBACK.find("claude-opus-4.7")) == ("off", "low", "medium", "high", "xhigh", "max")
    assert efforts(FALLBACK.find("auto")) == ()
    thinking = {"properties": {"reasoning": {"properties": {"effort": {"enum": ["none", "low"]}}}}}
    assert efforts(ModelInfo("gpt", effort_schema=thinking)) == ("off", "low")


@pytest.mark.parametrize(
    ("model", "wanted", "limit"),
    [
        (ModelInfo("a", max_input=10, max_output=5), None, {"context": 10, "output": 5}),
        (ModelInfo("a", max_input=10, max_output=5), 3, {"context": 10, "output": 3}),
        (ModelInfo("a", max_input=10, max_output=5), 9, {"context": 10, "output": 5}),
        (ModelInfo("a", max_input=10), None, {"context": 10, "output": 64_000}),
        (ModelInfo("a"), 9, None),
    ],
)
def test_limits(model, wanted, limit):
    """Context and output as the catalog has them; --with-limit lowers the output and never raises it."""
    found = opencode((model,), PLACE, wanted)["provider"]["kiro"]["models"]["a"]
    assert found.get("limit") == limit
    assert opencode_v2((model,), PLACE, wanted)["providers"]["kiro"]["models"]["a"].get("limit") == limit


def test_both_ways_in_are_told():
    """The base URL is the local one; the note has the one for HTTPS_PROXY."""
    block = blocks(FALLBACK, PLACE)[0]
    assert json.loads(block.text)["provider"]["kiro"]["options"]["baseURL"] == "http://127.0.0.1:8080/kiro/v1"
    assert "https://runtime.us-east-1.kiro.dev/v1" in block.notes[0]


def test_a_key_is_named_and_not_shown():
    """Where the proxy asks for a key the block says where it is."""
    asked = Place(PLACE.proxy_url, PLACE.api_base, PLACE.ca, Key.CHOSEN, provider="kiro")
    block = blocks(FALLBACK, asked)[0]
    assert "{env:KIMI_MITM_KEY}" in block.text
    assert "KIMI_MITM_KEY" in block.notes[-1]
