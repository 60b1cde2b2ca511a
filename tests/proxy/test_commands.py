import json
import logging

import pytest

from kimi_core.errors import NotLoggedIn
from kimi_core.kimi.models import Catalog, Model
from kimi_core.kimi.usage import Row, Usage
from kimi_core.proxy.commands import KimiCommands, report
from tests.kimi.stand_ins import NOW, FakeSession


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
