"""Which proxies there are: where the configuration has one, and those that commands of ours have started."""

import json
import os

import psutil
import pytest
from rich.console import Console

from kimi_core.cli import probe
from kimi_core.cli.configuration import load

OURS = {"version": "1.2", "providers": {}}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a machine: `answering` has what /health tells per port, `record` writes that of a proxy."""
    monkeypatch.setattr(probe, "ask", lambda url: answering.get(int(url.rpartition(":")[2]), ("none", None)))
    answering = {}
    return Machine(tmp_path, answering)


class Machine:
    """Records of proxies, and what answers at their ports."""

    def __init__(self, folder, answering):
        self.folder, self.answering = folder, answering
        self.environ = {"KIMI_MITM_DATA_DIR": str(folder)}

    def record(self, name, port, *, serves=True, host="127.0.0.1", started=0.0, confdir=None):
        """Write the record of a proxy, whose process is this one, begun *started* seconds later."""
        me = psutil.Process(os.getpid())
        known = {"pid": me.pid, "started": me.create_time() + started, "host": host, "port": port, "version": "1"}
        known["confdir"] = str(confdir or self.folder)
        (self.folder / "state").mkdir(exist_ok=True)
        (self.folder / "state" / f"{name}.json").write_text(json.dumps(known))
        if serves:
            self.answering[port] = ("running", OURS)

    def url(self, *overrides):
        """Return where clients are told to find the proxy."""
        return probe.in_use(load(self.folder, overrides), self.environ).proxy_url

    def shown(self):
        """Return what status tells, for people."""
        console = Console(width=200)
        with console.capture() as capture:
            console.print(probe.probe(load(self.folder, []), self.environ).view)
        return capture.get()

    def told(self):
        """Return what status tells, for scripts."""
        return probe.probe(load(self.folder, []), self.environ).data


def line(port, started_by=None):
    """Return what is told of a proxy that runs."""
    return {"url": f"http://127.0.0.1:{port}", "state": "running", "version": "1.2", "started_by": started_by}


def test_nothing_runs(machine):
    """Without a proxy the configured address is told as free, and nothing else."""
    none = {"url": "http://127.0.0.1:8080", "state": "none", "version": None, "started_by": None}
    assert machine.told() == none | {"others": []}


def test_a_proxy_at_the_configured_port_is_told_once(machine):
    """One that `start` has started is told as such; one that was started in another way by its address alone."""
    machine.answering[8080] = ("running", OURS)
    assert machine.told() == line(8080) | {"others": []}
    machine.record("proxy", 8080)
    assert machine.told() == line(8080, "start") | {"others": []}


def test_proxies_elsewhere_are_told_as_well(machine):
    """Those at other ports follow, the one that stays first, whatever is at the configured port."""
    machine.record("run-2", 41002)
    machine.record("proxy", 41001)
    told = machine.told()
    assert told["state"] == "none"
    assert told["others"] == [line(41001, "start"), line(41002, "run")]
    machine.answering[8080] = ("foreign", None)
    assert machine.told()["state"] == "foreign"


@pytest.mark.parametrize(
    "changes", [{"serves": False}, {"port": 0}, {"host": "192.0.2.1"}], ids=["silent", "no proxy", "elsewhere"]
)
def test_what_serves_no_client_here_is_left_out(machine, changes):
    """A proxy that does not answer, that has no port for clients, or that is not on this machine's own address."""
    machine.record("run-1", **{"port": 41001} | changes)
    assert machine.told()["others"] == []


def test_a_folder_that_cannot_be_looked_into_has_none(machine):
    """Where the records are out of reach the rest is told all the same."""
    machine.environ["KIMI_MITM_DATA_DIR"] = "/" + 300 * "x"  # longer than a name of a file can be
    assert machine.told()["others"] == []


def test_another_address_is_not_asked(machine):
    """A proxy that listens for other machines is not asked."""
    found = probe.configured(load(machine.folder, ["listen_host=192.0.2.1"]))
    assert (found.state, found.health, found.host) == ("remote", None, "192.0.2.1")


def test_a_proxy_that_was_started_by_hand_is_told(machine):
    """It comes after the one that stays; people read of those that run, not of a port at which none is."""
    machine.record("run-1", 41003)
    machine.record("hand-9090", 9090)
    assert machine.told()["others"] == [line(9090), line(41003, "run")]
    assert machine.shown().split("\n")[0].rstrip() == "Proxy  a proxy is running at http://127.0.0.1:9090"
    assert "8080" not in machine.shown()
    machine.answering[8080] = ("foreign", None)
    assert "http://127.0.0.1:8080 is taken by something else" in machine.shown()


def test_what_a_killed_proxy_has_left_is_no_proxy(machine):
    """Its number belongs to another process by now, which has begun at another time."""
    machine.record("hand-9090", 9090, started=3600.0)
    assert machine.told()["others"] == []
    assert machine.url() == "http://127.0.0.1:8080"


@pytest.mark.parametrize("name", ["hand-9090", "proxy"])
def test_clients_are_told_of_the_proxy_that_runs(machine, name):
    """Where none answers at the configured port, or something else does, a proxy elsewhere is named."""
    assert machine.url() == "http://127.0.0.1:8080"
    machine.record(name, 9090)
    assert machine.url() == "http://127.0.0.1:9090"
    machine.answering[8080] = ("foreign", None)
    assert machine.url() == "http://127.0.0.1:9090"


def test_the_configured_proxy_comes_first(machine):
    """A proxy that answers where the configuration has it is the one that is named, as is what --set says."""
    machine.record("hand-9090", 9090)
    assert machine.url("listen_port=9191") == "http://127.0.0.1:9191"
    assert machine.url("kimi_region=global") == "http://127.0.0.1:9090"
    machine.answering[8080] = ("running", OURS)
    assert machine.url() == "http://127.0.0.1:8080"
    machine.record("proxy", 8080)
    assert machine.url() == "http://127.0.0.1:8080"


def test_proxies_of_others_are_not_named_to_clients(machine, tmp_path):
    """One that ends with its own clients may be gone the next moment, and another CA is one that is not trusted."""
    machine.record("run-1", 41001)
    machine.record("hand-9090", 9090, confdir=tmp_path / "other")
    assert machine.url() == "http://127.0.0.1:8080"


def test_a_proxy_for_other_machines_keeps_its_address(machine):
    """A configuration that names an address of the network means it."""
    machine.record("hand-9090", 9090)
    (machine.folder / "config.yaml").write_text("listen_host: 192.0.2.1")
    assert machine.url() == "http://192.0.2.1:8080"
