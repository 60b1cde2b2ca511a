import asyncio
import itertools
import json
import os
import plistlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from xml.dom import minidom

import psutil
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from kimi_core.cli import background, invocation
from kimi_core.cli.app import World
from kimi_core.cli.background import NotStarted, NotStopped, Order
from kimi_core.cli.completion import SHELLS
from kimi_core.cli.configuration import Configuration, load
from kimi_core.cli.main import main
from kimi_core.cli.records import Files, Running, newest_log, proxies, sweep, tail
from kimi_core.cli.service import KINDS, _check, launchd, systemd
from kimi_core.cli.start import new_lines
from kimi_core.errors import ConfigError
from kimi_core.outbound import Outbound
from kimi_core.settings import Settings

HEALTH = b'{"status": "ok", "version": "1", "providers": {}}'
# what a proxy does as far as this side knows it: a record, a listener that answers /health
PROXY = f"""
HEALTH = {HEALTH!r}
import http.server, json, os, sys, psutil
given = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(HEALTH)
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Health)
print("listening", flush=True)
record = {{"pid": os.getpid(), "started": psutil.Process().create_time(), "host": "127.0.0.1",
          "port": server.server_port, "version": "1", "order": given["hosted_order"]}}
open(given["hosted_record"] + ".new", "w").write(json.dumps(record))
os.replace(given["hosted_record"] + ".new", given["hosted_record"])
server.serve_forever()
"""


class Clock:
    """Time that only sleeping moves."""

    def __init__(self, pace=1.0):
        self.now, self.pace = 0.0, pace

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds * self.pace
        time.sleep(0.005)


def order(code, **more):
    """Return the order for a program of Python's."""
    return Order([sys.executable, "-c", code], [], os.environ, **more)


def record(files, **changes):
    """Write a record that says that this very process is the proxy."""
    files.folder.mkdir(exist_ok=True)
    me = psutil.Process()
    known = {"pid": me.pid, "started": me.create_time(), "host": "127.0.0.1", "port": 9, "version": "1"}
    files.record.write_text(json.dumps(known | changes))


@pytest.fixture
def files(tmp_path):
    """The files of a proxy that is not there."""
    return Files(tmp_path / "state", "proxy")


def test_a_proxy_is_started_found_and_stopped(files):
    """It is there when it answers, is found by its record, and is gone after a stop; its log is the user's alone."""
    running = background.start(files, order(PROXY))
    assert files.running() == running
    assert [found for _, found in proxies(files.folder)] == [running]
    assert running.order == order(PROXY).digest
    assert tail(files.log, 5) == ["listening"]
    assert os.name == "nt" or files.log.stat().st_mode & 0o077 == 0
    background.stop(running)
    assert files.running() is None
    background.stop(running)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('no such option'); raise SystemExit(1)", "ended at once. It said:\nno such option"),
        ("import time; print('still thinking', flush=True); time.sleep(60)", "did not answer within"),
    ],
)
def test_a_proxy_that_does_not_start_says_why(files, code, message):
    """The error ends with the last lines of this start, not of one before, and nothing is left running."""
    files.folder.mkdir()
    files.log.write_text("of another day\n")
    with pytest.raises(NotStarted, match=message) as caught:
        background.start(files, order(code), patience=1.5)
    assert "another day" not in str(caught.value)
    assert not psutil.Process().children()


def test_a_program_that_is_not_there_is_named(files):
    """A broken installation is told in one sentence."""
    with pytest.raises(NotStarted, match="/none/mitmdump cannot be started"):
        background.start(files, Order(["/none/mitmdump"], [], {}))


def test_what_does_not_end_politely_is_ended(files):
    """A proxy that ignores the polite word gets the last one after a bounded wait."""
    stubborn = PROXY.replace("server = ", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nserver = ")
    running = background.start(files, order(stubborn))
    clock = Clock(pace=20)
    background.stop(running, clock=clock, sleep=clock.sleep)
    assert running.process() is None


def test_a_start_that_is_interrupted_leaves_nothing(files):
    """Ctrl-C while the proxy starts ends it too, even where it does not listen to reason."""

    def interrupt(seconds):
        if tail(files.log, 1):
            raise KeyboardInterrupt
        time.sleep(0.01)

    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    naps = itertools.count()

    def clock():
        return next(naps) * 1.0

    with pytest.raises(KeyboardInterrupt):
        background.start(files, order(code), patience=1e9, clock=clock, sleep=interrupt)
    wait_for(lambda: not psutil.Process().children())


def wait_for(probe):
    """Wait until something is true, for a bounded time."""
    end = time.monotonic() + 10
    while not probe():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    "changes",
    [{"pid": 2**22 + 1}, {"started": 1.0}, {"pid": "none"}, {"port": None}],
    ids=["gone", "another process by now", "no number", "no port"],
)
def test_a_stale_record_is_no_proxy(files, changes):
    """A record whose process is gone, or is another one by now, or that says nothing, stands for nothing."""
    record(files)
    assert files.running()
    record(files, **changes)
    assert files.running() is None


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_record_is_no_proxy(files, text):
    """What cannot be read is not there."""
    files.folder.mkdir()
    files.record.write_text(text)
    assert files.running() is None


