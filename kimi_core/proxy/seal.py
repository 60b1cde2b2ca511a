"""Secrets go onto the wire, never into the flow.

The flow that mitmproxy shows, saves and exports carries a label (``Bearer [kimi]``); the secret is put in on a copy of
the request, at the place where it leaves for the server.
"""

from __future__ import annotations

import copy
import re
from dataclasses import replace

from mitmproxy import http

from kimi_core.exchange import AnswerHead, Attempt, Headers, Reply, RequestHead

# Fields between the client and this proxy (RFC 9110 §7.6.1): mitmproxy answers the one itself, and closes the client's
# connection by the other. So the flow keeps the client's; what an identity says of its connection goes onto the wire.
OWN_LEG = ("expect", "connection")
_LINE_ENDS = re.compile(r"[\r\n\0]+[ \t]*")  # within a value: a folded line, or an attempt at a field of its own


def head_of(flow: http.HTTPFlow) -> RequestHead:
    """Return the head of a flow's request in the project's own words."""
    request = flow.request
    return RequestHead(
        method=request.method,
        scheme=request.scheme,
        host=request.host,
        port=request.port,
        path=request.path,
        headers=headers_of(request),
        peer=flow.client_conn.peername[0],
    )


def headers_of(message: http.Message) -> Headers:
    """Return a message's fields in wire order."""
    return Headers(message.headers.items(multi=True))


def answer_head(response: http.Response) -> AnswerHead:
    """Return the head of an answer in the project's own words."""
    return AnswerHead(response.status_code, headers_of(response))


def set_headers(message: http.Message, headers: Headers) -> None:
    """Replace all fields of a message. A value stays on its line, whatever it came from (RFC 9110 §5.5)."""
    message.headers = http.Headers([(_bytes(name), _bytes(_LINE_ENDS.sub(" ", value))) for name, value in headers])


def _bytes(text: str) -> bytes:
    """Return the bytes that mitmproxy made *text* of (PEP 383)."""
    return text.encode("utf-8", "surrogateescape")


def dress(request: http.Request, attempt: Attempt, before: Attempt | None = None) -> None:
    """Make *request* what *attempt* says, labels in place of secrets.

    *before* is what it was dressed in already; where that differs in its body alone, only that is put in.
    """
    if before is None or (before is not attempt and replace(before, body=attempt.body) != attempt):
        _dress_head(request, attempt)
    if attempt.body is not None:
        request.data.content = attempt.body
        request.headers.pop("transfer-encoding", None)
        request.headers.pop("content-encoding", None)
        request.headers["content-length"] = str(len(attempt.body))


def _dress_head(request: http.Request, attempt: Attempt) -> None:
    request.method = attempt.method
    request.scheme = attempt.scheme
    request.data.host = attempt.host  # the property would rewrite Host and authority by its own rules
    request.data.port = attempt.port
    request.path = attempt.path
    if request.data.authority:
        request.authority = attempt.headers.get("host") or attempt.host
    own = [(name, request.headers[name]) for name in OWN_LEG if name in request.headers]
    set_headers(request, attempt.headers.without(*OWN_LEG))
    for name, value in own:
        request.headers[name] = value


def twin(request: http.Request) -> http.Request:
    """Return a copy whose head may be changed, at a tenth of what `Request.copy` costs; the body is the same object."""
    other = copy.copy(request)
    other.data = copy.copy(request.data)
    other.data.headers = request.headers.copy()
    return other


def unlabelled(request: http.Request, attempt: Attempt) -> http.Request:
    """Put *attempt*'s secrets into *request*, which is a copy for the wire, and return it.

    The copy is written as HTTP/1.1 whatever the client spoke: mitmproxy then turns it into a proper HTTP/2 request
    itself where the server speaks that, and leaves the spelling of the names alone where it does not.
    """
    for name, value in attempt.secrets.items():
        spelling = next((key for key in request.headers if key.lower() == name.lower()), name)
        request.headers[spelling] = value
    _set_connection(request, attempt.headers)
    if request.is_http2 or request.is_http3:
        request.http_version = "HTTP/1.1"
        request.authority = ""
    return request


def _set_connection(request: http.Request, headers: Headers) -> None:
    """Give *request* the Connection field of *headers*, where it stands there, or none."""
    request.headers.pop("connection", None)
    names = [name.lower() for name, _ in headers]
    if "connection" not in names:
        return
    at = names.index("connection")
    fields = list(request.headers.fields)
    places = {name.lower().decode("latin-1"): place for place, (name, _) in reversed(list(enumerate(fields)))}
    before = next((places[name] for name in names[at + 1 :] if name in places), len(fields))
    name, value = list(headers)[at]
    fields.insert(before, (name.encode("latin-1"), value.encode("latin-1")))
    request.headers.fields = tuple(fields)


def response_for(reply: Reply) -> http.Response:
    """Return mitmproxy's response for a reply of ours."""
    response = http.Response.make(reply.status, reply.body)
    set_headers(response, reply.headers.plus(("content-length", str(len(reply.body)))))
    return response
