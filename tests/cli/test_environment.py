import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.cli.environment import VARIABLES, Value, own_cas, proxied

URL = "http://127.0.0.1:8080"
BUNDLE, CA = Path("/cache/all.pem"), Path("/mitmproxy/ca.pem")
SERVED = ("api.kimi.com", "runtime.us-east-1.kiro.dev")
LOOPBACK = "localhost,127.0.0.1,::1"
NEW = {
    "HTTPS_PROXY": URL,
    "https_proxy": URL,
    "NO_PROXY": LOOPBACK,
    "no_proxy": LOOPBACK,
    "NODE_USE_ENV_PROXY": "1",
    "NODE_EXTRA_CA_CERTS": "/mitmproxy/ca.pem",
    "DENO_CERT": "/mitmproxy/ca.pem",
    "SSL_CERT_FILE": "/cache/all.pem",
    "REQUESTS_CA_BUNDLE": "/cache/all.pem",
    "CURL_CA_BUNDLE": "/cache/all.pem",
    "GIT_SSL_CAINFO": "/cache/all.pem",
    "AWS_CA_BUNDLE": "/cache/all.pem",
}


def child(environ, **more):
    """Return the environment of a client."""
    return proxied(URL, BUNDLE, CA, environ, served=SERVED, **more)


def excepted(**environ):
    """Return NO_PROXY of a client, which both spellings agree on."""
    made = child(environ)
    assert made["NO_PROXY"] == made["no_proxy"]
    return made["NO_PROXY"]


def test_an_empty_environment_gets_the_whole_table():
    """A user without any of the variables gets each that is always set, and nothing else."""
    assert child({}) == NEW


@pytest.mark.parametrize(
    ("environ", "changes"),
    [
        ({"PATH": "/bin", "HTTP_PROXY": "http://office:3128"}, {}),
        ({"ALL_PROXY": "socks5://office:1080", "SSL_CERT_DIR": "/certs"}, {}),
        ({"NODE_TLS_REJECT_UNAUTHORIZED": "1"}, {}),
        ({"HTTPS_PROXY": "http://u:p@office:3128", "https_proxy": "http://other:1"}, {}),
        ({"NODE_EXTRA_CA_CERTS": "/office.pem"}, {"NODE_EXTRA_CA_CERTS": "/cache/all.pem"}),
        ({"NODE_EXTRA_CA_CERTS": ""}, {}),
        ({"NODE_EXTRA_CA_CERTS": "/mitmproxy/ca.pem"}, {}),
        ({"DENO_CERT": "/office.pem"}, {"DENO_CERT": "/cache/all.pem"}),
        ({"SSL_CERT_FILE": "/office.pem", "NODE_USE_ENV_PROXY": "0"}, {}),
        ({"CODEX_CA_CERTIFICATE": "/office.pem"}, {"CODEX_CA_CERTIFICATE": "/cache/all.pem"}),
        ({"NIX_SSL_CERT_FILE": "/nix.pem"}, {"NIX_SSL_CERT_FILE": "/cache/all.pem"}),
        ({"CODEX_CA_CERTIFICATE": ""}, {}),
    ],
)
def test_what_the_user_has_stays_unless_it_leads_elsewhere(environ, changes):
    """Variables that send a client elsewhere, or let it trust too little, are replaced; all others stay."""
    assert child(environ) == environ | NEW | changes


@pytest.mark.parametrize(
    ("given_upper", "given_lower", "expected"),
    [
        ("", "", LOOPBACK),
        ("intra.example, .office.example", "", f"intra.example,.office.example,{LOOPBACK}"),
        ("", "intra.example", f"intra.example,{LOOPBACK}"),
        ("a.example", "b.example,a.example", f"a.example,b.example,{LOOPBACK}"),
        ("::1,localhost", "", "::1,localhost,127.0.0.1"),
        ("10.0.0.0/8,,", " ", f"10.0.0.0/8,{LOOPBACK}"),
        ("*", "a.example", f"a.example,{LOOPBACK}"),
        ("api.kimi.com", "", LOOPBACK),
        ("kimi.com,.kimi.com,*.kimi.com,.COM", "", LOOPBACK),
        ("api.kimi.com:443", "", LOOPBACK),
        (".kiro.dev", "", LOOPBACK),
        ("notkimi.com,imi.com,x.api.kimi.com", "", f"notkimi.com,imi.com,x.api.kimi.com,{LOOPBACK}"),
        (".", "*.", f".,*.,{LOOPBACK}"),
    ],
)
def test_exceptions_are_the_users_and_this_machine(given_upper, given_lower, expected):
    """NO_PROXY keeps the user's entries in both spellings, save those that would keep the services from the proxy."""
    assert excepted(NO_PROXY=given_upper, no_proxy=given_lower) == expected


def test_a_client_key_goes_where_the_lines_for_clients_look_for_it():
    """The one secret a child may get is the client key, and only where there is one."""
    assert child({}, key="km-fake") == NEW | {"KIMI_MITM_KEY": "km-fake"}


def test_the_environment_that_is_given_stays_as_it_was():
    """The user's own variables are not touched."""
    environ = {"NO_PROXY": "*", "SSL_CERT_FILE": "/office.pem"}
    before = dict(environ)
    child(environ)
    assert environ == before


@given(st.dictionaries(st.sampled_from([one.name for one in VARIABLES]), st.text(max_size=20)))
def test_a_child_of_a_child_is_the_same(environ):
    """To go through the same proxy twice changes nothing but where extra CAs are: those are in the bundle by then."""
    once = child(environ)
    assert child(once) == once | {
        one.name: str(BUNDLE) for one in VARIABLES if one.value is Value.EXTRA and once[one.name] != str(CA)
    }


def test_cas_of_the_user_are_found_once_each():
    """Each variable for CAs is looked at, a folder list is taken apart, and what is named twice comes once."""
    environ = {
        "SSL_CERT_FILE": "/a.pem",
        "NODE_EXTRA_CA_CERTS": "/b.pem",
        "REQUESTS_CA_BUNDLE": "/a.pem",
        "CODEX_CA_CERTIFICATE": "/c.pem",
        "SSL_CERT_DIR": os.pathsep.join(["/d", "", "/e"]),
        "CURL_CA_BUNDLE": "",
    }
    assert sorted(own_cas(environ)) == [Path("/a.pem"), Path("/b.pem"), Path("/c.pem"), Path("/d"), Path("/e")]