def test_a_proxy_of_somebody_else_is_not_stopped(files, monkeypatch):
    """What may not be ended is told."""
    record(files)

    def refuse(self):
        raise psutil.AccessDenied(self.pid)

    monkeypatch.setattr(psutil.Process, "terminate", refuse)
    with pytest.raises(NotStopped, match="belongs to somebody else"):
        background.stop(files.running())


def test_a_process_that_cannot_be_ended_is_told(files, monkeypatch):
    """Nothing is claimed to be stopped that is there."""
    record(files)
    monkeypatch.setattr(psutil.Process, "terminate", lambda self: None)
    monkeypatch.setattr(psutil.Process, "kill", lambda self: None)
    clock = Clock(pace=100)
    with pytest.raises(NotStopped, match="does not end"):
        background.stop(files.running(), clock=clock, sleep=clock.sleep)


def test_a_process_that_ends_in_that_moment_is_stopped(files, monkeypatch):
    """A race with its own end is no fault."""
    record(files)

    def gone(self):
        raise psutil.NoSuchProcess(self.pid)

    monkeypatch.setattr(psutil.Process, "terminate", gone)
    background.stop(files.running())


def test_leftovers_are_swept(tmp_path):
    """What ended long ago is deleted; what is new, what runs and what stays are kept."""
    old, new, alive = (Files(tmp_path, f"run-{name}") for name in ("1", "2", "3"))
    for each in (old, new, alive):
        each.log.write_text("said\n")
    record(alive)
    (tmp_path / "proxy.log").write_text("kept\n")
    for path in (old.log, alive.log, alive.record, tmp_path / "proxy.log"):
        os.utime(path, (1000, 1000))
    sweep(tmp_path, time.time())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["proxy.log", "run-2.log", "run-3.json", "run-3.log"]


def test_the_log_to_look_at(tmp_path):
    """It is that of the proxy that runs, else the one written last, else the one that would be."""
    assert newest_log(tmp_path / "none").name == "proxy.log"
    for number, name in enumerate(("proxy.log", "run-1.log", "run-2.log")):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (number, number))
    assert newest_log(tmp_path).name == "run-2.log"
    record(Files(tmp_path, "proxy"))
    assert newest_log(tmp_path).name == "proxy.log"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((2,), ["b", "c"]),
        ((9,), ["a", "b", "c"]),
        ((0,), []),
        ((9, 2), ["b", "c"]),
        ((9, 99), ["a", "b", "c"]),
        ((9, 0, 4), ["a", "b"]),
    ],
)
def test_the_end_of_a_log(tmp_path, arguments, expected):
    """As many lines as there are, at most as asked for, between the offsets; a log that shrank is shown whole."""
    log = tmp_path / "log"
    assert tail(log, 5) == []
    log.write_text("a\nb\nc\n")
    assert tail(log, *arguments) == expected


def test_a_port_that_is_taken_is_passed_over():
    """The wanted port is taken where it is free."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        assert background.free_port(taken) not in {taken, 0}
    assert background.free_port(taken) == taken


def test_addresses():
    """An address of IPv6 has its brackets, and mitmweb's token shows in no repr."""
    running = Running(pid=1, started=0.0, host="::1", port=8080, version="1", web_url="http://x/?token=fake-token")
    assert running.url == "http://[::1]:8080"
    assert "fake-token" not in repr(running)


# following a log


async def _into(found, lines):
    async for line in lines:
        found += [line]


def followed(log, steps, begin=0):
    """Return the lines that come while *steps* happen, one at each sleep."""
    remaining = iter(steps)

    async def collect():
        found: list[str] = []

        async def sleep(_seconds):
            try:
                next(remaining)()
            except StopIteration:
                raise asyncio.CancelledError from None

        lines = new_lines(log, begin, sleep)
        try:
            await _into(found, lines)
        except asyncio.CancelledError:
            return found

    return asyncio.run(collect())


