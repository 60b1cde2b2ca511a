import json
import re
import sqlite3
from datetime import UTC, datetime

import pytest

from kimi_core.cli.accounts import STRATEGIES
from tests.servers.kiro import Login

OTHER = "arn:aws:codewhisperer:us-east-1:123456789012:profile/OWN2"
OWN = "arn:aws:codewhisperer:eu-central-1:123456789012:profile/OWN1"


def plain(result):
    """Return what was printed, on one line."""
    return " ".join(result.stdout.split())


# --- list -------------------------------------------------------------------------------------------------------------


def test_list_without_accounts(kiro):
    """What to do is said, exit 3, and no file is made."""
    result = kiro("accounts", "list")
    assert (result.exit_code, "kimi-mitm login kiro" in result.stdout, kiro.data.exists()) == (3, True, False)
    assert kiro.json("accounts", "list")["accounts"] == []


def test_list_says_what_is_wrong_and_what_to_do(kiro):
    """Per account: who, how it is, the error by the names that other tools have, and the next command."""
    now = int(kiro.time.now() * 1000)
    kiro.account(email="a@b.example", request_count=7, last_used=now - 60_000)
    kiro.account(
        label="kiro-desktop-us-east-1", profile_arn=OWN, state="needs_login", is_healthy=False,
        last_error="token_refresh_failed",
    )  # fmt: skip
    kiro.account(
        email="c@d.example", cooldown_until=now + 90_500, last_error="rate_limited", consecutive_failures=2,
        is_healthy=False, usage={"used": 12.4, "limit": 50, "plan": "KIRO FREE", "resets_at": now + 7_300_000},
    )  # fmt: skip
    result = kiro("accounts", "list")
    text = plain(result)
    assert result.exit_code == 0
    assert "a@b.example serves requests (active)" in text
    assert re.search(r"requests 7, the last one 1m( 0s)? ago", text)
    assert "unknown (…OWN1) is logged out" in text
    assert "problem last_error=token_refresh_failed" in text
    assert "next kimi-mitm login kiro --social google (or github)" in text
    assert re.search(r"c@d.example pauses after a fault and comes back by itself \(in 1m 3\ds\)", text)
    assert "last_error=rate_limited, 2 times in a row" in text
    assert re.search(r"KIRO FREE: 37.6 of 50 left, begins anew in 2h 1m", text)
    assert "strategy hybrid" in text
    found = kiro.json("accounts", "list")["accounts"]
    assert [(one["state"], one["is_healthy"]) for one in found] == [
        ("ready", True),
        ("needs_login", False),
        ("cooling", False),
    ]
    assert kiro.service.requests == kiro.aws.seen == []


def test_list_of_a_damaged_document(kiro):
    """The file is named, exit 1."""
    kiro.data.mkdir()
    kiro.document.write_text("[]")
    result = kiro("accounts", "list")
    assert (result.exit_code, str(kiro.document) in result.stderr) == (1, True)


# --- use, enable, disable, remove -------------------------------------------------------------------------------------


def test_use(kiro):
    """The account that is named becomes the active one."""
    kiro.account()
    second = kiro.account(email="c@d.example")
    for word in (second["id"], second["id"][:8], "c@d.example", second["label"]):
        assert kiro.json("accounts", "use", word)["active"]
    assert json.loads(kiro.document.read_text())["active_account_id"] == second["id"]


def test_disable_and_enable(kiro):
    """An account rests until it is enabled; its login stays."""
    account = kiro.account(email="a@b.example")
    result = kiro("accounts", "disable", "a@b.example")
    assert (result.exit_code, "is switched off" in result.stdout) == (0, True)
    assert f"kimi-mitm accounts enable {account['id'][:8]}" in plain(result)
    assert kiro.json("accounts", "enable", "a@b.example")["state"] == "ready"
    assert kiro.accounts[0]["refresh_token"] == account["refresh_token"]


