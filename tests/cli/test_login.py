import errno
import json
import os
import pty
import select
import signal
import stat
import subprocess
import sys
import time

import psutil
import pytest

from kimi_core.cli.steps import qr
from tests.cli.checks.test_proxy import served
from tests.servers.script import as_json, error

EVENTS = {"code", "waiting", "slow_down", "approved", "stored", "models", "error"}


def events(result):
    """Parse the lines of a login with --json."""
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert {event["event"] for event in found} <= EVENTS
    return found


def test_login_tells_its_steps_as_json(cli):
    """Each step is one object on one line, in the order in which things happen."""
    cli.fake.oauth.polls.extend(["authorization_pending", "authorization_pending", "authorization_pending"])
    result = cli("login", "kimi", "--json")
    assert result.exit_code == 0
    code, *waiting, approved, stored, models = events(result)
    assert code == {
        "event": "code",
        "user_code": code["user_code"],
        "verification_uri": "https://www.kimi.com/code/authorize_device",
        "verification_uri_complete": f"https://www.kimi.com/code/authorize_device?user_code={code['user_code']}",
        "expires_in": 1800.0,
        "interval": 5.0,
    }
    assert [event["event"] for event in waiting] == ["waiting", "waiting"]  # a heartbeat, not a line a second
    assert waiting[0]["expires_in"] - waiting[1]["expires_in"] == 10
    assert approved == {"event": "approved"}
    assert stored == {"event": "stored", "path": str(cli.login_file), "put_aside": None}
    assert [model["id"] for model in models["models"]] == ["k3", "kimi-for-coding"]
    assert set(models["blocks"]) == {"opencode", "opencode-v2", "shell", "openai", "anthropic", "claude-code", "curl"}
    assert models["problem"] is None
    assert result.stderr == ""


def test_login_names_the_proxy_that_runs(cli):
    """The lines for clients have the port of a proxy that was started by hand, wherever the configuration has it."""
    cli.configure("listen_port: 9")
    state = cli.data / "state"
    state.mkdir(parents=True, mode=0o700)
    with served({"version": "1", "providers": {}}) as (port, _):
        record = {"pid": os.getpid(), "started": psutil.Process().create_time(), "host": "127.0.0.1", "port": port}
        record |= {"version": "1", "confdir": str(cli.folder / "mitmproxy")}
        (state / f"hand-{port}.json").write_text(json.dumps(record))
        blocks = events(cli("login", "kimi", "--json"))[-1]["blocks"]
    assert f"http://127.0.0.1:{port}/kimi/v1" in blocks["openai"]
    assert f"HTTPS_PROXY=http://127.0.0.1:{port}" in blocks["shell"]


def test_login_stores_what_it_got(cli):
    """After the approval the token is on disk, for its owner only."""
    assert cli("login", "kimi").exit_code == 0
    assert cli.fake.oauth.valid(cli.stored()["access_token"])
    assert stat.S_IMODE(cli.login_file.stat().st_mode) == 0o600


def test_login_slows_down_when_asked(cli):
    """slow_down adds five seconds, and a program hears of it once."""
    cli.fake.oauth.polls.extend(["authorization_pending", "slow_down", "authorization_pending"])
    told = [event for event in events(cli("login", "kimi", "--json")) if event["event"] == "slow_down"]
    assert told == [{"event": "slow_down", "interval": 10.0}]
    assert round(cli.time.offset) == 5 + 10 + 10


def test_login_for_a_person(cli):
    """Without a terminal: page, code, lines for clients; no drawing, no colour, no countdown."""
    cli.fake.oauth.polls.extend(["authorization_pending"])
    result = cli("login", "kimi")
    text = result.stdout
    assert "https://www.kimi.com/code/authorize_device?user_code=FAKE-" in text
    assert "Code  FAKE-" in text
    assert "to type in at https://www.kimi.com/code/authorize_device)" in text
    assert "Logged in." in text
    assert str(cli.login_file) in text.replace("\n", "")
    assert "Models of the plan: k3, kimi-for-coding" in text
    assert '"kimi-for-coding-oauth"' in text
    assert "export HTTPS_PROXY=http://127.0.0.1:8080" in text
    assert f'"baseURL": "{cli.url}/coding/v1"' in text
    assert not any(sign in text for sign in ("\x1b", "█", "Waiting"))
    assert result.stderr == ""


def test_login_without_a_place_to_type_the_code(cli):
    """An answer that has only the complete address shows no other."""
    cli.fake.oauth.device_answer = {"verification_uri": ""}
    assert "to type in" not in cli("login", "kimi").stdout
    assert events(cli("login", "kimi", "--json"))[0]["verification_uri"] is None


