"""Claude Code itself, from its package, with settings that `kimi-mitm config` has merged its section into."""

import json
import shutil
import subprocess

import pytest

from tests.e2e.harness import environment
from tests.e2e.opencode import merging

SECONDS = 120
NOWHERE = "http://127.0.0.1:9"  # whatever is not for the proxy on this machine gets no further
QUIET = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"}
OWN = {"env": {"EDITOR": "vi"}, "includeCoAuthoredBy": False}


@pytest.fixture(scope="module")
def home(proxy, tmp_path_factory):
    """Give Claude Code a home for the module, with settings of the user's own and ours."""
    home = tmp_path_factory.mktemp("claude")
    file = home / ".claude/settings.json"
    file.parent.mkdir()
    file.write_text(json.dumps(OWN, indent=2))
    command, environ = merging(proxy, "claude-code", file)
    subprocess.run(command, env=environ, cwd=home, check=True, capture_output=True, timeout=SECONDS)
    return home


@pytest.mark.parametrize("words", [(), ("--model", "haiku")], ids=["main model", "small model"])
def test_it_is_answered_by_the_plan(world, proxy, claude_code, home, words):
    """The answer is printed; every model that is asked for is the plan's, with the login of the proxy."""
    program = shutil.which("claude", path=claude_code / "node_modules/.bin")
    done = subprocess.run(
        [program, "-p", *words, "[[say served by the plan]]"],
        cwd=home,
        env=environment(home, QUIET | {"HTTPS_PROXY": NOWHERE, "NO_PROXY": "127.0.0.1"}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "served by the plan" in done.stdout
    asked = world.kimi.of("messages")
    assert asked
    assert {seen.json["model"] for seen in asked} == {"kimi-for-coding"}
    assert all(world.kimi.oauth.valid(seen.bearer) for seen in asked)
    assert not proxy.secrets_in((done.stdout + done.stderr).encode())


def test_its_settings_keep_what_is_the_users(home):
    """What stood in the file stands there still, Claude Code having used it or not."""
    found = json.loads((home / ".claude/settings.json").read_text())
    assert found["env"]["EDITOR"] == "vi"
    assert found["includeCoAuthoredBy"] is False
