"""The AI SDK and opencode itself with Kiro, as their users would set them up."""

import json
import shutil
import subprocess

import pytest

from kimi_core.blocks.kiro import client_id
from tests.e2e.harness import environment
from tests.e2e.opencode import Opencode
from tests.servers.kiro import user_of
from tests.servers.kiro_answers import REFUSALS

MODEL = "claude-sonnet-4.5"
SECONDS = 120


@pytest.fixture(autouse=True)
def _healthy(kiro):
    """Give the proxy two accounts that nothing has happened to yet."""
    kiro.accounts(2)


# --- AI SDK ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["proxied", "local"])
def ask(request, kiro, node_clients, tmp_path):
    """Return a function that asks the model through node and returns the parts of the answer."""
    proxied = request.param == "proxied"
    more = {"NODE_EXTRA_CA_CERTS": str(kiro.ca_file), "HTTPS_PROXY": kiro.url} if proxied else {}
    environ = environment(tmp_path, more | {"AI_SDK_MODEL": MODEL})

    def call(prompt, *words):
        done = subprocess.run(
            [shutil.which("node"), "ai_sdk.mjs", kiro.base if proxied else kiro.local, prompt, *words],
            cwd=node_clients,
            env=environ,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return call


def joined(parts, kind):
    """Return the text of all parts of that kind."""
    return "".join(part["text"] for part in parts if part["type"] == kind)


def test_the_ai_sdk_reads_text_reasoning_and_usage(kiro_world, ask):
    """Thoughts and text arrive as such, and the end has the usage."""
    parts = ask("[[think it over]]")
    assert (joined(parts, "reasoning-delta"), joined(parts, "text-delta")) == ("it over", "thought")
    (end,) = [part for part in parts if part["type"] == "finish"]
    assert end["finishReason"] == "stop"
    assert end["totalUsage"]["inputTokens"] > 0 < end["totalUsage"]["outputTokens"]
    assert not kiro_world.kiro.refusals()


def test_the_ai_sdk_runs_a_tool(kiro_world, ask):
    """The tool runs in the client; its result goes back to the same account, in a request that is in order."""
    parts = ask('[[call add {"a": 40, "b": 2}]]', "tools")
    assert [part["output"] for part in parts if part["type"] == "tool-result"] == ["42"]
    assert joined(parts, "text-delta") == "tool said: 42"
    first, second = kiro_world.kiro.of("generate")
    assert first.bearer == second.bearer
    assert not kiro_world.kiro.refusals()


def test_the_ai_sdk_sees_nothing_of_a_failover(kiro_world, ask):
    """An account that is out of credits is passed over unseen."""
    kiro_world.kiro.queue(REFUSALS["quota"].script())
    assert joined(ask("[[say served]]"), "text-delta") == "served"
    assert len({seen.bearer for seen in kiro_world.kiro.of("generate")}) == 2


def test_the_ai_sdk_gets_errors_as_such(ask):
    """Status and words of an error reach the caller."""
    (told,) = [part for part in ask("[[error too_long]]") if part["type"] == "error"]
    assert told["statusCode"] == 400
    assert "prompt is too long" in told["message"]


# --- opencode --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opencode(kiro, node_clients, tmp_path_factory):
    """Return opencode with a home of its own."""
    return Opencode(kiro, node_clients, tmp_path_factory.mktemp("opencode-kiro"))


@pytest.fixture
def run(opencode):
    """Return a function that runs `opencode run` once and returns what it printed."""

    def ask(prompt):
        opencode.configure("--kiro", "--base-url")
        return opencode("run", "--model", f"kiro/{client_id(MODEL)}", prompt=prompt)

    return ask


def has_tools(seen):
    """Tell whether a request has tools."""
    return bool(user_of(seen).get("userInputMessageContext", {}).get("tools"))


def test_opencode_runs_a_tool(kiro_world, run):
    """An agentic turn: opencode runs the command that the model asks for, and the model is told what it printed."""
    out = run('[[call bash {"command": "echo tool-ran-$((40+2))", "description": "echo"}]]')
    assert "tool said: tool-ran-42" in out
    assert not kiro_world.kiro.refusals()
    asked = [seen for seen in kiro_world.kiro.of("generate") if has_tools(seen)]
    assert len(asked) == 2
    assert len({seen.json["conversationState"]["conversationId"] for seen in asked}) == 1


def test_opencode_is_answered_whatever_becomes_of_one_account(kiro_world, kiro, run):
    """Title and main call are served though an account is suspended meanwhile; the user sees the answer only."""
    kiro_world.kiro.queue(REFUSALS["suspended"].script())
    assert "served all the same" in run("[[say served all the same]]")
    assert not kiro_world.kiro.refusals()
    assert any(user_of(seen)["modelId"] == MODEL and has_tools(seen) for seen in kiro_world.kiro.of("generate"))
    (asked_first,) = (one for one in kiro.stored().accounts if one.label == kiro.who(kiro_world.kiro.of("generate")[0]))
    assert kiro.settled(asked_first, state="suspended")
