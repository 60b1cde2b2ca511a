import pytest

from kimi_core.errors import ConfigError
from kimi_core.kimi.constants import REGIONS, site_for, sites


@pytest.mark.parametrize("region", REGIONS)
def test_regions_without_overrides(region):
    """Each region has its own hosts and its own login."""
    assert site_for(region, {}) == REGIONS[region]
    assert len({site.slot for site in REGIONS.values()}) == len(REGIONS)


@pytest.mark.parametrize(
    ("environ", "oauth", "base"),
    [
        ({"KIMI_CODE_OAUTH_HOST": "https://a.test/"}, "https://a.test", "https://api.kimi.com/coding/v1"),
        ({"KIMI_OAUTH_HOST": "https://b.test"}, "https://b.test", "https://api.kimi.com/coding/v1"),
        (
            {"KIMI_CODE_OAUTH_HOST": "https://a.test", "KIMI_OAUTH_HOST": "https://b.test"},
            "https://a.test",
            "https://api.kimi.com/coding/v1",
        ),
        ({"KIMI_CODE_OAUTH_HOST": "", "KIMI_OAUTH_HOST": "https://b.test"}, "https://b.test", None),
        (
            {"KIMI_CODE_BASE_URL": "http://127.0.0.1:9/coding/v1/"},
            "https://auth.kimi.com",
            "http://127.0.0.1:9/coding/v1",
        ),
    ],
)
def test_overrides_as_kimi_cli_has_them(environ, oauth, base):
    """The first variable that is not empty counts, a trailing slash does not, and the login is one of its own."""
    site = site_for("cn", environ)
    assert site.oauth == oauth
    assert base is None or site.base == base
    assert site.slot not in {region.slot for region in REGIONS.values()}
    assert "/" not in site.slot
    assert ":" not in site.slot


def test_the_same_place_by_override_is_the_same_login():
    """Naming the usual place changes nothing."""
    environ = {"KIMI_CODE_BASE_URL": "https://api.kimi.com/coding/v1/", "KIMI_OAUTH_HOST": "https://auth.kimi.com"}
    assert site_for("cn", environ) is REGIONS["cn"]


@pytest.mark.parametrize(
    "url", ["http://api.test/coding/v1", "ftp://api.test/x", "api.test", "https://", "http://127.0.0.1.evil.test/x"]
)
@pytest.mark.parametrize("name", ["KIMI_CODE_BASE_URL", "KIMI_CODE_OAUTH_HOST"])
def test_only_https_or_this_machine(name, url):
    """An override that would send credentials in the clear to another machine is refused."""
    with pytest.raises(ConfigError):
        site_for("cn", {name: url})


def test_parts_of_a_base():
    """Scheme, host, port and path of a base are told apart."""
    site = site_for("cn", {"KIMI_CODE_BASE_URL": "https://Host.Test:8443/coding/v1"})
    assert (site.scheme, site.host, site.port, site.path) == ("https", "host.test", 8443, "/coding/v1")
    assert REGIONS["global"].port == 443
    assert site_for("cn", {"KIMI_CODE_BASE_URL": "http://localhost/v1"}).port == 80


def test_all_regions_are_served():
    """The region in use comes first, the others are served by their own names."""
    assert [site.slot for site in sites("global", {})] == ["kimi.ai", "kimi.com"]
    overridden = sites("cn", {"KIMI_CODE_BASE_URL": "https://x.test/v1"})
    assert [site.host for site in overridden] == ["x.test", "api.kimi.com", "api.kimi.ai"]
