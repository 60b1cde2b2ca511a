import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from kimi_core.blocks.kimi import BLOCK_NAMES, EFFORTS, PROVIDER_ID, blocks, efforts, offered
from kimi_core.blocks.place import Key, Place
from kimi_core.kimi.models import Catalog, Model

PLACE = Place(
    "http://127.0.0.1:8080", "https://api.kimi.com/coding/v1", Path("/home/x/.mitmproxy/mitmproxy-ca-cert.pem")
)
K3 = Model("k3", "K3", 1048576, True, True, True, "only", ("low", "high", "max"), "high")
CODING = Model("kimi-for-coding", "K2.7 Coding", 262144, True, True, False, "both")
CATALOG = Catalog((K3, CODING), 1.0)


class Strict(BaseModel):
    """A shape that takes nothing it does not know."""

    model_config = ConfigDict(extra="forbid", strict=True)


type Input = Literal["text", "audio", "image", "video", "pdf"]
type Text = Annotated[str, StringConstraints(min_length=1)]


class Limit(Strict):
    context: Annotated[int, Field(gt=0)]
    output: Annotated[int, Field(gt=0)]


class Variant(Strict):
    reasoningEffort: Text  # noqa: N815 - the field's name on the AI SDK's side


class Modalities(Strict):
    input: list[Input]
    output: list[Input]


class ModelV1(Strict):
    name: Text
    attachment: bool
    modalities: Modalities
    reasoning: bool
    tool_call: bool
    limit: Limit | None = None
    variants: dict[str, Variant] | None = None


class Access(Strict):
    baseURL: Text  # noqa: N815 - as above
    apiKey: Text  # noqa: N815 - as above


class ProviderV1(Strict):
    npm: Literal["@ai-sdk/openai-compatible"]
    name: Text
    options: Access
    models: dict[Text, ModelV1]


class V1(Strict):
    schema_: Annotated[str, Field(alias="$schema")]
    provider: dict[str, ProviderV1]


class Capabilities(Strict):
    tools: bool
    input: list[Input]
    output: list[Input]


class VariantV2(Strict):
    id: Text
    settings: Variant


class ModelV2(Strict):
    name: Text
    capabilities: Capabilities
    limit: Limit | None = None
    variants: list[VariantV2] | None = None


class ProviderV2(Strict):
    name: Text
    package: Literal["aisdk:@ai-sdk/openai-compatible"]
    settings: Access
    models: dict[Text, ModelV2]


class V2(Strict):
    schema_: Annotated[str, Field(alias="$schema")]
    providers: dict[str, ProviderV2]


def text_of(name, catalog=CATALOG, place=PLACE, limit=None):
    """Return the text of one block."""
    return next(block.text for block in blocks(catalog, place, limit) if block.name == name)


def provider_v1(*args, **kwargs) -> dict[str, Any]:
    """Return the provider in opencode's block."""
    return json.loads(text_of("opencode", *args, **kwargs))["provider"][PROVIDER_ID]


def provider_v2(*args, **kwargs) -> dict[str, Any]:
    """Return the provider in opencode 2's block."""
    return json.loads(text_of("opencode-v2", *args, **kwargs))["providers"][PROVIDER_ID]


def test_every_block_is_listed():
    """The names that a command line may ask for are those that are made."""
    assert tuple(block.name for block in blocks(CATALOG, PLACE)) == BLOCK_NAMES


some_text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
some_models = st.lists(
    st.builds(
        Model,
        id=some_text,
        display_name=st.none() | some_text,
        context_length=st.none() | st.integers(1, 2**40),
        reasoning=st.none() | st.booleans(),
        image_in=st.none() | st.booleans(),
        video_in=st.none() | st.booleans(),
        thinking_type=st.sampled_from([None, "only", "no", "both"]),
        efforts=st.lists(some_text, max_size=3).map(tuple),
        tool_use=st.none() | st.booleans(),
    ),
    max_size=4,
)


@settings(max_examples=75)
@given(some_models, st.none() | st.integers(1, 10**6), st.sampled_from(list(Key)))
def test_any_catalog_gives_valid_configuration(models, limit, key):
    """Whatever the service lists, both opencode blocks parse and have opencode's shape exactly."""
    place = Place(PLACE.proxy_url, PLACE.api_base, PLACE.ca, key, Path("/data/client-key"))
    catalog = Catalog(tuple(models), 1.0)
    V1.model_validate_json(text_of("opencode", catalog, place, limit))
    V2.model_validate_json(text_of("opencode-v2", catalog, place, limit))


@pytest.mark.parametrize("provider", [provider_v1, provider_v2])
def test_the_alias_comes_first_and_every_model_once(provider):
    """kimi-for-coding heads the list; it is not repeated under the slug it stands for."""
    assert list(provider()["models"]) == ["kimi-for-coding", "k3"]
    renamed = Catalog((K3, Model("kimi-coding-9", "Next Coding")), 1.0)
    assert list(provider(renamed)["models"]) == ["kimi-for-coding", "k3"]
    assert provider(renamed)["models"]["kimi-for-coding"]["name"] == "Next Coding"