def test_enable_forgives(kiro):
    """What Kiro had locked serves again once the user says so; pauses and faults are forgotten."""
    until = int(kiro.time.now() * 1000) + 1_000_000
    kiro.account(
        email="a@b.example", state="suspended", is_healthy=False, last_error="TEMPORARILY_SUSPENDED",
        cooldown_until=until, consecutive_failures=3,
    )  # fmt: skip
    assert "is locked by Kiro" in plain(kiro("accounts", "list"))
    found = kiro.json("accounts", "enable", "a@b.example")
    assert (found["state"], found["is_healthy"], found["last_error"]) == ("ready", True, None)


def test_enable_does_not_log_in(kiro):
    """A login that is dead stays so, and says what to do."""
    kiro.account(email="a@b.example", state="needs_login", enabled=False)
    found = kiro.json("accounts", "enable", "a@b.example")
    assert (found["state"], found["next"]) == ("needs_login", "kimi-mitm login kiro --social google (or github)")


def test_remove(kiro):
    """The account goes from this machine, with its models; the next one becomes active."""
    first, second = kiro.account(), kiro.account()
    kiro("models", "kiro")
    models = kiro.data / "kiro-models.json"
    assert set(json.loads(models.read_text())["accounts"]) == {first["id"], second["id"]}
    assert kiro.json("accounts", "remove", first["id"])["removed"]
    assert [account["id"] for account in kiro.accounts] == [second["id"]]
    assert json.loads(kiro.document.read_text())["active_account_id"] == second["id"]
    assert set(json.loads(models.read_text())["accounts"]) == {second["id"]}


@pytest.mark.parametrize("command", ["use", "enable", "disable", "remove", "refresh"])
@pytest.mark.parametrize(("word", "says"), [("nobody", "is no Kiro account"), ("0", "means several accounts")])
def test_a_word_that_means_no_account(kiro, command, word, says):
    """It is named with those that there are, exit 2, and nothing changes."""
    kiro.account(email="a@b.example")
    kiro.account()
    before = kiro.document.read_bytes()
    result = kiro("accounts", command, word)
    assert (result.exit_code, says in result.stderr, "a@b.example" in result.stderr) == (2, True, True)
    assert kiro.document.read_bytes() == before


@pytest.mark.parametrize("command", ["use", "enable", "disable", "refresh"])
def test_an_account_of_a_newer_version_is_listed_and_left_alone(kiro, command):
    """The list says why it serves nothing and what to do; commands that would change it name it, and change nothing."""
    kiro.account(email="a@b.example")
    newer = kiro.account(email="c@d.example", state="resting", auth_method="passkey", their_key={"deep": None})
    shown = plain(kiro("accounts", "list"))
    assert "c@d.example was made by a newer version: unknown auth_method, state" in shown
    assert "next install the newest version of kimi-mitm" in shown
    other, found = kiro.json("accounts", "list")["accounts"]
    assert (other["state"], other["unknown"]) == ("ready", [])
    assert (found["state"], found["auth_method"], found["unknown"]) == ("newer", None, ["auth_method", "state"])
    before = kiro.document.read_bytes()
    result = kiro("accounts", command, "c@d.example")
    assert (result.exit_code, "was made by a newer version" in result.stderr) == (3, True)
    assert kiro.document.read_bytes() == before
    assert kiro("accounts", "disable", "a@b.example").exit_code == 0
    assert kiro.accounts[1] == newer
    assert kiro.json("accounts", "remove", "c@d.example")["removed"]


def test_words_without_any_account(kiro):
    """With no account there is none to name."""
    result = kiro("accounts", "use", "x")
    assert (result.exit_code, "there are: none" in result.stderr) == (2, True)


# --- strategy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategy(kiro, name):
    """It is kept in the document, and shown without a name."""
    assert kiro.json("accounts", "strategy") == {"strategy": "hybrid", "in_use": "hybrid"}
    assert kiro.json("accounts", "strategy", name) == {"strategy": name, "in_use": name}
    assert name in kiro("accounts", "strategy").stdout
    assert kiro.json("accounts", "strategy")["strategy"] == name


def test_the_option_overrides_the_strategy(kiro):
    """Who has set the option is told that it counts more."""
    kiro.configure("kiro_strategy: sticky\n")
    result = kiro("accounts", "strategy", "round-robin")
    assert (result.exit_code, "kiro_strategy says sticky" in result.stderr) == (0, True)
    assert "strategy sticky" in result.stdout
    assert kiro("accounts", "strategy", "fastest").exit_code == 2