def test_new_lines_come_whole_and_from_the_new_file_too(tmp_path):
    """Half a line waits for its other half; a log that is turned over or emptied is read on."""
    log = tmp_path / "log"
    log.write_text("old\n")

    def append(text):
        return lambda: log.write_text(log.read_text() + text)

    def turn_over():
        with log.open("a") as file:
            file.write("last\n")
        log.replace(tmp_path / "log.1")

    def write(text):
        return lambda: log.write_text(text)

    steps = [append("one\ntw"), append("o\n"), turn_over, write("new file\n"), write("x\n"), lambda: None]
    assert followed(log, steps, begin=4) == ["one", "two", "last", "new file", "x"]


def test_a_log_that_is_not_there_yet_is_waited_for(tmp_path):
    """Following may begin before the proxy does."""
    log = tmp_path / "log"
    assert followed(log, [lambda: log.write_text("first\n"), lambda: None]) == ["first"]


# the command line of the proxy


def configuration(tmp_path, *overrides, text=""):
    """Return what *overrides* and a file give."""
    (tmp_path / "config.yaml").write_text(text)
    return load(tmp_path, overrides, foreign=True)


def test_words_have_what_was_given_and_all_scripts(tmp_path):
    """--set is passed on, save for the folder that stands in front; the user's scripts stay, the addon comes once."""
    made = configuration(tmp_path, "flow_detail=3", "confdir=/else", "kimi_region=global", text="")
    assert made.confdir == Path("/else")
    made = configuration(tmp_path, "flow_detail=3", "kimi_region=global", text="scripts: [mine.py]")
    words = invocation.words(made, invocation.HOSTED)
    assert words[:6] == ["--set", f"confdir={tmp_path}", "--set", "flow_detail=3", "--set", "kimi_region=global"]
    assert words[6:] == ["-s", "mine.py", "-s", str(invocation.addon()), "-s", str(invocation.HOSTED)]
    other = configuration(tmp_path, text="scripts: [~/other/addons/kimi.py]")
    assert invocation.scripts(other) == ["~/other/addons/kimi.py"]


@pytest.mark.parametrize(
    ("modes", "mode"),
    [
        ((), "regular"),
        (("regular@8081",), "regular"),
        (("reverse:https://x@8082", "upstream:http://office:3128@127.0.0.1:8083"), "upstream:http://office:3128"),
        (("socks5", "wireguard"), "regular"),
        (("UPSTREAM:http://office:3128",), "UPSTREAM:http://office:3128"),
    ],
)
def test_a_client_gets_one_listener(modes, mode):
    """Of the user's listeners one is left, at another port and on this machine, with the way out that it had."""
    made = Configuration(Settings(), Outbound(), Path("/c"), modes=modes)
    assert invocation.only_here(made, 0) == ["--mode", mode, "--listen-host", "127.0.0.1", "--listen-port", "0"]


def test_listeners_that_stay_are_on_this_machine_unless_the_user_chose():
    """A proxy that stays listens where the configuration says."""
    plain = Configuration(Settings(), Outbound(), Path("/c"))
    chosen = Configuration(Settings(), Outbound(), Path("/c"), listen_host="10.0.0.1")
    assert invocation.listener(plain, None) == ["--listen-host", "127.0.0.1"]
    assert invocation.listener(chosen, 9090) == ["--listen-port", "9090"]


def test_the_program_is_the_one_beside_the_interpreter(tmp_path):
    """Without its script the interpreter runs it; the addon of a wheel is inside the package."""
    assert invocation.DUMP.command(str(tmp_path / "python"))[:3] == [str(tmp_path / "python"), "-P", "-c"]
    (tmp_path / "mitmdump").touch()
    assert invocation.DUMP.command(str(tmp_path / "python")) == [str(tmp_path / "mitmdump")]
    (tmp_path / "addons").mkdir()
    (tmp_path / "addons" / "kimi.py").touch()
    assert invocation.addon(tmp_path) == tmp_path / "addons" / "kimi.py"
    assert invocation.addon().is_file()


# the commands, as far as they need no proxy


def test_stop_and_logs_without_a_proxy(cli):
    """Nothing to stop is no fault, and nothing to show is told."""
    assert cli("stop").exit_code == 0
    assert cli.json("stop") == {"stopped": False}
    assert "nothing in" in cli("logs").stderr
    state = cli.data / "state"
    state.mkdir(parents=True)
    (state / "proxy.log").write_text("one\ntwo\n")
    assert cli("logs", "-n", "1").stdout == "two\n"
    assert cli.json("logs") == {"log": str(state / "proxy.log"), "lines": ["one", "two"]}


