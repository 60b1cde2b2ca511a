import json
import os
import sys
from pathlib import Path

import psutil
import pytest

from kimi_core.cli import background, hosting, lease, run
from kimi_core.cli.app import App, World
from kimi_core.cli.background import NotStarted
from kimi_core.cli.configuration import load
from kimi_core.cli.output import Output
from kimi_core.cli.records import Files, Running
from kimi_core.cli.run import Wish, served, way

PLAIN = Wish(web=False, no_browser=True, port=None)
WEB = Wish(web=True, no_browser=True, port=None)
PORT = 18080  # what the configuration names; nothing listens there in these tests


class Machine:
    """A machine whose proxies are told, not started."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        self.answering = set()  # URLs at which a proxy answers
        self.orders = []
        self.failures = []
        self.free = lambda port: port
        monkeypatch.setattr(run, "ask", lambda url: ("running" if url in self.answering else "none", None))
        monkeypatch.setattr(background, "start", self.start)
        monkeypatch.setattr(background, "free_port", self.free_port)

    def free_port(self, wanted):
        return self.free(wanted)

    def app(self, *overrides, environ=None):
        (self.folder / "mitmproxy").mkdir(exist_ok=True)
        (self.folder / "mitmproxy" / "config.yaml").write_text(f"listen_port: {PORT}\n")
        environ = {"KIMI_MITM_DATA_DIR": str(self.folder)} | (environ or {})
        out = Output(as_json=False, environ=environ)
        return App(World(environ=environ), out, load(self.folder / "mitmproxy", overrides, foreign=True))

    def start(self, files, order):
        self.orders.append((files, order))
        if self.failures:
            raise self.failures.pop(0)
        return Running(pid=1, started=0.0, host="127.0.0.1", port=5, version="1")

    def there(self, name, port, *, wish=PLAIN, overrides=(), answers=True, pipe=None, confdir=None, web_url=None):
        """Put the record of a proxy where the program looks for it."""
        app = self.app(*overrides)
        order = hosting.order(app, [], web=wish.web, no_browser=True)
        me = psutil.Process()
        record = {
            "pid": me.pid,
            "started": me.create_time(),
            "host": "127.0.0.1",
            "port": port,
            "version": "1",
            "order": order.digest,
            "lease": pipe or "",
            "confdir": confdir or str(app.configuration.confdir),
            "web_url": web_url,
        }
        files = Files(self.folder / "state", name)
        files.folder.mkdir(exist_ok=True)
        files.record.write_text(json.dumps(record))
        if answers:
            self.answering.add(f"http://127.0.0.1:{port}")

    def url(self, wish=PLAIN, *overrides):
        """Return the proxy that a client would be sent through; "new" where one had to be started."""
        with way(self.app(*overrides), wish) as found:
            return "new" if self.orders else found.url


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine on which nothing runs."""
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def pipe(tmp_path):
    """The pipe of a proxy that somebody uses."""
    offer = lease.offer(tmp_path / "some.lease")
    yield str(tmp_path / "some.lease")
    offer.hold.release()
    os.close(offer.reader)


def test_a_proxy_at_the_configured_port_is_used(machine):
    """One that somebody started by hand serves, unless a page or other options are asked for."""
    machine.answering.add(f"http://127.0.0.1:{PORT}")
    assert machine.url() == f"http://127.0.0.1:{PORT}"
    assert machine.url(WEB) == "new"


