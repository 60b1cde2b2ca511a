import json
from datetime import UTC, datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.errors import UpstreamError
from kimi_core.headers import Headers
from kimi_core.kimi import usage
from kimi_core.kimi.constants import Site
from kimi_core.kimi.usage import Booster, Row, Usage, span

NOW = 1_700_000_000.0
SITE = Site("kimi.com", "https://auth.example", "https://api.example/coding/v1")
ANSWER = {
    "user": {"userId": "fake-user-1", "region": "REGION_OVERSEA", "membership": {"level": "LEVEL_INTERMEDIATE"}},
    "usage": {"limit": "100", "used": "40", "remaining": "60", "resetTime": "2026-05-03T11:03:48.011825Z"},
    "limits": [
        {
            "window": {"duration": 300, "timeUnit": "TIME_UNIT_MINUTE"},
            "detail": {"limit": "100", "used": "1", "remaining": "99", "resetTime": "2026-05-01T09:00:00Z"},
        }
    ],
    "parallel": {"limit": "20"},
    "totalQuota": {"limit": "100", "remaining": "99"},
    "authentication": {"method": "METHOD_API_KEY", "scope": "FEATURE_CODING"},
    "subType": "TYPE_PURCHASE",
    "boosterWallet": {
        "balance": {"type": "BOOSTER", "amount": "20000000000", "amountLeft": "10000000000"},
        "monthlyChargeLimitEnabled": True,
        "monthlyChargeLimit": {"currency": "USD", "priceInCents": "20000"},
        "monthlyUsed": {"currency": "USD", "priceInCents": "500"},
    },
}
WEEKLY_RESET = datetime(2026, 5, 3, 11, 3, 48, 11825, tzinfo=UTC).timestamp()
WINDOW_RESET = datetime(2026, 5, 1, 9, tzinfo=UTC).timestamp()
PARSED = Usage(
    rows=(
        Row("Weekly limit", 40, 100, WEEKLY_RESET),
        Row("5h limit", 1, 100, WINDOW_RESET),
        Row("Total quota", 1, 100),
    ),
    booster=Booster(10000, 20000, "USD", 20000, 500),
    parallel=20,
    fetched_at=NOW,
)


def _rows(data):
    return list(usage.parse(data, NOW).rows)


def test_the_documented_answer():
    """Weekly limit, windows, total, booster and concurrency are read; who the user is, is not."""
    parsed = usage.parse(ANSWER, NOW)
    assert parsed == PARSED
    assert "fake-user-1" not in repr(parsed)
    assert "LEVEL" not in json.dumps(parsed.to_json())


@pytest.mark.parametrize(
    ("detail", "expected"),
    [
        ({"used": "40", "limit": "100"}, (40, 100)),
        ({"used": 40, "limit": 100.0, "remaining": "1"}, (40, 100)),
        ({"remaining": "60", "limit": "100"}, (40, 100)),
        ({"used": "40.5", "limit": "1e2"}, (40.5, 100)),
        ({"limit": "100"}, (0, 100)),
        ({"used": "7"}, (7, 0)),
        ({"used": "NaN", "limit": "100"}, (0, 100)),
        ({"remaining": "60"}, None),
        ({"used": True, "limit": "lots"}, None),
        ({"used": [1], "limit": None}, None),
        ({}, None),
        (None, None),
        ("100", None),
    ],
)
def test_used_and_limit(detail, expected):
    """What is used may follow from what remains; a row that says neither used nor limit is left out."""
    rows = [(row.used, row.limit) for row in _rows({"usage": detail})]
    assert rows == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("item", "label"),
    [
        ({"window": {"duration": 300, "timeUnit": "TIME_UNIT_MINUTE"}}, "5h limit"),
        ({"window": {"duration": "30", "timeUnit": "TIME_UNIT_MINUTE"}}, "30m limit"),
        ({"window": {"duration": 90, "timeUnit": "TIME_UNIT_MINUTE"}}, "90m limit"),
        ({"window": {"duration": 5, "timeUnit": "TIME_UNIT_HOUR"}}, "5h limit"),
        ({"window": {"duration": 7, "timeUnit": "TIME_UNIT_DAY"}}, "7d limit"),
        ({"window": {"duration": 1, "timeUnit": "TIME_UNIT_WEEK"}}, "1w limit"),
        ({"window": {"duration": 45, "timeUnit": "TIME_UNIT_SECOND"}}, "45s limit"),
        ({"window": {"duration": 45}}, "45s limit"),
        ({"duration": 2, "timeUnit": "HOUR"}, "2h limit"),
        ({"detail": {"limit": 1, "duration": 3, "timeUnit": "DAY"}}, "3d limit"),
        ({"window": {"duration": 0, "timeUnit": "TIME_UNIT_DAY"}}, "Limit #1"),
        ({"window": "soon"}, "Limit #1"),
        ({}, "Limit #1"),
        ({"name": "Burst"}, "Burst"),
        ({"title": "Burst", "window": {"duration": 300, "timeUnit": "TIME_UNIT_MINUTE"}}, "Burst"),
        ({"scope": "coding"}, "coding"),
        ({"detail": {"limit": 1, "scope": "coding"}}, "coding"),
        ({"detail": {"limit": 1, "name": "Inner"}, "scope": "coding"}, "Inner"),
    ],
)
def test_labels_of_limits(item, label):
    """A limit is called by its name, else by its window, else by its number."""
    assert [row.label for row in _rows({"limits": [{"limit": 1, **item}]})] == [label]