def test_as_many_lines_as_asked_for_are_shown(cli):
    """However long they are, the lines come from as far back as they stand, be it in the older file."""
    state = cli.data / "state"
    state.mkdir(parents=True)
    lines = [f"{number} {'x' * number}" for number in range(1000)]
    (state / "proxy.log.1").write_text("".join(f"{line}\n" for line in lines[:400]))
    (state / "proxy.log").write_text("".join(f"{line}\n" for line in lines[400:]))
    for wanted in (0, 1, 599, 600, 601, 1000, 5000):
        assert cli.json("logs", "-n", str(wanted))["lines"] == lines[1000 - min(wanted, 1000) :]


@given(st.lists(st.text("ab é", max_size=9), max_size=12), st.integers(0, 15), st.integers(1, 20), st.integers(0, 60))
@example(["a", "b"], 1, 1, 2)
def test_the_last_lines_do_not_depend_on_how_the_log_is_read(texts, wanted, piece, begin):
    """They are those of the file read at once, whatever its pieces; a beginning in a line leaves the rest of it."""
    content = "\n".join(texts).encode()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("kimi_core.cli.records.PIECE", piece)
        log = Path(folder, "log")
        log.write_bytes(content)
        part = content[begin if begin <= len(content) else 0 :].decode(errors="replace").splitlines()
        assert tail(log, wanted, begin) == (part[-wanted:] if wanted else [])


def test_logs_are_followed_until_ctrl_c(cli):
    """With --json each line is an object; Ctrl-C ends it."""
    state = cli.data / "state"
    state.mkdir(parents=True)
    (state / "proxy.log").write_text("one\n")
    cli.time.interrupt_at = 1
    done = cli("logs", "-f", "--json")
    assert (done.exit_code, done.stdout) == (130, '{"line": "one"}\n')


def test_start_refuses_a_port_that_is_taken(cli, served_kimi):
    """Something else at the port is named, with what to do."""
    port = served_kimi[1].rpartition(":")[2]
    done = cli("start", "--port", port)
    assert done.exit_code == 1
    assert "--port" in done.stderr
    cli.configure(f"listen_port: {port}")
    assert "Another program listens" in cli("start").stderr


def test_start_tells_what_runs_already(cli, monkeypatch):
    """The proxy of before is told; with a page that it lacks it is refused; another of this kind is told apart."""
    files = Files(cli.data / "state", "proxy")
    cli.data.mkdir()
    record(files)
    assert "is running already at http://127.0.0.1:9" in cli("start").stdout
    assert "without the web page" in cli("start", "--web").stderr
    assert "at port 9" in cli("start", "--port", "10").stderr
    files.record.unlink()
    monkeypatch.setattr("kimi_core.cli.start.ask", lambda url: ("running", {}))
    assert "which kimi-mitm start has not started" in cli("start").stderr


# services


@pytest.mark.parametrize("kind", KINDS)
def test_a_service_is_printed(cli, kind):
    """It names the program and the script by their full paths, says how to install it, and has no login in it."""
    cli.environ["KIRO_API_KEY"] = "ksk_fake"
    done = cli("service", kind, "--set", "kimi_region=global", "--port", "9090")
    assert done.exit_code == 0
    for part in ("mitmdump", str(invocation.addon()), "kimi_region=global", "9090", f"kimi-mitm service {kind} >"):
        assert part in done.stdout
    assert "ksk_fake" not in done.stdout
    assert cli.json("service", kind)["kind"] == kind


def test_the_service_of_this_machine(cli):
    """Without an argument it is launchd's on macOS, and systemd's elsewhere."""
    assert cli.json("service")["kind"] == "systemd"
    cli.platform = "darwin"
    assert cli.json("service")["kind"] == "launchd"


@pytest.mark.parametrize("kind", ["systemd", "launchd"])
@pytest.mark.parametrize("sign", ["\n", "\0", "\x1b", "\x7f", "\udcff", "\ufffe", "\uffff"])
@pytest.mark.parametrize("where", ["option", "variable", "home"])
def test_what_no_service_can_hold_is_refused(cli, monkeypatch, kind, sign, where):
    """A control character, which may begin a setting of its own, and bytes that are no text: a sentence says so."""
    options = ()
    if where == "option":
        options = ("--set", f"kimi_client_key=fake-key{sign}ExecStartPre=/fake")
    elif where == "variable":
        cli.environ["KIMI_SHARE_DIR"] = f"/fake{sign}Environment=X=1"
    else:
        monkeypatch.setattr(
            type(cli), "world", property(lambda self: World(environ=self.environ, home=Path(f"/a{sign}")))
        )
    result = cli("service", kind, *options)
    assert result.exit_code == 2
    assert "A service cannot have this" in result.stderr
    assert sign not in result.stderr.rstrip("\n")
    assert "fake-key" not in result.stderr
    assert result.stdout == ""