# --- refresh ----------------------------------------------------------------------------------------------------------


def test_refresh_renews_and_learns(kiro):
    """Tokens, credits, models and who it is, of every account that is switched on."""
    old = kiro.account()
    kiro.account(enabled=False)
    found = kiro.json("accounts", "refresh")["accounts"]
    assert [(one["id"], one["refresh"], one["usage"]["plan"]) for one in found] == [(old["id"], None, "KIRO FREE")]
    assert kiro.accounts[0]["access_token"] != old["access_token"]
    assert kiro.accounts[0]["email"].endswith("@example.test")
    assert kiro.aws.refreshes == 1


def test_refresh_of_a_dead_login(kiro):
    """Exit 3, and what to do; other accounts are refreshed all the same."""
    kiro.account(email="a@b.example")
    kiro.aws.revoke()
    kiro.account(email="c@d.example")
    result = kiro("accounts", "refresh")
    assert result.exit_code == 3
    assert "a@b.example: " in result.stdout
    assert "kimi-mitm login kiro" in result.stdout
    assert "d-fake-user-2@example.test serves requests" in plain(result)
    assert kiro.json("accounts", "refresh", "a@b.example")["accounts"][0]["refresh"]["code"] == "login_dead"


def test_refresh_without_accounts(kiro):
    """Nothing to refresh is exit 3."""
    assert kiro("accounts", "refresh").exit_code == 3


def test_refresh_that_learns_nothing(kiro):
    """A service that cannot be asked is a failure, not a dead login."""
    kiro.account(email="a@b.example")
    kiro.service.valid = lambda token: False
    assert kiro("accounts", "refresh").exit_code in {1, 3}


def test_the_profile_of_an_organisation(kiro):
    """With several profiles the user chooses; the region follows."""
    kiro.service.login = lambda token: Login(kind="idc", profiles=(OWN,))
    client = kiro.aws.register()
    family = kiro.aws.login("oidc", client=client["clientId"])
    kiro.account(
        email="a@b.example", auth_method="idc", start_url="https://example.awsapps.com/start", oidc_region="us-east-1",
        client_id=client["clientId"], client_secret=client["clientSecret"],
        access_token=family["accessToken"], refresh_token=family["refreshToken"],
    )  # fmt: skip
    assert "its organisation's profile is not known" in plain(kiro("accounts", "list"))
    found = kiro.json("accounts", "refresh", "a@b.example", "--profile", OWN)["accounts"][0]
    assert (found["profile_arn"], found["region"], found["state"]) == (OWN, "eu-central-1", "ready")
    assert found["profiles"] == [{"arn": OWN, "name": "fake-OWN1"}]
    kiro.service.login = lambda token: Login(kind="idc", profiles=(OWN, OTHER))
    assert f"{OWN} fake-OWN1 {OTHER} fake-OWN2" in plain(kiro("accounts", "refresh", found["id"]))
    assert kiro("accounts", "refresh", "--profile", OWN).exit_code == 2
    assert kiro("accounts", "refresh", found["id"], "--profile", "x").exit_code == 2


# --- sync -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def kiro_cli_store(kiro):
    """A store of kiro-cli with a social login that is good, and the place where it is looked for."""
    path = kiro.folder / "kiro-cli.sqlite3"
    answer = kiro.aws.login("desktop", user="d-fake-user-9")
    expires = datetime.fromtimestamp(kiro.time.now() + 3600, UTC).isoformat().replace("+00:00", "Z")
    token = {
        "access_token": answer["accessToken"],
        "refresh_token": answer["refreshToken"],
        "expires_at": expires,
        "profile_arn": answer["profileArn"],
        "provider": "google",
    }
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE auth_kv (key TEXT PRIMARY KEY, value TEXT)")
        connection.execute("INSERT INTO auth_kv VALUES (?, ?)", ("kirocli:social:token", json.dumps(token)))
    connection.close()
    kiro.environ["KIROCLI_DB_PATH"] = str(path)
    return answer