@pytest.mark.parametrize(
    ("detail", "label"), [({}, "Weekly limit"), ({"name": "Plan"}, "Plan"), ({"title": "Plan"}, "Plan")]
)
def test_label_of_the_summary(detail, label):
    """The summary row is the weekly limit unless it has a name."""
    assert _rows({"usage": {"limit": 1, **detail}})[0].label == label


def test_limits_are_numbered_by_their_place():
    """Items that are no objects or say nothing are left out without moving the numbers."""
    assert [row.label for row in _rows({"limits": [3, {}, {"limit": 1}, None]})] == ["Limit #3"]
    assert _rows({"limits": {"limit": 1}}) == []


@pytest.mark.parametrize(
    ("detail", "resets_at"),
    [
        ({"resetTime": "2026-05-01T09:00:00Z"}, WINDOW_RESET),
        ({"reset_at": "2026-05-01T11:00:00+02:00"}, WINDOW_RESET),
        ({"resetAt": "2026-05-01T09:00:00"}, WINDOW_RESET),
        ({"reset_time": "2026-05-01T09:00:00.123456789Z"}, WINDOW_RESET + 0.123456),
        ({"resetTime": 1_800_000_000}, 1_800_000_000),
        ({"resetTime": "1800000000"}, 1_800_000_000),
        ({"resetTime": 1_800_000_000_500}, 1_800_000_000.5),
        ({"reset_in": 60}, NOW + 60),
        ({"resetIn": "60"}, NOW + 60),
        ({"ttl": 0}, NOW),
        ({"window": 60}, NOW + 60),
        ({"window": {"duration": 60}}, None),
        ({"resetTime": "tomorrow", "reset_in": 60}, NOW + 60),
        ({"resetTime": "0001-01-01T00:00:00+14:00"}, pytest.approx(-62135647200.0)),
        ({"resetTime": ["2026"]}, None),
        ({"resetTime": None}, None),
        ({}, None),
    ],
)
def test_reset_times(detail, resets_at):
    """A reset is ISO text with any fraction, an epoch in seconds or milliseconds, or a number of seconds to go."""
    assert _rows({"usage": {"limit": 1, **detail}})[0].resets_at == resets_at


@pytest.mark.parametrize(
    ("wallet", "expected"),
    [
        ({"balance": {"type": "BOOSTER", "amount": "1000000", "amountLeft": "1"}}, Booster(1, 1)),
        ({"balance": {"type": "BOOSTER", "amount": 2_600_000}}, Booster(0, 3)),
        ({"balance": {"type": "BOOSTER", "amount": "0", "amountLeft": "5"}}, None),
        ({"balance": {"type": "GIFT", "amount": "1000000"}}, None),
        ({"balance": None}, None),
        ({}, None),
        (None, None),
        (
            {
                "balance": {"type": "BOOSTER", "amount": "1000000"},
                "monthlyChargeLimitEnabled": False,
                "monthlyChargeLimit": {"priceInCents": "9"},
                "monthlyUsed": {"currency": "CNY", "priceInCents": "5"},
            },
            Booster(0, 1, "CNY", None, 5),
        ),
        (
            {
                "balance": {"type": "BOOSTER", "amount": "1000000"},
                "monthlyChargeLimitEnabled": True,
                "monthlyChargeLimit": {"currency": 5},
            },
            Booster(0, 1),
        ),
    ],
)
def test_booster(wallet, expected):
    """The wallet counts only as BOOSTER with an amount; a part of a cent shows as one; USD is the default."""
    assert usage.parse({"boosterWallet": wallet}, NOW).booster == expected


