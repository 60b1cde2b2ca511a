import json

import pytest

from kimi_core.blocks import kimi as blocks
from kimi_core.blocks.place import Place
from kimi_core.kimi.models import Catalog

KIMI = "kimi-for-coding-oauth"
LOCAL = "http://127.0.0.1:8080/kimi/v1"
REAL = "https://api.kimi.com/coding/v1"
MODEL = {"attachment": True, "modalities": {"input": ["text", "image"]}}


def block(base_url=LOCAL, model=None, id_=KIMI):
    """Return a configuration of opencode 1 with one provider and one model."""
    return {
        "provider": {
            id_: {
                "options": {"baseURL": base_url, "apiKey": "fake-key-1"},
                "models": {"kimi-for-coding": MODEL if model is None else model},
            }
        }
    }


@pytest.fixture
def user(cli, monkeypatch):
    """Return a machine with opencode's folder, whose current folder is a project."""
    (cli.folder / ".config" / "opencode").mkdir(parents=True)
    (cli.folder / "project").mkdir()
    monkeypatch.chdir(cli.folder / "project")
    cli.environ.pop("KIMI_CODE_OAUTH_HOST")
    cli.environ.pop("KIMI_CODE_BASE_URL")
    cli.environ["PATH"] = str(cli.folder)
    return cli


def write(cli, data, name=".config/opencode/opencode.json"):
    """Write a configuration file of opencode."""
    text = data if isinstance(data, str) else json.dumps(data)
    (cli.folder / name).write_text(text)


def test_without_opencode(user, find):
    """Where there is no opencode, there is nothing to judge."""
    for id_ in ("opencode.provider", "opencode.route", "opencode.models"):
        assert find(user, id_)["state"] == "skipped"


def test_the_printed_block_is_well(user, find):
    """What this program prints for opencode passes every check, in both syntaxes."""
    place = Place("http://127.0.0.1:8080", REAL, user.folder / "ca.pem")
    models = blocks.offered(Catalog())
    for made in (blocks.opencode(models, place), blocks.opencode_v2(models, place)):
        text = json.dumps(made).replace(REAL, LOCAL)
        write(user, text)
        for id_ in ("opencode.provider", "opencode.route", "opencode.models"):
            assert find(user, id_)["state"] == "ok", id_


def test_no_provider(user, find):
    """A configuration without our provider matters only to who asks about opencode."""
    write(user, {"provider": {"other": {"options": {"baseURL": "https://other.example/v1"}}}})
    assert find(user, "opencode.provider")["state"] == "skipped"
    assert find(user, "opencode.route")["state"] == "skipped"
    assert find(user, "opencode.models")["state"] == "skipped"
    found = find(user, "opencode.provider", "--client", "opencode")
    assert found["state"] == "problem"
    assert found["fix"] == "kimi-mitm config opencode --write"


@pytest.mark.parametrize("lists", [{"disabled_providers": [KIMI]}, {"enabled_providers": ["other"]}])
def test_a_provider_that_is_switched_off(user, find, lists):
    """A block that is there but switched off is the unknown provider that opencode speaks of."""
    write(user, block() | lists)
    assert find(user, "opencode.provider")["state"] == "problem"


def test_a_file_that_does_not_parse(user, find):
    """The line at which a file breaks is named, and nothing of what it holds."""
    write(user, '{\n  "provider": fake-key-1\n}')
    found = find(user, "opencode.provider")
    assert found["state"] == "problem"
    assert "line 2" in found["message"]
    assert "fake-key-1" not in str(found)


def test_files_that_cannot_be_read(user, find):
    """A file that is named but not there, and one that is no text, are named."""
    user.environ["OPENCODE_CONFIG"] = str(user.folder / "gone.json")
    assert "gone.json" in find(user, "opencode.provider")["message"]
    (user.folder / "gone.json").write_bytes(b"\xff\xfe\xff")
    assert "no UTF-8" in find(user, "opencode.provider")["message"]


def test_comments_and_projects(user, find):
    """Comments are understood, and the project's file wins over the user's."""
    write(user, "// mine\n" + json.dumps(block("http://127.0.0.1:1/kimi/v1")), ".config/opencode/opencode.jsonc")
    assert find(user, "opencode.route")["state"] == "problem"
    write(user, block(), "project/opencode.json")
    assert find(user, "opencode.route")["state"] == "ok"
    user.environ["OPENCODE_CONFIG_CONTENT"] = json.dumps(block("http://127.0.0.1:8080/v1"))
    assert find(user, "opencode.route")["state"] == "problem"


