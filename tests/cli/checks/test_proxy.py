import json
import os
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import psutil
import pytest

from kimi_core.cli.checks import proxy
from kimi_core.cli.checks.check import State
from kimi_core.cli.checks.proxy import (
    Listener,
    Reach,
    Seen,
    Versions,
    judge_reach,
    judge_running,
    judge_seen,
    judge_versions,
)
from kimi_core.proxy.local import installed_version

HEALTH = {"status": "ok", "version": installed_version(), "providers": {"kimi": {"site": "kimi.com", "login": "none"}}}


@contextmanager
def served(answer, host="127.0.0.1", status=200, models=200):
    """Serve *answer* as /health, and everything else with the status *models*; yield the port and what was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, dict(self.headers)))
            health = self.path == "/health"
            self.send_response(status if health else models)
            self.send_header("x-kimi-mitm-reason", "client_key")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode() if health else b"{}")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer((host, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server.server_address[1], asked
        finally:
            server.shutdown()


def test_no_proxy_is_running(cli, find):
    """A free port is a problem that the start of the proxy mends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    found = find(cli, "proxy.running", "--set", f"listen_port={port}")
    assert found["state"] == "problem"
    assert "kimi-mitm start" in found["fix"]
    for id_ in ("proxy.version", "proxy.loopback", "proxy.login", "proxy.health", "proxy.speed"):
        assert find(cli, id_, "--set", f"listen_port={port}")["state"] == "skipped"


def test_the_port_is_taken(cli, find):
    """Another program on the port is named with its number."""
    with served({"hello": 1}) as (port, _):
        found = find(cli, "proxy.running", "--set", f"listen_port={port}")
    assert found["state"] == "problem"
    assert f"(process {os.getpid()})" in found["message"]


def test_a_proxy_that_is_ours(cli, find):
    """A proxy that answers as this program does is well, and its version and its way of listening are."""
    with served(HEALTH) as (port, _):
        for id_ in ("proxy.running", "proxy.loopback", "proxy.health"):
            assert find(cli, id_, "--set", f"listen_port={port}")["state"] == "ok"
        assert find(cli, "proxy.version", "--set", f"listen_port={port}")["state"] in {"ok", "skipped"}


def test_a_proxy_on_another_address_is_not_asked(cli, find):
    """A listener that is not this machine's own address is named without a question to it."""
    found = find(cli, "proxy.running", "--set", "listen_host=192.0.2.1")
    assert found["state"] == "problem"
    assert "listen_host" in found["fix"]


def test_a_port_that_is_open_to_others(cli, find):
    """A listener on all addresses is a warning, unless other machines are meant to use it."""
    with served(HEALTH, "0.0.0.0") as (port, _):
        found = find(cli, "proxy.loopback", "--set", f"listen_port={port}")
        shared = ("--set", f"listen_port={port}", "--set", "kimi_allow_clients=10.0.0.0/8")
        assert find(cli, "proxy.loopback", *shared)["state"] == "ok"
    assert found["state"] == "warning"
    assert "all addresses" in found["message"]


def test_a_proxy_that_sees_another_login(cli, find):
    """Where the running proxy has another login than the one that is stored, the folder is named."""
    slot = cli.login_file.stem.removeprefix("kimi-")
    health = HEALTH | {"providers": {"kimi": {"site": slot, "login": "none"}}}
    cli.log_in()
    with served(health) as (port, _):
        found = find(cli, "proxy.login", "--set", f"listen_port={port}")
    assert found["state"] == "problem"
    assert str(cli.data) in found["message"]


@pytest.mark.parametrize("providers", [None, {}, {"kimi": "odd"}])
def test_a_proxy_that_tells_nothing_of_logins(cli, find, providers):
    """What the proxy does not tell cannot be compared."""
    with served(HEALTH | {"providers": providers}) as (port, _):
        assert find(cli, "proxy.login", "--set", f"listen_port={port}")["state"] == "skipped"


@pytest.mark.parametrize(
    ("listener", "state", "word"),
    [
        (Listener("http://127.0.0.1:8080", "running"), State.ok, "answers"),
        (Listener("http://127.0.0.1:8080", "foreign"), State.problem, "another program"),
        (
            Listener("http://127.0.0.1:8080", "foreign", program="mitmdump (process 7)"),
            State.problem,
            "without kimi-mitm",
        ),
    ],
)
def test_what_holds_the_port(listener, state, word):
    """Mitmproxy without the addon is told from other programs, and a program that nobody knows is called that."""
    found = judge_running(listener)
    assert found.state is state
    assert word in found.message


@pytest.mark.parametrize(
    ("theirs", "own", "state"),
    [
        ("0.2.0", "0.2.0", State.ok),
        ("0.1.9", "0.2.0", State.warning),
        ("0.10.0", "0.9.0", State.warning),
        ("0", "0.2.0", State.skipped),
    ],
)
def test_versions(theirs, own, state):
    """A proxy of another version asks for a new start."""
    found = judge_versions(Versions(theirs, own))
    assert found.state is state
    if state is State.warning:
        assert ("older" if theirs == "0.1.9" else "newer") in found.message


def test_some_addresses_are_exposed():
    """An address of the network is named."""
    found = judge_reach(Reach("http://127.0.0.1:8080", ("127.0.0.1", "192.0.2.7"), shared=False))
    assert found.state is State.warning
    assert "192.0.2.7" in found.message


@pytest.mark.parametrize(
    ("theirs", "own", "state", "word"),
    [
        (("kimi.com", "ok"), ("kimi.com", "expired"), State.ok, "same login"),
        (("kimi.ai", "ok"), ("kimi.com", "ok"), State.problem, "kimi.ai"),
        (("kimi.com", "ok"), ("kimi.com", "none"), State.problem, "another login"),
        (("kimi.com", "dead"), ("kimi.com", "ok"), State.problem, "no login that works"),
    ],
)
def test_both_views_of_the_login(theirs, own, state, word):
    """The running proxy and this program should see the same login."""
    found = judge_seen(Seen(theirs, own, "/data"))
    assert found.state is state
    assert word in found.message


def test_systems_that_tell_only_of_ones_own_processes(monkeypatch):
    """Where the system does not tell of all connections, those of one's own processes are looked through."""

    def refuse(_):
        raise psutil.AccessDenied

    class Process:
        def __init__(self, pid):
            self.pid = pid

        def net_connections(self, _):
            if self.pid == 1:
                raise psutil.AccessDenied
            address = SimpleNamespace(ip="127.0.0.1", port=8080)
            return [SimpleNamespace(laddr=address, status=psutil.CONN_LISTEN)]

    monkeypatch.setattr(psutil, "net_connections", refuse)
    monkeypatch.setattr(psutil, "process_iter", lambda: [Process(1), Process(os.getpid())])
    ((address, program),) = proxy._holders(8080)
    assert address == "127.0.0.1"
    assert str(os.getpid()) in program


def test_a_process_that_is_gone_has_a_number():
    """A process that nothing can be learnt of is called by its number; one that is not told has no name."""
    assert proxy._program(2**22 + 1) == f"process {2**22 + 1}"
    assert proxy._program(None) == ""
