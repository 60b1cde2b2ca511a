from pathlib import Path

import pytest

from kimi_core.blocks.place import Place
from kimi_core.kimi.models import Catalog as KimiCatalog
from kimi_core.kimi.session import SessionStatus
from kimi_core.kimi.usage import Booster, Row
from kimi_core.kimi.usage import Usage as KimiUsage
from kimi_core.kiro.accounts import Account, Accounts
from kimi_core.kiro.catalog import Catalog as KiroCatalog
from kimi_core.kiro.catalog import ModelInfo
from kimi_core.kiro.condition import CONDITIONS, State
from kimi_core.kiro.records import Source, UsageRecord
from kimi_core.kiro.sources import NAMES
from kimi_core.page import kimi, kiro
from kimi_core.page.state import Level, Meter, Token
from kimi_core.tokens import digest

NOW = 1_785_542_400.0
KIMI_PLACE = Place("http://127.0.0.1:8080", "https://api.kimi.com/coding/v1", Path("ca.pem"), local=True)
KIRO_PLACE = Place("http://127.0.0.1:8080", "https://runtime.us-east-1.kiro.dev/v1", Path("ca.pem"), provider="kiro")
KIRO_MODELS = KiroCatalog((ModelInfo("auto"),))


def status(state="ok", slot="kimi.com", **fields):
    """Return what is known of a stored login."""
    return SessionStatus(slot, Path("login.json"), state, **fields)


def of_kimi(*statuses, usage=None):
    """Return Kimi's part of the page."""
    return kimi.provider(statuses, usage, KimiCatalog(), KIMI_PLACE)


def of_kiro(*accounts, active=None, strategy="hybrid"):
    """Return Kiro's part of the page."""
    stored = Accounts(accounts=list(accounts), active_account_id=active)
    return kiro.provider(stored, NOW, strategy, KIRO_MODELS, KIRO_PLACE)


def ms(seconds):
    """Return the moment *seconds* after NOW as the document has it."""
    return int((NOW + seconds) * 1000)


# --- Kimi -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "level", "advice"),
    [
        ("ok", Level.good, None),
        ("expired", Level.good, None),
        ("dead", Level.bad, "kimi-mitm login kimi"),
        ("damaged", Level.bad, "kimi-mitm login kimi"),
    ],
)
def test_states_of_a_kimi_login(state, level, advice):
    """A login that serves asks for nothing; one that does not names the command that mends it."""
    (login,) = of_kimi(status(state, expires_at=NOW + 60, issued_at=NOW - 840, problem="It is broken.")).logins
    assert (login.level, login.next, login.name, login.in_use) == (level, advice, "kimi.com", True)
    assert login.token == Token(NOW - 840, NOW + 60, renews=advice is None)
    assert login.problem == ("It is broken." if state == "damaged" else None)


def test_nobody_is_logged_in_to_kimi():
    """The command to run names the region that is in use."""
    assert of_kimi(status("none"), status("none", "kimi.ai")).hints == ("kimi-mitm login kimi",)
    found = of_kimi(status("none", "kimi.ai"), status("none"))
    assert found.hints == ("kimi-mitm login kimi --region global",)
    assert found.logins == ()


def test_other_regions_are_shown_where_there_is_something_to_show():
    """The region in use stands first, also where only another one is logged in."""
    assert [login.name for login in of_kimi(status(), status("none", "kimi.ai")).logins] == ["kimi.com"]
    first, second = of_kimi(status("none"), status("ok", "kimi.ai")).logins
    assert (first.name, first.in_use, first.token) == ("kimi.com", True, None)
    assert (second.name, second.in_use) == ("kimi.ai", False)


def test_what_is_left_of_kimis_plan():
    """Each limit is a meter; the wallet and the number of requests at a time are sentences."""
    usage = KimiUsage(
        (Row("Weekly limit", 40, 100, NOW + 60), Row("5h limit", 100, 100)),
        Booster(950, 2000, "USD", 5000, 120),
        20,
        NOW,
    )
    (login,) = of_kimi(status(), usage=usage).logins
    assert login.usage.meters == (
        Meter("Weekly limit", 0.6, "60% left", NOW + 60), Meter("5h limit", 0.0, "0% left", None)
    )  # fmt: skip
    assert login.usage.asked_at == NOW
    assert login.usage.notes == (
        "Booster: 9.50 USD of 20.00 USD left; 1.20 USD spent this month of 50.00 USD.",
        "Up to 20 requests at a time.",
    )


def test_a_wallet_of_which_less_is_known():
    """What the service does not say is not said."""
    plain = KimiUsage((), Booster(950, 2000), None, NOW)
    assert of_kimi(status(), usage=plain).logins[0].usage.notes == ("Booster: 9.50 USD of 20.00 USD left.",)


