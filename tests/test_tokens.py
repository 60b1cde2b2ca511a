"""OAuth tokens: shapes, expiry arithmetic, single flight."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.tokens import OAuthToken, SingleFlight, digest

ANSWER = {
    "access_token": "fake-access",
    "refresh_token": "fake-refresh",
    "token_type": "Bearer",
    "expires_in": 900,
    "scope": "kimi-code",
}
visible = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1)
seconds = st.floats(allow_nan=False, allow_infinity=False)
tokens = st.builds(
    OAuthToken,
    access_token=visible,
    refresh_token=visible,
    expires_at=seconds,
    expires_in=seconds,
    scope=st.text(),
    token_type=st.text(min_size=1),
)


def make(remaining: float, lifetime: float) -> OAuthToken:
    """Return a token with so many seconds left at time 0."""
    return OAuthToken("fake-access", "fake-refresh", remaining, lifetime)


def test_an_answer_becomes_a_token_with_an_absolute_expiry() -> None:
    """The expiry is counted from the moment the answer came."""
    token = OAuthToken.from_response(ANSWER, 1000.0)
    assert token == OAuthToken("fake-access", "fake-refresh", 1900.0, 900.0, "kimi-code", "Bearer")
    assert token.remaining(1500.0) == 400.0
    assert token.remaining(2000.0) == -100.0


@pytest.mark.parametrize("gone", ["scope", "token_type"])
def test_scope_and_type_have_defaults(gone: str) -> None:
    """An answer may leave out scope and token_type."""
    token = OAuthToken.from_response({key: value for key, value in ANSWER.items() if key != gone}, 0.0)
    assert (token.scope, token.token_type) == (("", "Bearer") if gone == "scope" else ("kimi-code", "Bearer"))


@pytest.mark.parametrize("given_now", [None, "", "absent"])
def test_an_answer_without_a_refresh_token_keeps_the_old_one(given_now: str | None) -> None:
    """Where the answer has none, the refresh token that was spent goes on."""
    answer = {**ANSWER, "refresh_token": given_now}
    if given_now == "absent":
        del answer["refresh_token"]
    assert OAuthToken.from_response(answer, 0.0, refresh_token="fake-old").refresh_token == "fake-old"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("access_token", None),
        ("access_token", ""),
        ("access_token", 7),
        ("access_token", "fake\r\nX-Evil: 1"),
        ("access_token", "fäke"),
        ("refresh_token", None),
        ("expires_in", None),
        ("expires_in", True),
        ("expires_in", 0),
        ("expires_in", -1),
        ("expires_in", "soon"),
        ("expires_in", float("nan")),
        ("expires_in", float("inf")),
        ("expires_in", 10**400),
        ("expires_in", [900]),
    ],
)
def test_an_unusable_answer_names_the_field_and_not_its_value(field: str, value: Any) -> None:
    """ValueError says which field is at fault; no value is in the text."""
    with pytest.raises(ValueError, match=field) as caught:
        OAuthToken.from_response({**ANSWER, field: value}, 0.0)
    assert "fake" not in str(caught.value)


@pytest.mark.parametrize(
    ("remaining", "lifetime", "due"),
    [
        (900, 900, False),
        (450, 900, False),
        (449, 900, True),
        (300, 500, False),
        (299, 500, True),
        (1799, 3600, True),
        (-5, 900, True),
        (200, 200, False),
        (150, 200, False),
        (149, 200, True),
    ],
)
def test_a_token_is_due_below_half_its_life_or_five_minutes(remaining: float, lifetime: float, due: bool) -> None:
    """kimi-cli's bound, max(300 s, half of the lifetime), and three quarters for short lives."""
    assert make(remaining, lifetime).stale(0.0) is due


def test_no_token_shows_in_its_repr() -> None:
    """Secrets are left out of repr."""
    assert "fake" not in repr(make(1, 1))


def test_a_digest_is_the_sha256_in_hex() -> None:
    """Tokens are named by their SHA-256 (FIPS 180-4 example)."""
    assert digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@given(tokens, st.dictionaries(st.text(), st.integers()))
def test_a_token_survives_json(token: OAuthToken, other: dict[str, Any]) -> None:
    """to_json and from_json are inverse, through text, whatever other keys stand beside."""
    stored = {**other, **token.to_json()}
    assert OAuthToken.from_json(json.loads(json.dumps(stored))) == token


@given(st.dictionaries(st.sampled_from([*sorted(ANSWER), "expires_at"]), st.none() | st.text() | st.floats()))
def test_any_stored_object_is_a_token_or_a_value_error(data: dict[str, Any]) -> None:
    """Nothing but ValueError comes out of a strange object."""
    try:
        token = OAuthToken.from_json(data)
    except ValueError:
        return
    assert token.access_token.isascii()


async def test_concurrent_callers_share_one_call() -> None:
    """50 callers, one call, one result; the next caller after it starts another."""
    flight: SingleFlight[int] = SingleFlight()
    calls = []
    gate = asyncio.Event()

    async def make_one() -> int:
        calls.append(1)
        await gate.wait()
        return len(calls)

    waiting = [asyncio.create_task(flight.run(make_one)) for _ in range(50)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*waiting) == [1] * 50
    assert await flight.run(make_one) == 2


async def test_concurrent_callers_share_one_failure() -> None:
    """An exception reaches every caller, and the next call is a new one."""
    flight: SingleFlight[int] = SingleFlight()

    async def fail() -> int:
        await asyncio.sleep(0)
        raise LookupError("fake")

    results = await asyncio.gather(*(flight.run(fail) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [LookupError] * 3
    with pytest.raises(LookupError):
        await flight.run(fail)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_call_goes_on_when_every_caller_has_left(fails: bool) -> None:
    """Cancelled callers do not cut the call, and its failure is nobody's complaint."""
    flight: SingleFlight[int] = SingleFlight()
    gate, ended = asyncio.Event(), asyncio.Event()
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def make_one() -> int:
        await gate.wait()
        ended.set()
        if fails:
            raise LookupError("fake")
        return 1

    caller = asyncio.create_task(flight.run(make_one))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.set()
    await ended.wait()
    await asyncio.sleep(0)
    assert complaints == []


async def test_a_call_that_is_itself_cancelled_makes_room_for_the_next() -> None:
    """Where the loop cancels the call, callers see it and a later caller starts anew."""
    flight: SingleFlight[int] = SingleFlight()

    async def cancel_myself() -> int:
        raise asyncio.CancelledError

    async def one() -> int:
        return 1

    with pytest.raises(asyncio.CancelledError):
        await flight.run(cancel_myself)
    assert await flight.run(one) == 1