@pytest.mark.parametrize(
    ("base_url", "word"),
    [
        ("http://127.0.0.1:9090/kimi/v1", "port 9090"),
        ("http://127.0.0.1:8080/v1", "must be one of"),
        ("http://localhost:8080", "must be one of"),
        ("https://other.example/v1", "does not serve"),
        ("", "asks nobody"),
        ("http://127.0.0.1:port/kimi/v1", "no address"),
        ("http://[bad", "no address"),
    ],
)
def test_base_urls_that_lead_elsewhere(user, find, base_url, word):
    """A port, a path or a host that is not the proxy's is named."""
    write(user, block(base_url))
    found = find(user, "opencode.route")
    assert found["state"] == "problem"
    assert word in found["message"]


def test_a_base_url_of_another_provider_that_is_no_address(user, find):
    """It is none of ours, and keeps nothing from being looked at."""
    write(user, {"provider": block()["provider"] | block("http://[bad", id_="other")["provider"]})
    for id_ in ("opencode.provider", "opencode.route", "opencode.models"):
        assert find(user, id_)["state"] == "ok", id_


@pytest.mark.parametrize("base_url", [LOCAL, f"{LOCAL}/", "http://localhost:8080/kiro/v1"])
def test_base_urls_that_lead_here(user, find, base_url):
    """The proxy's own addresses are well, by either name."""
    write(user, block(base_url))
    assert find(user, "opencode.route")["state"] == "ok"


def test_a_block_alone_gets_a_401(user, find):
    """The service's own base URL needs HTTPS_PROXY; without it the client's placeholder key goes to Kimi."""
    write(user, block(REAL))
    found = find(user, "opencode.route")
    assert found["state"] == "problem"
    assert "401" in found["message"]
    assert "kimi-mitm run -- opencode" in found["fix"]
    user.environ["HTTPS_PROXY"] = "http://127.0.0.1:8080"
    assert find(user, "opencode.route")["state"] == "ok"


def test_a_block_for_the_other_region(user, find):
    """A base URL of the site that nobody is logged in to is the wrong region."""
    user.log_in()
    user.login_file.rename(user.data / "kimi-kimi.com.json")
    user.environ["HTTPS_PROXY"] = "http://127.0.0.1:8080"
    write(user, block("https://api.kimi.ai/coding/v1"))
    found = find(user, "opencode.route")
    assert found["state"] == "problem"
    assert "the login is for api.kimi.com" in found["message"]


def test_another_id_counts_as_well(user, find):
    """A provider is known by where it leads, whatever its id."""
    write(user, block(id_="mine"))
    assert "mine" in find(user, "opencode.provider")["message"]


@pytest.mark.parametrize(
    ("model", "state", "word"),
    [
        (MODEL, "ok", ""),
        ({"attachment": False, "modalities": {"input": ["text"]}}, "ok", ""),
        ({}, "warning", "no images"),
        ({"attachment": True}, "warning", "no images"),
        ({"modalities": {"input": ["text", "image"]}}, "warning", "no images"),
        ({"attachment": "yes", "modalities": {"input": "image"}}, "warning", "no images"),
        (MODEL | {"variants": {"high": {"reasoning_effort": "high"}}}, "warning", "reasoning_effort"),
        (MODEL | {"options": {"reasoning_effort": "high"}}, "warning", "reasoning_effort"),
        (MODEL | {"variants": {"high": {"reasoningEffort": "high"}}}, "ok", ""),
    ],
)
def test_models(user, find, model, state, word):
    """A model without both fields loses its images; an effort in the other spelling has no effect."""
    write(user, block(model=model))
    found = find(user, "opencode.models")
    assert found["state"] == state
    assert word in found["message"]


@pytest.mark.parametrize(
    ("model", "state"),
    [
        ({"capabilities": {"input": ["text", "image"]}}, "ok"),
        ({"capabilities": {"input": ["text"]}}, "ok"),
        ({}, "warning"),
        (
            {"capabilities": {"input": ["text"]}, "variants": [{"id": "a", "settings": {"reasoning_effort": "a"}}]},
            "warning",
        ),
        ({"capabilities": {"input": ["text"]}, "variants": "odd"}, "ok"),
    ],
)
def test_models_in_the_second_syntax(user, find, model, state):
    """Opencode 2 says the same in other words."""
    write(user, {"providers": {KIMI: {"settings": {"baseURL": LOCAL}, "models": {"k3": model}}}})
    assert find(user, "opencode.models")["state"] == state


@pytest.mark.parametrize("data", ["[]", "null", "", '{"provider": 1, "providers": []}', '{"provider": {"kiro": 1}}'])
def test_odd_files(user, find, data):
    """Whatever a file holds, the checks come to an end."""
    write(user, data)
    for one in user.json("doctor", "--only", "opencode")["checks"]:
        assert "could not be looked at" not in one["message"]
