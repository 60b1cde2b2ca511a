"""Requests to a provider's own hosts that are none of ours: the service's own clients speak to it through this proxy.

They pass as they came, with their own login, and stream as they come. What is kept for looking at shows that login no
more than ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from mitmproxy import http

from kimi_core.exchange import Provider, RequestHead
from kimi_core.proxy.control import PassingControl
from kimi_core.proxy.stream import AnswerStream, Tape

CREDENTIALS = ("authorization", "x-api-key", "cookie")
LABEL = "[client's own]"


def concerns(head: RequestHead, providers: Sequence[Provider]) -> bool:
    """Tell whether this request goes to a provider's own host."""
    return any((head.host.lower(), head.port) in provider.origins() for provider in providers)


class NativeControl(PassingControl):
    """Has a request go out with what the client sent, while the flow shows a label in place of its login."""

    buffers_body = False

    def __init__(self, flow: http.HTTPFlow, record_limit: int) -> None:
        self._stream = AnswerStream(None, None, Tape(record_limit))
        self._secrets = {name: flow.request.headers[name] for name in CREDENTIALS if name in flow.request.headers}
        for name in self._secrets:
            flow.request.headers[name] = LABEL

    def seal(self, request: http.Request) -> http.Request:
        """Put the client's own login back into a copy for the wire."""
        for name, value in self._secrets.items():
            request.headers[name] = value
        return request

    def open_stream(self, response: http.Response) -> None:
        """Let the answer pass piece by piece: mitmproxy would read it whole first."""
        response.stream = self._stream

    def keep(self, response: http.Response) -> None:
        """Put what passed into the flow, which is only a record now."""
        content = self._stream.tape.content()
        if content is not None:
            response.data.content = content
