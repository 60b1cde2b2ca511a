"""The pool under load, without a network: accounts that fail at random, and a loop that does as the actions say."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.kiro.accounts import Account
from kimi_core.kiro.health import PENALTIES, Event, apply, cooling, obstacle
from kimi_core.kiro.pool import choose, unavailable
from kimi_core.kiro.verdict import Action, Kind
from tests.kiro.pool_accounts import NOW, account, finding

STRATEGIES = ["sticky", "round-robin", "hybrid"]
OF_THE_ACCOUNT = [Kind.rate, Kind.transient, Kind.auth, Kind.unauthorized, Kind.quota, Kind.suspended]
OF_NOBODY = [Kind.capacity, Kind.context, Kind.invalid, Kind.feature, Kind.image]


class World:
    """A pool, its moment, and what happened to each account."""

    def __init__(self, strategy, names="abc"):
        self.now, self.strategy, self.active = NOW, strategy, names[0]
        self.accounts = {name: account(name) for name in names}
        self.faults = dict.fromkeys(names, 0)

    def put(self, one):
        """Store an account as the document would."""
        self.accounts[one.id] = Account.model_validate(one.to_json())

    def request(self, fails):
        """Serve one request; *fails* says per account what goes wrong. Return the account, or None, and attempts."""
        tried, attempts = set(), 0
        while attempts <= len(self.accounts):
            one = choose(
                list(self.accounts.values()), self.now, strategy=self.strategy, active=self.active, tried=tried
            )
            if one is None:
                return None, attempts
            attempts += 1
            one = apply(one, Event.begun, self.now)
            kind = fails.get(one.id)
            if kind is None:
                self.put(apply(one, Event.served, self.now))
                self.active = one.id
                return one.id, attempts
            self.faults[one.id] += 1
            found = finding(kind)
            self.put(apply(one, found, self.now))
            if found.action is Action.fail:
                return "the request's own fault", attempts
            tried.add(one.id)
        return None, attempts


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", range(5))
def test_no_request_is_lost_that_a_healthy_account_could_serve(strategy, seed):
    """Of 200 requests with faults in three of ten attempts, none fails while an account is free and well."""
    dice, world = random.Random(seed), World(strategy)
    for _ in range(200):
        fails = {name: dice.choice(OF_THE_ACCOUNT[:4]) for name in world.accounts if dice.random() < 0.3}
        well = [one.id for one in world.accounts.values() if obstacle(one, world.now) is None and one.id not in fails]
        served, attempts = world.request(fails)
        assert (served is not None) == bool(well)
        assert attempts <= len(world.accounts) + 1
        world.now += dice.choice([0.1, 5, 60])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", range(3))
def test_nobody_is_punished_for_faults_of_others(strategy, seed):
    """Faults of requests and models leave every account as it was, however many there are."""
    dice, world = random.Random(seed), World(strategy)
    for _ in range(100):
        world.request({name: dice.choice(OF_NOBODY) for name in world.accounts if dice.random() < 0.5})
    assert sum(world.faults.values()) > 20
    for one in world.accounts.values():
        assert (one.is_healthy, one.consecutive_failures, one.cooldown_until, one.state) == (True, 0, None, "ok")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_suspended_and_used_up_accounts_leave_the_others_the_work(strategy):
    """A locked account is asked once in its life, one without credits once until its reset."""
    world = World(strategy)
    for _ in range(50):
        served, _ = world.request({"a": Kind.suspended, "b": Kind.quota})
        assert served == "c"
        world.now += 60
    assert world.faults["a"] <= 1
    assert world.faults["b"] <= 1
    world.request({"c": Kind.rate})
    assert unavailable(list(world.accounts.values()), world.now).retry_after == 30


@settings(max_examples=60)
@given(
    strategy=st.sampled_from(STRATEGIES),
    history=st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from("abc"), st.sampled_from(OF_THE_ACCOUNT + OF_NOBODY)), st.floats(0, 400)
        ),
        max_size=25,
    ),
)
def test_any_history_of_the_pool(strategy, history):
    """Waits stay within the bounds of the faults there were, and every account comes back unless it was locked."""
    world = World(strategy)
    most = max(penalty.cap for penalty in PENALTIES.values())
    for fails, pause in history:
        _, attempts = world.request(fails)
        assert attempts <= len(world.accounts) + 1
        world.now += pause
    for one in world.accounts.values():
        bound = 32 * 86_400 if one.quota_state == "exhausted" else most
        assert cooling(one, world.now) <= bound
        later = obstacle(one, world.now + bound + 1)
        assert (later is None) == (one.state == "ok")