@pytest.mark.parametrize(
    ("arguments", "environ", "platform", "opened"),
    [
        ((), {"DISPLAY": ":0"}, "linux", True),
        ((), {"WAYLAND_DISPLAY": "wayland-0"}, "linux", True),
        ((), {}, "linux", False),
        ((), {}, "darwin", True),
        ((), {}, "win32", True),
        ((), {"SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"}, "darwin", False),
        (("--no-browser",), {"DISPLAY": ":0"}, "linux", False),
    ],
)
def test_login_opens_a_browser_where_one_is_seen(cli, arguments, environ, platform, opened):
    """The page opens by itself on a desktop, and never on a headless machine or when unwanted."""
    cli.environ |= environ
    cli.platform = platform
    assert cli("login", "kimi", *arguments).exit_code == 0
    assert len(cli.browsed) == opened
    assert all(url.startswith("https://www.kimi.com/") for url in cli.browsed)


def test_login_opens_no_foreign_page(cli):
    """An address that is not the provider's own ends the login: it is named, and neither opened nor shown as a link."""
    cli.environ["DISPLAY"] = ":0"
    cli.fake.oauth.device_answer = {"verification_uri_complete": "https://kimi.com.evil.test/?user_code=FAKE"}
    ended = cli("login", "kimi")
    assert ended.exit_code == 1
    assert "sends you to kimi.com.evil.test" in ended.stderr
    assert "https://kimi.com.evil.test" not in ended.stdout + ended.stderr
    assert cli.browsed == []


@pytest.mark.parametrize(
    ("poll", "code", "says"),
    [
        ("access_denied", "login_denied", "refused in the browser"),
        ("expired_token", "login_expired", "The code ran out"),
        ("server_error", "login_failed", "ended the login"),
    ],
)
def test_login_that_fails_keeps_the_old_one(cli, poll, code, says):
    """Whatever goes wrong, the stored login is byte for byte what it was."""
    cli.log_in()
    before = cli.login_file.read_bytes()
    cli.fake.oauth.polls.append(poll)
    result = cli("login", "kimi")
    assert result.exit_code == 1
    assert says in result.stderr
    cli.fake.oauth.polls.append(poll)
    result = cli("login", "kimi", "--json")
    assert result.exit_code == 1
    assert events(result)[-1]["error"]["code"] == code
    assert result.stderr == ""
    assert cli.login_file.read_bytes() == before


def test_login_gives_up_when_the_code_runs_out(cli):
    """The countdown ends at zero with a sentence and what to do."""
    cli.fake.oauth.polls.extend(["authorization_pending"] * 3)
    cli.fake.oauth.device_answer = {"expires_in": 8}
    result = cli("login", "kimi")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "The code ran out before it was approved.",
        "Start again: run `kimi-mitm login kimi`.",
    ]


def test_login_replaces_the_old_one(cli):
    """A new login takes the place of the stored one once it is approved."""
    cli.log_in()
    old = cli.stored()["refresh_token"]
    assert cli("login", "kimi").exit_code == 0
    assert cli.stored()["refresh_token"] != old


def test_login_interrupted_changes_nothing(cli):
    """Ctrl-C while waiting: exit 130, the old login untouched, no temporary file left."""
    cli.log_in()
    before = cli.login_file.read_bytes()
    cli.fake.oauth.polls.extend(["authorization_pending"] * 9)
    cli.time.interrupt_at = 2
    result = cli("login", "kimi")
    assert result.exit_code == 130
    assert "Interrupted" in result.stderr
    assert cli.login_file.read_bytes() == before
    assert [path.name for path in cli.data.iterdir()] == [cli.login_file.name]


def test_login_puts_a_damaged_file_aside(cli):
    """What was in the place of the login and does not parse is kept under a name that is told."""
    cli.data.mkdir(mode=0o700)
    cli.login_file.write_text("{damaged")
    result = cli("login", "kimi")
    assert result.exit_code == 0
    (aside,) = [path for path in cli.data.iterdir() if "damaged" in path.name]
    assert aside.read_text() == "{damaged"
    assert str(aside) in result.stderr
    cli.login_file.write_text("[]")
    stored = next(event for event in events(cli("login", "kimi", "--json")) if event["event"] == "stored")
    assert stored["put_aside"] != str(aside)
    assert "damaged" in stored["put_aside"]


@pytest.fixture(params=["link", "folder"])
def odd(request, cli):
    """Put what is no file of ours in the place of the login."""
    cli.data.mkdir(mode=0o700)
    if request.param == "folder":
        cli.login_file.mkdir()
        return cli
    other = cli.folder / "other.json"
    other.write_text("{}")
    cli.login_file.symlink_to(other)
    return cli


def test_login_puts_aside_what_is_no_file(odd):
    """Status says to log in, and logging in helps: what was in the place of the login is kept, and led nowhere."""
    assert odd.json("status")["kimi"]["logins"][0]["next"] == "kimi-mitm login kimi"
    result = odd("login", "kimi")
    assert result.exit_code == 0
    (aside,) = odd.data.glob("*.damaged-*")
    assert str(aside) in result.stderr
    assert odd.login_file.is_file()
    assert not odd.login_file.is_symlink()
    assert odd.fake.oauth.valid(odd.stored()["access_token"])
    assert aside.is_dir() or aside.read_text() == "{}"