@pytest.mark.parametrize("data", [None, [], "x", 3])
def test_no_object(data):
    """What is no object is an UpstreamError."""
    with pytest.raises(UpstreamError, match="unknown shape"):
        usage.parse(data, NOW)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.from_regex(r"[0-9]{1,25}"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
DETAIL = st.dictionaries(
    st.sampled_from(["used", "limit", "remaining", "name", "scope", "duration", "timeUnit", *usage.RESET_AT, "ttl"]),
    JSON,
)
ANY = st.fixed_dictionaries(
    {},
    optional={
        "usage": DETAIL | JSON,
        "limits": st.lists(st.fixed_dictionaries({"detail": DETAIL | JSON, "window": DETAIL | JSON}) | JSON) | JSON,
        "parallel": DETAIL | JSON,
        "totalQuota": DETAIL | JSON,
        "boosterWallet": st.fixed_dictionaries(
            {
                "balance": st.fixed_dictionaries({"type": st.just("BOOSTER"), "amount": JSON, "amountLeft": JSON}),
                "monthlyChargeLimit": st.dictionaries(st.sampled_from(["currency", "priceInCents"]), JSON),
            }
        ),
    },
)


@given(ANY)
def test_parse_takes_anything(data):
    """Whatever stands in the fields, there is a usage that can be shown and written."""
    parsed = usage.parse(data, NOW)
    assert [row.text(NOW) for row in parsed.rows] or not parsed.rows
    assert all(0 <= row.left <= 1 for row in parsed.rows)
    assert json.loads(json.dumps(parsed.to_json(), allow_nan=False))["fetched_at"] == NOW


@pytest.mark.parametrize(
    ("used", "limit", "left", "severity"),
    [
        (0, 100, 1.0, "green"),
        (69, 100, 0.31, "green"),
        (70, 100, 0.3, "yellow"),
        (89, 100, 0.11, "yellow"),
        (90, 100, 0.1, "red"),
        (100, 100, 0.0, "red"),
        (130, 100, 0.0, "red"),
        (-5, 100, 1.0, "green"),
        (5, 0, 0.0, "red"),
    ],
)
def test_left_and_severity(used, limit, left, severity):
    """Red with a tenth left or less, yellow with three tenths or less, never outside 0 to 1."""
    row = Row("x", used, limit)
    assert row.left == pytest.approx(left)
    assert row.severity == severity


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (Row("x", 40, 100, NOW + 183_600), "60% left (resets in 2d 3h)"),
        (Row("x", 40, 100, NOW - 5), "60% left (resets in 0s)"),
        (Row("x", 40, 100), "60% left"),
    ],
)
def test_row_text(row, text):
    """A row says what is left and when it starts anew."""
    assert row.text(NOW) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (183_600, "2d 3h"),
        (183_659, "2d 3h"),
        (86_400, "1d"),
        (86_460, "1d 1m"),
        (3_660, "1h 1m"),
        (61, "1m 1s"),
        (59.6, "1m"),
        (0.4, "0s"),
        (-10, "0s"),
    ],
)
def test_span(seconds, text):
    """A length of time shows its two largest units."""
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], None),
        ([Row("w", 40, 100, NOW + 9)], None),
        ([Row("w", 100, 100, NOW + 9)], NOW + 9),
        ([Row("w", 120, 100, NOW + 9), Row("5h", 100, 100, NOW + 5), Row("x", 1, 2, NOW + 99)], NOW + 9),
        ([Row("w", 100, 100)], None),
        ([Row("w", 100, 100, NOW - 1)], None),
        ([Row("w", 0, 0, NOW + 9)], None),
    ],
)
def test_exhausted(rows, expected):
    """The plan serves again when the last of its used-up rows starts anew."""
    assert Usage(tuple(rows), None, None, NOW).exhausted(NOW) == expected


async def test_fetch():
    """The usage is asked for at the site's base with the headers given."""
    seen = []

    def handler(request):
        seen.append((str(request.url), request.headers["authorization"]))
        return httpx.Response(200, json=ANSWER)

    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        headers = Headers([("Authorization", "Bearer fake-access-1")])
        assert await usage.fetch(client, SITE, headers, clock=lambda: NOW) == PARSED
    assert seen == [("https://api.example/coding/v1/usages", "Bearer fake-access-1")]


async def test_fetch_401():
    """A refused token is told apart by http_status."""
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(401))) as client:
        with pytest.raises(UpstreamError) as caught:
            await usage.fetch(client, SITE, Headers())
    assert caught.value.http_status == 401
