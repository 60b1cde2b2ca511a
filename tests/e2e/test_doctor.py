"""`kimi-mitm doctor` beside a real proxy: its own answers, real handshakes of real clients, and nobody else asked."""

import json
import re
import shutil

import pytest
from click.testing import CliRunner

from kimi_core.cli.app import World
from kimi_core.cli.main import main

GROUPS = ("trust", "proxy", "env", "ca", "service")
# "node" and "curl" are programs that a machine may lack; the checks then say so
PROGRAMS = {"trust.node": "node", "trust.curl": "curl"}


@pytest.fixture
def doctor(proxy, world):
    """Return a function that has the doctor look at *what*, in a shell with these variables; by id."""

    def look(*what, environ=None, arguments=(), of=proxy):
        words = [word for name in what for word in ("--only", name)]
        words += ["--confdir", str(of.confdir), "--set", f"listen_port={of.port}", *arguments]
        words += ["--set", f"mode=upstream:http://127.0.0.1:{world.upstream.port}"]
        words += ["--set", f"ssl_verify_upstream_trusted_ca={world.ca_file}"]
        shell = World(environ=of.environ | (environ or {}), home=of.home)
        result = CliRunner().invoke(main, ["doctor", "--json", *words], obj=shell)
        assert not of.secrets_in(result.output.encode())
        return {one["id"]: one for one in json.loads(result.stdout)["checks"]}

    return look


def shell(proxy, **more):
    """Return the variables that README has for clients that go through the proxy."""
    return {"HTTPS_PROXY": proxy.url, "NO_PROXY": "localhost,127.0.0.1,::1", **more}


def trusting(proxy):
    """Return the variables of a shell in which every kind of client trusts the proxy."""
    names = ("NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    return shell(proxy, **dict.fromkeys(names, str(proxy.ca_file)))


def states(found):
    """Return the states of checks by id, without those of programs that this machine has not got."""
    return {id_: one["state"] for id_, one in found.items() if shutil.which(PROGRAMS.get(id_, "sh"))}


def test_a_machine_on_which_all_is_well(doctor, proxy, world):
    """With the proxy running, the login good and the variables set, nothing is a problem; the models come both ways."""
    found = doctor(*GROUPS, environ=trusting(proxy))
    assert "problem" not in states(found).values(), found
    assert all(found[id_]["state"] == "ok" for id_ in states(found) if id_.startswith(("trust.", "proxy.", "ca.")))
    assert "through the proxy" in found["proxy.speed"]["message"]
    assert len(world.kimi.of("models")) >= 2
    assert {seen.operation for seen in world.kimi.requests} == {"models", "usages"}


def test_clients_that_do_not_trust_the_proxy(doctor, proxy, world):
    """A real handshake of each kind of client fails, with what the client says of it; nothing is asked of anybody."""
    found = doctor("trust", environ=shell(proxy))
    assert set(states(found).values()) == {"problem"}
    if "trust.node" in states(found):
        assert re.search("SELF_SIGNED_CERT_IN_CHAIN|UNABLE_TO_VERIFY_LEAF_SIGNATURE", found["trust.node"]["message"])
    assert all("kimi-mitm run" in found[id_]["fix"] for id_ in states(found))
    assert not world.upstream.connects
    assert not world.kimi.requests


def test_handshakes_go_no_further_than_the_proxy(doctor, proxy, world):
    """A handshake that succeeds makes no connection to the service, and no flow is left in the proxy."""
    since = proxy.flow_bytes()
    found = doctor("trust", environ=trusting(proxy))
    assert set(states(found).values()) == {"ok"}
    assert not world.upstream.connects
    assert not world.kimi.requests
    assert {flow.request.path for flow in proxy.flows(since)} <= {"/health"}


@pytest.mark.parametrize(
    ("variable", "check"),
    [("SSL_CERT_FILE", "trust.python"), ("REQUESTS_CA_BUNDLE", "trust.requests"), ("CURL_CA_BUNDLE", "trust.curl")],
)
def test_a_client_that_was_set_up_wrong(doctor, proxy, world, variable, check):
    """A kind of client whose variable names another CA is a problem, though others trust the proxy."""
    others = {"NODE_EXTRA_CA_CERTS": str(proxy.ca_file), variable: str(world.ca_file)}
    found = doctor("trust", environ=trusting(proxy) | others)
    assert states(found).get(check, "problem") == "problem"
    assert found["trust.node"]["state"] in {"ok", "skipped"}


def test_one_client_is_asked_about(doctor, proxy):
    """With --client the kind of client is looked at that it is, whether HTTPS_PROXY is set here or not."""
    found = doctor("trust", "client", arguments=("--client", "requests"))
    assert {id_: one["state"] for id_, one in found.items()} == {
        "client.command": "ok",
        "trust.node": "skipped",
        "trust.python": "skipped",
        "trust.requests": "problem",
        "trust.curl": "skipped",
    }


def test_a_login_that_the_proxy_does_not_see(doctor, proxy, tmp_path):
    """A shell with another folder of logins than the proxy's is named."""
    found = doctor("proxy.login", environ={"KIMI_MITM_DATA_DIR": str(tmp_path)})
    assert found["proxy.login"]["state"] == "problem"


def test_mitmproxy_without_the_addon(doctor, start_proxy):
    """A mitmdump on the port that does not have the addon is called what it is, and no handshake is tried with it."""
    plain = start_proxy(scripts=(), login=False)
    found = doctor("proxy", "trust", environ=trusting(plain), of=plain)
    assert found["proxy.running"]["state"] == "problem"
    assert "mitmdump" in found["proxy.running"]["message"]
    assert "without kimi-mitm" in found["proxy.running"]["message"]
    assert all(one["state"] == "skipped" for id_, one in found.items() if id_.startswith("trust."))