def test_an_agent_is_what_launchd_reads():
    """The agent parses, and holds the words as they are."""
    words = ["/opt/a b/mitmdump", "--set", "x=<&>"]
    agent = plistlib.loads(launchd(words, {"KIMI_MITM_DATA_DIR": "/data"}, Path("/Users/me")).encode())
    assert agent["ProgramArguments"] == words
    assert agent["EnvironmentVariables"] == {"KIMI_MITM_DATA_DIR": "/data"}
    assert agent["RunAtLoad"]
    assert agent["StandardOutPath"] == "/Users/me/Library/Logs/kimi-mitm.log"


def test_every_sign_that_is_let_through_comes_back():
    """What is not refused launchd reads as it was."""

    def accepted(sign):
        with suppress(ConfigError):
            _check(sign)
            return True
        return False

    word = "".join(filter(accepted, map(chr, range(sys.maxunicode + 1))))
    assert plistlib.loads(launchd([word], {}, Path("/Users/me")).encode())["ProgramArguments"] == [word]
    assert {"é", "\u2028", "\U0001f600"} <= set(word)


def test_an_agent_of_any_home_is_well_formed():
    """Nothing that a path may hold ends up in the comment, where XML allows no two hyphens in a row."""
    agent = launchd(["/opt/mitmdump"], {}, Path("/Users/me--you <&>"))
    (comment,) = [node for node in minidom.parseString(agent).childNodes if node.nodeType == node.COMMENT_NODE]
    assert "me--you" not in comment.data
    assert plistlib.loads(agent.encode())["StandardOutPath"] == "/Users/me--you <&>/Library/Logs/kimi-mitm.log"


def test_a_unit_quotes_what_systemd_would_take_for_its_own():
    """Paths below home follow it; spaces, quotes, % and $ come back as they were."""
    words = ["/home/me/.venv/bin/mitmdump", "--set", 'x=a "b" 100% $HOME', "confdir=/home/me/.mitmproxy", "/home/meter"]
    unit = systemd(words, {"KIMI_MITM_DATA_DIR": "/home/me/data $x"}, Path("/home/me"))
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    back = [word.replace("%h", "/home/me").replace("%%", "%").replace("$$", "$") for word in shlex.split(line[10:])]
    assert back == words
    assert "%h/.venv" in line
    assert 'Environment="KIMI_MITM_DATA_DIR=%h/data $x"' in unit


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="this machine has no systemd")
def test_systemd_accepts_the_unit(tmp_path):
    """Systemd itself finds no fault with the unit."""
    unit = tmp_path / "kimi-mitm.service"
    unit.write_text(systemd([sys.executable, "-c", "pass"], {"KIMI_MITM_DATA_DIR": "/a b"}, Path.home()))
    environ = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", str(unit)], env=environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# completion


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_for_this_program(cli, shell):
    """Each shell gets its own words, which call the program by its name."""
    text = cli("completion", shell).stdout
    assert "_KIMI_MITM_COMPLETE" in text
    assert cli.json("completion", shell)["text"].strip("\n") == text.strip("\n")


def completed(tmp_path, monkeypatch, *words):
    """Return what bash would offer after *words*."""
    monkeypatch.setenv("PATH", str(tmp_path))
    environ = {
        "_KIMI_MITM_COMPLETE": "bash_complete",
        "COMP_WORDS": shlex.join(["kimi-mitm", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = CliRunner().invoke(main, [], prog_name="kimi-mitm", env=environ, complete_var="_KIMI_MITM_COMPLETE")
    return done.stdout.splitlines()


def test_commands_options_and_programs_are_completed(tmp_path, monkeypatch):
    """Commands by their beginning, options of each, and for `run` the programs of PATH and then files."""
    program = tmp_path / "opencode"
    program.touch(0o755)
    (tmp_path / "open-me.txt").touch(0o644)
    monkeypatch.setattr(os, "get_exec_path", lambda: [str(tmp_path), "/none"])
    assert completed(tmp_path, monkeypatch, "st") == ["plain,start", "plain,status", "plain,stop"]
    assert "plain,--web" in completed(tmp_path, monkeypatch, "start", "--w")
    assert completed(tmp_path, monkeypatch, "run", "open") == ["plain,opencode"]
    assert completed(tmp_path, monkeypatch, "run", "opencode", "x") == ["file,x"]
    monkeypatch.setattr("kimi_core.cli.completion.MOST", 0)
    assert completed(tmp_path, monkeypatch, "run", "open") == [""]
