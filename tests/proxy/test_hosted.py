import json
import logging
import os
import signal
import stat
import sys
from types import SimpleNamespace

import pytest
from mitmproxy.test import taddons

from kimi_core.errors import StoreError
from kimi_core.proxy import hosted
from kimi_core.proxy.hosted import Hosted, turn_over, without_token
from kimi_core.store import older_log


@pytest.fixture
def loaded(tmp_path):
    """The script as mitmproxy has it after loading, with a record; threads are listed, not started."""
    threads = []
    addon = Hosted(thread=lambda work, name: threads.append((work, name)))
    with taddons.context(addon) as context:
        context.configure(addon, hosted_record=str(tmp_path / "proxy.json"), hosted_order="an order")
        server = SimpleNamespace(mode=SimpleNamespace(type_name="regular"), listen_addrs=(("0.0.0.0", 8080),))
        reverse = SimpleNamespace(mode=SimpleNamespace(type_name="reverse"), listen_addrs=(("127.0.0.1", 1),))
        context.master.addons.lookup["proxyserver"] = SimpleNamespace(servers=[reverse, server])
        yield SimpleNamespace(addon=addon, context=context, threads=threads, record=tmp_path / "proxy.json")


def test_a_record_says_where_the_proxy_is_while_it_is(loaded):
    """It names process and address as clients reach it, is the user's alone, and goes with the proxy."""
    loaded.addon.running()
    told = json.loads(loaded.record.read_text())
    assert (told["pid"], told["host"], told["port"], told["order"]) == (os.getpid(), "127.0.0.1", 8080, "an order")
    assert told["web_url"] is None
    assert os.name == "nt" or stat.S_IMODE(loaded.record.stat().st_mode) == 0o600
    assert loaded.threads == []
    loaded.addon.done()
    assert not loaded.record.exists()


def test_a_proxy_to_nobody_has_no_address(loaded):
    """Without a listener for clients the record says so."""
    loaded.context.master.addons.lookup["proxyserver"] = SimpleNamespace(servers=[])
    loaded.addon.running()
    assert json.loads(loaded.record.read_text())["port"] == 0


def test_users_and_log_are_watched_where_there_are_any(loaded, tmp_path):
    """A thread each, and the pipe's name goes with the proxy."""
    pipe = tmp_path / "x.lease"
    pipe.touch()
    loaded.context.configure(loaded.addon, hosted_lease=str(pipe), hosted_log=str(tmp_path / "log"))
    loaded.addon.running()
    assert [name for _, name in loaded.threads] == ["users", "log"]
    loaded.addon.done()
    assert not pipe.exists()
    loaded.threads[1][0]()


def test_options_that_mitmproxy_has_not_end_the_start(loaded, monkeypatch, caplog):
    """What was given with --set and is no option is named; the configuration file may have others'."""
    monkeypatch.setattr(sys, "argv", ["mitmdump", "--set", "listen_portt=1", "--set", "hosted_order=x", "-s", "x.py"])
    loaded.context.options.deferred["listen_portt"] = "1"
    loaded.context.options.deferred["of_another_addon"] = "1"
    loaded.addon.running()
    assert "mitmproxy has no option listen_portt." in caplog.text
    assert not loaded.record.exists()


def test_a_record_that_cannot_be_written_ends_the_start(loaded, monkeypatch, caplog):
    """A proxy that nobody could find again is not left running; taking away what is not there is no fault."""

    def refuse(*_):
        raise StoreError("the disk is full")

    monkeypatch.setattr(hosted.Document, "write", refuse)
    monkeypatch.setattr(hosted.Document, "remove", refuse)
    loaded.addon.running()
    assert "the disk is full" in caplog.text
    loaded.addon.done()


@pytest.mark.parametrize("ends", [True, False])
def test_the_proxy_ends_with_its_last_user(loaded, monkeypatch, ends):
    """It is ended politely, and at once where it does not follow in time."""
    said = []
    monkeypatch.setattr(hosted.Lease, "wait", lambda self: None)
    monkeypatch.setattr(os, "kill", lambda pid, number: said.append((pid, number)) or (ends and loaded.addon.done()))
    monkeypatch.setattr(os, "_exit", said.append)
    monkeypatch.setattr(hosted, "ENDING", 0.01)
    loaded.context.configure(loaded.addon, hosted_lease="-", hosted_log="log")
    loaded.addon.running()
    loaded.threads[0][0]()
    assert said == [(os.getpid(), signal.SIGTERM), *([] if ends else [1])]


@pytest.mark.parametrize(
    ("message", "arguments", "expected"),
    [
        ("Web server listening at http://x/?token=fake-1", (), "Web server listening at http://x/?token=…"),
        ("%s GET %s", (403, "/flows?a=1&token=fake-1&b=2"), "403 GET /flows?a=1&token=…&b=2"),
        ("nothing of the kind", (), "nothing of the kind"),
        ("100%", (), "100%"),
    ],
)
def test_tokens_do_not_get_into_the_log(message, arguments, expected):
    """Mitmweb's token is cut out of what is logged, and everything else stays."""
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, message, arguments, None)
    assert without_token(record)
    assert record.getMessage() == expected


def test_those_who_know_the_token_are_filtered(loaded):
    """Each logger that may say it has the filter."""
    for name in hosted.TELLERS:
        assert without_token in logging.getLogger(name).filters


@pytest.fixture
def log(tmp_path):
    """An open log, with its descriptor."""
    path = tmp_path / "proxy.log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, b"first\n")
    yield path, descriptor
    os.close(descriptor)


def test_a_log_is_turned_over_when_it_has_grown(log):
    """The writer goes on in a new file under the old name, nothing is lost, and only one older file is kept."""
    path, descriptor = log
    assert not turn_over(path, 6, [descriptor])
    assert turn_over(path, 5, [descriptor])
    os.write(descriptor, b"second\n")
    assert (older_log(path).read_text(), path.read_text()) == ("first\n", "second\n")
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert turn_over(path, 5, [descriptor])
    assert older_log(path).read_text() == "second\n"


def test_a_log_that_was_removed_by_hand_begins_anew(log):
    """Its writer would go on where nobody can read."""
    path, descriptor = log
    path.unlink()
    assert turn_over(path, 5, [descriptor])
    os.write(descriptor, b"second\n")
    assert path.read_text() == "second\n"


def test_a_log_that_cannot_be_renamed_is_emptied(log, monkeypatch):
    """Where an open file keeps its name it starts again from nothing."""
    path, descriptor = log

    def refuse(self, target):
        raise PermissionError(13, "in use")

    monkeypatch.setattr(type(path), "replace", refuse)
    assert turn_over(path, 5, [descriptor])
    os.write(descriptor, b"second\n")
    assert path.read_text() == "second\n"


def test_the_log_is_looked_at_until_the_proxy_ends(loaded, monkeypatch, tmp_path):
    """The watch turns the log over from time to time, and ends with the proxy."""
    seen = []
    monkeypatch.setattr(hosted, "LOG_PACE", 0.001)
    monkeypatch.setattr(hosted, "turn_over", lambda log, limit: (seen.append(log), loaded.addon._ended.set()))
    loaded.context.configure(loaded.addon, hosted_log=str(tmp_path / "log"))
    loaded.addon._watch_log()
    assert seen == [tmp_path / "log"]


def test_threads_end_with_the_process():
    """Nobody waits for a watch when the proxy ends."""
    done = []
    hosted._in_thread(lambda: done.append(hosted.threading.current_thread().daemon), "x")
    for thread in hosted.threading.enumerate():
        if thread.name == "hosted-x":
            thread.join()
    assert done == [True]
