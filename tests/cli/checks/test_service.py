import httpx
import pytest

from kimi_core.cli.checks import service
from kimi_core.cli.checks.check import State
from kimi_core.cli.checks.service import Word, judge_clock, judge_plan
from kimi_core.errors import AuthUnavailable, LoginDead, UpstreamError
from tests.servers.script import as_json, error

OVERDRAWN = {"usage": {"limit": "100", "used": "100", "resetTime": "2031-05-03T11:03:48Z"}}
WALLET = {"boosterWallet": {"balance": {"type": "BOOSTER", "amount": "500000000", "amountLeft": "200000000"}}}


@pytest.fixture
def user(cli):
    """Return a machine with a login."""
    cli.log_in()
    return cli


def test_a_plan_that_serves(user, find):
    """A login that Kimi accepts, with something left, is well; Kimi is asked once for both checks."""
    found = user.json("doctor", "--only", "service")["checks"]
    assert [one["state"] for one in found] == ["ok", "ok"]
    assert len(user.fake.of("usages")) == 1


@pytest.mark.parametrize(
    ("status", "message", "word"),
    [
        (402, "We're unable to verify your membership benefits at this time.", "could not confirm a plan"),
        (403, "Your current subscription does not have access to this model.", "does not include"),
        (403, "Kimi For Coding is currently only available for Coding Agents such as Kimi CLI.", "client that our"),
        (403, "You've reached your usage limit for this billing cycle.", "quota is used up"),
        (403, "You've reached your usage limit for this period.", "time window"),
        (403, "Access terminated.", "closed the account"),
        (403, "Something that nobody knows.", "does not permit"),
        (429, "Your account is suspended: insufficient balance.", "no balance"),
    ],
)
def test_refusals_are_told_apart(user, find, status, message, word):
    """401, 402, 403 and a used-up quota each have words of their own, and what to do."""
    user.fake.queue(as_json({"error": {"message": message, "type": "fake_error"}}, status), operation="usages")
    found = find(user, "service.plan")
    assert found["state"] == "problem"
    assert word in found["message"]
    assert found["fix"]


def test_a_login_that_is_refused_although_it_was_renewed(user, find):
    """A 401 that a renewal does not heal is a matter of the login."""
    user.fake.refuse = -1
    found = find(user, "service.plan")
    assert found["state"] == "problem"
    assert "401" in found["message"]
    assert "kimi-mitm login kimi" in found["fix"]


@pytest.mark.parametrize("status", [429, 500])
def test_passing_faults_are_warnings(user, find, status):
    """A busy or failing service is nobody's fault here."""
    user.fake.queue(error(status), operation="usages")
    assert find(user, "service.plan")["state"] == "warning"


@pytest.mark.parametrize(("usages", "state"), [(OVERDRAWN, "problem"), (OVERDRAWN | WALLET, "warning")])
def test_a_used_up_plan(user, find, usages, state):
    """A row of the usage with nothing left is a problem, unless the booster serves."""
    user.fake.usages = usages
    found = find(user, "service.plan")
    assert found["state"] == state
    assert "kimi-mitm usage" in found["fix"]


@pytest.mark.parametrize(("ahead", "state"), [(0, "ok"), (-45, "ok"), (600, "warning"), (-600, "warning")])
def test_the_clock(user, find, ahead, state):
    """A clock that differs by more than a minute is a warning that says which way."""
    user.time.offset = ahead
    user.log_in()
    found = find(user, "service.clock")
    assert found["state"] == state
    if state == "warning":
        assert ("ahead of" if ahead > 0 else "behind") in found["message"]


def test_offline_asks_nobody(user, find):
    """With --offline no service is asked."""
    assert find(user, "service.plan", "--offline")["state"] == "skipped"
    assert not user.fake.requests


def test_without_a_login_nobody_is_asked(cli, find):
    """There is nothing to ask Kimi with."""
    assert find(cli, "service.plan")["state"] == "skipped"
    assert not cli.fake.requests


def test_a_network_that_is_down(user, find):
    """Where Kimi cannot be reached, neither login nor clock is blamed."""
    closed = "http://127.0.0.1:9"
    user.environ |= {"KIMI_CODE_BASE_URL": f"{closed}/coding/v1", "KIMI_CODE_OAUTH_HOST": closed}
    user.login_file.rename(user.data / "kimi-127.0.0.1_9.json")
    assert find(user, "service.plan")["state"] == "warning"
    assert find(user, "service.clock")["state"] == "skipped"


@pytest.mark.parametrize(
    ("trouble", "state"),
    [(LoginDead("No."), State.problem), (AuthUnavailable("No."), State.warning), (UpstreamError("No."), State.warning)],
)
def test_why_there_is_no_answer(trouble, state):
    """A dead login is a problem, a service that cannot be reached is not."""
    assert judge_plan(Word("kimi.com", error=trouble)).state is state


def test_no_time_in_the_answer():
    """An answer without a date says nothing about the clock."""
    assert judge_clock(Word("kimi.com")).state is State.skipped


async def test_a_date_that_is_none():
    """A date that nobody can read says nothing about the clock."""
    told = service._Told()
    await told.note(httpx.Response(200, headers={"date": "nonsense"}))
    assert told.skew(0.0) is None


def test_a_service_that_never_answers(user, find, monkeypatch):
    """The call is bounded as a whole, a renewal of the login included."""
    monkeypatch.setattr(service, "SECONDS", 0.0)
    found = find(user, "service.plan")
    assert found["state"] == "warning"
    assert "within 0 s" in found["message"]
