from uuid import UUID

import httpx
import pytest

from kimi_core.errors import UpstreamError
from kimi_core.kiro import refusals
from kimi_core.kiro.constants import BUILDER_PROFILE, MODELS_TARGET
from kimi_core.kiro.management import MAX_PAGES, MAX_TRIES, Question, pages
from tests.kiro.calling import (
    BAD_TOKEN,
    EXPIRED,
    NO_FEATURE,
    NO_PROFILE,
    NOT_AUTHORIZED,
    UNKNOWN,
    parameters,
    service,
)

OWN = "arn:aws:codewhisperer:eu-central-1:123456789012:profile/OWN"
MANAGEMENT, Q = "management.us-east-1.kiro.dev", "q.us-east-1.amazonaws.com"
EU = "management.eu-central-1.kiro.dev"
DOWN = httpx.ConnectError("no route")


def models(identity):
    """Ask for models."""
    return Question("models", "The model list", {"origin": identity.origin})


def usage(identity):
    """Ask for usage, with parameters that may be refused."""
    return Question("usage", "The usage", {"origin": identity.origin, "some": True}, lean={"origin": identity.origin})


def profiles(_):
    """Ask for profiles."""
    return Question("profiles", "The profiles", {})


async def test_a_call_of_kiro_cli():
    """One POST to the management host with target, identity, token and the parameters in body and query."""
    fake = service({"models": []}, auth_method="idc", profile_arn=OWN)
    assert await fake.caller().ask("a1", models) == {"models": []}
    (seen,) = fake.seen
    assert (seen.method, seen.url.host, seen.url.path) == ("POST", EU, "/")
    assert parameters(seen) == dict(seen.url.params) == {"origin": "KIRO_CLI", "profileArn": OWN}
    assert seen.headers["x-amz-target"] == MODELS_TARGET
    assert seen.headers["authorization"] == "Bearer fake-access-1"


async def test_every_call_has_an_id_of_its_own():
    """The service tells calls apart by a UUID, as the official clients send it."""
    fake = service({"models": []}, auth_method="idc", profile_arn=OWN)
    caller = fake.caller()
    for _ in range(2):
        await caller.ask("a1", models)
    first, second = (UUID(seen.headers["amz-sdk-invocation-id"]) for seen in fake.seen)
    assert first != second


async def test_a_call_of_the_ide():
    """A GET whose query has the parameters, and no field that speaks of a body."""
    fake = service({}, name="ide", auth_method="builder")
    await fake.caller().ask("a1", usage)
    (seen,) = fake.seen
    assert (seen.method, seen.url.host, seen.url.path) == ("GET", Q, "/getUsageLimits")
    assert dict(seen.url.params) == {"origin": "AI_EDITOR", "some": "true"}
    assert not {"content-type", "x-amz-target", "content-length"} & set(seen.headers)


@pytest.mark.parametrize("answer", [EXPIRED, BAD_TOKEN])
async def test_a_rejected_token_is_renewed_once(answer):
    """A 401, and a 403 that speaks of the token, is asked again with a new one."""
    fake = service(answer, {"ok": 1})
    assert await fake.caller().ask("a1", models) == {"ok": 1}
    assert fake.renewed == ["fake-access-1"]
    assert [seen.headers["authorization"] for seen in fake.seen] == ["Bearer fake-access-1", "Bearer fake-access-2"]


async def test_a_token_that_stays_rejected_ends_it():
    """Two requests and one renewal, then the user is told to log in."""
    fake = service(EXPIRED)
    with pytest.raises(refusals.TokenRejected, match="The model list was answered with status 401") as caught:
        await fake.caller().ask("a1", models)
    assert (len(fake.seen), len(fake.renewed)) == (2, 1)
    assert "fake-access" not in caught.value.sentence


@pytest.mark.parametrize(
    ("method", "arn", "expected"),
    [
        ("builder", None, [(MANAGEMENT, BUILDER_PROFILE), (MANAGEMENT, None), (Q, None), (Q, BUILDER_PROFILE)]),
        (
            "desktop",
            OWN,
            [(EU, OWN), (MANAGEMENT, None), ("q.eu-central-1.amazonaws.com", OWN)],
        ),
        ("idc", None, [(MANAGEMENT, None), (Q, None)]),
        ("api_key", OWN, [(MANAGEMENT, None), (Q, None)]),
    ],
)
@pytest.mark.parametrize("answer", [NOT_AUTHORIZED, NO_PROFILE])
async def test_profile_and_host_are_tried_in_turn(method, arn, expected, answer):
    """What the service refuses for the profile is asked with the other one, then at the other host."""
    fake = service(answer, auth_method=method, profile_arn=arn)
    with pytest.raises((refusals.NotAuthorized, refusals.ProfileRequired)):
        await fake.caller().ask("a1", models)
    assert [(host, profile) for _, host, _, profile in fake.told][: len(expected)] == expected
    assert len(fake.told) == len(set(fake.told)) <= MAX_TRIES


