import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.errors import UpstreamError
from kimi_core.kiro import usage
from kimi_core.kiro.accounts import Account
from kimi_core.kiro.records import UsageRecord
from kimi_core.kiro.usage import Pot, left, noted, parse, severity, spent
from tests.kiro.calling import NO_FEATURE, parameters, service

NOW = 1_785_000_000_000
RESET = 1_785_542_400_000
ANSWER = {
    "daysUntilReset": 7,
    "nextDateReset": 1785542400,
    "subscriptionInfo": {"type": "Q_DEVELOPER_STANDALONE_FREE", "subscriptionTitle": "KIRO FREE"},
    "overageConfiguration": {"overageStatus": "DISABLED"},
    "userInfo": {"userId": "d-fake-user-1", "email": "a@b.example"},
    "usageBreakdownList": [
        {"resourceType": "VIBE", "currentUsage": 1, "usageLimit": 2},
        {
            "resourceType": "CREDIT",
            "currentUsage": 12,
            "currentUsageWithPrecision": 12.4,
            "usageLimit": 50,
            "usageLimitWithPrecision": 50.0,
            "nextDateReset": 1785542400,
            "freeTrialInfo": {
                "freeTrialStatus": "ACTIVE",
                "freeTrialExpiry": 1785000000,
                "currentUsage": 1,
                "usageLimit": 500,
            },
            "bonuses": [
                {"status": "ACTIVE", "displayName": "Launch", "currentUsage": 0, "usageLimit": 100},
                {"status": "EXPIRED", "currentUsage": 0, "usageLimit": 1000},
            ],
        },
    ],
}


def item(**changes):
    """Return the answer with another item for credits."""
    return {
        **ANSWER,
        "usageBreakdownList": [{"resourceType": "CREDIT", "currentUsage": 0, "usageLimit": 50, **changes}],
    }


def test_the_documented_answer():
    """Plan, active trial and active bonus add up, precise numbers count, moments are milliseconds."""
    found = parse(ANSWER, NOW)
    assert found.pots == (
        Pot("plan", 12.4, 50.0),
        Pot("free trial", 1.0, 500.0, NOW),
        Pot("Launch", 0.0, 100.0),
    )
    assert (found.used, found.limit) == (13.4, 650.0)
    assert (found.plan, found.resets_at, found.fetched_at) == ("KIRO FREE", RESET, NOW)
    assert (found.email, found.user_id) == ("a@b.example", "d-fake-user-1")
    assert not found.overage
    assert found.record() == UsageRecord(used=13.4, limit=650.0, fetched_at=NOW, plan="KIRO FREE", resets_at=RESET)


@pytest.mark.parametrize("status", ["EXPIRED", None, 1])
def test_a_trial_that_is_over_does_not_count(status):
    """Only what can still be drawn from is counted."""
    found = parse(item(freeTrialInfo={"freeTrialStatus": status, "currentUsage": 0, "usageLimit": 500}), NOW)
    assert found.limit == 50


def test_the_older_form():
    """`limits` with totals is read too; the kind that matters comes first."""
    found = parse(
        {
            "limits": [
                {"type": "CODE_SCANS", "currentUsage": 1, "totalUsageLimit": 2},
                {"type": "AGENTIC_REQUEST", "currentUsage": "40", "totalUsageLimit": "50", "percentUsed": 80},
            ],
            "daysUntilReset": 2,
        },
        NOW,
    )
    assert (found.used, found.limit, found.plan) == (40.0, 50.0, None)
    assert found.resets_at == NOW + 2 * 86_400_000


