import pytest

from kimi_core.kiro.accounts import Account
from kimi_core.kiro.condition import CONDITIONS, SERVING, State, condition, handle, name
from kimi_core.tokens import digest

NOW = 1_785_000_000.0
MS = int(NOW * 1000)
START = "https://example.awsapps.com/start"
GOOD = {"access_token": "fake-access-1", "refresh_token": "fake-refresh-1", "expires_at": MS + 3_600_000}
IDC = {"auth_method": "idc", "start_url": START}
USED_UP = {"quota_state": "exhausted", "last_error": "MONTHLY_REQUEST_COUNT"}
HELD = {"rejected_refresh": digest("fake-refresh-1")}


def account(**fields):
    """Return an account that is well but for *fields*."""
    return Account(**{"id": "12345678-9abc", **GOOD} | fields)


@pytest.mark.parametrize(
    ("fields", "state", "advice"),
    [
        ({}, State.ready, None),
        ({"expires_at": 0}, State.ready, None),
        ({"is_healthy": False, "consecutive_failures": 1}, State.probing, None),
        ({"cooldown_until": MS + 1500}, State.cooling, None),
        (USED_UP | {"cooldown_until": MS + 1500}, State.quota, None),
        ({"quota_state": "exhausted"}, State.used_up, "kimi-mitm usage kiro"),
        (IDC, State.no_profile, "kimi-mitm accounts refresh 12345678"),
        (HELD, State.ending, "kimi-mitm login kiro --social google (or github)"),
        (HELD | {"expires_at": MS - 1}, State.needs_login, "kimi-mitm login kiro --social google (or github)"),
        ({"state": "needs_login"}, State.needs_login, "kimi-mitm login kiro --social google (or github)"),
        ({"state": "suspended"}, State.suspended, "ask Kiro's support, then: kimi-mitm accounts enable 12345678"),
        ({"enabled": False, "state": "suspended"}, State.disabled, "kimi-mitm accounts enable 12345678"),
    ],
)  # fmt: skip
def test_what_is_wrong_and_what_to_do(fields, state, advice):
    """Each state has its meaning, and a next step where there is one to take."""
    found = condition(account(**fields), NOW)
    assert (found.state, found.next) == (state, advice)
    assert (found.meaning, found.colour) == (CONDITIONS[state].meaning, CONDITIONS[state].colour)
    assert found.seconds == (2 if state in {State.cooling, State.quota} else None)


def test_every_state_is_in_the_table():
    """Nothing is without words, and what serves needs no login."""
    assert set(CONDITIONS) == set(State)
    assert not SERVING & {State.needs_login, State.suspended, State.disabled}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"auth_method": "builder"}, "kimi-mitm login kiro"),
        (IDC | {"oidc_region": "eu-west-1"}, f"--start-url {START} --region eu-west-1"),
        (IDC | {"region": "eu-central-1"}, f"{START} --region eu-central-1"),
        ({"auth_method": "idc"}, "kimi-mitm login kiro"),
        ({"auth_method": "external_idp"}, "kiro-cli, then: kimi-mitm accounts sync"),
        ({"auth_method": "api_key"}, "KIRO_API_KEY"),
        ({"auth_method": "api_key", "source": {"kind": "environment", "path": "K"}}, "put a key that is good"),
        ({"source": {"kind": "kiro-cli", "path": "/x"}}, "in the program that it is read from"),
    ],
)  # fmt: skip
def test_how_to_log_in_again(fields, says):
    """The way back is the way that the account came by."""
    assert says in condition(account(state="needs_login", **fields), NOW).next


@pytest.mark.parametrize(
    ("fields", "known_as"),
    [
        ({"email": "a@b.example", "label": "work"}, "a@b.example"),
        ({"label": "work"}, "work"),
        ({"label": "kiro-desktop-us-east-1", "profile_arn": "arn:aws:x:EHGA3GRVQMUK"}, "unknown (…QMUK)"),
        ({"label": "kiro-builder-12345678"}, "unknown (…9abc)"),
        ({}, "unknown (…9abc)"),
    ],
)
def test_names(fields, known_as):
    """An e-mail or a label that says something; a made-up label says nothing and is not shown."""
    assert name(account(**fields)) == known_as
    assert handle(account(**fields)) == "12345678"
