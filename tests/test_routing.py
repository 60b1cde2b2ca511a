import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.routing import authority, below


@pytest.mark.parametrize(
    ("path", "rest"),
    [
        ("/coding/v1/models", "v1/models"),
        ("/coding/v1/models?a=/../b", "v1/models?a=/../b"),
        ("/coding/", ""),
        ("/coding/v1/.hidden", "v1/.hidden"),
        ("/coding", None),
        ("/codingx/v1", None),
        ("/coding/./v1", None),
        ("/coding/..", None),
        ("/coding/v1/%2E%2e/x", None),
        ("/coding/v1%2fx", None),
        ("/coding//v1", None),
        ("/coding/v1\\x", None),
        ("/coding/v1 x", None),
        ("/coding/v1%00", None),
        ("/coding/%25", None),
    ],
)
def test_paths_below_a_folder(path, rest):
    """What lies below a folder is told exactly; a path that two servers could read differently is nobody's."""
    assert below(path, "/coding/") == rest


@given(st.text())
def test_no_text_climbs_out(text):
    """Whatever follows the folder, what is taken for its inside has no way up or around."""
    rest = below("/coding/" + text, "/coding/")
    if rest is not None:
        bare = rest.partition("?")[0]
        assert ".." not in bare.split("/")
        assert "//" not in bare
        assert "\\" not in bare


@pytest.mark.parametrize(
    ("place", "host"),
    [
        (("https", "api.kimi.com", 443), "api.kimi.com"),
        (("https", "localhost", 9460), "localhost:9460"),
        (("http", "127.0.0.1", 80), "127.0.0.1"),
        (("https", "::1", 8443), "[::1]:8443"),
        (("https", "::1", 443), "[::1]"),
    ],
)
def test_host_header(place, host):
    """The Host field names the port only where it is not the scheme's own, and brackets an IPv6 address."""
    assert authority(*place) == host
