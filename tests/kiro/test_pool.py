import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.kiro.health import Event, Obstacle, apply, obstacle
from kimi_core.kiro.pool import Conversations, choose, unavailable
from kimi_core.kiro.refusals import AllUnavailable, NoneUsable
from tests.kiro.pool_accounts import NOW, account, credit, finding, ids, ms, pools

STRATEGIES = ["sticky", "round-robin", "hybrid"]
strategies = st.sampled_from(STRATEGIES)
flights = st.dictionaries(ids, st.integers(0, 4))


def _choose(*accounts, strategy="hybrid", **more):
    found = choose(accounts, NOW, strategy=strategy, **more)
    return found and found.id


A, B, C = account("a", last_used=3), account("b", last_used=1), account("c", last_used=1)
COOLING = {"cooldown_until": ms(30), "is_healthy": False}
RICH, POOR = credit(1, 50), credit(49, 50)


@pytest.mark.parametrize(
    ("strategy", "accounts", "more", "expected"),
    [
        ("sticky", [A, B], {"active": "b"}, "b"),
        ("sticky", [A, B], {}, "a"),
        ("sticky", [A, B], {"active": "gone"}, "a"),
        ("sticky", [A, account("b", **COOLING)], {"active": "b"}, "a"),
        ("sticky", [A, account("b", quota_state="exhausted")], {"active": "b"}, "b"),
        ("sticky", [A, B], {"active": "b", "tried": {"b"}}, "a"),
        ("sticky", [A, B], {"active": "a", "conversation": "b"}, "b"),
        ("round-robin", [A, C, B], {"active": "a"}, "b"),
        ("round-robin", [A, C, B], {"tried": {"b"}}, "c"),
        ("round-robin", [A, B], {"conversation": "a"}, "a"),
        ("round-robin", [account("a", **COOLING), B], {"conversation": "a"}, "b"),
        ("hybrid", [A, B], {"active": "a"}, "a"),
        ("hybrid", [A, B], {"active": "a", "conversation": "b"}, "b"),
        ("hybrid", [account("a", quota_state="exhausted"), B], {"active": "a"}, "b"),
        ("hybrid", [account("a", quota_state="exhausted"), B], {"conversation": "a"}, "b"),
        ("hybrid", [account("a", quota_state="exhausted")], {"active": "a"}, "a"),
        ("hybrid", [account("a", quota_state="exhausted"), account("b", quota_state="exhausted", last_used=9)],
         {"conversation": "b"}, "b"),
        ("hybrid", [account("a", usage=POOR), account("b", usage=RICH)], {}, "b"),
        ("hybrid", [account("a"), account("b", usage=POOR)], {}, "b"),
        ("hybrid", [account("a", usage=RICH), account("b", usage=RICH)], {"in_flight": {"a": 1}}, "b"),
        ("hybrid", [account("a", usage=RICH, last_used=2), account("b", usage=RICH, last_used=1)], {}, "b"),
        ("hybrid", [C, B], {}, "b"),
        ("hybrid", [A, B], {"in_flight": {"a": 2}, "concurrency": 2, "active": "a"}, "b"),
        ("hybrid", [A], {"in_flight": {"a": 2}, "concurrency": 2}, None),
        ("hybrid", [A, B], {"active": "a", "model": "m", "catalogs": {"a": {"x"}}}, "b"),
        ("hybrid", [A, B], {"active": "a", "model": "m", "catalogs": {"a": {"x"}, "b": {"x"}}}, "a"),
        ("hybrid", [A, B], {"active": "a", "model": "m", "catalogs": {"b": {"m"}}}, "a"),
        ("hybrid", [A, B], {"active": "a", "model": "m", "catalogs": {"b": {"m"}}, "listed_only": True}, "b"),
        ("hybrid", [A, B], {"model": "m", "catalogs": {}, "listed_only": True}, None),
        ("hybrid", [], {}, None),
        ("hybrid", [account("a", enabled=False), account("b", state="suspended"), account("c", state="needs_login")],
         {"active": "b", "conversation": "b"}, None),
    ],
)  # fmt: skip
def test_strategies(strategy, accounts, more, expected):
    """Each strategy's order, and what goes before it."""
    assert _choose(*accounts, strategy=strategy, **more) == expected


@settings(max_examples=100)
@given(
    pool=pools, strategy=strategies, active=st.none() | ids, conversation=st.none() | ids, tried=st.sets(ids),
    in_flight=flights, concurrency=st.integers(0, 2), lists=st.dictionaries(ids, st.sets(st.sampled_from("mn"))),
    listed=st.booleans(),
)  # fmt: skip
def test_never_an_account_that_something_stands_against(
    pool, strategy, active, conversation, tried, in_flight, concurrency, lists, listed
):
    """Whatever the pool, the choice is free to be used and untried; none is missed where one is; it is repeatable."""
    ask = {
        "strategy": strategy, "active": active, "conversation": conversation, "tried": tried, "in_flight": in_flight,
        "concurrency": concurrency, "model": "m", "catalogs": lists,
    }  # fmt: skip
    found = choose(pool, NOW, listed_only=listed, **ask)
    free = [
        one.id
        for one in pool
        if one.id not in tried
        and obstacle(one, NOW, in_flight=in_flight.get(one.id, 0), concurrency=concurrency) is None
        and (not listed or "m" in lists.get(one.id, ()))
    ]
    assert (found.id in free) if found else not free
    assert choose(pool, NOW, listed_only=listed, **ask) is found


