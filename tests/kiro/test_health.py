import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.kiro.accounts import Account
from kimi_core.kiro.health import (
    PENALTIES,
    Event,
    Obstacle,
    Penalty,
    apply,
    cooling,
    half_open,
    obstacle,
    remaining_credits,
)
from kimi_core.kiro.verdict import Kind
from tests.kiro.pool_accounts import NOW, account, accounts, credit, finding, findings, ms

COOLING = {"is_healthy": False, "consecutive_failures": 1, "cooldown_until": ms(30), "last_error": "rate_limited"}
CREDITLESS = {**COOLING, "quota_state": "exhausted", "last_error": "MONTHLY_REQUEST_COUNT"}


@pytest.mark.parametrize(
    ("fields", "in_flight", "concurrency", "expected"),
    [
        ({}, 0, 0, None),
        ({}, 50, 0, None),
        ({}, 2, 3, None),
        ({}, 3, 3, Obstacle.busy),
        ({"enabled": False, "state": "suspended"}, 0, 0, Obstacle.disabled),
        ({"state": "suspended"}, 0, 0, Obstacle.suspended),
        ({"state": "needs_login"}, 0, 0, Obstacle.needs_login),
        (COOLING, 0, 0, Obstacle.cooling),
        (CREDITLESS, 0, 0, Obstacle.quota),
        ({**COOLING, "quota_state": "exhausted"}, 0, 0, Obstacle.cooling),
        ({**COOLING, "cooldown_until": ms(0)}, 0, 0, None),
        ({**COOLING, "cooldown_until": ms(0)}, 1, 0, Obstacle.probing),
        ({**CREDITLESS, "cooldown_until": ms(-1)}, 0, 0, None),
        ({**CREDITLESS, "cooldown_until": ms(-1)}, 1, 0, Obstacle.probing),
        ({"is_healthy": False}, 0, 0, None),
        ({"is_healthy": False}, 1, 0, Obstacle.probing),
        ({"quota_state": "exhausted"}, 4, 0, None),
    ],
)
def test_obstacles(fields, in_flight, concurrency, expected):
    """What stands against an account: the user's word, its state, a wait, a probe under way, too many requests."""
    assert obstacle(account(**fields), NOW, in_flight=in_flight, concurrency=concurrency) == expected


GROWTH = [
    # kind, Retry-After, cool-downs in a row
    ("rate_limited", None, [30, 60, 120, 240, 300, 300]),
    ("rate_limited", 7.0, [7, 7, 7]),
    ("rate_limited", 0.0, [1, 1]),
    ("transient", None, [10, 20, 40, 80, 160, 300, 300]),
    ("auth_failed", None, [600, 1200, 2400, 3600, 3600]),
    ("not_authorized", None, [600, 600]),
    ("profile_required", None, [600, 600]),
]


@pytest.mark.parametrize(("kind", "retry_after", "waits"), GROWTH)
def test_cool_downs_grow_and_survive_the_document(kind, retry_after, waits):
    """Faults in a row make the wait longer up to a bound, also when the account was written and read in between."""
    one, now = account(), NOW
    for count, wait in enumerate(waits, 1):
        one = apply(one, finding(kind, retry_after=retry_after), now)
        assert cooling(one, now) == pytest.approx(wait, abs=0.002)
        assert (one.consecutive_failures, one.is_healthy, one.last_error) == (count, False, kind)
        one = Account.model_validate(one.to_json())
        now += wait + 0.001
    assert apply(one, Event.served, now).consecutive_failures == 0


@pytest.mark.parametrize(
    "kind", ["model_capacity", "invalid_request", "image_unsupported", "context_length_exceeded", "model_not_found",
             "feature_unsupported", "endpoint_unsupported", "unknown"]
)  # fmt: skip
def test_faults_that_are_not_the_accounts(kind):
    """Faults of the request or of the model change nothing."""
    one = account(consecutive_failures=2, request_count=3)
    assert apply(one, finding(kind), NOW) is one


def test_every_kind_is_decided():
    """Each kind punishes, waits for credits, suspends, or changes nothing."""
    punishing = {kind for kind in Kind if apply(account(), finding(kind), NOW) != account()}
    assert punishing == {*PENALTIES, Kind.quota, Kind.suspended}


@pytest.mark.parametrize(
    ("reason", "usage", "expected"),
    [
        ("MONTHLY_REQUEST_COUNT", None, 31 * 86_400),  # 2026-09-01
        ("MONTHLY_REQUEST_COUNT", credit(50, 50, 3600), 3600),
        ("MONTHLY_REQUEST_COUNT", credit(50, 50, -5), 31 * 86_400),
        ("DAILY_REQUEST_COUNT", credit(50, 50, 3600), 86_400),
        (None, credit(50, 50, 90_000), 90_000),
    ],
)
def test_quota_waits_for_its_reset(reason, usage, expected):
    """A used-up plan waits until the service said it begins anew, else for the next month, or the next day."""
    one = apply(account(usage=usage), finding("quota_exhausted", reason), NOW)
    assert cooling(one, NOW) == pytest.approx(expected)
    assert (one.quota_state, one.quota_updated_at, one.last_error) == (
        "exhausted",
        ms(0),
        reason or "quota_exhausted",
    )
    assert obstacle(one, NOW) is Obstacle.quota
    assert obstacle(one, NOW + expected) is None
    back = apply(one, Event.served, NOW + expected)
    assert (back.quota_state, back.is_healthy, back.cooldown_until) == ("available", True, None)