def test_login_leaves_in_place_what_nothing_can_take_the_place_of(odd, monkeypatch):
    """Where nothing can be stored nobody is asked to approve, and nothing is put aside."""

    def fail(*_args):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("os.fsync", fail)
    result = odd("login", "kimi")
    assert result.exit_code == 1
    assert "cannot be written: Read-only file system" in result.stderr
    assert "Code" not in result.stdout
    assert [path.name for path in odd.data.iterdir()] == [odd.login_file.name]


@pytest.mark.parametrize("answer", [error(500), as_json({"data": []}), as_json("nonsense")])
def test_login_survives_a_failed_discovery(cli, answer):
    """Without a model list the login stands; it is said, and the alias is offered."""
    cli.fake.queue(answer, answer, operation="models")
    result = cli("login", "kimi")
    assert result.exit_code == 0
    assert "which does not matter to the login" in result.stderr
    assert "Models of the plan" not in result.stdout
    models = events(cli("login", "kimi", "--json"))[-1]
    assert (models["models"], models["problem"]["code"]) == ([], "upstream_error")
    assert cli.fake.oauth.valid(cli.stored()["access_token"])
    assert list(json.loads(models["blocks"]["opencode"])["provider"]["kimi-for-coding-oauth"]["models"]) == [
        "kimi-for-coding"
    ]


def test_login_with_a_limit(cli):
    """--with-limit puts context and output into opencode's models."""
    models = events(cli("login", "kimi", "--json", "--with-limit", "32000"))[-1]
    provider = json.loads(models["blocks"]["opencode"])["provider"]["kimi-for-coding-oauth"]
    assert provider["models"]["k3"]["limit"] == {"context": 1048576, "output": 32000}


@pytest.mark.parametrize(
    ("identity", "agent"),
    [("kimi-cli", "Python/3.13 aiohttp/3.13.3"), ("kimi-code", "kimi-code-cli/2.1.0"), ("own", "kimi-mitm/")],
)
def test_login_identifies_itself_as_asked(cli, identity, agent):
    """The device flow and the model list carry the fields of the identity in use."""
    assert cli("login", "kimi", "--identity", identity).exit_code == 0
    asked = cli.fake.oauth.seen[-1]
    assert asked.header("user-agent").startswith(agent)
    assert ("x-msh-device-id" in dict(asked.headers)) == (identity != "own")
    (listed,) = cli.fake.of("models")
    assert listed.header("user-agent").startswith(agent)


def test_login_goes_out_as_mitmproxy_does(cli, monkeypatch):
    """An upstream proxy in mitmproxy's configuration is used; one in the environment is not."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert cli("login", "kimi").exit_code == 0
    seen = len(cli.fake.oauth.seen)
    cli.configure("mode: ['upstream:http://127.0.0.1:9']\n")
    result = cli("login", "kimi")
    assert result.exit_code == 1
    assert "could not be reached" in result.stderr
    assert len(cli.fake.oauth.seen) == seen


def test_login_behind_a_portal_names_the_status(cli):
    """An answer that is no JSON is told with its status, not with a parser's words."""
    cli.fake.oauth.device_failures.append((200, b"<html>Sign in to the guest network</html>"))
    result = cli("login", "kimi")
    assert result.exit_code == 1
    assert "HTTP 200" in result.stderr
    assert "guest network" in result.stderr


@pytest.mark.parametrize(("width", "encoding"), [(20, "utf-8"), (200, "ascii")])
def test_no_qr_code_where_it_would_be_a_mess(width, encoding):
    """A terminal that is too narrow or has no block signs gets none."""
    url = "https://www.kimi.com/code/authorize_device?user_code=FAKE-0001"
    assert qr(url, 80, "utf-8")
    assert qr(url, width, encoding) == ""


def read_until(terminal, wanted, seconds=20.0):
    """Read from a pseudo-terminal until *wanted* has come."""
    seen = b""
    deadline = time.monotonic() + seconds
    while wanted not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
        assert ready, seen.decode(errors="replace")
        seen += os.read(terminal, 65536)
    return seen.decode(errors="replace")


@pytest.mark.parametrize("no_color", [False, True])
def test_login_at_a_real_terminal(cli, no_color):
    """A QR code, colours unless NO_COLOR, a countdown; Ctrl-C ends it with 130 and nothing stored."""
    cli.fake.oauth.polls.extend(["authorization_pending"] * 60)
    environ = os.environ | cli.environ | {"HOME": str(cli.folder), "TERM": "xterm-256color", "COLUMNS": "100"}
    environ = {name: value for name, value in environ.items() if name not in ("NO_COLOR", "DISPLAY")}
    environ |= {"NO_COLOR": "1"} if no_color else {}
    master, slave = pty.openpty()
    command = [sys.executable, "-c", "from kimi_core.cli.main import main; main()", "login", "kimi", "--no-browser"]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environ)
    os.close(slave)
    try:
        screen = read_until(master, b"the code is good for ")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert "█▀▀" in screen or "▄▄▄▄▄" in screen
    assert ("\x1b[1;36m" in screen) is not no_color
    assert not cli.login_file.exists()
