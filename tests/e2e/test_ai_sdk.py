"""The AI SDK (`@ai-sdk/openai-compatible`) under node, through HTTPS_PROXY and by the plain base URL."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.harness import environment
from tests.servers.script import USAGE, Gate, chat_script, error

NODE_SECONDS = 60


class Call:
    """One run of ai_sdk.mjs; iterating gives its parts as they arrive."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __iter__(self) -> Iterator[dict[str, Any]]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield json.loads(line)
        code = self._process.wait(NODE_SECONDS)
        assert code == 0, self._process.stderr.read() if self._process.stderr else code


@pytest.fixture(params=["proxied", "local"])
def ask(request, proxy, node_clients, tmp_path):
    """Return a function that asks the model through node."""
    more = {"NODE_EXTRA_CA_CERTS": str(proxy.ca_file), "HTTPS_PROXY": proxy.url}
    base = proxy.base if request.param == "proxied" else proxy.local
    environ = environment(tmp_path, more if request.param == "proxied" else None)

    @contextmanager
    def call(prompt: str, *words: str) -> Iterator[Call]:
        command = [shutil.which("node"), "ai_sdk.mjs", base, prompt, *words]
        with subprocess.Popen(
            command,
            cwd=node_clients,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            watchdog = threading.Timer(NODE_SECONDS, process.kill)
            watchdog.start()
            try:
                yield Call(process)
            finally:
                watchdog.cancel()
                process.kill()

    return call


def test_streams_text_and_reasoning_in_order(world, ask):
    """Each part reaches the SDK before the next is released; usage and cached tokens arrive at the end."""
    gate = Gate()
    world.kimi.queue(chat_script("The answer ", "is 42.", reasoning=["Let me think."], gate=gate))
    got = []
    gate.open()  # the SDK tells nothing of the first chunk, which carries the role only
    with ask("a question") as call:
        for part in call:
            if part["type"] == "finish":
                usage = part["totalUsage"]
                break
            got.append((part["type"], part["text"]))
            gate.open(1 if len(got) < 3 else 2)  # the last chunk and [DONE] show as one part
    assert got == [
        ("reasoning-delta", "Let me think."),
        ("text-delta", "The answer "),
        ("text-delta", "is 42."),
    ]
    assert usage["inputTokens"] == USAGE["prompt_tokens"]
    assert usage["cachedInputTokens"] == USAGE["cached_tokens"]


def test_a_tool_round_trip(world, ask):
    """The tool runs in the client; the call comes back with its id and its reasoning."""
    with ask('[[call add {"a": 40, "b": 2}]]', "tools") as call:
        parts = list(call)
    assert [part["output"] for part in parts if part["type"] == "tool-result"] == ["42"]
    assert "".join(part["text"] for part in parts if part["type"] == "text-delta") == "tool said: 42"
    turn = next(message for message in world.kimi.of("chat")[1].json["messages"] if message["role"] == "assistant")
    assert turn["tool_calls"][0]["id"] == "add:0"
    assert turn["reasoning_content"] == "I should call it."


def test_a_rejected_token_is_healed_unseen(world, ask):
    """The SDK sees one good answer; the service saw two requests and one refresh."""
    world.kimi.oauth.reject_access()
    before = world.kimi.oauth.refreshes
    with ask("[[say healed]]") as call:
        parts = list(call)
    assert "".join(part["text"] for part in parts if part["type"] == "text-delta") == "healed"
    assert (len(world.kimi.of("chat")), world.kimi.oauth.refreshes) == (2, before + 1)


def test_an_error_of_the_service_reaches_the_sdk(world, ask):
    """Status and wording are the service's own."""
    world.kimi.queue(error(403))
    with ask("a question") as call:
        (told,) = [part for part in call if part["type"] == "error"]
    assert told["statusCode"] == 403
    assert "usage limit" in told["message"]
