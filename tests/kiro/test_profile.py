import pytest

from kimi_core.kiro import profile
from kimi_core.kiro.accounts import Account
from kimi_core.kiro.constants import BUILDER_PROFILE, SOCIAL_PROFILE, Endpoints

OWN = "arn:aws:codewhisperer:eu-central-1:123456789012:profile/FAKE"
START = "https://view.awsapps.com/start"


def _account(method, arn=None, **fields):
    return Account(id="a", auth_method=method, profile_arn=arn, **fields)


@pytest.mark.parametrize(
    ("account", "runtime", "q"),
    [
        (_account("desktop"), SOCIAL_PROFILE, SOCIAL_PROFILE),
        (_account("desktop", OWN), OWN, OWN),
        (_account("builder"), BUILDER_PROFILE, None),
        (_account("builder", OWN), BUILDER_PROFILE, None),
        (_account("idc", start_url=START), BUILDER_PROFILE, None),
        (_account("idc", OWN, start_url=START + "/"), BUILDER_PROFILE, None),
        (_account("idc", OWN, start_url="https://fake.awsapps.com/start"), OWN, OWN),
        (_account("idc"), None, None),
        (_account("api_key", OWN), None, None),
        (_account("external_idp", OWN), OWN, OWN),
        (_account("external_idp"), None, None),
    ],
)
def test_matrix(account, runtime, q):
    """Kind of login and host say which profile a request names."""
    assert profile.at(account, "runtime").profile_arn == runtime
    assert profile.at(account, "q").profile_arn == q


@pytest.mark.parametrize(
    ("account", "runtime", "q"),
    [
        (_account("idc", OWN, region="us-east-1"), "eu-central-1", "eu-central-1"),
        (_account("idc", region="eu-west-1"), "eu-central-1", "eu-central-1"),
        (_account("idc", "no-arn", region="eu-west-1"), "eu-central-1", "eu-central-1"),
        (_account("builder", region="eu-west-1"), "us-east-1", "eu-central-1"),
        (_account("desktop", region="eu-west-1"), "us-east-1", "us-east-1"),
        (_account("api_key", region="ap-south-1"), "us-east-1", "us-east-1"),
    ],
)
def test_regions(account, runtime, q):
    """The region of the API is the profile's, and only without one the account's own."""
    assert profile.at(account, "runtime").region == runtime
    assert profile.at(account, "q").region == q


def test_origins():
    """A place has its origin, which the environment may replace."""
    account = _account("idc", OWN)
    assert profile.at(account, "runtime").origin(Endpoints()) == "https://runtime.eu-central-1.kiro.dev"
    assert profile.at(account, "q").origin(Endpoints()) == "https://q.eu-central-1.amazonaws.com"
    here = Endpoints.from_env({"KIRO_RUNTIME_URL": "http://127.0.0.1:9"})
    assert profile.at(account, "runtime").origin(here) == "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("winner", "host"), [(None, "runtime"), ("runtime", "runtime"), ("q", "q"), ("something new", "runtime")]
)
def test_the_winner_is_tried_first(winner, host):
    """The place that served last is the first one; the current host where none is known."""
    account = _account("builder", host_winner=winner)
    place = profile.first(account)
    assert place.host == host
    assert {place.host, profile.other(account, place).host} == {"runtime", "q"}
    assert profile.other(account, profile.other(account, place)) == place


def test_healing():
    """A refusal leads to the other column once, and what serves there is remembered over a restart."""
    account = _account("builder")
    place = profile.other(account, profile.first(account))
    assert (place.host, place.profile_arn) == ("q", None)
    healed = profile.remembered(account, place)
    assert profile.first(Account.model_validate(healed.to_json())) == place
    assert profile.remembered(healed, place) is healed


@pytest.mark.parametrize(
    ("account", "needs"),
    [
        (_account("idc"), True),
        (_account("idc", OWN), False),
        (_account("idc", start_url=START), False),
        (_account("builder"), False),
        (_account("desktop"), False),
        (_account("api_key"), False),
        (_account("external_idp"), False),
    ],
)
def test_discovery(account, needs):
    """Only a company's login without a profile has to ask for one."""
    assert profile.needs_discovery(account) is needs


def test_the_table_is_whole():
    """Every kind of login has its row, and every row both hosts."""
    assert {profile.login(_account(method)) for method in profile._LOGINS} == set(profile.MATRIX)
    assert all(set(row) == set(profile.HOSTS) for row in profile.MATRIX.values())
