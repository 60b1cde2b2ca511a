import json
import os
import pty
import re
import select
import subprocess
import sys

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from kimi_core.cli import doctor
from kimi_core.cli.checks import login
from kimi_core.cli.checks.table import CHECKS
from tests.cli.checks.test_proxy import served

SECRETS = ("fake-key-1", "fake-pass-1", "fake-access", "fake-refresh", "ksk_fake")
QUICK = ("--only", "login", "--only", "store")


def test_ids_are_stable_names():
    """Each check has an id of its own, made of its group and a name, a title, and a bound."""
    ids = [check.id for check in CHECKS]
    assert len(set(ids)) == len(ids)
    for check in CHECKS:
        assert re.fullmatch(r"[a-z]+\.[a-z]+(?:-[a-z]+)*", check.id)
        assert check.title
        assert 0 < check.seconds <= 60


def test_a_problem_fails(cli):
    """With a problem the exit code is 1, and the sentence and the command that mends it are told."""
    result = cli("doctor", *QUICK)
    assert result.exit_code == 1
    assert "problem" in result.stdout
    assert "To do: kimi-mitm login kimi" in result.stdout
    assert re.search(r"2 problems, \d+ ok, \d+ skipped", result.stdout)


def test_warnings_do_not_fail(cli):
    """With warnings alone the exit code is 0."""
    cli.log_in()
    cli.login_file.chmod(0o600)
    cli.data.chmod(0o755)
    result = cli("doctor", *QUICK)
    assert result.exit_code == 0
    assert "1 warning," in result.stdout


def test_all_is_well(cli):
    """Where nothing is wrong, that is told, and the exit code is 0."""
    cli.log_in()
    cli.login_file.chmod(0o600)
    result = cli("doctor", *QUICK)
    assert result.exit_code == 0
    assert cli.json("doctor", *QUICK)["state"] == "ok"
    assert "problem" not in result.stdout


def test_json(cli):
    """Programs get every check with its id, state, sentence, what to do, and time."""
    data = cli.json("doctor", *QUICK)
    assert data["state"] == "problem"
    assert [one["id"] for one in data["checks"]] == [c.id for c in CHECKS if c.group in {"login", "store"}]
    for one in data["checks"]:
        assert set(one) == {"id", "title", "state", "message", "fix", "seconds"}
        assert one["state"] in {"ok", "warning", "problem", "skipped"}
        assert one["message"].endswith((".", ")."))


def test_what_was_skipped_is_told_on_request(cli, monkeypatch):
    """A person sees what was skipped with --all."""
    monkeypatch.setattr(doctor, "CHECKS", login.CHECKS)
    cli.log_in()
    assert "login.kiro" not in cli("doctor").stdout
    assert "login.kiro" in cli("doctor", "--all").stdout


@pytest.mark.parametrize("name", ["login.nobody", "nothing", ""])
def test_a_check_that_there_is_not(cli, name):
    """An unknown id is a wrong command line, and the known ones are named."""
    result = cli("doctor", "--only", name)
    assert result.exit_code == 2
    assert "login.kimi" in result.stderr


def test_a_broken_configuration_does_not_stop_it(cli):
    """The other checks run with the defaults where mitmproxy's file cannot be used."""
    cli.configure("kimi_region: [")
    data = cli.json("doctor", "--only", "config.file", "--only", "login.kimi", "--only", "store.room")
    assert [one["state"] for one in data["checks"]] == ["problem", "problem", "ok"]


