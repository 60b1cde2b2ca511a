"""opencode itself, from its package, with the provider block that a user would have."""

import json
import shutil
import subprocess

import pytest

from tests.e2e.harness import environment

PROVIDER = "kimi-for-coding-oauth"
MODEL = "kimi-for-coding"
OPENCODE_SECONDS = 120
# without these it looks for models, updates, plugins and language servers on the network
QUIET = {
    f"OPENCODE_DISABLE_{name}": "1"
    for name in ("AUTOUPDATE", "MODELS_FETCH", "DEFAULT_PLUGINS", "LSP_DOWNLOAD", "SHARE", "EXTERNAL_SKILLS")
} | {"OPENCODE_PURE": "1"}


def block(base: str) -> dict:
    """Return the configuration of a user who has followed the README."""
    model = {
        "name": "K2.7 Coding",
        "reasoning": True,
        "attachment": True,
        "tool_call": True,
        "limit": {"context": 262144, "output": 32768},
        "variants": {"off": {"reasoningEffort": "off"}, "high": {"reasoningEffort": "high"}},
    }
    options = {"baseURL": base, "apiKey": "kimi-mitm"}
    provider = {"npm": "@ai-sdk/openai-compatible", "name": "Kimi", "options": options, "models": {MODEL: model}}
    return {"autoupdate": False, "share": "disabled", "provider": {PROVIDER: provider}}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Give opencode one home for the module: making its database takes longer than anything else."""
    home = tmp_path_factory.mktemp("opencode")
    (home / ".config/opencode").mkdir(parents=True)
    (home / "work").mkdir()
    return home


@pytest.fixture
def run(proxy, node_clients, home):
    """Return a function that runs `opencode run` once and returns what it printed."""

    def opencode(prompt: str, *words: str, local: bool = False) -> str:
        more = {"HTTPS_PROXY": proxy.url, "NODE_EXTRA_CA_CERTS": str(proxy.ca_file), "NO_PROXY": "localhost,127.0.0.1"}
        config = home / ".config/opencode/opencode.json"
        config.write_text(json.dumps(block(proxy.local if local else proxy.base)))
        program = shutil.which("opencode", path=node_clients / "node_modules/.bin")
        done = subprocess.run(
            [program, "run", "--model", f"{PROVIDER}/{MODEL}", *words],
            input=prompt,  # as an argument it would be quoted
            cwd=home / "work",
            env=environment(home, more | QUIET),
            capture_output=True,
            text=True,
            timeout=OPENCODE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return opencode


def main_and_title(requests):
    """Return the main call and the title call of a new session: only the main call has tools."""
    (main,) = [seen for seen in requests if seen.json.get("tools")]
    (title,) = [seen for seen in requests if not seen.json.get("tools")]
    return main, title


def test_answers_under_the_real_host_name(world, run):
    """Title call and main call of a session share one prompt cache key; the answer is printed."""
    assert "first answer" in run("[[say first answer]]")
    main, title = main_and_title(world.kimi.of("chat"))
    assert main.json["prompt_cache_key"] == title.json["prompt_cache_key"]
    assert main.json["max_completion_tokens"] == 32000
    assert main.header("x-session-id") is None
    assert main.header("x-session-affinity") is None
    assert "ses_" not in main.json["prompt_cache_key"]
    assert world.kimi.oauth.valid(main.bearer)


def test_answers_at_the_plain_base_url(world, run):
    """Without the proxy variable and the CA it works at the local endpoint."""
    assert "local answer" in run("[[say local answer]]", local=True)
    assert world.kimi.of("chat")


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
