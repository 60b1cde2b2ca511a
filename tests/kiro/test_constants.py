import pytest

from kimi_core.errors import ConfigError
from kimi_core.kiro.constants import (
    BUILDER_PROFILE,
    OVERRIDES,
    SOCIAL_PROFILE,
    Endpoints,
    api_region,
    arn_region,
)


@pytest.mark.parametrize(
    ("region", "home"),
    [
        ("us-east-1", "us-east-1"),
        ("us-west-2", "us-east-1"),
        ("ap-southeast-1", "us-east-1"),
        ("eu-west-1", "eu-central-1"),
        ("eu-central-1", "eu-central-1"),
        ("sa-east-1", "us-east-1"),
        ("evil.test/", "us-east-1"),
        ("", "us-east-1"),
    ],
)
def test_api_regions(region, home):
    """Two regions serve the API; every other one is led to one of them, whatever a file says."""
    assert api_region(region) == home


@pytest.mark.parametrize(
    ("arn", "region"),
    [
        (SOCIAL_PROFILE, "us-east-1"),
        (BUILDER_PROFILE, "us-east-1"),
        ("arn:aws:codewhisperer:eu-central-1:123456789012:profile/FAKE", "eu-central-1"),
        ("arn:aws:codewhisperer:evil.test/:1:profile/FAKE", None),
        ("arn:aws", None),
        ("", None),
    ],
)
def test_region_of_a_profile(arn, region):
    """The region of a profile is its ARN's fourth field."""
    assert arn_region(arn) == region


def test_origins_by_region():
    """Hosts follow the region; that of SSO is taken as it is, the others lead to a region with service."""
    endpoints = Endpoints.from_env({})
    assert endpoints.runtime("eu-west-1") == "https://runtime.eu-central-1.kiro.dev"
    assert endpoints.management("us-west-2") == "https://management.us-east-1.kiro.dev"
    assert endpoints.q("eu-central-1") == "https://q.eu-central-1.amazonaws.com"
    assert endpoints.oidc("eu-west-1") == "https://oidc.eu-west-1.amazonaws.com"
    assert endpoints.oidc("us-gov-west-1") == "https://oidc.us-gov-west-1.amazonaws.com"
    assert endpoints.auth("us-east-1") == "https://prod.us-east-1.auth.desktop.kiro.dev"
    assert endpoints.portal == "https://app.kiro.dev"
    assert endpoints.served() == (
        "https://runtime.us-east-1.kiro.dev",
        "https://runtime.eu-central-1.kiro.dev",
        "https://q.us-east-1.amazonaws.com",
        "https://q.eu-central-1.amazonaws.com",
        "https://management.us-east-1.kiro.dev",
        "https://management.eu-central-1.kiro.dev",
    )


@pytest.mark.parametrize("region", ["", "us-east-1.evil.test", "x/#", "us-east-1\n", "US-EAST-1"])
def test_a_region_is_no_way_to_another_host(region):
    """What is no region's name does not become part of a host name."""
    with pytest.raises(ConfigError, match="no region"):
        Endpoints().oidc(region)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("KIRO_RUNTIME_URL", lambda endpoints: endpoints.runtime("eu-west-1")),
        ("KIRO_MANAGEMENT_URL", lambda endpoints: endpoints.management("eu-west-1")),
        ("KIRO_Q_URL", lambda endpoints: endpoints.q("eu-west-1")),
        ("KIRO_OIDC_URL", lambda endpoints: endpoints.oidc("eu-west-1")),
        ("KIRO_AUTH_URL", lambda endpoints: endpoints.auth("eu-west-1")),
        ("KIRO_PORTAL_URL", lambda endpoints: endpoints.portal),
    ],
)
def test_overrides(name, read):
    """Each origin can be replaced, for all regions; an address that would show a token is refused."""
    assert name in OVERRIDES.values()
    assert read(Endpoints.from_env({name: "http://127.0.0.1:9000/"})) == "http://127.0.0.1:9000"
    assert read(Endpoints.from_env({name: ""})) == read(Endpoints())
    with pytest.raises(ConfigError):
        Endpoints.from_env({name: "http://kiro.example.test"})


def test_one_override_for_all_is_served_once():
    """Where everything leads to one place, that place is listed once."""
    here = "http://127.0.0.1:9000"
    endpoints = Endpoints.from_env({"KIRO_RUNTIME_URL": here, "KIRO_Q_URL": here, "KIRO_MANAGEMENT_URL": here})
    assert endpoints.served() == (here,)


def test_login_origins():
    """The places where somebody logs in are listed apart from those that serve the API."""
    found = Endpoints().logins()
    assert found[0] == "https://app.kiro.dev"
    assert "https://oidc.us-east-1.amazonaws.com" in found
    assert "https://prod.eu-central-1.auth.desktop.kiro.dev" in found
    assert not {*found} & {*Endpoints().served()}
