import json
import re
import threading
from pathlib import Path

import httpx
import pytest

from kimi_core.kiro import callback, portal
from kimi_core.kiro.constants import Endpoints
from tests.servers.kiro import Login

EVENTS = {"code", "page", "waiting", "slow_down", "approved", "stored", "models", "error"}
IDC = "https://example.awsapps.com/start"
OWN = "arn:aws:codewhisperer:eu-central-1:123456789012:profile/OWN1"
OTHER = "arn:aws:codewhisperer:us-east-1:123456789012:profile/OWN2"
BUILDER = Login(kind="builder")


def events(result):
    """Parse the lines of a login with --json."""
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert {event["event"] for event in found} <= EVENTS
    return found


def everybody(kiro, login):
    """Let every token so far and to come belong to such a login."""
    kiro.service.login = lambda token: login


# --- login ------------------------------------------------------------------------------------------------------------


def test_login_with_a_builder_id(kiro):
    """A code is shown and approved, the account is stored, and what it has is told."""
    everybody(kiro, Login(kind="builder", user="d-fake-user-7"))
    kiro.aws.polls.extend(["authorization_pending"])
    result = kiro("login", "kiro", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    code, *_, approved, stored, models = events(result)
    assert (code["event"], code["user_code"][:5], approved) == ("code", "FAKE-", {"event": "approved"})
    assert stored == {"event": "stored", "path": str(kiro.document), "put_aside": None}
    assert models["models"][0]["id"] == "auto"
    assert set(models["blocks"]) == {"opencode", "opencode-v2", "shell", "openai", "curl"}
    assert models["problem"] is None
    (account,) = kiro.accounts
    assert (account["auth_method"], account["user_id"]) == ("builder", "d-fake-user-7")
    assert account["usage"]["limit"] == 50.0
    assert kiro.document.stat().st_mode & 0o777 == 0o600


def test_login_for_a_person(kiro):
    """Page, code, and what to do to see the lines again."""
    everybody(kiro, BUILDER)
    text = kiro("login", "kiro").stdout
    assert "https://device.sso.us-east-1.amazonaws.com/?user_code=FAKE-" in text
    assert "Logged in." in text
    assert "kimi-mitm models kiro --block NAME" in text
    assert "claude-opus-4-6" in text


def test_login_of_an_organisation(kiro):
    """Start URL and region are the organisation's; its profile is found and names the API's region."""
    everybody(kiro, Login(kind="idc", profiles=(OWN,)))
    result = kiro("login", "kiro", "--start-url", IDC, "--region", "eu-west-1")
    assert result.exit_code == 0
    (account,) = kiro.accounts
    assert (account["auth_method"], account["start_url"], account["oidc_region"]) == ("idc", IDC, "eu-west-1")
    assert (account["profile_arn"], account["region"]) == (OWN, "eu-central-1")


def test_logging_in_again_keeps_the_account(kiro):
    """The same user has one account, with the new login; id and counters stay."""
    everybody(kiro, Login(kind="builder", user="d-fake-user-7"))
    assert kiro("login", "kiro").exit_code == 0
    (before,) = kiro.accounts
    again = kiro("login", "kiro", "--json")
    assert again.exit_code == 0
    assert json.loads(again.stdout.splitlines()[-1])["problem"] is None
    (after,) = kiro.accounts
    assert after["id"] == before["id"]
    assert after["refresh_token"] != before["refresh_token"]


def test_several_users_have_several_accounts(kiro):
    """Another user's login stands beside the first."""
    assert kiro("login", "kiro", "--json").exit_code == 0
    kiro.service.login = lambda token: Login(kind="builder", user=kiro.aws.owner(token))
    assert kiro("login", "kiro").exit_code == 0
    assert kiro("login", "kiro").exit_code == 0
    assert len({account["user_id"] for account in kiro.accounts}) == len(kiro.accounts) >= 2


def test_a_login_outlives_what_cannot_be_read(kiro):
    """Where the service tells nothing the login is stored all the same."""
    kiro.service.valid = lambda token: False
    result = kiro("login", "kiro")
    assert result.exit_code == 0
    assert "does not matter to the login" in result.stderr
    assert len(kiro.accounts) == 1


@pytest.mark.parametrize(
    ("poll", "code"), [("access_denied", "login_denied"), ("expired_token", "login_expired"), ("x", "login_failed")]
)
def test_a_login_that_fails_changes_nothing(kiro, poll, code):
    """Accounts that are there stay as they are."""
    kept = kiro.account()
    kiro.aws.polls.append(poll)
    result = kiro("login", "kiro", "--json")
    assert (result.exit_code, events(result)[-1]["error"]["code"]) == (1, code)
    assert [account["refresh_token"] for account in kiro.accounts] == [kept["refresh_token"]]


def test_a_damaged_document_is_put_aside(kiro):
    """The login makes a new one and says where the old one is."""
    kiro.data.mkdir()
    kiro.document.write_text("{")
    everybody(kiro, BUILDER)
    aside = events(kiro("login", "kiro", "--json"))[-2]["put_aside"]
    assert Path(aside).read_text() == "{"
    assert len(kiro.accounts) == 1
    kiro.document.write_text('{"accounts": 1}')
    warning = kiro("login", "kiro").stderr
    assert "damaged-" in warning
    assert aside not in warning


def test_a_login_that_fails_leaves_a_damaged_document_where_it_is(kiro):
    """Only a login that was approved takes the place of a file, be it a damaged one."""
    kiro.data.mkdir()
    kiro.document.write_text("{")
    kiro.aws.polls.append("access_denied")
    assert events(kiro("login", "kiro", "--json"))[-1]["error"]["code"] == "login_denied"
    assert kiro.document.read_text() == "{"
    assert not list(kiro.data.glob("*.damaged-*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["kimi", "--start-url", IDC],
        ["kimi", "--social", "google"],
        ["kiro", "--region", "eu-west-1"],
        ["kiro", "--paste"],
        ["kiro", "--social", "google", "--start-url", IDC],
        ["kiro", "--start-url", "http://x"],
        ["kiro", "--start-url", IDC, "--region", "mars"],
    ],
)
def test_options_that_do_not_go_together(kiro, arguments):
    """They are named, and nobody is asked."""
    result = kiro("login", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert kiro.aws.seen == []


class Browser(list):
    """A browser that opens the portal, in a thread, and goes where that sends it."""

    def append(self, url):
        super().append(url)
        if "/signin?" in url:
            threading.Thread(target=httpx.get, args=(url,), kwargs={"follow_redirects": True}, daemon=True).start()


@pytest.fixture
def free_port(monkeypatch):
    """Let the portal come back to a port that is free."""
    monkeypatch.setattr(callback, "PORTS", (0,))


def test_login_on_kiros_page(kiro, free_port):
    """Google and GitHub users log in in the browser, which comes back to this machine."""
    kiro.environ["DISPLAY"] = ":0"
    kiro.browsed = Browser()
    result = kiro("login", "kiro", "--social", "github", "--json")
    assert result.exit_code == 0
    page, approved, *_ = events(result)
    assert page["event"] == "page"
    assert (page["paste"], approved["event"], len(kiro.browsed)) == (False, "approved", 1)
    (account,) = kiro.accounts
    assert (account["auth_method"], account["profile_arn"][-12:]) == ("desktop", "EHGA3GRVQMUK")


def test_a_pasted_address(kiro, monkeypatch):
    """Where the browser is elsewhere, the address at which it ended is enough; what is pasted first may be wrong."""
    attempt = portal.begin(Endpoints.from_env(kiro.environ), callback.PORTS[0])
    ended_at = httpx.get(attempt.url).headers["location"]
    kiro.input = f"what?\n\n{ended_at}\n"
    monkeypatch.setattr("kimi_core.cli.kiro_login.portal.begin", lambda endpoints, port: attempt)
    result = kiro("login", "kiro", "--social", "google", "--paste")
    assert (result.exit_code, "Paste its whole address" in result.stdout) == (0, True)
    assert len(kiro.accounts) == 1


@pytest.mark.parametrize("pasted", ["", "a\nb\nc\nd\n"])
def test_nothing_useful_pasted(kiro, pasted):
    """The login ends; it does not ask for ever."""
    kiro.input = pasted
    result = kiro("login", "kiro", "--social", "google", "--paste")
    assert (result.exit_code, "No address" in result.stderr) == (1, True)


def test_a_page_on_a_machine_without_a_screen(kiro, free_port, monkeypatch):
    """Nothing is opened; the address is shown, and who does not come in time is told so."""
    monkeypatch.setattr(callback.Listener.wait, "__kwdefaults__", {"seconds": 0.01})
    result = kiro("login", "kiro", "--social", "google")
    assert (result.exit_code, "in a browser on this machine" in result.stdout, kiro.browsed) == (1, True, [])
    assert "in time" in result.stderr


def test_the_portal_leads_to_aws(kiro, free_port):
    """Who chooses AWS on Kiro's page goes on with a code."""
    everybody(kiro, BUILDER)
    kiro.aws.portal = {"login_option": "awsidc", "issuer_url": IDC, "idc_region": "us-east-1"}
    kiro.aws.portal_code = False
    kiro.environ["DISPLAY"] = ":0"
    kiro.browsed = Browser()
    told = [event["event"] for event in events(kiro("login", "kiro", "--social", "google", "--json"))]
    assert told[:2] == ["page", "code"]
    assert kiro.accounts[0]["auth_method"] == "idc"


# --- logout -----------------------------------------------------------------------------------------------------------


def test_logout_of_the_only_account(kiro):
    """It goes from this machine, and nothing is sent."""
    account = kiro.account(email="a@b.example")
    result = kiro("logout", "kiro")
    assert (result.exit_code, "a@b.example is removed" in result.stdout) == (0, True)
    assert (kiro.accounts, kiro.aws.seen) == ([], [])
    assert kiro.aws.alive(account["refresh_token"])
    assert kiro.json("logout", "kiro") == {"removed": None}


def test_logout_of_one_of_several(kiro):
    """Which one must be said."""
    kiro.account(email="a@b.example")
    kiro.account(email="c@d.example")
    result = kiro("logout", "kiro")
    assert (result.exit_code, "--account" in result.stderr, len(kiro.accounts)) == (2, True, 2)
    assert kiro.json("logout", "kiro", "--account", "c@d.example")["removed"]
    assert [account["email"] for account in kiro.accounts] == ["a@b.example"]
    assert kiro("logout", "kimi", "--account", "x").exit_code == 2


# --- status -----------------------------------------------------------------------------------------------------------


def test_status_without_any_account(kiro):
    """Who does not use Kiro reads one line, and the exit code is Kimi's."""
    result = kiro("status")
    assert (result.exit_code, "kimi-mitm login kiro" in result.stdout) == (3, True)
    kiro.log_in()
    assert kiro("status").exit_code == 0
    assert kiro.json("status")["kiro"]["accounts"] == []


def test_status_with_kiro_alone(kiro):
    """Who uses Kiro alone is not told that Kimi is missing by the exit code."""
    kiro.account(email="a@b.example")
    result = kiro("status")
    assert result.exit_code == 0
    assert "1 of 1 accounts can serve" in result.stdout
    kiro.account(state="needs_login")
    assert kiro("status").exit_code == 0


def test_status_where_no_account_serves(kiro):
    """All logged out is exit 3."""
    kiro.account(state="needs_login")
    assert kiro("status").exit_code == 3


def test_status_of_a_damaged_document(kiro):
    """The file is named and stays as it is."""
    kiro.data.mkdir()
    kiro.document.write_text("{")
    result = kiro("status")
    assert (result.exit_code, str(kiro.document) in result.stdout) == (3, True)
    assert kiro.document.read_text() == "{"
    assert "damaged" in kiro.json("status")["kiro"]["problem"]


# --- usage ------------------------------------------------------------------------------------------------------------


def test_usage_of_every_account(kiro):
    """Credits, plan and reset of each; e-mail addresses are learnt on the way."""
    kiro.account()
    kiro.account()
    found = kiro.json("usage", "kiro")["accounts"]
    assert [(one["usage"]["used"], one["usage"]["plan"], one["problem"]) for one in found] == [
        (12.4, "KIRO FREE", None)
    ] * 2
    assert all(one["name"].endswith("@example.test") for one in found)
    assert re.search(r"KIRO FREE: 37.6 of 50 left", kiro("usage", "kiro").stdout)


def test_usage_is_not_asked_for_again_at_once(kiro):
    """Within half a minute the answer is the same one."""
    kiro.account()
    kiro("usage", "kiro")
    kiro("usage", "kiro")
    assert len(kiro.service.of("usage")) == 1
    kiro.time.offset += 31
    kiro("usage", "kiro")
    assert len(kiro.service.of("usage")) == 2


def test_usage_that_cannot_be_had(kiro):
    """What was known is shown with what went wrong; exit 1 where nobody could be asked."""
    kiro.account(email="a@b.example")
    kiro("usage", "kiro")
    kiro.time.offset += 120
    kiro.service.valid = lambda token: False
    result = kiro("usage", "kiro")
    assert result.exit_code == 1
    assert re.search(r"37.6 of 50 left.*\(2m( \d+s)? ago\)", result.stdout)
    assert "d-fake-user-1@example.test: " in result.stdout


def test_usage_of_an_account_that_is_switched_off(kiro):
    """It is not asked for; what is not known is told as that."""
    kiro.account(enabled=False)
    result = kiro("usage", "kiro")
    assert (result.exit_code, "not known" in result.stdout, kiro.service.requests) == (0, True, [])


@pytest.mark.parametrize("command", ["usage", "models"])
def test_without_an_account_nothing_is_asked(kiro, command):
    """Exit 3, and the command to run."""
    result = kiro(command, "kiro")
    assert (result.exit_code, "kimi-mitm login kiro" in result.stderr) == (3, True)
    assert kiro.service.requests == []


# --- models and blocks ------------------------------------------------------------------------------------------------


def test_models_of_all_accounts(kiro):
    """The union of what the accounts have, in OpenAI's shape."""
    kiro.account(email="a@b.example")
    found = kiro.json("models", "kiro")
    assert found["accounts"] == ["a@b.example"]
    assert "claude-opus-4.6" in [model["id"] for model in found["models"]]


def test_models_for_a_person(kiro):
    """A table with what one needs to choose."""
    kiro.account(email="a@b.example")
    text = kiro("models", "kiro").stdout
    rows = [re.split(r"  +", line.strip()) for line in text.splitlines()]
    assert rows[0] == ["id", "name", "context", "output", "inputs", "efforts", "rate"]
    assert ["glm-5", "Glm 5", "200k", "64k", "text", "—", "1"] in rows
    assert ["claude-opus-4.6", "Claude Opus 4.6", "1M", "64k", "text image", "off low medium high max", "1"] in rows
    assert "Of a@b.example." in text


def test_models_that_cannot_be_read(kiro):
    """The fixed list stands in, with its date."""
    kiro.account()
    kiro.service.valid = lambda token: False
    result = kiro("models", "kiro")
    assert (result.exit_code, "the list of 2026-05-24" in result.stdout) == (1, True)
    assert "Warning: unknown" in result.stderr


def test_the_opencode_block(kiro):
    """Provider, models with limits, modalities and variants, and an agent that uses one."""
    kiro.account()
    result = kiro("models", "kiro", "--block", "opencode")
    content = json.loads(result.stdout)
    provider = content["provider"]["kiro"]
    assert provider["options"] == {"baseURL": "http://127.0.0.1:8080/kiro/v1", "apiKey": "kimi-mitm"}
    assert content["agent"]["kiro"]["model"] == "kiro/claude-opus-4-6"
    opus = provider["models"]["claude-opus-4-6"]
    assert opus["limit"] == {"context": 1000000, "output": 64000}
    assert opus["modalities"] == {"input": ["text", "image"], "output": ["text"]}
    assert list(opus["variants"]) == ["off", "low", "medium", "high", "max"]
    assert "/v1 in place of" in result.stderr
    assert kiro.service.of("models")


def test_blocks_without_an_account(kiro):
    """Lines for clients can be had at any time, with the fixed list."""
    result = kiro("models", "kiro", "--block", "shell")
    assert (result.exit_code, "HTTPS_PROXY" in result.stdout) == (0, True)
    assert "no Kiro account yet" in result.stderr


def test_blocks_where_models_cannot_be_read(kiro):
    """What was known, or the fixed list, serves."""
    kiro.account()
    kiro.service.valid = lambda token: False
    result = kiro("models", "kiro", "--block", "openai")
    assert (result.exit_code, "could not be read now" in result.stderr) == (0, True)
    assert "OPENAI_BASE_URL=http://127.0.0.1:8080/kiro/v1" in result.stdout


def test_blocks_that_kiro_does_not_have(kiro):
    """It speaks no Anthropic dialect."""
    assert kiro("models", "kiro", "--block", "anthropic").exit_code == 2


def test_the_identity_is_an_option_of_kiros_own(kiro):
    """--identity means Kiro's where the command is about Kiro."""
    kiro.account()
    assert kiro("usage", "kiro", "--identity", "ide").exit_code == 0
    assert kiro.service.of("usage")[0].header("user-agent").startswith("aws-sdk-js/")
    assert kiro("usage", "kiro", "--identity", "kimi-cli").exit_code == 2
    assert kiro("usage", "kiro", "--region", "cn").exit_code == 2