async def test_what_worked_is_asked_first_next_time():
    """The second question goes straight to the form that was answered."""
    fake = service(NOT_AUTHORIZED, UNKNOWN, {"n": 1}, auth_method="builder")
    caller = fake.caller()
    await caller.ask("a1", models)
    await caller.ask("a1", models)
    assert fake.told[2] == fake.told[3]
    assert len(fake.told) == 4


async def test_an_operation_that_a_host_does_not_have():
    """A 404 goes on to the next host at once, not to the same one with another profile."""
    fake = service(UNKNOWN, {}, auth_method="builder")
    await fake.caller().ask("a1", models)
    assert [host for _, host, _, _ in fake.told] == [MANAGEMENT, Q]


async def test_a_host_that_cannot_be_reached():
    """No connection: the other host is asked, and no further form at the first."""
    fake = service(DOWN, {}, auth_method="builder")
    await fake.caller().ask("a1", models)
    assert [host for _, host, _, _ in fake.told] == [MANAGEMENT, Q]
    fake = service(DOWN)
    with pytest.raises(UpstreamError, match="could not be fetched: ConnectError"):
        await fake.caller().ask("a1", models)
    assert len(fake.seen) == 2


async def test_a_parameter_that_the_service_does_not_know():
    """FEATURE_NOT_SUPPORTED is asked again with fewer parameters, once."""
    fake = service(NO_FEATURE, {})
    await fake.caller().ask("a1", usage)
    assert [parameters(seen) for seen in fake.seen] == [{"origin": "KIRO_CLI", "some": True}, {"origin": "KIRO_CLI"}]
    fake = service(NO_FEATURE)
    with pytest.raises(refusals.FeatureMissing):
        await fake.caller().ask("a1", usage)
    assert len(fake.seen) == 2
    with pytest.raises(refusals.FeatureMissing):
        await fake.caller().ask("a1", models)
    assert len(fake.seen) == 3


async def test_a_request_that_the_service_does_not_understand():
    """A 400 without a name leads to fewer parameters and to the other ways, not to the same one again."""
    fake = service((400, "ValidationException", "Improperly formed request."))
    with pytest.raises(refusals.Invalid):
        await fake.caller().ask("a1", usage)
    assert len(fake.seen) == MAX_TRIES
    assert len({(str(seen.url), seen.content) for seen in fake.seen}) == MAX_TRIES


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((429, "ThrottlingException", "Too many requests"), refusals.RateLimited),
        ((403, "AccessDeniedException", "x", "TEMPORARILY_SUSPENDED"), refusals.Suspended),
        ((402, "ServiceQuotaExceededException", "x", "MONTHLY_REQUEST_COUNT"), refusals.QuotaUsedUp),
        ((503, "", ""), refusals.Faulty),
    ],
)
async def test_other_refusals_are_final(answer, error):
    """Where another form would not help, one request is all there is."""
    fake = service(answer)
    with pytest.raises(error):
        await fake.caller().ask("a1", usage)
    assert len(fake.seen) == 1


async def test_an_answer_that_is_no_json():
    """A 200 with something else is not asked for again elsewhere."""
    fake = service({})
    fake._answer = lambda request: fake.seen.append(request) or httpx.Response(200, text="<html>")
    with pytest.raises(UpstreamError, match="is no JSON"):
        await fake.caller().ask("a1", models)
    assert len(fake.seen) == 1


async def test_profiles_are_asked_for_without_one():
    """The question that looks for profiles names none, and may be asked of any region."""
    fake = service({}, auth_method="idc", profile_arn=OWN)
    await fake.caller().ask("a1", profiles, region="us-east-1")
    assert fake.told == [("POST", MANAGEMENT, "/", None)]


async def test_pages_are_followed():
    """Each page is asked for with the token of the one before; a token that comes twice ends the list."""
    fake = service({"nextToken": "a"}, {"nextToken": "b"}, {})
    found = await pages(fake.caller(), "a1", models, lambda page: page.get("nextToken"))
    assert len(found) == 3
    assert [parameters(seen).get("nextToken") for seen in fake.seen] == [None, "a", "b"]
    fake = service({"nextToken": "a"})
    assert len(await pages(fake.caller(), "a1", models, lambda page: page.get("nextToken"))) == 2


async def test_pages_have_an_end():
    """A service that always has another page is not followed for ever."""
    fake = service(*({"nextToken": str(number)} for number in range(MAX_PAGES + 5)))
    assert len(await pages(fake.caller(), "a1", models, lambda page: page.get("nextToken"))) == MAX_PAGES