def test_sync_from_kiro_cli(kiro, kiro_cli_store):
    """The login is forked once, whose it is is known, and a second time nothing is spent."""
    result = kiro("accounts", "sync")
    assert (result.exit_code, "kiro-cli" in result.stdout, "taken over" in result.stdout) == (0, True, True)
    (account,) = kiro.accounts
    assert account["email"] == "d-fake-user-9@example.test"
    assert account["refresh_token"] != kiro_cli_store["refreshToken"]
    spent = kiro.aws.refreshes
    assert kiro.json("accounts", "sync", "--from", "kiro-cli")["lines"][0]["outcome"] == "known"
    assert (kiro.aws.refreshes, len(kiro.accounts)) == (spent, 1)


def test_sync_shared(kiro, kiro_cli_store):
    """With --shared nothing is spent, and no token is kept here."""
    lines = kiro.json("accounts", "sync", "--shared")["lines"]
    assert [line["outcome"] for line in lines] == ["shared"]
    assert kiro.aws.refreshes == 0
    assert kiro_cli_store["refreshToken"] not in kiro.document.read_text()
    assert kiro.json("accounts", "list")["accounts"][0]["shared_with"] == "kiro-cli"
    assert "read from kiro-cli" in plain(kiro("accounts", "list"))


def test_sync_of_an_api_key(kiro):
    """KIRO_API_KEY is an account of its own, read from the environment each time."""
    kiro.environ["KIRO_API_KEY"] = "ksk_fake"
    result = kiro("accounts", "sync")
    assert result.exit_code == 0
    assert "ksk_fake" not in kiro.document.read_text()
    assert kiro.accounts[0]["auth_method"] == "api_key"
    assert result.stderr == ""
    assert kiro("models", "kiro").exit_code == kiro("usage", "kiro").exit_code == 0


def test_sync_where_there_is_nothing(kiro):
    """Nothing found is exit 1, with what else to do."""
    result = kiro("accounts", "sync")
    assert (result.exit_code, "No login of another program" in result.stdout) == (1, True)


def test_sync_from_elsewhere_leaves_a_store_alone(kiro, kiro_cli_store):
    """--from looks only there."""
    assert kiro("accounts", "sync", "--from", "kiro-ide", "--from", "environment").exit_code == 1
    assert kiro("accounts", "sync", "--from", "mars").exit_code == 2
    assert not kiro.document.exists()


def test_sync_of_a_login_that_tells_nothing(kiro, kiro_cli_store):
    """A service that cannot be asked is a warning; the account is there."""
    kiro.service.valid = lambda token: False
    result = kiro("accounts", "sync")
    assert (result.exit_code, "could not be read now" in result.stderr, len(kiro.accounts)) == (0, True, 1)


# --- help -------------------------------------------------------------------------------------------------------------


def test_help_lists_every_command_in_one_line(kiro):
    """Each command says in a few words what it does, and none is cut short."""
    text = kiro("accounts", "--help").stdout
    lines = text.partition("Commands:\n")[2].splitlines()
    assert len(lines) == 8
    assert not [line for line in lines if line.endswith("...")]


def test_help_of_the_strategies(kiro):
    """Each strategy stands on a line of its own."""
    lines = kiro("accounts", "strategy", "--help").stdout.splitlines()
    assert [name for line in lines for name in STRATEGIES if line.startswith(f"  {name} ")] == [
        "sticky",
        "round-robin",
        "hybrid",
    ]
    assert not [line for line in lines if "--region" in line]


def test_a_strategy_of_a_newer_version(kiro):
    """The default is in use, a warning says why, and the stored one stays until another one is chosen."""
    kiro.account()
    stored = json.loads(kiro.document.read_text())
    kiro.document.write_text(json.dumps({**stored, "strategy": "by-weather"}))
    result = kiro("accounts", "strategy")
    assert "Accounts are chosen by the strategy hybrid." in result.stdout
    assert "was made by a newer version" in result.stderr
    kiro("accounts", "disable", stored["accounts"][0]["id"])
    assert json.loads(kiro.document.read_text())["strategy"] == "by-weather"
    assert kiro.json("accounts", "strategy", "hybrid") == {"strategy": "hybrid", "in_use": "hybrid"}
    assert json.loads(kiro.document.read_text())["strategy"] == "hybrid"