@pytest.mark.parametrize(
    ("there", "wish", "overrides", "expected"),
    [
        ({}, PLAIN, (), "http://127.0.0.1:7"),
        ({"answers": False}, PLAIN, (), "new"),
        ({"confdir": "/other"}, PLAIN, ("flow_detail=2",), "new"),
        ({"overrides": ("flow_detail=2",)}, PLAIN, (), "http://127.0.0.1:7"),
        ({"overrides": ("flow_detail=2",), "confdir": "/other"}, PLAIN, (), "new"),
        ({"overrides": ("flow_detail=2",)}, PLAIN, ("flow_detail=2",), "http://127.0.0.1:7"),
        ({}, PLAIN, ("flow_detail=2",), "new"),
        ({}, WEB, (), "new"),
        ({"wish": WEB, "web_url": "http://x"}, WEB, (), "http://127.0.0.1:7"),
        ({"wish": WEB, "web_url": "http://x"}, PLAIN, (), "http://127.0.0.1:7"),
        ({}, Wish(web=False, no_browser=True, port=7), (), "http://127.0.0.1:7"),
        ({}, Wish(web=False, no_browser=True, port=8), (), "new"),
    ],
)
def test_a_proxy_that_stays_is_used_where_it_is_what_is_asked_for(machine, there, wish, overrides, expected):
    """It serves whoever asks for nothing special, and whoever asks for what it was started with."""
    machine.there("proxy", 7, **there)
    assert machine.url(wish, *overrides) == expected


def test_a_proxy_of_another_run_is_shared_by_who_wants_the_same(machine, pipe):
    """It is joined, so that it stays; with other options, or when it is about to go, a new one is started."""
    machine.there("run-1", 7, pipe=pipe)
    assert machine.url() == "http://127.0.0.1:7"
    assert machine.url(PLAIN, "flow_detail=2") == "new"
    machine.orders.clear()
    machine.there("run-1", 7, pipe="/none.lease")
    assert machine.url() == "new"


def test_a_proxy_that_has_one_user_is_left_to_it(machine):
    """Where pipes have no names a proxy of another run is not used, not even at the configured port."""
    machine.there("run-1", PORT, pipe=lease.NAMELESS)
    assert machine.url() == "new"


@pytest.mark.parametrize(
    ("wish", "free", "port"),
    [
        (PLAIN, lambda port: port, PORT),
        (PLAIN, lambda port: 9, 0),
        (Wish(web=False, no_browser=True, port=7), lambda port: port, 7),
    ],
)
def test_a_new_proxy_is_at_the_configured_port_where_that_is_free(machine, wish, free, port):
    """Clients with the proxy's own address in their settings find it; otherwise any port does."""
    machine.free = free
    machine.url(wish)
    ((files, order),) = machine.orders
    assert order.listener[-1] == str(port)
    assert files.name.startswith("run-")
    assert order.lease in {str(files.lease), lease.NAMELESS}


def test_a_port_that_is_asked_for_and_taken_is_told(machine):
    """Another one would not be what was asked for."""
    machine.free = lambda port: 9
    with pytest.raises(NotStarted, match="Port 7 is taken"):
        machine.url(Wish(web=False, no_browser=True, port=7))


def test_a_port_that_is_taken_in_between_is_given_up(machine):
    """Two that start at once do not both fail; what failed for another reason is told."""
    frees = iter([PORT, 9])
    machine.free = lambda port: next(frees)
    machine.failures = [NotStarted("address already in use")]
    machine.url()
    assert [order.listener[-1] for _, order in machine.orders] == [str(PORT), "0"]
    machine.free = lambda port: port
    machine.failures = [NotStarted("something else")]
    before = set((machine.folder / "state").glob("*.lease"))
    with pytest.raises(NotStarted, match="something else"):
        machine.url()
    assert set((machine.folder / "state").glob("*.lease")) == before


def test_a_page_is_told_and_opened_where_somebody_sees_it(machine):
    """With --web mitmweb runs at a port of its own; without a display it opens no browser."""
    machine.url(Wish(web=True, no_browser=False, port=None))
    ((_, order),) = machine.orders
    assert "mitmweb" in order.command[0] or "mitmweb" in order.command[-1]
    assert order.listener[-3:] == ["--web-port", "8081", "--no-web-open-browser"]
    app = machine.app(environ={"DISPLAY": ":0"})
    assert "--no-web-open-browser" not in hosting.order(app, [], web=True, no_browser=False).listener


