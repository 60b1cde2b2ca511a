import pytest

from kimi_core.errors import ConfigError
from kimi_core.origins import check, origin


@pytest.mark.parametrize(
    ("url", "result"),
    [
        ("https://Kiro.Example.test", "https://kiro.example.test"),
        ("https://kiro.example.test:8443/", "https://kiro.example.test:8443"),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("http://localhost:9000/", "http://localhost:9000"),
        ("http://[::1]:9000", "http://[::1]:9000"),
    ],
)
def test_origins_that_are_taken(url, result):
    """Https anywhere and http to this machine are taken, without a trailing slash."""
    assert origin(url) == result


@pytest.mark.parametrize(
    "url",
    [
        "http://kiro.example.test",
        "http://127.0.0.1.example.test",
        "kiro.example.test",
        "ftp://localhost",
        "https://",
        "",
        "https://[::1",
        "https://a.test:x",
    ],
)
def test_addresses_that_would_show_a_token(url):
    """Plain http to another machine, and what is no address, are refused."""
    with pytest.raises(ConfigError, match="no https address"):
        check(url)


@pytest.mark.parametrize(
    "url",
    ["https://a.test/path", "https://a.test/?q=1", "https://a.test/#f", "https://a.test?q"],
)
def test_more_than_an_origin(url):
    """A path, a query or a fragment is no part of an origin."""
    with pytest.raises(ConfigError, match="no origin"):
        origin(url)


@pytest.mark.parametrize("url", ["https://user:fake-pass@a.test", "https://a.test@evil.test", "http://u@127.0.0.1:9/x"])
def test_a_user_in_an_address_is_refused_and_not_repeated(url):
    """It would stand in names of files, and hide where a request really goes."""
    with pytest.raises(ConfigError) as caught:
        check(url)
    assert "fake-pass" not in str(caught.value)
    assert "a.test" not in str(caught.value)