def test_blocks_of_both_lead_to_this_proxy():
    """The lines for clients have the address at which the page was asked for."""
    for provider in (of_kimi(status()), of_kiro()):
        assert {"opencode", "openai", "curl"} <= {block.name for block in provider.blocks}
        assert "http://127.0.0.1:8080" in provider.blocks[0].text


# --- Kiro -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "state", "level"),
    [
        ({}, "ready", Level.good),
        ({"cooldown_until": ms(90), "last_error": "rate_limited", "consecutive_failures": 2}, "cooling", Level.warn),
        ({"state": "needs_login", "last_error": "invalid_grant"}, "needs_login", Level.bad),
        ({"state": "suspended"}, "suspended", Level.bad),
        ({"enabled": False}, "disabled", Level.idle),
    ],
)
def test_states_of_a_kiro_account(fields, state, level):
    """The words are those of the command line: how it is, why, what to do next, and until when it pauses."""
    account = Account(id="0123456789", email="me@example.com", expires_at=ms(600), refreshed_at=ms(-60), **fields)
    (login,) = of_kiro(account).logins
    assert (login.state, login.level, login.meaning) == (state, level, CONDITIONS[State(state)].meaning)
    assert login.name == "me@example.com"
    assert login.id == "kiro-01234567"
    assert login.back_at == (NOW + 90 if state == "cooling" else None)
    assert bool(login.next) == (state in {"needs_login", "suspended", "disabled"})
    assert login.problem == {"cooling": "rate_limited, 2 times in a row", "needs_login": "invalid_grant"}.get(state)
    assert "Google or GitHub" in login.facts


def test_a_healthy_account_says_nothing_of_old_faults():
    """A fault that is over is no problem."""
    (login,) = of_kiro(Account(id="a", last_error="rate_limited")).logins
    assert login.problem is None


def test_an_account_of_a_newer_version():
    """It says that it is one, and says nothing of what is not known here."""
    newer = {"id": "a", "auth_method": "passkey", "expires_at": ms(600)}
    (login,) = kiro.provider(
        Accounts.from_json({"accounts": [newer]}, "here"), NOW, "hybrid", KIRO_MODELS, KIRO_PLACE
    ).logins
    assert (login.state, login.level) == ("newer", Level.warn)
    assert login.meaning == "was made by a newer version: unknown auth_method"
    assert login.facts == ("us-east-1", "id a")
    assert not login.token.renews


def test_the_active_account_comes_first():
    """Then the others in their order, and how they are chosen."""
    found = of_kiro(Account(id="a"), Account(id="b"), Account(id="c"), active="b", strategy="sticky")
    assert [login.id for login in found.logins] == ["kiro-b", "kiro-a", "kiro-c"]
    assert [login.in_use for login in found.logins] == [True, False, False]
    assert found.notes == ("Accounts are chosen by the strategy sticky.",)
    assert of_kiro(Account(id="a")).notes == ()


def test_no_kiro_account():
    """The page then shows both ways to get one."""
    found = of_kiro()
    assert found.hints == ("kimi-mitm login kiro", "kimi-mitm accounts sync")
    assert found.notes == ()


def test_what_is_left_of_an_account():
    """Credits are a meter with plan and reset; what was never asked for is not known."""
    usage = UsageRecord(used=386.2, limit=1000, fetched_at=ms(-30), plan="Kiro Pro", resets_at=ms(3600))
    (login,) = of_kiro(Account(id="a", usage=usage, request_count=7, last_used=ms(-5))).logins
    (meter,) = login.usage.meters
    assert meter == Meter("Credits", pytest.approx(0.6138), "613.8 of 1,000 left", NOW + 3600)
    assert (login.usage.plan, login.usage.asked_at) == ("Kiro Pro", NOW - 30)
    assert (login.requests, login.last_used) == (7, NOW - 5)
    assert of_kiro(Account(id="a")).logins[0].usage is None


def test_tokens_of_accounts():
    """A key has no end; a login that can no longer be renewed says so; an unknown moment is none."""
    assert of_kiro(Account(id="a", auth_method="api_key", access_token="fake-key")).logins[0].token is None
    good = {"id": "a", "refresh_token": "fake-refresh-1", "expires_at": ms(60)}
    assert of_kiro(Account(**good)).logins[0].token == Token(None, NOW + 60, renews=True)
    turned_down = Account(**good, rejected_refresh=digest("fake-refresh-1"))
    assert of_kiro(turned_down).logins[0].token.renews is False


def test_a_shared_account_says_whose_it_is():
    """An account that is read from another program's store names that program."""
    kind = next(iter(NAMES))
    (login,) = of_kiro(Account(id="a", source=Source(kind=kind, path="x"))).logins
    assert f"read from {NAMES[kind]}" in login.facts


def test_accounts_that_cannot_be_read():
    """A damaged document is told with its cure."""
    assert kiro.damaged("It is damaged.").problem == "It is damaged."