@pytest.mark.parametrize("provider", [provider_v1, provider_v2])
def test_without_discovery_the_alias_stands_alone(provider):
    """Where /models could not be read the alias is offered with what kimi-cli assumes of it."""
    assert list(provider(Catalog())["models"]) == ["kimi-for-coding"]


def test_images_survive_the_client():
    """The fields attachment and modalities say what the model takes: without both, opencode takes images out."""
    models = provider_v1()["models"]
    assert (models["k3"]["attachment"], models["k3"]["modalities"]["input"]) == (True, ["text", "image", "video"])
    assert models["kimi-for-coding"]["modalities"]["input"] == ["text", "image"]
    text_only = provider_v1(Catalog((Model("plain", tool_use=False),), 1.0))["models"]["kimi-for-coding"]
    assert (text_only["attachment"], text_only["modalities"]["input"]) == (False, ["text"])
    assert not text_only["tool_call"]
    assert provider_v2()["models"]["k3"]["capabilities"] == {
        "tools": True,
        "input": ["text", "image", "video"],
        "output": ["text"],
    }


def test_variants_begin_with_off_and_are_camel_case():
    """The first variant serves for titles, and the AI SDK takes reasoningEffort only."""
    assert list(provider_v1()["models"]["k3"]["variants"].items()) == [
        (level, {"reasoningEffort": level}) for level in ("off", "auto", "low", "medium", "high", "max")
    ]
    assert [item["id"] for item in provider_v2()["models"]["kimi-for-coding"]["variants"]] == list(EFFORTS)
    assert provider_v2()["models"]["k3"]["variants"][-1] == {"id": "max", "settings": {"reasoningEffort": "max"}}


@pytest.mark.parametrize("model", [Model("a", reasoning=False), Model("a", thinking_type="no")])
def test_a_model_that_cannot_think_has_no_variants(model):
    """No effort is offered that would do nothing."""
    assert efforts(model) == ()
    assert "variants" not in provider_v1(Catalog((model,), 1.0))["models"]["kimi-for-coding"]
    assert "variants" not in provider_v2(Catalog((model,), 1.0))["models"]["kimi-for-coding"]
    assert not provider_v1(Catalog((model,), 1.0))["models"]["kimi-for-coding"]["reasoning"]


@pytest.mark.parametrize("provider", [provider_v1, provider_v2])
def test_limit_only_when_asked_for(provider):
    """The service tells the context only; with an output limit from the user both go in, else neither."""
    assert "limit" not in provider()["models"]["k3"]
    assert provider(limit=32000)["models"]["k3"]["limit"] == {"context": 1048576, "output": 32000}
    assert "limit" not in provider(Catalog(), limit=32000)["models"]["kimi-for-coding"]


@pytest.mark.parametrize(
    ("key", "in_opencode", "in_shell"),
    [
        (Key.NONE, "kimi-mitm", "export OPENAI_API_KEY=kimi-mitm"),
        (Key.CHOSEN, "{env:KIMI_MITM_KEY}", 'export OPENAI_API_KEY="$KIMI_MITM_KEY"'),
        (Key.MADE, "{env:KIMI_MITM_KEY}", 'export OPENAI_API_KEY="$KIMI_MITM_KEY"'),
    ],
)
def test_the_key_is_a_placeholder_or_a_reference(key, in_opencode, in_shell):
    """No block ever holds a key itself."""
    place = Place(PLACE.proxy_url, PLACE.api_base, PLACE.ca, key, Path("/data/client-key"))
    assert provider_v1(place=place)["options"]["apiKey"] == in_opencode
    assert provider_v2(place=place)["settings"]["apiKey"] == in_opencode
    assert in_shell in text_of("openai", place=place)
    notes = [note for block in blocks(CATALOG, place) for note in block.notes]
    assert any("asks for a key" in note for note in notes) == (key is not Key.NONE)


def test_both_ways_in_are_told():
    """The real base URL with HTTPS_PROXY, and the plain one for clients that take a base URL."""
    assert provider_v1()["options"]["baseURL"] == "https://api.kimi.com/coding/v1"
    notes = " ".join(note for block in blocks(CATALOG, PLACE) for note in block.notes)
    assert "http://127.0.0.1:8080/kimi/v1" in notes
    assert "export OPENAI_BASE_URL=http://127.0.0.1:8080/kimi/v1" in text_of("openai")
    assert "export ANTHROPIC_BASE_URL=http://127.0.0.1:8080/kimi\n" in text_of("anthropic")