@pytest.mark.parametrize(("day", "month_end"), [(1, 31), (31, 1), (28, 4)])
def test_the_next_month_from_any_day(day, month_end):
    """The first of the next month is found from every day of a month."""
    now = NOW + (day - 1) * 86_400 + 5
    assert cooling(apply(account(), finding("quota_exhausted"), now), now) == month_end * 86_400 - 5


def test_suspension_lasts():
    """A locked account is never used again by itself; nothing that comes later changes that."""
    one = apply(account(), finding("suspended", "TEMPORARILY_SUSPENDED"), NOW)
    assert (one.state, one.is_healthy, one.last_error) == ("suspended", False, "TEMPORARILY_SUSPENDED")
    for outcome in (Event.served, finding("rate_limited"), finding("quota_exhausted"), Event.begun):
        later = apply(one, outcome, NOW + 1e6)
        assert (later.state, later.last_error) == ("suspended", "TEMPORARILY_SUSPENDED")
        assert obstacle(later, NOW + 1e9) is Obstacle.suspended


def test_a_volley_counts_once():
    """Requests that fail together are one fault; a longer wait that one of them brings is kept."""
    one = apply(account(), finding("rate_limited"), NOW)
    again = apply(one, finding("rate_limited"), NOW + 1)
    assert (again.consecutive_failures, again.cooldown_until) == (1, ms(31))
    longer = apply(again, finding("rate_limited", retry_after=120.0), NOW + 2)
    assert (longer.consecutive_failures, longer.cooldown_until) == (1, ms(122))
    shorter = apply(longer, finding("transient"), NOW + 3)
    assert (shorter.cooldown_until, shorter.last_error) == (ms(122), "rate_limited")


def test_success_in_the_middle_of_a_wait():
    """An answer that began before the wait is counted, and does not end the wait."""
    one = apply(account(**COOLING, request_count=4), Event.served, NOW)
    assert (one.request_count, one.cooldown_until, one.consecutive_failures) == (5, ms(30), 1)


def test_success_after_the_wait():
    """A served probe makes the account whole."""
    one = apply(account(**COOLING), Event.served, NOW + 31)
    assert (one.is_healthy, one.consecutive_failures, one.cooldown_until, one.last_error) == (True, 0, None, None)
    assert not half_open(one)
    assert one.last_used == ms(31)


def test_use_is_noted_when_it_begins():
    """A request that goes out makes the account the most recently used one."""
    assert apply(account(), Event.begun, NOW) == account(last_used=ms(0))


@pytest.mark.parametrize(("usage", "left"), [(None, 0), (credit(10, 50), 40), (credit(60, 50), 0)])
def test_remaining_credits(usage, left):
    """What is left is counted where it is known, and never below nothing."""
    assert remaining_credits(account(usage=usage)) == left


def test_penalties_are_bounded():
    """A damaged count does not make a wait without end."""
    assert Penalty(30, 300).seconds(10**9) == 300


@settings(max_examples=100)
@given(one=accounts, outcomes=st.lists(st.tuples(findings | st.sampled_from(Event), st.floats(0, 1000)), max_size=12))
def test_any_history(one, outcomes):
    """After any history the account survives the document, is not cooled past the reset, and keeps the user's word."""
    now = NOW
    for outcome, pause in outcomes:
        before = one
        one = apply(one, outcome, now)
        assert Account.model_validate(one.to_json()) == one
        assert one.enabled == before.enabled
        assert one.consecutive_failures <= before.consecutive_failures + 1
        assert cooling(one, now) <= max(cooling(before, now), 32 * 86_400, 100_000)
        if cooling(before, now):
            assert cooling(one, now) >= cooling(before, now)
            assert one.consecutive_failures == before.consecutive_failures
        if before.state == "suspended":
            assert one.state == "suspended"
        now += pause


@pytest.mark.parametrize(("ahead", "waits"), [(39 * 86_400, True), (41 * 86_400, False), (400 * 86_400, False)])
def test_a_wait_that_was_noted_while_the_clock_was_ahead_is_over(ahead, waits):
    """No wait is that long; nobody can tell when it would have ended."""
    one = account(cooldown_until=int((NOW + ahead) * 1000), is_healthy=False)
    assert bool(cooling(one, NOW)) == waits
    assert half_open(one)
