"""Accounts for tests of pool and health, and any account as a hypothesis strategy."""

from hypothesis import strategies as st

from kimi_core.kiro.accounts import Account
from kimi_core.kiro.events import Failure
from kimi_core.kiro.records import UsageRecord
from kimi_core.kiro.verdict import Finding, Kind

NOW = 1_785_542_400.0  # seconds: 2026-08-01T00:00:00Z


def account(name="a", **fields):
    """Return a healthy account."""
    return Account(id=name, label=f"label-{name}", **fields)


def ms(seconds):
    """Return the moment *seconds* after NOW as a document has it."""
    return int((NOW + seconds) * 1000)


def finding(kind, reason=None, retry_after=None):
    """Return a finding."""
    return Finding(Kind(kind), Failure("FakeException", "Fake words.", reason), retry_after)


def credit(used, limit, resets_in=None):
    """Return usage."""
    return UsageRecord(used=used, limit=limit, resets_at=None if resets_in is None else ms(resets_in))


moments = st.none() | st.integers(-100_000, 100_000).map(ms)
accounts = st.builds(
    Account,
    id=st.sampled_from("abcdef"),
    enabled=st.booleans() | st.just(value=True),
    state=st.sampled_from(["ok", "ok", "ok", "needs_login", "suspended"]),
    is_healthy=st.booleans(),
    consecutive_failures=st.integers(0, 5),
    cooldown_until=moments,
    last_error=st.sampled_from([None, "rate_limited", "quota_exhausted", "MONTHLY_REQUEST_COUNT", "x"]),
    usage=st.none() | st.builds(credit, st.integers(0, 60), st.integers(0, 60), st.none() | st.integers(-9, 99_999)),
    quota_state=st.sampled_from(["available", "exhausted", "unknown"]),
    last_used=st.integers(0, 3),
    request_count=st.integers(0, 9),
)
pools = st.lists(accounts, max_size=6, unique_by=lambda one: one.id)
ids = st.sampled_from("abcdefg")
findings = st.builds(
    finding,
    st.sampled_from(list(Kind)),
    st.sampled_from([None, "DAILY_REQUEST_COUNT", "MONTHLY_REQUEST_COUNT", "USER_REQUEST_RATE_EXCEEDED"]),
    st.none() | st.floats(0, 86_400),
)
