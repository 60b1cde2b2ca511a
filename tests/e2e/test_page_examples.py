"""The programs that the page on SDKs shows, run as they stand there, but for address and prompt."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.e2e.harness import ROOT, environment
from tests.servers.script import error

PAGE = (ROOT / "docs" / "sdks.md").read_text()
SECONDS = 60


def example(language, word, proxy, prompt):
    """Return the program of the page that has *word* in it, for this proxy and with another prompt."""
    (code,) = [text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if word in text]
    assert '"Hello"' in code
    return code.replace("http://127.0.0.1:8080", proxy.url).replace('"Hello"', f'"{prompt}"')


@pytest.fixture
def run(tmp_path):
    """Return a function that runs a program and returns what it printed."""

    def program(*words, code="", folder=tmp_path):
        done = subprocess.run(
            words,
            input=code,
            cwd=folder,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return program


def test_openai_streams_thoughts_text_and_usage(proxy, run):
    """The example prints what the model thinks, what it says, and how many tokens that took."""
    out = run(sys.executable, "-", code=example("python", "stream_options", proxy, "[[think it over]]"))
    assert re.fullmatch(r"it overthought\n \d+ tokens\n", out)


def test_openai_tells_errors_apart(world, proxy, run):
    """The example prints status, code and sentence."""
    world.kimi.queue(error(402), operation="chat")
    out = run(sys.executable, "-", code=example("python", "APIStatusError", proxy, "[[say x]]"))
    assert out.startswith("402 ")


def test_anthropic_streams_text(proxy, run):
    """The example prints the text of the answer."""
    assert "hello" in run(sys.executable, "-", code=example("python", "Anthropic(", proxy, "[[say hello]]"))


def test_the_ai_sdk_streams_text_and_sends_the_effort(world, proxy, run, node_clients):
    """The example prints the text of the answer; its effort arrives."""
    code = example("js", "ai-sdk", proxy, "[[say hello]]")
    assert "hello" in run(shutil.which("node"), "--input-type=module", "-", code=code, folder=node_clients)
    (seen,) = world.kimi.of("chat")
    assert seen.json["reasoning_effort"] == "high"
