import json

import pytest

from kimi_core.cli.checks import speed
from kimi_core.cli.checks.check import State
from kimi_core.cli.checks.proxy import Listener
from kimi_core.cli.checks.speed import Speed, judge_health, judge_speed
from tests.cli.checks.test_proxy import HEALTH, served


def keys(asked):
    """Return the client keys that came with questions for the models."""
    heads = [{name.lower(): value for name, value in head.items()} for path, head in asked if path == "/kimi/v1/models"]
    return [head.get("x-kimi-mitm-key") for head in heads]


def test_the_first_byte_both_ways(cli, find):
    """The models are asked for directly and through the proxy, with the client key where one is set."""
    cli.log_in()
    with served(HEALTH) as (port, asked):
        found = find(cli, "proxy.speed", "--set", f"listen_port={port}", "--set", "kimi_client_key=fake-key-1")
    assert found["state"] == "ok"
    assert "ms through the proxy" in found["message"]
    assert keys(asked) == ["fake-key-1"]
    assert "fake-key-1" not in json.dumps(found)


def test_the_key_that_the_proxy_made(cli, find):
    """With kimi_client_key=auto the stored key is sent; before there is one, none is."""
    cli.log_in()
    with served(HEALTH) as (port, asked):
        auto = ("--set", f"listen_port={port}", "--set", "kimi_client_key=auto")
        find(cli, "proxy.speed", *auto)
        (cli.data / "client-key.json").write_text('{"key": "fake-key-2"}')
        find(cli, "proxy.speed", *auto)
    assert keys(asked) == [None, "fake-key-2"]


def test_a_proxy_that_refuses(cli, find):
    """What the proxy answers in place of the models is told with its reason."""
    cli.log_in()
    with served(HEALTH, models=401) as (port, _):
        found = find(cli, "proxy.speed", "--set", f"listen_port={port}")
    assert found["state"] == "problem"
    assert "status 401, client_key" in found["message"]


def test_without_a_login_no_models_are_asked_for(cli, find):
    """The list of models needs a login, and a service that answers directly."""
    with served(HEALTH) as (port, asked):
        assert find(cli, "proxy.speed", "--set", f"listen_port={port}")["state"] == "skipped"
        cli.log_in()
        cli.fake.refuse = -1
        assert find(cli, "proxy.speed", "--set", f"listen_port={port}")["state"] == "skipped"
    assert {path for path, _ in asked} == {"/health"}


def test_a_proxy_that_leaves(cli, find, monkeypatch):
    """A proxy that is gone when the models are asked for is named by what broke."""
    cli.log_in()
    monkeypatch.setattr(speed, "running", lambda machine: Listener("http://127.0.0.1:9", "running"))
    found = find(cli, "proxy.speed")
    assert found["state"] == "problem"
    assert "ConnectError" in found["message"]


@pytest.mark.parametrize(("seconds", "state"), [(0.004, State.ok), (0.9, State.warning)])
def test_a_slow_proxy(seconds, state):
    """A proxy that takes long to say that it is there is held up by something."""
    assert judge_health(seconds).state is state


def test_a_slow_way():
    """The proxy may cost a little, but not a second."""
    assert judge_speed(Speed(0.3, 0.35)).state is State.ok
    assert judge_speed(Speed(0.3, 2.0)).state is State.warning
