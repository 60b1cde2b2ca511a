"""What a user meets every day: /health, commands, comments on flows, plain words at start."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import ROOT, environment, wait_until
from tests.servers.script import error

CHAT = {"model": "kimi-for-coding", "stream": True, "messages": [{"role": "user", "content": "[[think deeply]]"}]}
START_SECONDS = 30


@pytest.fixture(scope="module")
def web(start_module_proxy):
    """Return a logged-in mitmweb."""
    return start_module_proxy(tool="mitmweb")


@pytest.fixture(scope="module")
def stranger(start_module_proxy):
    """Return a proxy without a login."""
    return start_module_proxy(login=False)


def test_health_says_who_is_logged_in(proxy, stranger):
    """/health is 200 while the proxy runs; the login stands in its body."""
    with proxy.local_client() as client:
        state = client.get(f"{proxy.url}/health").json()
    assert state["status"] == "ok"
    assert state["providers"]["kimi"]["login"] == "ok"
    assert state["providers"]["kimi"]["site"] == "kimi.com"
    with stranger.local_client() as client:
        assert client.get(f"{stranger.url}/health").json()["providers"]["kimi"]["login"] == "none"


def test_an_unknown_path_says_what_is_served(proxy):
    """A wrong base URL gets a 404 that names the right one."""
    with proxy.local_client() as client:
        answer = client.post(f"{proxy.url}/v1/chat/completions", json=CHAT)
    assert answer.status_code == 404
    assert "/kimi/v1/" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("kimi.status", "kimi.com"),
        ("kimi.usage", "Weekly"),
        ("kimi.models", "kimi-for-coding"),
        ("kimi.refresh", "good for"),
    ],
)
def test_commands_answer_in_the_console_or_in_the_log(web, command, shown):
    """A command shows what is known, and logs what it has to ask for."""
    before = len(web.log())
    value = web.command_result(command)
    wait_until(lambda: shown in str(value) or shown in web.log()[before:], f"the answer to {command}", START_SECONDS)


def test_options_can_be_changed_live(web, world):
    """Setting an option in mitmweb changes the next request."""
    with web.web() as page:
        assert page.put("/options", json={"kimi_identity": "own"}).status_code == 200
    with web.client() as client:
        client.post("chat/completions", json=CHAT)
    with web.web() as page:
        page.put("/options", json={"kimi_identity": "kimi-cli"})
    seen = world.kimi.of("chat")[0]
    assert "KimiCLI" not in seen.header("user-agent")
    assert not any(name.lower().startswith("x-msh") for name, _ in seen.headers)


def test_a_wrong_option_is_named(start_proxy):
    """A value that makes no sense ends the start with the option's name."""
    proxy = start_proxy(options=["kimi_max_body=0"], login=False, wait=False, faults_expected=True)
    wait_until(lambda: not proxy.running(), "the end of the process")
    assert "kimi_max_body" in proxy.log()


def test_every_served_flow_tells_its_story(world, proxy):
    """The comment names provider, model and tokens; failed attempts stand beside it, marked."""
    since = proxy.flow_bytes()
    world.kimi.oauth.reject_access()
    world.kimi.queue(error(429))
    with proxy.client() as client:
        client.post("chat/completions", json=CHAT)
        client.post("chat/completions", json=CHAT)
        client.get("models")
    flows = wait_until(lambda: len(found := proxy.flows(since)) == 4 and found, "four flows")
    first, overload, chat, models = (flow.comment for flow in flows)
    assert "401" in first
    assert "overload" in overload
    assert "kimi" in chat
    assert "kimi-for-coding" in chat
    assert "900" in chat
    assert "models" in models
    assert flows[0].marked
    assert b"deeply" in flows[2].response.content, "a streamed answer is kept for inspection"


WITHOUT_HTTPX = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "httpx" else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""


def test_without_its_dependencies_the_addon_says_so_in_one_line(tmp_path):
    """The process ends at once, and its log names what is missing and what to do."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_HTTPX)
    done = subprocess.run(
        [Path(sys.executable).with_name("mitmdump"), "-p", "0", "-s", str(ROOT / "addons/kimi.py")],
        env=environment(tmp_path, {"PYTHONPATH": str(tmp_path)}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    told = [line for line in (done.stdout + done.stderr).splitlines() if "kimi-mitm" in line]
    assert len(told) == 1
    assert "httpx" in told[0]
    assert "make run" in told[0]
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode != 0


def test_not_being_logged_in_is_no_reason_to_stop(stranger):
    """The proxy starts and says which command to run."""
    assert "kimi-mitm login kimi" in stranger.log()
    assert stranger.running()


def test_help_lists_the_options(tmp_path):
    """`mitmdump --options` prints what can be set."""
    done = subprocess.run(
        [Path(sys.executable).with_name("mitmdump"), "-s", str(ROOT / "addons/kimi.py"), "--options"],
        env=environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    assert "kimi_identity" in done.stdout
