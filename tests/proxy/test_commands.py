import json
import logging

import pytest
from mitmproxy.exceptions import CommandError

from kimi_core.errors import NotLoggedIn
from kimi_core.kimi.models import Catalog, Model
from kimi_core.kimi.usage import Row, Usage
from kimi_core.kiro import usage
from kimi_core.kiro.provider import Kiro
from kimi_core.kiro.records import UsageRecord
from kimi_core.proxy.commands import KimiCommands, KiroCommands, report
from tests.kimi.stand_ins import NOW, FakeSession
from tests.kiro.pool_accounts import ms
from tests.kiro.service_stand_ins import World, social


class Home:
    """The account that the commands ask."""

    def __init__(self):
        self.usage = None
        self.cache = self
        self.catalog = Catalog()
        self.session = FakeSession()

    async def fetch_usage(self):
        self.usage = Usage((Row("Weekly limit", 40, 100, None),), None, None, NOW)
        return self.usage

    async def fetch_models(self):
        self.catalog = Catalog((Model("k3"), Model("kimi-for-coding")), NOW)
        return self.catalog


class Kimi:
    def __init__(self):
        self.home = Home()

    def health(self):
        return {"site": "kimi.com", "login": "ok", "expires_at": None}


@pytest.fixture
def world():
    """The commands, and what they started."""
    kimi, started = Kimi(), []
    return KimiCommands(lambda: kimi, lambda work, _name: started.append(work)), kimi, started


def test_status_is_told_at_once(world):
    """The command kimi.status answers without the network."""
    commands, _, started = world
    assert json.loads(commands.status())["login"] == "ok"
    assert started == []


@pytest.mark.parametrize(
    ("name", "said", "logged"),
    [("usage", "Weekly limit: 60% left", "Weekly limit: 60% left"), ("models", "k3, kimi-for-coding", "k3")],
)
async def test_information_follows_in_the_log(world, caplog, name, said, logged):
    """What needs the network is asked for beside; the command shows what was known before."""
    commands, _, started = world
    assert "follows in the log" in getattr(commands, name)()
    with caplog.at_level(logging.WARNING):
        await report(started.pop())
    assert logged in caplog.text
    assert getattr(commands, name)() == said
    started.pop().close()


async def test_refresh_tells_its_outcome(world, caplog):
    """The command kimi.refresh forces a refresh and says how long the new token is good for."""
    commands, kimi, started = world
    assert "follows in the log" in commands.refresh()
    with caplog.at_level(logging.WARNING):
        await report(started.pop())
    assert kimi.home.session.renewed == ["fake-access-1"]
    assert "refreshed" in caplog.text
    assert "fake-access" not in caplog.text


async def test_a_failure_is_one_line_with_what_to_do(world, caplog):
    """A command that fails says why and what to do, without a traceback."""
    commands, kimi, started = world
    kimi.home.session.error = NotLoggedIn("No login.")
    commands.refresh()
    with caplog.at_level(logging.WARNING):
        await report(started.pop())
    assert caplog.messages == ["No login. Run `kimi-mitm login kimi`."]


# --- Kiro ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def kiro(tmp_path):
    """The commands, the accounts they speak of, and what they started."""
    started = []
    accounts = (
        social("a", usage=UsageRecord(used=10, limit=50)),
        social("b"),
        social("c", cooldown_until=ms(60), last_error="rate_limited"),
    )
    world = World(tmp_path, *accounts)
    world.tokens.insist = world.tokens.fresh
    provider = Kiro(world.service)
    return KiroCommands(lambda: provider, lambda work, _name: started.append(work)), world, started


def test_accounts_say_who_serves_and_who_does_not(kiro):
    """The command kiro.accounts shows each account with what stands against it."""
    commands, world, _ = kiro
    assert commands.accounts().splitlines() == [
        "label a: active",
        "label b: ready",
        "label c: cooling down, 60 s (rate_limited)",
    ]
    world.store()
    assert "kimi-mitm login kiro" in commands.accounts()


@pytest.mark.parametrize("ask", ["accounts", "usage", "refresh", "use"])
def test_damaged_accounts_are_said_in_the_console(kiro, ask):
    """A CommandError is what mitmproxy shows; every other error it takes for a crash."""
    commands, world, started = kiro
    world.service.registry.document.path.write_text("{")
    with pytest.raises(CommandError, match="damaged"):
        getattr(commands, ask)(*(["a"] if ask == "use" else []))
    assert not started


async def test_another_account_can_be_made_the_active_one(kiro):
    """The command kiro.use takes a label or the beginning of an id; what names none is refused."""
    commands, world, _ = kiro
    assert "label b" in commands.use("label b")
    await world.service.settle()
    assert world.service.accounts().active_account_id == "b"
    with pytest.raises(CommandError):
        commands.use("nobody")


async def test_kiro_usage_follows_in_the_log(kiro, caplog, monkeypatch):
    """The command kiro.usage shows what is known; newer answers, where it is old, come into the log."""
    commands, world, started = kiro

    async def fetch(_caller, _account_id, now_ms):
        return usage.Usage((usage.Pot("plan", 12, 50),), "PRO", None, now_ms)

    async def told():
        caplog.clear()
        while started:
            await report(started.pop())
        return len(caplog.messages)

    monkeypatch.setattr(usage, "fetch", fetch)
    caplog.set_level(logging.WARNING)
    assert commands.usage() == "label a: 40 of 50 credits left"
    assert await told() == 3
    assert "label a: 12 of 50" in caplog.text
    for seconds, words, count in ((29, [True], 0), (1, [], 0), (0, [True], 3), (299, [], 0), (1, [], 3)):
        world.now += seconds
        commands.usage(*words)
        assert await told() == count, (seconds, words)


def test_kiro_models_are_listed(kiro):
    """The command kiro.models shows the models of all accounts."""
    assert "claude-sonnet-4.5" in kiro[0].models()


async def test_kiro_refresh_tells_its_outcome(kiro, caplog):
    """The command kiro.refresh refreshes every login and says how long each is good for."""
    commands, _, started = kiro
    assert "follows in the log" in commands.refresh()
    with caplog.at_level(logging.WARNING):
        for work in started:
            await report(work)
    assert caplog.text.count("refreshed") == 3
    assert "fake-access" not in caplog.text


def test_api_keys_are_not_refreshed(kiro):
    """An API key never runs out, so there is nothing to refresh."""
    commands, world, started = kiro
    world.store(social("k").model_copy(update={"auth_method": "api_key"}))
    commands.refresh()
    assert started == []
