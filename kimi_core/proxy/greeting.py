"""What a client says before it is clear what it speaks has an end.

mitmproxy looks for the name of the server in a greeting of TLS, or in the head of a request. Where neither ends it
collects more, and looks through all of it again with every piece: a few megabytes then stop every other connection.
"""

from __future__ import annotations

from collections.abc import Generator

from mitmproxy.addons.next_layer import NextLayer
from mitmproxy.net.tls import starts_like_tls_record
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http import HttpLayer, HTTPMode

GREETING_BYTES = 256 * 1024  # as much as a head may have (`heads`); a greeting of TLS has a few


class Closed(layer.Layer):
    """Hangs up on a client."""

    def _handle_event(self, event: events.Event) -> Generator[commands.Command, object, None]:
        if isinstance(event, events.DataReceived) and self.context.client.connected:
            yield commands.CloseConnection(self.context.client)


def decide(undecided: layer.NextLayer, usual: NextLayer | None) -> None:
    """Decide what a client speaks that has said more than `GREETING_BYTES`, where *usual*, mitmproxy's addon, does not.

    That one's turn comes after scripts, and so it is asked here. What is no TLS is taken for a request, so that it is
    answered like any other whose head is too long.
    """
    if undecided.layer is not None or len(undecided.data_client()) <= GREETING_BYTES:
        return
    if usual is not None:
        usual.next_layer(undecided)
    _settle(undecided)


def _settle(undecided: layer.NextLayer) -> None:
    if undecided.layer is not None:
        return
    tls = starts_like_tls_record(undecided.data_client())
    undecided.layer = Closed(undecided.context) if tls else HttpLayer(undecided.context, HTTPMode.transparent)
