"""From nothing to an answer with `kimi-mitm` itself: logging in, taking over kiro-cli's login, choosing accounts."""

import json
import subprocess
import sys
import time

import pytest

from tests.e2e.harness import ROOT
from tests.e2e.kiro_harness import said
from tests.kiro import kiro_cli

CHAT = {"model": "claude-sonnet-4.5", "messages": [{"role": "user", "content": "[[say served]]"}]}
SECONDS = 60
MAIN = "from kimi_core.cli.main import main; main()"


@pytest.fixture
def run(kiro):
    """Return a function that runs `kimi-mitm` as the proxy's user would and returns what it printed."""
    (kiro.home / ".mitmproxy").mkdir(exist_ok=True)
    (kiro.home / ".mitmproxy" / "config.yaml").write_text(
        f"mode: ['upstream:http://127.0.0.1:{kiro.world.upstream.port}']\n"
        f"ssl_verify_upstream_trusted_ca: {kiro.world.ca_file}\n"
    )

    def kimi_mitm(*words, status=0):
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *words],
            env=kiro.environ | {"PYTHONPATH": str(ROOT)},
            cwd=kiro.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        shown = done.stdout + done.stderr
        assert done.returncode == status, shown
        assert "Traceback" not in shown
        assert not kiro.secrets_in(shown.encode())
        return done.stdout

    return kimi_mitm


@pytest.fixture(autouse=True)
def _nobody(kiro):
    """Begin without an account."""
    kiro.accounts(0)


def ask(kiro):
    """Ask the proxy, which has been running all the time."""
    with kiro.local_client() as client:
        return client.post("chat/completions", json=CHAT)


def test_from_a_login_to_an_answer(kiro_world, kiro, run):
    """A device login at AWS Builder ID; the proxy that runs already serves at once."""
    assert "kimi-mitm login kiro" in ask(kiro).json()["error"]["message"]
    run("login", "kiro", "--no-browser")
    assert said(ask(kiro)) == "served"
    (account,) = kiro.stored().accounts
    assert account.auth_method == "builder"
    assert kiro_world.aws.alive(account.refresh_token)


def test_a_login_of_kiro_cli_is_taken_over_once(kiro_world, kiro, run):
    """`accounts sync` forks the token that a running kiro-cli has, serves with it, and never spends it again."""
    answer = kiro_world.aws.login("desktop")
    row = kiro_cli.token(answer, now=time.time(), profile_arn=kiro_cli.SOCIAL_ARN, provider="github")
    path = kiro.home / ".local/share/kiro-cli/data.sqlite3"
    before = kiro_world.aws.refreshes
    with kiro_cli.store(path, {"kirocli:social:token": row}):
        run("accounts", "sync")
        assert said(ask(kiro)) == "served"
        run("accounts", "sync")
    assert kiro_world.aws.refreshes == before + 1
    assert kiro_world.aws.reuses == 0
    (account,) = kiro.stored().accounts
    assert kiro_world.aws.alive(account.refresh_token)


def test_the_users_word_counts_at_once(kiro, run):
    """What `accounts use`, `disable` and `enable` say holds for the next request of the running proxy."""
    first, second = (kiro.add() for _ in range(2))
    listed = json.loads(run("accounts", "list", "--json"))
    assert {first.label, second.label} <= set(json.dumps(listed).split('"'))
    assert ask(kiro).headers["x-kimi-mitm-account"] == first.label
    run("accounts", "disable", first.label)
    assert ask(kiro).headers["x-kimi-mitm-account"] == second.label
    run("accounts", "disable", second.label)
    answer = ask(kiro)
    assert answer.status_code == 401
    assert "disabled" in answer.json()["error"]["message"]
    run("accounts", "enable", second.label)
    assert said(ask(kiro)) == "served"


def test_usage_and_models_are_those_of_the_account(kiro, run):
    """`usage kiro` shows credits and plan, `models kiro` the list, under the names that the proxy lists."""
    kiro.add()
    assert "37.6 of 50" in run("usage", "kiro")
    shown = run("models", "kiro").split()
    with kiro.local_client() as client:
        listed = [model["id"] for model in client.get("models").json()["data"]]
    assert "claude-sonnet-4.5" in listed
    assert set(listed) <= set(shown)