@settings(max_examples=100)
@given(pool=pools, strategy=strategies, active=st.none() | ids, in_flight=flights, data=st.data())
def test_a_conversation_stays(pool, strategy, active, in_flight, data):
    """A conversation stays on its account while that is healthy, whatever the strategy and whoever is active."""
    healthy = [
        one
        for one in pool
        if obstacle(one, NOW, in_flight=in_flight.get(one.id, 0)) is None and one.quota_state != "exhausted"
    ]
    if not healthy:
        return
    mine = data.draw(st.sampled_from(healthy))
    assert choose(pool, NOW, strategy=strategy, active=active, conversation=mine.id, in_flight=in_flight) is mine


@settings(max_examples=100)
@given(pool=pools, data=st.data())
def test_least_recently_used_does_not_depend_on_order(pool, data):
    """Round-robin and hybrid choose the same account in whatever order the document has them."""
    shuffled = data.draw(st.permutations(pool))
    for strategy in ("round-robin", "hybrid"):
        assert choose(pool, NOW, strategy=strategy) is choose(shuffled, NOW, strategy=strategy)


@settings(max_examples=50)
@given(pool=pools, strategy=strategies)
def test_attempts_end(pool, strategy):
    """With what was tried kept aside, a request gets to each free account once and then to none."""
    tried: set[str] = set()
    while found := choose(pool, NOW, strategy=strategy, tried=tried):
        assert found.id not in tried
        tried.add(found.id)
    assert tried == {one.id for one in pool if obstacle(one, NOW) is None}


def test_round_robin_goes_round():
    """Used one after another, every account has its turn."""
    pool = {name: account(name) for name in "abc"}
    turns = []
    for second in range(6):
        found = choose(list(pool.values()), NOW, strategy="round-robin")
        pool[found.id] = apply(found, Event.begun, NOW + second)
        turns.append(found.id)
    assert turns == list("abcabc")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_half_open_probe(strategy):
    """After its wait an account gets one request; others wait until that one is served, then all come."""
    one = apply(account("a"), finding("rate_limited"), NOW)
    assert choose([one], NOW + 29, strategy=strategy) is None
    assert choose([one], NOW + 31, strategy=strategy) is one
    assert choose([one], NOW + 31, strategy=strategy, in_flight={"a": 1}) is None
    served = apply(one, Event.served, NOW + 32)
    assert choose([served], NOW + 33, strategy=strategy, in_flight={"a": 1}) is served


def test_unavailable_says_when_and_why():
    """The earliest end of a wait is the time to come back; each account has its line."""
    pool = [
        account("a", **COOLING, last_error="rate_limited"),
        account("b", cooldown_until=ms(3600), quota_state="exhausted", last_error="MONTHLY_REQUEST_COUNT"),
        account("c", state="suspended", last_error="TEMPORARILY_SUSPENDED"),
        account("d", enabled=False),
        account("e", state="needs_login", last_error="invalid_grant"),
    ]
    found = unavailable(pool, NOW)
    assert found == (
        30,
        (
            "label-a: cooling down, 30 s (rate_limited)",
            "label-b: credits used up, 3600 s (MONTHLY_REQUEST_COUNT)",
            "label-c: suspended by the service (TEMPORARILY_SUSPENDED)",
            "label-d: disabled",
            "label-e: needs a new login (invalid_grant)",
        ),
    )
    error = found.error()
    assert isinstance(error, AllUnavailable)
    assert (error.retry_after, error.reasons) == found


@pytest.mark.parametrize(
    ("pool", "more", "wait", "reason"),
    [
        ([account("a")], {"in_flight": {"a": 1}, "concurrency": 1}, 2, "label-a: busy, 2 s"),
        ([account("a", is_healthy=False)], {"in_flight": {"a": 1}}, 2, "label-a: being tried again, 2 s"),
        ([account("a")], {}, 1, "label-a: tried in vain"),
        ([account("a", cooldown_until=ms(0.4))], {}, 1, "label-a: cooling down, 1 s"),
    ],
)
def test_unavailable_for_a_moment(pool, more, wait, reason):
    """Accounts that are only busy are worth asking again soon."""
    assert unavailable(pool, NOW, **more) == (wait, (reason,))


@pytest.mark.parametrize("pool", [[], [account("a", state="suspended")], [account("a", enabled=False)]])
def test_unavailable_for_good(pool):
    """Where only the user can help, there is no time to come back at."""
    found = unavailable(pool, NOW)
    assert found.retry_after is None
    assert isinstance(found.error(), NoneUsable)


@settings(max_examples=75)
@given(pool=pools, strategy=strategies, in_flight=flights, concurrency=st.integers(0, 2))
def test_the_time_to_come_back_is_right(pool, strategy, in_flight, concurrency):
    """Where nothing can be chosen for waits alone, something can after the time that is said."""
    busy = {"in_flight": in_flight, "concurrency": concurrency}
    found = unavailable(pool, NOW, **busy)
    assert len(found.reasons) == len(pool)
    if choose(pool, NOW, strategy=strategy, **busy) is None and found.retry_after is not None:
        assert choose(pool, NOW + found.retry_after, strategy=strategy) is not None
    waiting = [
        one for one in pool if obstacle(one, NOW) not in {Obstacle.disabled, Obstacle.suspended, Obstacle.needs_login}
    ]
    assert (found.retry_after is None) == (not waiting)


def test_conversations_are_bounded():
    """The conversation that was not heard of for the longest time is forgotten first."""
    known = Conversations(keep=2)
    known.bind("one", "a")
    known.bind("two", "b")
    assert known.get("one") == "a"
    known.bind("three", "c")
    assert [known.get(name) for name in ("one", "two", "three")] == ["a", None, "c"]
    known.bind("one", "b")
    assert known.get("one") == "b"
