import pytest

from kimi_core.cli.checks import trust
from kimi_core.cli.checks.check import State
from kimi_core.cli.checks.children import Done, run
from kimi_core.cli.checks.clients import Runtime
from kimi_core.cli.checks.trust import BROKEN, REFUSED, TRUSTED, Shake, Trust, judge
from kimi_core.proxy.local import installed_version
from tests.cli.checks.test_proxy import served


def facts(mine, others=TRUSTED, **more):
    """Return a handshake of Node.js that ended as *mine*, beside those of the other kinds of clients."""
    shakes = {runtime: Shake(others) for runtime in Runtime} | {Runtime.node: Shake(mine, "FAKE_CODE")}
    return Trust(Runtime.node, shakes, **more)


@pytest.mark.parametrize(
    ("trust_", "state"),
    [
        (facts(TRUSTED), State.ok),
        (facts(None), State.skipped),
        (facts(BROKEN), State.warning),
        (facts(REFUSED), State.warning),
        (facts(REFUSED, told=True), State.problem),
        (facts(REFUSED, asked=True), State.problem),
        (facts(REFUSED, others=REFUSED), State.problem),
    ],
)
def test_judgements(trust_, state):
    """Who was asked about, was set up, or is like all the others, is a problem if it refuses; else it is a warning."""
    found = judge(trust_)
    assert found.state is state
    if state is State.problem:
        assert "FAKE_CODE" in found.message
        assert "kimi-mitm run" in found.fix


@pytest.mark.parametrize(
    ("done", "shake"),
    [
        (Done(0, "trusted \n"), Shake(TRUSTED)),
        (Done(0, "refused SELF_SIGNED_CERT_IN_CHAIN\n"), Shake(REFUSED, "SELF_SIGNED_CERT_IN_CHAIN")),
        (Done(1, "", "Traceback"), Shake(BROKEN, "it ended with 1")),
        (Done(None, error="it did not end within 8 s"), Shake(BROKEN, "it did not end within 8 s")),
    ],
)
def test_what_a_script_says(done, shake):
    """A child's word counts; one that says nothing has not finished."""
    assert trust._told(done) == shake


@pytest.mark.parametrize(
    ("done", "outcome"),
    [
        (Done(90), TRUSTED),
        (Done(60), REFUSED),
        (Done(77), REFUSED),
        (Done(2), None),
        (Done(7), BROKEN),
        (Done(None, error="late"), BROKEN),
    ],
)
def test_how_curl_ends(cli, find, monkeypatch, done, outcome):
    """Curl tells by its exit code whether it trusts, before it would send anything."""
    words = []

    def pretend(given, environ):
        words.extend(given)
        return done

    monkeypatch.setattr(trust.children, "run", pretend)
    health = {"version": installed_version(), "providers": {}}
    cli.environ |= {"KIMI_CODE_BASE_URL": "https://localhost:9/coding/v1", "PATH": "/usr/bin:/bin"}
    with served(health) as (port, _):
        found = find(cli, "trust.curl", "--client", "curl", "--set", f"listen_port={port}")
    assert found["state"] == {TRUSTED: "ok", REFUSED: "problem", None: "skipped", BROKEN: "warning"}[outcome]
    assert "--pinnedpubkey" in words


def test_nothing_is_tried_where_nothing_goes_through(cli, find):
    """Without HTTPS_PROXY and --client, without a proxy, or over plain http, there is no handshake to make."""
    health = {"version": installed_version(), "providers": {}}
    with served(health) as (port, _):
        place = ("--set", f"listen_port={port}")
        assert "HTTPS_PROXY" in find(cli, "trust.curl", *place)["message"]
        assert "plain http" in find(cli, "trust.curl", "--client", "curl", *place)["message"]
        assert "no client of this kind" in find(cli, "trust.node", "--client", "curl", *place)["message"]
        cli.environ |= {
            "HTTPS_PROXY": f"http://127.0.0.1:{port}",
            "KIMI_CODE_BASE_URL": "https://localhost:9/coding/v1",
        }
        cli.environ["PATH"] = str(cli.folder)
        assert "not on PATH" in find(cli, "trust.curl", *place)["message"]
        assert "not on PATH" in find(cli, "trust.node", *place)["message"]
        cli.environ["KIMI_CODE_BASE_URL"] = "http://far.example"
        assert find(cli, "trust.curl", *place)["state"] == "skipped"


def test_children_that_are_late(tmp_path):
    """A child that does not end is ended, and one that cannot be started is told from it."""
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    assert run([str(slow)], {"PATH": "/usr/bin:/bin"}, seconds=0.2).error == "it did not end within 0.2 s"
    assert run([str(tmp_path / "gone")], {}).code is None


def test_how_node_ends(cli, find, monkeypatch):
    """Node.js is started where it is there, with the variables of this shell."""
    environs = []

    def pretend(words, environ):
        environs.append(environ)
        return Done(0, "trusted\n")

    monkeypatch.setattr(trust.children, "run", pretend)
    node = cli.folder / "node"
    node.touch(mode=0o755)
    cli.environ |= {"KIMI_CODE_BASE_URL": "https://localhost:9/coding/v1", "PATH": str(cli.folder)}
    with served({"version": installed_version(), "providers": {}}) as (port, _):
        found = find(cli, "trust.node", "--client", "node", "--set", f"listen_port={port}")
    assert found["state"] == "ok"
    assert environs == [cli.environ]
