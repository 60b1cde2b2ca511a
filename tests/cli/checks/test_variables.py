import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.cli.checks.check import State
from kimi_core.cli.checks.variables import (
    Proxies,
    excludes,
    judge_all_proxy,
    judge_https_proxy,
    judge_no_proxy,
    judge_spelling,
    masked,
)

OURS = "http://127.0.0.1:8080"
SERVED = ("api.kimi.com", "runtime.us-east-1.kiro.dev")


def proxies(**environ):
    """Return the variables of a shell, for a proxy at 127.0.0.1:8080."""
    return Proxies(environ, "127.0.0.1", 8080, SERVED)


@pytest.mark.parametrize(
    ("value", "state", "word"),
    [
        ("", State.skipped, "not set"),
        (OURS, State.ok, "leads to the proxy"),
        (f"{OURS}/", State.ok, "leads to the proxy"),
        ("http://localhost:8080", State.ok, "leads to the proxy"),
        ("http://[::1]:8080", State.ok, "leads to the proxy"),
        ("HTTP://127.0.0.1:8080", State.ok, "leads to the proxy"),
        ("http://127.0.0.1:9090", State.problem, "the proxy is at"),
        ("http://127.0.0.1", State.problem, "the proxy is at"),
        ("https://127.0.0.1:8080", State.problem, "plain http"),
        ("socks5://127.0.0.1:8080", State.problem, "another kind"),
        (f"{OURS}/kimi/v1", State.problem, "more than host and port"),
        (f"{OURS};", State.problem, "more than host and port"),
        (f"{OURS} ", State.problem, "no address"),
        ("http://", State.problem, "no address"),
        ("127.0.0.1:8080", State.warning, "no http://"),
        ("http://proxy.example:3128", State.warning, "not this proxy"),
        ("http://fake-user-1:fake-pass-1@proxy.example:3128", State.warning, "http://…@proxy.example:3128"),
    ],
)
def test_https_proxy(value, state, word):
    """Each way in which HTTPS_PROXY can be wrong is named, and a password in it is not."""
    found = judge_https_proxy(proxies(HTTPS_PROXY=value))
    assert found.state is state
    assert word in found.message
    assert "fake-pass-1" not in found.message + found.fix
    if state is State.problem:
        assert found.fix == f"export HTTPS_PROXY={OURS}"


def test_small_letters_are_read_first():
    """Where both spellings are set, the one that most clients take is judged."""
    assert judge_https_proxy(proxies(HTTPS_PROXY=OURS, https_proxy="http://127.0.0.1:1")).state is State.problem


def test_a_proxy_on_ipv6_is_written_with_brackets():
    """The address to set is one that clients understand."""
    facts = Proxies({"HTTPS_PROXY": "http://127.0.0.1:1"}, "::1", 8080, SERVED)
    assert judge_https_proxy(facts).fix == "export HTTPS_PROXY=http://[::1]:8080"


@pytest.mark.parametrize(
    ("no_proxy", "state", "word"),
    [
        ("localhost,127.0.0.1,::1", State.ok, "has this machine"),
        ("localhost, 127.0.0.1 ,example.org", State.ok, "has this machine"),
        ("", State.warning, "localhost and 127.0.0.1"),
        ("localhost", State.warning, "lacks 127.0.0.1"),
        ("localhost,127.0.0.1,api.kimi.com", State.problem, "api.kimi.com"),
        ("localhost,127.0.0.1,.KIMI.com", State.problem, "api.kimi.com"),
        ("localhost,127.0.0.1,*.kiro.dev", State.problem, "runtime.us-east-1.kiro.dev"),
        ("*", State.problem, "api.kimi.com, runtime"),
    ],
)
def test_no_proxy(no_proxy, state, word):
    """NO_PROXY must have this machine, and none of the hosts that are served."""
    found = judge_no_proxy(proxies(HTTPS_PROXY=OURS, NO_PROXY=no_proxy))
    assert found.state is state
    assert word in found.message
    if state is not State.ok:
        mended = found.fix.removeprefix("export NO_PROXY=")
        assert judge_no_proxy(proxies(HTTPS_PROXY=OURS, NO_PROXY=mended)).state is State.ok


def test_no_proxy_without_a_proxy():
    """Where no variable names a proxy, NO_PROXY does nothing; where another proxy is named, this machine counts."""
    assert judge_no_proxy(proxies(NO_PROXY="*")).state is State.skipped
    assert judge_no_proxy(proxies(HTTP_PROXY="http://proxy.example:1")).state is State.warning


@pytest.mark.parametrize(
    ("entry", "host", "expected"),
    [
        ("kimi.com", "api.kimi.com", True),
        ("api.kimi.com:443", "api.kimi.com", True),
        ("imi.com", "api.kimi.com", False),
        ("::1", "::1", True),
        ("[::1]", "::1", True),
        ("*", "anything", True),
        (".", "api.kimi.com", False),
        ("", "api.kimi.com", False),
    ],
)
def test_what_an_entry_takes_away(entry, host, expected):
    """An entry counts for its name and all below it, with and without a dot, a star, or a port."""
    assert excludes(entry, host) is expected


