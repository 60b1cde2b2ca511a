import pytest

from kimi_core.errors import UpstreamError
from kimi_core.kiro import refusals
from kimi_core.kiro.accounts import Account
from kimi_core.kiro.profiles import Profile, discover, parse, with_profile
from tests.kiro.calling import NOT_AUTHORIZED, parameters, service

US = {"arn": "arn:aws:codewhisperer:us-east-1:1:profile/US", "profileName": "Team"}
EU = {"arn": "arn:aws:codewhisperer:eu-central-1:1:profile/EU", "status": "ACTIVE"}


async def found(fake):
    """Return the profiles that the service has for its account."""
    return await discover(fake.caller(), fake.account)


async def test_both_regions_are_asked():
    """An organisation's profile may live in either region; each is found once."""
    fake = service({"profiles": [US]}, {"profiles": [US, EU]}, auth_method="idc")
    assert await found(fake) == (Profile(US["arn"], "Team"), Profile(EU["arn"]))
    assert [seen.url.host for seen in fake.seen] == [
        "management.us-east-1.kiro.dev",
        "management.eu-central-1.kiro.dev",
    ]
    assert [parameters(seen) for seen in fake.seen] == [{}, {}]


@pytest.mark.parametrize("method", ["desktop", "builder", "api_key"])
async def test_who_has_none_to_look_for_is_not_asked(method):
    """Other logins bring their profile, may not ask, or need none."""
    fake = service({"profiles": [US]}, auth_method=method)
    assert await found(fake) == ()
    assert fake.seen == []


async def test_a_region_that_refuses_has_none():
    """One region's refusal does not hide the other's profiles."""
    fake = service(NOT_AUTHORIZED, NOT_AUTHORIZED, {"profiles": [EU]}, auth_method="idc")
    assert await found(fake) == (Profile(EU["arn"]),)


async def test_both_regions_refuse():
    """Where no region answers the user is told why."""
    with pytest.raises(refusals.NotAuthorized):
        await found(service(NOT_AUTHORIZED, auth_method="external_idp"))


async def test_pages():
    """A long list is read to its end."""
    fake = service({"profiles": [US], "nextToken": "more"}, {"profiles": [EU]}, {"profiles": []}, auth_method="idc")
    assert len(await found(fake)) == 2
    assert parameters(fake.seen[1]) == {"nextToken": "more"}


def test_odd_items_are_left_out():
    """What has no ARN is no profile."""
    odd = [None, {}, {"arn": 1}, {"arn": "x"}, {"arn": "arn:x", "profileName": 3}]
    assert parse({"profiles": odd}) == (Profile("arn:x"),)
    for shape in (None, [], {}, {"profiles": {}}):
        with pytest.raises(UpstreamError):
            parse(shape)


def test_the_profile_names_the_region():
    """An account is served from where its profile lives, which is not where its SSO is."""
    account = Account(id="a", region="us-east-1", oidc_region="ap-southeast-2", auth_method="idc")
    changed = with_profile(account, EU["arn"])
    assert (changed.profile_arn, changed.region, changed.oidc_region) == (EU["arn"], "eu-central-1", "ap-southeast-2")
    assert with_profile(account, "arn:odd").region == "us-east-1"
