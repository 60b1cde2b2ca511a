"""kimi-mitm run, start, stop and logs: real clients, real terminals, real signals."""

import json
import os
import pty
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from kimi_core.kimi import identity
from kimi_core.kimi.constants import site_for
from kimi_core.kimi.session import Session
from kimi_core.outbound import Outbound
from kimi_core.tokens import OAuthToken
from tests.e2e.harness import environment, free_port, wait_until

PROGRAM = str(Path(sys.executable).with_name("kimi-mitm"))
SECONDS = 60.0  # for one command, a start of the proxy among them
CHAT = "https://api.kimi.com/coding/v1/chat/completions"
BODY = {"model": "kimi-for-coding", "messages": [{"role": "user", "content": "[[say hello]]"}]}
HTTPX = f"import httpx; print(httpx.post({CHAT!r}, json={BODY!r}).text)"
OPENAI = f"""
import openai
client = openai.OpenAI(base_url="https://api.kimi.com/coding/v1", api_key="kimi-mitm")
stream = client.chat.completions.create(model="kimi-for-coding", messages={BODY["messages"]!r}, stream=True)
print("".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))
"""
URLLIB = f"""
import json, urllib.request
head = {{"content-type": "application/json"}}
print(urllib.request.urlopen(urllib.request.Request({CHAT!r}, json.dumps({BODY!r}).encode(), head)).read().decode())
"""
CLIENTS = {
    "curl": ["curl", "-sS", CHAT, "-H", "content-type: application/json", "-d", json.dumps(BODY)],
    "httpx": [sys.executable, "-c", HTTPX],
    "openai": [sys.executable, "-c", OPENAI],
    "urllib": [sys.executable, "-c", URLLIB],
}


class Machine:
    """A user's machine: logged in, with a mitmproxy that reaches the fakes under their real names."""

    def __init__(self, world, confdir, folder):
        self.world = world
        self.home = folder / "home"
        self.confdir = folder / "confdir"
        self.home.mkdir()
        shutil.copytree(confdir, self.confdir)
        self.port = free_port()
        options = {
            "listen_port": self.port,
            "mode": [f"upstream:http://127.0.0.1:{world.upstream.port}"],
            "ssl_verify_upstream_trusted_ca": str(world.ca_file),
        }
        (self.confdir / "config.yaml").write_text(json.dumps(options))
        self.environ = environment(self.home)
        self.state = Path(self.environ["KIMI_MITM_DATA_DIR"]) / "state"
        token = OAuthToken.from_response(world.kimi.oauth.login(), time.time())
        who = identity.load("kimi-cli", self.environ, self.home)
        site = site_for("cn", self.environ)
        Session(site, who, Outbound(), folder=self.state.parent).save(token)

    def words(self, command, *words):
        return [PROGRAM, command, "--confdir", str(self.confdir), *words]

    def call(self, command, *words, **more):
        """Run a command to its end."""
        done = subprocess.run(
            self.words(command, *words),
            env=self.environ,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            **more,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert not [secret for secret in self.world.kimi.secrets() if secret in done.stdout + done.stderr]
        return done

    def json(self, command, *words):
        return json.loads(self.call(command, "--json", *words).stdout)

    def begin(self, *child, **more):
        """Start `kimi-mitm run` without waiting for its end."""
        return subprocess.Popen(
            self.words("run", "--", *child),
            env=self.environ,
            cwd=self.home,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **more,
        )

    def proxies(self):
        """Return the processes of the proxies that are there."""
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(str(self.confdir) in word and "confdir=" in word for word in process.info["cmdline"] or [])
        ]

    def alone(self):
        """Wait until no proxy is left."""
        wait_until(lambda: not self.proxies(), "the end of the proxy", 15.0)

    def log(self):
        return "".join(path.read_text(errors="replace") for path in self.state.glob("*.log*"))


@pytest.fixture
def machine(world, confdir, tmp_path):
    """Return a machine on which no proxy runs; afterwards none is left, and its log is clean."""
    yield from _machine(world, confdir, tmp_path)


