"""opencode itself, from its package, with a file of the user's that `kimi-mitm config` has merged its provider into."""

import sys
from pathlib import Path

import pytest

from kimi_core.cli.jsonc import parse
from tests.e2e.opencode import OWN, Opencode

PROVIDER = "kimi-for-coding-oauth"
MODEL = "kimi-for-coding"


@pytest.fixture(scope="module")
def opencode(proxy, node_clients, tmp_path_factory):
    """Return opencode with a home of its own."""
    return Opencode(proxy, node_clients, tmp_path_factory.mktemp("opencode"))


@pytest.fixture
def run(proxy, opencode):
    """Return a function that runs `opencode run` once and returns what it printed."""

    def ask(prompt: str, *words: str, local: bool = False) -> str:
        opencode.configure("--with-limit", "32768", *(["--base-url"] if local else []))
        more = {"HTTPS_PROXY": proxy.url, "NODE_EXTRA_CA_CERTS": str(proxy.ca_file), "NO_PROXY": "localhost,127.0.0.1"}
        return opencode("run", "--model", f"{PROVIDER}/{MODEL}", *words, prompt=prompt, **({} if local else more))

    return ask


@pytest.fixture
def by_command(proxy):
    """Return the command that runs a client through the proxy that is there."""
    program = str(Path(sys.executable).with_name("kimi-mitm"))
    return [program, "run", "--port", str(proxy.port), "--confdir", str(proxy.ca_file.parent), "--"]


def main_and_title(requests):
    """Return the main call and the title call of a new session: only the main call has tools."""
    (main,) = [seen for seen in requests if seen.json.get("tools")]
    (title,) = [seen for seen in requests if not seen.json.get("tools")]
    return main, title


def test_answers_under_the_real_host_name(world, opencode, by_command):
    """By `kimi-mitm run`: title and main call of a session share one prompt cache key; the answer is printed."""
    opencode.configure("--with-limit", "32768")
    words = ["run", "--model", f"{PROVIDER}/{MODEL}"]
    assert "first answer" in opencode(*words, prompt="[[say first answer]]", through=by_command)
    main, title = main_and_title(world.kimi.of("chat"))
    assert main.json["prompt_cache_key"] == title.json["prompt_cache_key"]
    assert main.json["max_completion_tokens"] == 32000
    assert main.header("x-session-id") is None
    assert main.header("x-session-affinity") is None
    assert "ses_" not in main.json["prompt_cache_key"]
    assert world.kimi.oauth.valid(main.bearer)


def test_a_tool_runs_and_its_result_goes_back(world, run):
    """The whole round of a tool call keeps id and reasoning and one cache key; empty content is left out."""
    out = run('[[call bash {"command": "echo tool-ran-$((40+2))", "description": "echo"}]]')
    assert "tool said: tool-ran-42" in out
    last = world.kimi.of("chat")[-1].json
    turn = next(message for message in last["messages"] if message["role"] == "assistant")
    assert turn["tool_calls"][0]["id"] == "bash:0"
    assert turn["reasoning_content"] == "I should call it."
    assert "content" not in turn
    assert len({seen.json["prompt_cache_key"] for seen in world.kimi.of("chat")}) == 1


def test_a_rejected_token_in_the_middle_is_healed_unseen(world, run):
    """Both calls of the session may meet the 401; one refresh serves them, and the user sees the answer only."""
    world.kimi.oauth.reject_access()
    before = world.kimi.oauth.refreshes
    assert "healed answer" in run("[[say healed answer]]")
    assert world.kimi.oauth.refreshes == before + 1


def test_a_variant_puts_its_effort_on_the_wire(world, run):
    """The variant off of the printed block switches thinking off."""
    run("[[say thoughtless]]", "--variant", "off")
    main, _ = main_and_title(world.kimi.of("chat"))
    assert main.json["thinking"] == {"type": "disabled"}
    assert "reasoning_effort" not in main.json


def test_answers_at_the_plain_base_url(world, run):
    """Without the proxy variable and the CA it works at the local endpoint."""
    assert "local answer" in run("[[say local answer]]", local=True)
    assert world.kimi.of("chat")


def test_opencode_lists_what_was_merged(world, run, opencode):
    """It reads the file as it is now, with the models of the plan beside the user's own; no comment is lost."""
    opencode.configure("--with-limit", "32768")
    listed = opencode("models").split()
    assert {f"{PROVIDER}/{MODEL}", f"{PROVIDER}/k3", "mine/one"} <= set(listed)
    text = opencode.file.read_text()
    rest = iter(text)
    assert all(sign in rest for sign in OWN)
    assert set(parse(text).value) == {"autoupdate", "provider", "share", "$schema"}  # the last is of opencode's own
