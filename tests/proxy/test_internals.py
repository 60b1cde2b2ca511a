from __future__ import annotations

import enum
import importlib
import sys
import types
import warnings

import pytest
from mitmproxy.proxy.layers import http as layers

from kimi_core.proxy import internals, replay


@pytest.fixture(autouse=True)
def stock():
    """Begin and end with mitmproxy's own class."""
    assert not replay.installed()
    yield
    replay.uninstall()
    assert layers.HttpStream.__module__.startswith("mitmproxy.")


def remove(monkeypatch, internal):
    """Take from mitmproxy what *internal* stands for."""
    *parents, name = internal.path.split(".")
    owner = importlib.import_module(internal.module)
    for parent in parents:
        owner = getattr(owner, parent)
    if internal.kind == "has":
        bare = types.new_class("Bare", (), {}, lambda body: body.update(__init__=lambda self: None))
        monkeypatch.setattr(owner, name, bare)
    elif internal.kind == "uses":
        monkeypatch.setattr(owner, name, lambda self, event: None)
    elif internal.kind == "takes":
        monkeypatch.setattr(owner, name, lambda self, *, quite_different: None)
    elif isinstance(owner, enum.EnumMeta):
        monkeypatch.setattr(layers, parents[-1], enum.Enum("ErrorCode", ["OTHER"]))
    else:
        monkeypatch.delattr(owner, name)


@pytest.mark.parametrize("internal", internals.INTERNALS, ids=str)
def test_each_missing_internal_is_named(monkeypatch, internal):
    """A mitmproxy that lacks one thing costs the replay, and the error says which thing."""
    remove(monkeypatch, internal)
    with pytest.raises(replay.ReplayUnavailable) as caught:
        replay.install()
    assert str(internal) in caught.value.missing
    assert str(internal) in str(caught.value)
    assert not replay.installed()


@pytest.mark.parametrize("table", ["TUNNELS", "VIEWS", "ROUNDS"])
def test_what_needs_no_replay_does_not_cost_it(monkeypatch, table):
    """What is lacking is named in its own table, and nothing else goes without."""
    rows = getattr(internals, table)
    assert internals.missing(rows) == []
    for internal in rows:
        with monkeypatch.context() as patch:
            remove(patch, internal)
            assert internals.missing(rows) == [str(internal)]
            replay.install()
            replay.uninstall()


def test_what_cannot_be_imported_costs_the_replay(monkeypatch):
    """Be it one that the table has not."""
    monkeypatch.setattr(internals, "INTERNALS", ())
    monkeypatch.delitem(sys.modules, "kimi_core.proxy.replay_stream", raising=False)
    monkeypatch.setitem(sys.modules, "kimi_core.proxy.closing", None)
    monkeypatch.delattr("kimi_core.proxy.closing", raising=False)
    with pytest.raises(replay.ReplayUnavailable, match="closing"):
        replay.install()
    assert not replay.installed()


def test_missing_module_is_named(monkeypatch):
    """So does a module that is gone altogether."""
    monkeypatch.setitem(sys.modules, "mitmproxy.net.http.http1", None)
    assert any("expected_http_body_size" in name for name in internals.missing())


@pytest.mark.parametrize(("kind", "name"), [("uses", "iter"), ("takes", "min"), ("has", "len")])
def test_what_cannot_be_looked_into_is_not_what_is_known(kind, name):
    """A function that was compiled shows neither its names nor, some, their signature."""
    assert not internals.Internal("builtins", name, kind, ("self",)).there()


def test_further_optional_parameters_do_no_harm(monkeypatch):
    """A function may learn more as long as it can be called as before."""
    monkeypatch.setattr(
        layers.HttpStream, "check_killed", lambda self, emit_error_hook, more=None: self._paused_event_queue
    )
    assert internals.missing() == []
    monkeypatch.setattr(layers.HttpStream, "check_killed", lambda self, emit_error_hook, more: self._paused_event_queue)
    assert len(internals.missing()) == 1


def test_every_name_the_stream_imports_or_calls_is_checked():
    """The table keeps up with what the stream takes from mitmproxy's HTTP layers."""
    from kimi_core.proxy import replay_stream

    table = " ".join(str(internal) for internal in internals.INTERNALS)
    taken = {name for name in vars(replay_stream) if vars(layers).get(name) is vars(replay_stream)[name]}
    public = {
        name
        for name in taken
        if name[0].isupper() and vars(layers)[name].__module__.startswith("mitmproxy.proxy.layers")
    }
    assert {name for name in public if f".{name}" not in table} == set()
    stock = layers.HttpStream
    overridden = {
        name for name in vars(replay_stream.ReplayStream) if name in vars(stock) and not name.startswith("__")
    }
    assert {name for name in overridden if f"HttpStream.{name}" not in table} == set()


def test_install_and_uninstall():
    """Both may be called at any time and any number of times."""
    stock = layers.HttpStream
    replay.uninstall()
    for _ in range(2):
        replay.install()
        assert replay.installed()
        assert issubclass(layers.HttpStream, stock)
    for _ in range(2):
        replay.uninstall()
        assert layers.HttpStream is stock


def test_executing_the_module_again_does_not_stack():
    """A second copy of the stream class stands on mitmproxy's, and its hook takes the first one's place."""
    from kimi_core.proxy import replay_stream

    stock = layers.HttpStream
    replay.install()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(replay_stream)
    assert not replay.installed()
    replay.install()
    assert layers.HttpStream.__mro__[1] is stock
    assert layers.HttpStream is replay_stream.ReplayStream


def test_without_the_stream_module_nothing_is_installed(monkeypatch):
    """Asking does not load what touches mitmproxy's internals."""
    monkeypatch.delitem(sys.modules, "kimi_core.proxy.replay_stream", raising=False)
    assert not replay.installed()
    replay.uninstall()
