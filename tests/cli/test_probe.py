"""Which proxies there are: where the configuration has one, and those that commands of ours have started."""

import json
import os

import psutil
import pytest

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

    def record(self, name, port, *, serves=True, host="127.0.0.1"):
        """Write the record of a proxy, whose process is this one."""
        me = psutil.Process(os.getpid())
        known = {"pid": me.pid, "started": me.create_time(), "host": host, "port": port, "version": "1"}
        (self.folder / "state").mkdir(exist_ok=True)
        (self.folder / "state" / f"{name}.json").write_text(json.dumps(known))
        if serves:
            self.answering[port] = ("running", OURS)

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
