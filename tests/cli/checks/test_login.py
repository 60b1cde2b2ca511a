import json
import stat
import time

import pytest

from kimi_core.cli.checks.check import State
from kimi_core.cli.checks.login import Everybody, Login, Person, judge_accounts, judge_kimi, judge_kiro
from kimi_core.kimi.logins import StoredLogin
from kimi_core.kimi.session import SessionStatus
from kimi_core.kiro.condition import CONDITIONS, SERVING
from kimi_core.kiro.condition import State as Kiro


def everybody(tmp_path, state, *, writable=True):
    """Return a machine on which the one Kimi login has *state*."""
    return Everybody([Login("cn", SessionStatus("kimi.com", tmp_path / "kimi.json", state), writable)], [])


def test_nobody_is_logged_in(cli, find):
    """Without any login both providers are a problem, and the command to run is named."""
    kimi, kiro = find(cli, "login.kimi"), find(cli, "login.kiro")
    assert (kimi["state"], kiro["state"]) == ("problem", "problem")
    assert kimi["fix"].startswith("kimi-mitm login kimi")
    assert kiro["fix"].startswith("kimi-mitm login kiro")


def test_a_login_is_enough(cli, find):
    """With a Kimi login all is well, and nobody is asked for a Kiro account."""
    cli.log_in()
    assert find(cli, "login.kimi")["state"] == "ok"
    assert find(cli, "login.kiro")["state"] == "skipped"
    assert find(cli, "login.accounts")["state"] == "skipped"


def test_a_login_that_has_run_out_renews_itself(cli, find):
    """An access token that is over is no fault: its successor comes with the next request."""
    cli.log_in(expires_at=time.time() - 10)
    found = find(cli, "login.kimi")
    assert found["state"] == "ok"
    assert "renewed" in found["message"]


def test_a_dead_login(cli, find):
    """A login that the service has turned down asks for a new one."""
    cli.log_in()
    stored = StoredLogin(cli.data, cli.login_file.stem.removeprefix("kimi-"))
    stored.reject(stored.token(), time.time())
    found = find(cli, "login.kimi")
    assert found["state"] == "problem"
    assert "no longer accepts" in found["message"]
    assert found["fix"] == "kimi-mitm login kimi"


def test_a_damaged_login(cli, find):
    """A file that does not parse is named."""
    cli.log_in()
    cli.login_file.write_text('{"access_token": "fake-access-1"')
    found = find(cli, "login.kimi")
    assert found["state"] == "problem"
    assert str(cli.login_file) in found["message"]
    assert "fake-access-1" not in json.dumps(found)


@pytest.mark.parametrize(("state", "judged"), [("expired", State.problem), ("ok", State.warning)])
def test_a_login_that_cannot_be_renewed(tmp_path, state, judged):
    """Where no successor can be stored, a token that is over is a problem, and one that is not will be."""
    found = judge_kimi(everybody(tmp_path, state, writable=False))
    assert found.state is judged
    assert "not writable" in found.message
    assert found.fix == f"chmod 700 {tmp_path}"


def test_looking_mends_nothing(cli, find):
    """The folder keeps the permissions that another check is to judge."""
    cli.log_in()
    cli.data.chmod(0o755)
    find(cli, "login.kimi")
    assert stat.S_IMODE(cli.data.stat().st_mode) == 0o755


def real_sites(cli):
    """Let a machine use the service's own sites."""
    cli.environ.pop("KIMI_CODE_OAUTH_HOST")
    cli.environ.pop("KIMI_CODE_BASE_URL")


def store(cli, slot):
    """Put a login for *slot* into the store."""
    cli.log_in()
    cli.login_file.rename(cli.data / f"kimi-{slot}.json")


@pytest.mark.parametrize(
    ("stored", "region", "state"),
    [
        ("kimi.com", "cn", "ok"),
        ("kimi.ai", "global", "ok"),
        ("kimi.com", "global", "problem"),
        ("kimi.ai", "cn", "problem"),
    ],
)
def test_the_region_of_the_login(cli, find, stored, region, state):
    """A login for the other site is named, with both ways out."""
    real_sites(cli)
    store(cli, stored)
    found = find(cli, "login.region", "--set", f"kimi_region={region}")
    assert found["state"] == state
    if state == "problem":
        assert stored in found["message"]
        assert found["fix"].startswith(f"kimi-mitm login kimi --region {region}, or set kimi_region to ")
        assert find(cli, "login.kimi", "--set", f"kimi_region={region}")["state"] == "skipped"


def test_no_login_has_no_region(cli, find):
    """Where nobody is logged in, no region can be wrong."""
    assert find(cli, "login.region")["state"] == "skipped"


def test_a_damaged_login_elsewhere_is_no_wrong_region(cli, find):
    """A file of the other site that cannot be used is not offered as the right login."""
    real_sites(cli)
    store(cli, "kimi.ai")
    (cli.data / "kimi-kimi.ai.json").write_text("no JSON")
    assert find(cli, "login.region")["state"] == "skipped"
    assert find(cli, "login.kimi")["state"] == "problem"


def test_variables_that_make_no_sense_leave_it_open(cli, find):
    """Where the site in use is not known, another check tells why."""
    cli.environ["KIMI_CODE_BASE_URL"] = "http://far.example/coding/v1"
    found = find(cli, "login.kimi")
    assert found["state"] == "skipped"
    assert "config.variables" in found["message"]


def test_an_account_that_serves(kiro, find):
    """One Kiro account that can serve is enough for both providers."""
    kiro.account()
    assert find(kiro, "login.kiro")["state"] == "ok"
    assert find(kiro, "login.kimi")["state"] == "skipped"
    assert find(kiro, "login.accounts")["state"] == "ok"


@pytest.mark.parametrize(
    ("fields", "word", "waits"),
    [
        ({"state": "suspended"}, "locked", "problem"),
        ({"state": "needs_login"}, "logged out", "warning"),
        ({"enabled": False}, "switched off", "ok"),
    ],
)
def test_no_account_can_serve(kiro, find, fields, word, waits):
    """Accounts that are locked, logged out or switched off are told apart."""
    stored = kiro.account()
    document = json.loads(kiro.document.read_text())
    document["accounts"][0] |= fields
    kiro.document.write_text(json.dumps(document))
    found = find(kiro, "login.kiro")
    assert found["state"] == "problem"
    assert word in found["message"]
    assert found["fix"]
    assert find(kiro, "login.accounts")["state"] == waits
    assert stored["refresh_token"] not in json.dumps(found)


def test_damaged_accounts(kiro, find):
    """A document that does not parse is a problem of its own."""
    kiro.data.mkdir(mode=0o700)
    kiro.document.write_text("no JSON")
    assert find(kiro, "login.kiro")["state"] == "problem"


def test_kiro_switched_off(kiro, find):
    """Where Kiro is switched off, its accounts do not matter."""
    found = find(kiro, "login.kiro", "--set", "kiro_enabled=false")
    assert found["state"] == "skipped"


@pytest.mark.parametrize("state", list(Kiro))
def test_every_state_of_an_account(state):
    """Each state is judged by whether it serves, and what waits for the user is named."""
    row = CONDITIONS[state]
    facts = Everybody(
        [Login(None, SessionStatus("kimi.com", None, "none"))],
        [Person("ann@example.org", state, row.meaning, row.advice)] * 2,
    )
    assert (judge_kiro(facts).state is State.ok) == (state in SERVING)
    waiting = judge_accounts(facts)
    assert waiting.state is State.ok or "ann@example.org" in waiting.message
