"""A client that never makes clear what it speaks is not listened to for ever."""

from __future__ import annotations

import pytest
from mitmproxy import connection
from mitmproxy.proxy import commands, context, events, layer
from mitmproxy.proxy.layers.http import HttpLayer

from kimi_core.proxy import greeting
from tests.proxy.driver import options_with

MORE = b"x" * greeting.GREETING_BYTES
HELLO = b"\x16\x03\x01\x40\x00\x01\xff\xff\xff"


@pytest.fixture
def undecided():
    """Return a layer of which nobody has decided what its client speaks."""
    client = connection.Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2), timestamp_start=0)
    client.state = connection.ConnectionState.OPEN
    return layer.NextLayer(context.Context(client, options_with()))


def say(undecided, *pieces, usual=None):
    """Have the client say this, and have it looked at."""
    undecided.events = [events.DataReceived(undecided.context.client, piece) for piece in pieces]
    greeting.decide(undecided, usual)


def test_what_is_not_clear_is_waited_for(undecided):
    """Up to a bound."""
    say(undecided, MORE[:-1], b"x")
    assert undecided.layer is None


def test_what_is_decided_stays(undecided):
    """Whoever decided it."""
    undecided.layer = chosen = greeting.Closed(undecided.context)
    say(undecided, MORE, b"x")
    assert undecided.layer is chosen


def test_mitmproxys_own_decision_comes_first(undecided):
    """It may have what it needs by now: a tunnel that is to pass as it is passes, however much is sent along."""

    class Usual:
        def next_layer(self, undecided):
            undecided.layer = chosen

    chosen = greeting.Closed(undecided.context)
    say(undecided, MORE, b"x", usual=Usual())
    assert undecided.layer is chosen


def test_a_greeting_of_tls_without_an_end_is_hung_up_on(undecided):
    """Once; what comes after that is nobody's."""
    say(undecided, HELLO, MORE)
    assert isinstance(undecided.layer, greeting.Closed)
    assert not [*undecided.layer.handle_event(events.Start())]
    first, second = undecided.events
    (command,) = undecided.layer.handle_event(first)
    assert isinstance(command, commands.CloseConnection)
    command.connection.state = connection.ConnectionState.CLOSED
    assert not [*undecided.layer.handle_event(second)]


def test_anything_else_without_an_end_is_a_head(undecided):
    """So that it is answered like one."""
    say(undecided, b"GET / HTTP/1.1", MORE)
    assert isinstance(undecided.layer, HttpLayer)