@pytest.fixture(scope="module")
def started(world, confdir, tmp_path_factory):
    """Return a machine with a proxy in the background."""
    for made in _machine(world, confdir, tmp_path_factory.mktemp("started")):
        made.told = made.json("start")
        yield made
        assert made.json("stop") == {"stopped": True, "pid": made.told["pid"]}


def _machine(world, confdir, folder):
    made = Machine(world, confdir, folder)
    try:
        yield made
    finally:
        try:
            made.alone()
        finally:
            for process in made.proxies():
                process.kill()
    assert "Traceback" not in made.log()
    assert not [secret for secret in world.kimi.secrets() if secret in made.log()]


# clients


def test_clients_go_through_the_proxy(started):
    """Clients that know nothing of the proxy reach Kimi with the user's login, by TLS that they have verified."""
    done = started.call(
        "run", "--", "sh", "-c", " && ".join(f"{shlex.join(words)}; echo" for words in CLIENTS.values())
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("hello") == len(CLIENTS), done.stdout + done.stderr
    seen = started.world.kimi.of("chat")
    assert len(seen) == len(CLIENTS)
    assert all(started.world.kimi.oauth.valid(one.bearer) for one in seen)


def test_hosts_that_are_not_decrypted_are_trusted_by_their_own_ca(started):
    """A client can reach other hosts too: the bundle has what the user has added. git has a variable of its own."""
    started.environ["SSL_CERT_FILE"] = str(started.world.ca_file)
    ask = "curl -sS -o answer -w '%{http_code}\\n' https://other.example/; git ls-remote https://other.example/some.git"
    try:
        done = started.call("run", "--", "sh", "-c", ask)
    finally:
        del started.environ["SSL_CERT_FILE"]
    assert done.stdout == "401\n", done.stderr
    assert "could not read Username" in done.stderr  # git has asked, and was asked who it is: a 401 as curl's


def test_a_proxy_that_runs_is_used_and_stays(started):
    """A proxy in the background serves each client and outlives it; the client has its address alone."""
    done = started.call("run", "--", "sh", "-c", "echo $HTTPS_PROXY")
    assert done.stdout.strip() == started.told["url"] == f"http://127.0.0.1:{started.port}"
    assert [process.pid for process in started.proxies()] == [started.told["pid"]]
    assert started.call("status").stdout.count(started.told["url"]) == 1


def test_a_second_start_changes_nothing(started):
    """What runs already is told, and is the same process; another port is refused rather than ignored."""
    assert started.json("start") == started.told
    refused = started.call("start", "--port", str(free_port()))
    assert refused.returncode == 1
    assert "kimi-mitm stop" in refused.stderr


def test_logs_show_what_the_proxy_says(started):
    """What was said comes first, then, with -f, what is said from there on, until Ctrl-C."""
    words = started.words("logs", "-f", "-n", "500")
    follow = subprocess.Popen(words, env=started.environ, stdout=subprocess.PIPE, text=True)
    try:
        said = iter(follow.stdout.readline, "")
        assert any("listening" in line for line in said)
        health = f"{started.told['url']}/health?now"
        httpx.get(health, trust_env=False)
        assert any("/health?now" in line for line in said)
        follow.send_signal(signal.SIGINT)
        assert follow.wait(SECONDS) == 130
    finally:
        follow.kill()
        follow.communicate()


# a proxy for one client


def test_a_page_for_one_client(machine):
    """Run --web has mitmweb, with the options given; its token is told and not logged; it ends with its client."""
    port = free_port()
    words = ["run", "--web", "--no-browser", "--set", "kimi_region=global", "--port", str(port), "--"]
    ask = "echo $HTTPS_PROXY; cat; exit 7"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    run = subprocess.Popen(
        machine.words(*words, "sh", "-c", ask), env=machine.environ, cwd=machine.home, text=True, **pipes
    )
    url = run.stdout.readline().strip()
    page = run.stderr.readline().split()[-1]
    try:
        assert url == f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/health", trust_env=False).json()["providers"]["kimi"]["site"] == "kimi.ai"
        assert httpx.get(page, trust_env=False, follow_redirects=True).status_code == 200
    finally:
        out, _ = run.communicate("the end\n", timeout=SECONDS)
    assert (run.returncode, out) == (7, "the end\n")
    token = page.partition("token=")[2]
    assert token
    assert token not in machine.log()
    machine.alone()
    assert not [*machine.state.glob("*.json"), *machine.state.glob("*.lease")]


def test_kill_leaves_no_proxy_behind(machine):
    """Clients share the proxy of the first, which stays when that one goes, and goes with the last, be it killed."""
    ask = f"read line; curl -sS {CHAT} -H content-type:application/json -d '{json.dumps(BODY)}'"
    first = machine.begin("sh", "-c", "echo $HTTPS_PROXY; read line; exit 3", stdin=subprocess.PIPE)
    url = first.stdout.readline()
    assert url.strip() == f"http://127.0.0.1:{machine.port}"
    second = machine.begin("sh", "-c", f"echo $HTTPS_PROXY; {ask}", stdin=subprocess.PIPE)
    assert second.stdout.readline() == url
    first.communicate("\n", timeout=SECONDS)
    assert first.returncode == 3
    child = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
    third, last = machine.begin(*child), machine.begin(*child)
    assert (third.stdout.readline(), last.stdout.readline()) == ("up\n", "up\n")
    answer, _ = second.communicate("\n", timeout=SECONDS)
    assert (second.returncode, "hello" in answer) == (0, True)
    third.terminate()
    assert third.wait(SECONDS) == 128 + signal.SIGTERM
    assert len(machine.proxies()) == 1
    orphans = psutil.Process(last.pid).children()
    last.kill()
    last.wait()
    machine.alone()
    for process in orphans:
        process.kill()
    for each in (third, last):
        each.stdout.close()


# a shell with job control, for one job, which it continues as soon as it has stopped
SHELL = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = subprocess.Popen(sys.argv[1:], process_group=0)
os.tcsetpgrp(0, job.pid)
while True:
    _, status = os.waitpid(job.pid, os.WUNTRACED)
    os.tcsetpgrp(0, os.getpgrp())
    if not os.WIFSTOPPED(status):
        break
    print("shell: stopped", flush=True)
    os.tcsetpgrp(0, job.pid)
    os.killpg(job.pid, signal.SIGCONT)
print("shell: code", os.waitstatus_to_exitcode(status), flush=True)
"""
CLIENT = """
import os, signal, time
count = []
signal.signal(signal.SIGINT, lambda *_: count.append(1))
print("tty", os.isatty(0), os.tcgetpgrp(0) == os.getpgrp(), flush=True)
while not count: time.sleep(0.01)
time.sleep(0.3)
print("count", len(count), flush=True)
signal.signal(signal.SIGCONT, lambda *_: print("continued", flush=True))
signal.signal(signal.SIGINT, signal.SIG_DFL)
print("ready for Ctrl-Z", flush=True)
while True: time.sleep(0.1)
"""


def test_a_terminal_belongs_to_the_client(started):
    """It is a terminal to the client, Ctrl-C reaches it once, Ctrl-Z stops it with us, and its end is the shell's."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(started.home)
        words = [sys.executable, "-c", SHELL, *started.words("run", "--", sys.executable, "-c", CLIENT)]
        os.execve(sys.executable, words, started.environ)
    text = Reader(terminal)
    try:
        text.until("tty True True")
        os.write(terminal, b"\x03")
        text.until("count 1")
        text.until("ready for Ctrl-Z")
        os.write(terminal, b"\x1a")
        text.until("shell: stopped")
        text.until("continued")
        os.write(terminal, b"\x03")
        text.until(f"shell: code {128 + signal.SIGINT}")
        os.waitpid(pid, 0)
    finally:
        os.close(terminal)


class Reader:
    """What comes out of a terminal."""

    def __init__(self, terminal):
        self.terminal, self.text = terminal, ""

    def until(self, word):
        end = time.monotonic() + SECONDS
        while word not in self.text:
            ready, _, _ = select.select([self.terminal], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no {word!r} in {self.text!r}"
            self.text += os.read(self.terminal, 4096).decode()


def test_a_proxy_that_cannot_start_says_why(machine):
    """The log's last lines come with the error; run has an exit code of its own for it, and nothing is left."""
    done = machine.call("run", "--set", "scripts=/none/such.py", "--", "true")
    assert done.returncode == 125
    assert "such.py" in done.stderr
    assert not machine.proxies()