def test_no_secret_is_told(kiro, tmp_path):
    """Whatever is wrong, nothing that is told holds a token, a key or a password."""
    kiro.log_in(access_token="fake-access-77", expires_at=0)
    kiro.account()
    kiro.configure(
        "kimi_client_key: fake-key-1\nupstream_auth: user:fake-pass-1\nmode: [upstream:http://127.0.0.1:9]\n"
    )
    kiro.environ |= {
        "HTTPS_PROXY": "http://user:fake-pass-1@127.0.0.1:9/x",
        "https_proxy": "http://user:fake-pass-1@proxy.example:1",
        "ALL_PROXY": "socks5://user:fake-pass-1@proxy.example:1",
        "KIRO_API_KEY": "ksk_fake",
        "OPENCODE_CONFIG_CONTENT": json.dumps(
            {"provider": {"kiro": {"options": {"baseURL": "https://x.example", "apiKey": "fake-key-1"}}}}
        ),
    }
    groups = sorted({check.group for check in CHECKS} - {"mitmproxy"})  # which asks nothing of any of these
    chosen = [word for group in groups for word in ("--only", group)]
    for more in ((), ("--json",)):
        result = kiro("doctor", "--client", "curl", *chosen, *more)
        assert not [secret for secret in SECRETS if secret in result.output]


def test_a_person_sees_that_it_works(tmp_path):
    """On a terminal a spinner turns while it looks, and is gone at the end."""
    leader, follower = pty.openpty()
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TERM": "xterm", "COLUMNS": "100"}
    environ |= {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    command = [
        sys.executable,
        "-c",
        "from kimi_core.cli.main import main; main()",
        "doctor",
        "--offline",
        "--only",
        "store",
    ]
    with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environ) as process:
        os.close(follower)
        shown = b""
        while select.select([leader], [], [], 30)[0]:
            try:
                shown += os.read(leader, 4096)
            except OSError:  # Linux's word for the end of a terminal
                break
        assert process.wait(30) == 0
    os.close(leader)
    assert "Looking at this machine" in shown.decode()
    assert "store.room" in shown.decode()


LONG = "/home/somebody-with-a-long-name/.local/share/kimi-mitm/kiro-accounts.json"


@pytest.mark.parametrize(
    ("message", "lines"),
    [
        ("All is well.", [f"{'':20}All is well."]),
        ("It is not known who made this file.", [f"{'':20}It is not known who", f"{'':20}made this file."]),
        (f"There is no {LONG} here.", [f"{'':20}There is no", f"{doctor.INDENT}{LONG}", f"{'':20}here."]),
        (f"{LONG} is damaged.", ["", f"{doctor.INDENT}{LONG}", f"{'':20}is damaged."]),
    ],
)
def test_paths_stand_on_a_line_of_their_own(message, lines):
    """What fits stands in its column; a path that is longer begins further to the left, and is never broken."""
    assert doctor.wrapped(message, 40, 20) == lines


@given(st.lists(st.text("ab/文-.", min_size=1, max_size=60), max_size=12), st.integers(1, 120), st.integers(9, 40))
def test_no_word_is_broken(words, width, margin):
    """Whatever is said, every word is there, in order and whole, and only a word alone is wider than there is room."""
    lines = doctor.wrapped(" ".join(words), width, margin)
    assert [word for line in lines for word in line.split()] == words
    assert all(cell_len(line) <= width for line in lines if len(line.split()) > 1)


def test_a_proxy_in_the_background_is_found(cli):
    """Where nothing is at the configured port, the proxy that this program has started is looked at."""
    started = psutil.Process().create_time()
    health = {"version": "1", "providers": {}}
    closed = ("--set", "listen_port=9")
    state = cli.data / "state"
    state.mkdir(parents=True, mode=0o700)
    with served(health) as (port, _):
        record = {"pid": os.getpid(), "started": started, "host": "127.0.0.1", "port": port, "version": "1"}
        (state / "proxy.json").write_text(json.dumps(record))
        (found,) = cli.json("doctor", "--only", "proxy.running", *closed)["checks"]
        assert str(port) in found["message"]
        assert found["state"] == "ok"
        (state / "proxy.json").unlink()
        (found,) = cli.json("doctor", "--only", "proxy.running", *closed)["checks"]
    assert found["state"] == "problem"
