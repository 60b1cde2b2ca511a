"""Requests to a provider's own hosts that are none of ours: the service's own clients speak to it through this proxy.

They pass as they came, with their own login, and stream as they come. What is kept for looking at shows that login no
more than ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mitmproxy import http

from kimi_core.exchange import Provider, RequestHead
from kimi_core.proxy import guard, record, sides
from kimi_core.proxy.passing import PassingControl
from kimi_core.proxy.stream import AnswerStream, Tape

CREDENTIALS = ("authorization", "x-api-key", "cookie")
LABEL = "[client's own]"


def concerns(head: RequestHead, providers: Sequence[Provider]) -> bool:
    """Tell whether this request goes to a provider's own host."""
    return any((head.host.lower(), head.port) in provider.origins() for provider in providers)


def _login(headers: http.Headers, name: str) -> str:
    """Return the value of a field in one piece; HTTP/2 may have split a cookie (RFC 9113 §8.2.3)."""
    return ("; " if name == "cookie" else ", ").join(headers.get_all(name))


class NativeControl(PassingControl):
    """Has a request go out with what the client sent, while the flow shows a label in place of its login."""

    buffers_body = False

    def __init__(self, flow: http.HTTPFlow, record_limit: int, logins: Mapping[str, str] | None = None) -> None:
        """Take charge of *flow*; *logins* are what it carries in place of the labels of an earlier sending."""
        self._stream = AnswerStream(None, None, Tape(record_limit))
        self._kept = False
        self.origin = (flow.request.scheme, flow.request.host, flow.request.port)
        headers = flow.request.headers
        self.logins = {name: _login(headers, name) for name in CREDENTIALS if name in headers}
        self.logins |= logins or {}
        for name in self.logins:
            headers[name] = LABEL
        headers.pop(guard.KEY_HEADER, None)  # between the client and this proxy only

    def seal(self, request: http.Request) -> http.Request:
        """Put the client's own login back into a copy for the wire."""
        for name, value in self.logins.items():
            request.headers[name] = value
        return request

    def open_stream(self, response: http.Response) -> None:
        """Let the answer pass piece by piece: mitmproxy would read it whole first."""
        response.stream = self._stream

    def keep(self, flow: http.HTTPFlow) -> None:
        """Put what passed into the flow, which is only a record now, and say whose request it was; once."""
        if self._kept:
            return
        self._kept = True
        tape, response = self._stream.tape, flow.response
        if response is not None:
            response.data.content = content = tape.take()
            if len(content) < tape.length:
                sides.keep_cut(flow, tape.length)
        record.tell_native(flow)