def test_shell_lines():
    """The three variables of a client behind HTTPS_PROXY, ready to paste."""
    assert text_of("shell").splitlines() == [
        "export HTTPS_PROXY=http://127.0.0.1:8080",
        "export NO_PROXY=localhost,127.0.0.1,::1",
        "export NODE_EXTRA_CA_CERTS=/home/x/.mitmproxy/mitmproxy-ca-cert.pem",
    ]


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a POSIX shell")
@pytest.mark.parametrize("folder", ["/with space/it's", "/a$b`c`", '/"quoted"'])
def test_shell_lines_survive_any_path(folder):
    """Whatever the CA's path holds, a POSIX shell reads it back as it is."""
    place = Place(PLACE.proxy_url, PLACE.api_base, Path(folder) / "ca.pem")
    script = text_of("shell", place=place) + '\nprintf %s "$NODE_EXTRA_CA_CERTS"'
    assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout == f"{folder}/ca.pem"


def test_powershell_lines():
    """On Windows the lines are PowerShell's."""
    place = Place(PLACE.proxy_url, PLACE.api_base, Path("it's.pem"), Key.CHOSEN, powershell=True)
    assert text_of("shell", place=place).splitlines()[2] == "$env:NODE_EXTRA_CA_CERTS = 'it''s.pem'"
    assert text_of("openai", place=place).splitlines()[1] == "$env:OPENAI_API_KEY = $env:KIMI_MITM_KEY"


def test_json_stays_within_a_terminal():
    """What fits on a line stands on one, so that the block can be read at a glance."""
    text = text_of("opencode")
    assert re.search(r'"high": \{"reasoningEffort": "high"\}', text)
    for name in ("opencode", "opencode-v2"):
        lines = text_of(name, limit=32000).splitlines()
        assert max(map(len, lines)) <= 80
        assert len(lines) < 60


def test_offered_keeps_what_is_known():
    """The alias carries the capabilities of the slug it stands for."""
    assert offered(Catalog((Model("kimi-coding-9", "Next Coding", 5, video_in=True),), 1.0)) == (
        Model("kimi-for-coding", "Next Coding", 5, video_in=True),
    )


@pytest.mark.parametrize(("local", "base"), [(False, PLACE.api_base), (True, PLACE.local_base), (None, PLACE.api_base)])
def test_the_way_in_can_be_chosen(local, base):
    """Where it was chosen both syntaxes have that base URL, and the other one is not brought up."""
    place = replace(PLACE, local=local)
    assert provider_v1(place=place)["options"]["baseURL"] == base
    assert provider_v2(place=place)["settings"]["baseURL"] == base
    notes = blocks(CATALOG, place)[0].notes
    assert bool(notes) == (local is None)


def test_claude_code_uses_the_plans_model_for_everything():
    """None of Claude Code's own models is asked for, in the background neither; the key is the placeholder."""
    env = json.loads(text_of("claude-code"))["env"]
    assert (env.pop("ANTHROPIC_BASE_URL"), env.pop("ANTHROPIC_AUTH_TOKEN")) == (
        "http://127.0.0.1:8080/kimi",
        "kimi-mitm",
    )
    assert "ANTHROPIC_DEFAULT_HAIKU_MODEL" in env
    assert set(env.values()) == {"kimi-for-coding"}


def test_claude_codes_key_comes_from_the_shell():
    """Its settings cannot refer to a variable, so they hold no key where one is asked for."""
    place = replace(PLACE, key=Key.CHOSEN)
    assert "ANTHROPIC_AUTH_TOKEN" not in text_of("claude-code", place=place)
    (notes,) = [block.notes for block in blocks(CATALOG, place) if block.name == "claude-code"]
    assert 'export ANTHROPIC_AUTH_TOKEN="$KIMI_MITM_KEY"' in notes[-1]


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a POSIX shell")
@pytest.mark.parametrize(("key", "header"), [(Key.NONE, []), (Key.MADE, ["-H", "Authorization: Bearer fake-key-1"])])
def test_the_curl_command_is_one(key, header):
    """A POSIX shell reads it as one command with a body of JSON."""
    script = "curl() { printf '%s\\0' \"$@\"; }\nKIMI_MITM_KEY=fake-key-1\n"
    script += text_of("curl", place=replace(PLACE, key=key))
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    *words, body, _ = said.split("\0")
    url = "http://127.0.0.1:8080/kimi/v1/chat/completions"
    assert words == ["-N", url, *header, "-H", "Content-Type: application/json", "-d"]
    assert json.loads(body)["model"] == "kimi-for-coding"


def test_powershell_asks_without_curl():
    """Its own command is used, whose quotes are always understood."""
    text = text_of("curl", place=replace(PLACE, key=Key.CHOSEN, powershell=True))
    assert text.startswith("Invoke-RestMethod -Method Post -Uri http://127.0.0.1:8080/kimi/v1/chat/completions ")
    assert '-Headers @{Authorization = "Bearer $env:KIMI_MITM_KEY"}' in text
    assert "-Headers" not in text_of("curl", place=replace(PLACE, powershell=True))
