"""Commands find the proxy that runs, however it was started, and say what they know of it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.e2e.harness import ADDON, environment, free_port, wait_until

BIN = Path(sys.executable).parent
SECONDS = 60.0  # for one command, a start of the proxy among them


class Machine:
    """A user's machine on which nobody is logged in; the configuration names a port at which nothing is."""

    def __init__(self, confdir, folder):
        self.home, self.confdir = folder / "home", folder / "confdir"
        self.home.mkdir()
        shutil.copytree(confdir, self.confdir)
        self.configured, self.port = free_port(), free_port()
        (self.confdir / "config.yaml").write_text(json.dumps({"listen_port": self.configured}))
        self.environ = environment(self.home)
        self.state = Path(self.environ["KIMI_MITM_DATA_DIR"]) / "state"
        self.url = f"http://127.0.0.1:{self.port}"

    def call(self, *words):
        """Run a command to its end; return what it says."""
        program = [str(BIN / "kimi-mitm"), words[0], "--confdir", str(self.confdir), *words[1:]]
        done = subprocess.run(
            program,
            env=self.environ,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    def json(self, *words):
        return json.loads(self.call(*words, "--json"))


@pytest.fixture
def machine(confdir, tmp_path):
    """Return a machine on which no proxy runs."""
    return Machine(confdir, tmp_path)


def test_a_proxy_that_was_started_by_hand_is_found(machine):
    """At a port of its own it is named by status, doctor, config and run; once it has ended by none of them."""
    where = ["--listen-host", "127.0.0.1", "-p", str(machine.port), "--set", f"confdir={machine.confdir}"]
    with (machine.home / "log").open("wb") as log:
        proxy = subprocess.Popen(
            [str(BIN / "mitmdump"), "-s", str(ADDON), *where], env=machine.environ, stdout=log, stderr=log
        )
    record = machine.state / f"hand-{machine.port}.json"
    try:
        wait_until(record.exists, "the record of the proxy")
        told = machine.json("status")["proxy"]
        assert (told["state"], [one["url"] for one in told["others"]]) == ("none", [machine.url])
        said = machine.call("status")
        assert f"a proxy is running at {machine.url}" in said
        assert str(machine.configured) not in said
        (check,) = machine.json("doctor", "--offline", "--only", "proxy.running")["checks"]
        assert (check["state"], machine.url in check["message"]) == ("ok", True)
        assert f"{machine.url}/kimi/v1" in machine.call("config", "openai", "--kimi")
        assert machine.url in machine.call("config", "env")
        assert machine.call("run", "--", "sh", "-c", "echo $HTTPS_PROXY").strip() == machine.url
    finally:
        proxy.terminate()
        proxy.wait(SECONDS)
    assert not record.exists()
    assert "Traceback" not in (machine.home / "log").read_text()
    assert f":{machine.configured}/kimi/v1" in machine.call("config", "openai", "--kimi")


def test_a_proxy_with_its_page_in_the_background(machine):
    """Start --web tells the page with its token, for scripts too; logs as one object has as many lines as asked for."""
    told = machine.json("start", "--web", "--no-browser", "--port", str(machine.port))
    try:
        assert told["url"] == machine.url
        page = httpx.get(told["web_url"], trust_env=False, follow_redirects=True)
        assert (page.status_code, "mitmproxy" in page.text) == (200, True)
        bare = told["web_url"].partition("?")[0]
        assert httpx.get(f"{bare.rstrip('/')}/flows", trust_env=False).status_code == 403
        assert told["web_url"] not in (machine.state / "proxy.log").read_text()
        assert machine.json("start", "--web") == told
        found = machine.json("logs", "-n", "2")
        log = Path(told["log"])
        assert found == {"log": str(log), "lines": log.read_text().splitlines()[-2:]}
        assert len(found["lines"]) == 2
        assert machine.json("logs", "-n", "0")["lines"] == []
    finally:
        assert machine.json("stop") == {"stopped": True, "pid": told["pid"]}
    assert not (machine.state / "proxy.json").exists()
