"""An event's round leaves out who has nothing for it, and nothing else."""

from __future__ import annotations

import importlib
import logging
import types

import pytest
from mitmproxy import addonmanager, exceptions
from mitmproxy.addonmanager import AddonManager
from mitmproxy.addons import default_addons
from mitmproxy.hooks import UpdateHook
from mitmproxy.proxy.layers.http import HttpRequestHook
from mitmproxy.test import taddons, tflow

from kimi_core.proxy import internals, rounds

STOCK = AddonManager.trigger_event


@pytest.fixture(autouse=True)
def restored():
    """Begin and end with mitmproxy's own."""
    rounds.remove()
    assert AddonManager.trigger_event is STOCK
    yield
    rounds.remove()
    assert AddonManager.trigger_event is STOCK


class Addon:
    """Notes under its name that it was called."""

    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def __repr__(self):
        return self.name


class Deaf(Addon):
    """Has no hook."""


class Hears(Addon):
    def request(self, flow):
        self.calls.append(self.name)


class HearsLater(Addon):
    async def request(self, flow):
        self.calls.append(self.name)


class Halts(Hears):
    def request(self, flow):
        super().request(flow)
        raise exceptions.AddonHalt


class Fails(Hears):
    def request(self, flow):
        super().request(flow)
        raise ValueError(f"{self.name} failed")


class Parent(Addon):
    """Has no hook, but children that have."""

    def __init__(self, name, calls):
        super().__init__(name, calls)
        self.addons = [Hears(f"{name}, first child", calls), Deaf(f"{name}, deaf child", calls)]


class Answers(Addon):
    """Has what it is asked for."""

    def __getattr__(self, name):
        if name != "request":
            raise AttributeError(name)
        return lambda flow: self.calls.append(self.name)


class Breaks(Addon):
    """Cannot be asked."""

    @property
    def request(self):
        raise ValueError(f"{self.name} cannot be asked")


class Odd(Addon):
    """Has something of that name that is no hook."""

    request = 7


class Void(Addon):
    request = None


class Grows(Hears):
    """Gives the deaf one behind it a hook, and mitmproxy an addon more."""

    def __init__(self, name, calls):
        super().__init__(name, calls)
        self.manager = None

    def request(self, flow):
        super().request(flow)
        for addon in list(self.manager.chain):
            if isinstance(addon, Deaf):
                addon.request = lambda flow: self.calls.append("learnt")
        if "newcomer" not in self.manager.lookup:
            self.manager.add(Hears("newcomer", self.calls))


def module(name, calls):
    """Return a script's namespace with a hook."""
    made = types.ModuleType(name)
    made.request = lambda flow: calls.append(name)
    made.log = logging
    return made


KINDS = (Deaf, Hears, HearsLater, Halts, Fails, Parent, Answers, Breaks, Odd, Void, Grows, module)


async def one_round(kinds, caplog):
    """Return who was called, in order, and what was logged, when an event goes to addons of these *kinds*."""
    calls = []
    caplog.clear()
    with taddons.context(loadcore=False) as context:
        manager = context.master.addons
        for number, kind in enumerate(kinds):
            addon = kind(f"{kind.__name__} {number}", calls)
            if isinstance(addon, Grows):
                addon.manager = manager
            manager.chain.append(addon)
            manager.lookup[addon.__name__ if kind is module else addon.name] = addon
        await manager.trigger_event(HttpRequestHook(tflow.tflow()))
    return calls, [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_a_round_is_what_it_was(kind, caplog):
    """Whatever an addon is like, with others before and behind it: the same calls in the same order, the same log."""
    kinds = (Hears, Deaf, kind, Deaf, Hears)
    expected = await one_round(kinds, caplog)
    assert "Hears 0" in expected[0]
    rounds.install()
    assert AddonManager.trigger_event is rounds.trigger_event
    assert await one_round(kinds, caplog) == expected


async def test_who_has_nothing_for_an_event_is_not_asked(monkeypatch):
    """Of mitmproxy's own addons few are called on, and none where nobody has the hook."""
    asked = []
    stock = AddonManager.invoke_addon

    async def invoke(manager, addon, event):
        asked.append(addon)
        await stock(manager, addon, event)

    monkeypatch.setattr(AddonManager, "invoke_addon", invoke)
    rounds.install()
    with taddons.context(*default_addons(), loadcore=False) as context:
        manager = context.master.addons
        await manager.trigger_event(HttpRequestHook(tflow.tflow()))
        hear = [a for a in manager.chain if any(hasattr(b, "request") for b in addonmanager.traverse([a]))]
        parents = [addon for addon in manager.chain if hasattr(addon, "addons")]
        assert set(hear) <= set(asked) <= {*hear, *parents}
        assert 0 < len(asked) < len(manager.chain) / 2
        asked.clear()
        await manager.trigger_event(UpdateHook([]))
        assert set(asked) <= set(parents)


def test_another_mitmproxy_makes_its_rounds_itself(monkeypatch):
    """Where it does so in a way that is not known, nothing is replaced."""
    monkeypatch.setattr(addonmanager, "traverse", iter)
    assert internals.missing(internals.ROUNDS)
    rounds.install()
    assert AddonManager.trigger_event is STOCK


def test_executing_the_module_again_does_not_stack():
    """A second copy stands on mitmproxy's own."""
    rounds.install()
    importlib.reload(rounds)
    assert rounds._stock is STOCK
    rounds.install()
    assert AddonManager.trigger_event.__wrapped__ is STOCK