@pytest.mark.parametrize(
    ("environ", "overrides", "warned"),
    [
        ({}, (), False),
        ({"HTTPS_PROXY": "http://name:fake-password@office:3128"}, (), True),
        ({"https_proxy": "office:3128"}, (), True),
        ({"HTTPS_PROXY": "http://127.0.0.1:8080"}, (), False),
        ({"HTTPS_PROXY": "http://office:3128"}, ("mode=upstream:http://office:3128",), False),
    ],
)
def test_a_way_out_that_is_not_taken_is_told(machine, capsys, environ, overrides, warned):
    """Who has a proxy of their own is told that it is not used, without what stands in its address."""
    with way(machine.app(*overrides, environ=environ), PLAIN):
        told = capsys.readouterr().err
    assert ("--set mode=upstream" in told) is warned
    assert "fake-password" not in told


def test_hosts_that_are_served_are_those_of_the_settings(machine):
    """They are what NO_PROXY must not keep away; this machine itself is none of them."""
    app = machine.app("openai_hosts=api.example", environ={})
    hosts = served(app.configuration, {})
    assert {"api.kimi.com", "api.kimi.ai", "runtime.us-east-1.kiro.dev", "api.example"} <= hosts
    off = machine.app("kiro_enabled=false")
    assert not any("kiro" in host for host in served(off.configuration, {}))
    assert "localhost" not in served(app.configuration, {"KIMI_CODE_BASE_URL": "http://localhost:1/coding/v1"})


# the command


@pytest.fixture
def ready(cli, monkeypatch):
    """The command line, with a proxy that runs and its certificate."""
    monkeypatch.setattr(run, "ask", lambda url: ("running", None))
    monkeypatch.setattr(run, "bundle", lambda ca, cache, environ: Path("/bundle.pem"))
    monkeypatch.setattr(run, "mitmproxy_ca", lambda confdir, patience: Path("/ca.pem"))
    cli.calls = []

    def child(command, environ):
        cli.calls.append((command, environ))
        return 7

    monkeypatch.setattr(run.child, "run", child)
    return cli


def call(cli, *words):
    """Run the command with a configuration of the test's own."""
    return cli("run", "--confdir", str(cli.folder / "mitmproxy"), *words)


def test_a_command_is_run_with_its_own_options(ready):
    """What follows the command is the command's, --help and the like included; its exit code is ours."""
    done = call(ready, "--", "client", "--help", "--json")
    assert done.exit_code == 7
    ((command, environ),) = ready.calls
    assert command[:3] == ("client", "--help", "--json")
    assert environ["HTTPS_PROXY"] == "http://127.0.0.1:8080"
    assert "KIMI_MITM_KEY" not in environ


def test_a_client_key_is_handed_on(ready):
    """Where the proxy asks for a key, the client finds it; nothing shows it."""
    done = call(ready, "--set", "kimi_client_key=km-fake", "client")
    assert ready.calls[0][1]["KIMI_MITM_KEY"] == "km-fake"
    assert "km-fake" not in done.output


@pytest.mark.parametrize(("code", "name"), [(127, "none-such"), (126, os.sep)])
def test_what_cannot_be_run_is_told(cli, monkeypatch, ready, code, name):
    """The codes are those of shells, with a sentence."""
    monkeypatch.undo()
    monkeypatch.setattr(run, "way", lambda app, wish: __import__("contextlib").nullcontext(run.Way("http://x")))
    monkeypatch.setattr(run, "environment", lambda app, url: dict(os.environ))
    done = call(cli, name)
    assert done.exit_code == code
    assert name in done.stderr


def test_no_proxy_has_a_code_of_its_own(cli, monkeypatch):
    """What keeps the proxy from starting is told, and is not taken for the command's own failure."""

    def refuse(app, wish):
        raise NotStarted("It ended at once.")

    monkeypatch.setattr(run, "way", refuse)
    done = call(cli, sys.executable)
    assert done.exit_code == 125
    assert "It ended at once." in done.stderr


def test_the_page_is_told_on_standard_error(ready, monkeypatch):
    """Its address is for the user; standard output is the command's."""
    monkeypatch.setattr(run, "_there", lambda app, wish: run.Way("http://x", "http://page/?token=fake-token"))
    done = call(ready, "--web", "client")
    assert "http://page/?token=fake-token" in done.stderr
    assert done.stdout == ""