@pytest.mark.parametrize(
    ("environ", "state", "word"),
    [
        ({}, State.skipped, "not set"),
        ({"ALL_PROXY": OURS}, State.warning, "do not read it"),
        ({"ALL_PROXY": OURS, "HTTPS_PROXY": OURS}, State.ok, "as well"),
        ({"all_proxy": "socks5://127.0.0.1:1080", "HTTPS_PROXY": OURS}, State.warning, "some clients prefer it"),
        ({"ALL_PROXY": "socks5://fake-user-1:fake-pass-1@proxy.example:1080"}, State.warning, "past this proxy"),
    ],
)
def test_all_proxy(environ, state, word):
    """ALL_PROXY is a fallback that not all clients know, and that some prefer."""
    found = judge_all_proxy(proxies(**environ))
    assert found.state is state
    assert word in found.message
    assert "fake-pass-1" not in found.message


@pytest.mark.parametrize(
    ("environ", "state"),
    [
        ({"HTTPS_PROXY": OURS, "https_proxy": OURS}, State.ok),
        ({"HTTPS_PROXY": OURS, "https_proxy": ""}, State.ok),
        ({"HTTPS_PROXY": OURS, "https_proxy": "http://127.0.0.1:1"}, State.warning),
        ({"NO_PROXY": "a", "no_proxy": "b"}, State.warning),
    ],
)
def test_both_spellings(environ, state):
    """A variable that says two things is a warning."""
    assert judge_spelling(proxies(**environ)).state is state


@given(st.text(max_size=60))
def test_nothing_raises(value):
    """Whatever stands in the variables, every judgement comes to an end."""
    facts = proxies(HTTPS_PROXY=value, NO_PROXY=value, ALL_PROXY=value)
    for judge in (judge_https_proxy, judge_no_proxy, judge_all_proxy, judge_spelling):
        assert judge(facts).message


@pytest.mark.parametrize(
    "value",
    [
        "fake-user-1:fake-pass-1@host:1",
        "http://fake-user-1:fake-pass-1@host:1/x",
        "http://user:fake-pass-1/x@host:1",
        "http://us@er:fake-pass-1@host:1",
        "HTTP://user:fake-pass-1\nx@host:1",
    ],
)
def test_masked(value):
    """A name and a password are taken out, with and without a scheme."""
    assert "fake-pass-1" not in masked(value)
    assert "host:1" in masked(value)


def test_the_shell_is_read(cli, find):
    """The checks judge the environment that the command was started in."""
    cli.environ |= {"HTTPS_PROXY": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:2"}
    states = {one["id"]: one["state"] for one in cli.json("doctor", "--only", "env")["checks"]}
    assert states == {
        "env.https-proxy": "problem",
        "env.no-proxy": "warning",
        "env.all-proxy": "skipped",
        "env.spelling": "warning",
        "env.certificates": "skipped",
    }


def test_files_of_certificates(cli, find, tmp_path):
    """A variable that names no file is a problem; one that replaces all CAs by mitmproxy's is a warning."""
    ca = tmp_path / "mitmproxy" / "mitmproxy-ca-cert.pem"
    ca.parent.mkdir()
    cli.environ["NODE_EXTRA_CA_CERTS"] = str(ca)
    found = find(cli, "env.certificates")
    assert found["state"] == "problem"
    assert str(ca) in found["message"]
    ca.write_text("fake certificate")
    assert find(cli, "env.certificates")["state"] == "ok"
    cli.environ["SSL_CERT_FILE"] = str(ca)
    assert find(cli, "env.certificates")["state"] == "warning"
    whole = tmp_path / "all.pem"
    whole.write_text("fake certificate\nanother")
    cli.environ["SSL_CERT_FILE"] = str(whole)
    assert find(cli, "env.certificates")["state"] == "ok"
    ca.unlink()
    cli.environ.pop("NODE_EXTRA_CA_CERTS")
    assert find(cli, "env.certificates")["state"] == "ok"


def test_a_client_that_trusts_everybody(cli, find):
    """Node.js without verification is a warning."""
    cli.environ["NODE_TLS_REJECT_UNAUTHORIZED"] = "0"
    assert find(cli, "env.certificates")["state"] == "warning"


def test_hosts_that_are_not_served_may_be_excluded(cli, find):
    """With Kiro switched off, NO_PROXY may have its hosts."""
    cli.environ |= {"HTTPS_PROXY": OURS, "NO_PROXY": "localhost,127.0.0.1,.kiro.dev"}
    assert find(cli, "env.no-proxy")["state"] == "problem"
    assert find(cli, "env.no-proxy", "--set", "kiro_enabled=false")["state"] == "ok"