def test_an_unknown_kind_is_better_than_none():
    """A plan that counts something new is shown."""
    assert parse({"usageBreakdownList": [{"resourceType": "NEW", "currentUsage": 1, "usageLimit": 4}]}, NOW).limit == 4


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {},
        {"usageBreakdownList": {}},
        {"usageBreakdownList": [None, 3, {}]},
        {"limits": [{"type": "CREDIT"}]},
        {"usageBreakdownList": [{"resourceType": "CREDIT", "usageLimit": math.nan, "currentUsage": -1}]},
        {"usageBreakdownList": [{"resourceType": [], "usageLimit": "many", "currentUsage": True}]},
    ],
)
def test_an_answer_that_tells_nothing(answer):
    """Without a single limit there is no usage, and what was known stays."""
    with pytest.raises(UpstreamError):
        parse(answer, NOW)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [*ANSWER, *ANSWER["usageBreakdownList"][1], "freeTrialStatus", "status", "userId", "email"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_whatever_comes(answer):
    """Any answer is read or refused; numbers that are read make sense."""
    try:
        found = parse(answer, NOW)
    except UpstreamError:
        return
    assert math.isfinite(found.used)
    assert found.used >= 0
    assert 0 <= left(found.used, found.limit) <= 1


@pytest.mark.parametrize(
    ("part", "colour"), [(1.0, "green"), (0.31, "green"), (0.3, "yellow"), (0.11, "yellow"), (0.1, "red"), (0.0, "red")]
)
def test_severity(part, colour):
    """As for Kimi: red with a tenth or less left, yellow with three tenths or less."""
    assert severity(part) == colour


# --- what becomes of an account ---------------------------------------------------------------------------------------


def account(**fields):
    """Return an account with these fields."""
    return Account(id="a1", **fields)


def test_an_account_learns_who_it_is():
    """E-mail and user id are taken where they were not known, and never replaced."""
    found = noted(account(), parse(ANSWER, NOW))
    assert (found.email, found.user_id, found.quota_state) == ("a@b.example", "d-fake-user-1", "available")
    assert (found.usage.used, found.quota_updated_at) == (13.4, NOW)
    assert noted(account(email="old@b.example"), parse(ANSWER, NOW)).email == "old@b.example"


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (item(currentUsage=50), "exhausted"),
        (item(currentUsage=50) | {"overageConfiguration": {"overageStatus": "ENABLED"}}, "available"),
        (item(currentUsage=50, usageLimit=0), "available"),
    ],
)
def test_a_used_up_plan_is_noted(answer, state):
    """Nothing left is exhausted, unless more may be bought; no limit at all is not."""
    assert noted(account(), parse(answer, NOW)).quota_state == state


OLD = UsageRecord(used=50, limit=50, fetched_at=NOW - 1, resets_at=NOW + 10)
SAME = OLD.model_copy(update={"resets_at": RESET})


@pytest.mark.parametrize(
    ("known", "until", "state", "still"),
    [
        (OLD, NOW + 10, "available", None),  # the reset has moved: a new period
        (SAME.model_copy(update={"limit": 10}), RESET, "available", None),  # a larger plan
        (SAME, RESET, "exhausted", RESET),
        (SAME.model_copy(update={"resets_at": None}), RESET, "exhausted", RESET),
        (None, RESET, "exhausted", RESET),
        (None, NOW - 1, "available", NOW - 1),
        (None, None, "available", None),
    ],
)
def test_the_services_refusal_counts_more_than_its_count(known, until, state, still):
    """An account that was refused waits for its reset, whatever the lagging count says before a new period."""
    refused = account(quota_state="exhausted", usage=known, cooldown_until=until)
    found = noted(refused, parse(ANSWER | item(currentUsage=49), NOW))
    assert (found.quota_state, found.cooldown_until) == (state, still)


def test_credits_are_counted_between_two_fetches():
    """What an answer cost is added; the next fetch sets it right."""
    known = account(usage=OLD.model_copy(update={"used": 1.0}))
    assert spent(known, 0.073, NOW).usage.used == 1.073
    assert spent(spent(known, 0.1, NOW), 0.2, NOW).usage.used == 1.3


@pytest.mark.parametrize("cost", [0, -1.0, math.nan, math.inf])
def test_costs_that_make_no_sense_are_not_counted(cost):
    """The count stays a number."""
    known = account(usage=OLD)
    assert spent(known, cost, NOW) is known


def test_nothing_is_counted_without_a_count():
    """Before the first fetch, and after the reset, there is nothing to add to."""
    assert spent(account(), 1.0, NOW).usage is None
    known = account(usage=OLD)
    assert spent(known, 1.0, NOW + 11) is known


# --- asking -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("cli", "CREDIT"), ("ide", "AGENTIC_REQUEST")])
async def test_each_client_asks_in_its_own_words(name, kind):
    """What is counted is asked for as the client does, with the e-mail by which people know their accounts."""
    fake = service(ANSWER, name=name)
    assert (await usage.fetch(fake.caller(), "a1", NOW)).limit == 650
    asked = parameters(fake.seen[0])
    assert (asked["resourceType"], str(asked["isEmailRequired"]).lower()) == (kind, "true")


async def test_a_service_that_knows_fewer_words():
    """Where the parameters are refused, the question without them is asked."""
    fake = service(NO_FEATURE, ANSWER)
    await usage.fetch(fake.caller(), "a1", NOW)
    assert parameters(fake.seen[1]) == {"origin": "KIRO_CLI"}
