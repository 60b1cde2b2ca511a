"""Secrets go onto the wire, never into the flow.

The flow that mitmproxy shows, saves and exports carries a label (``Bearer [kimi]``); the secret is put in on a copy of
the request, at the place where it leaves for the server.
"""

from __future__ import annotations

from http import HTTPStatus
from operator import attrgetter

from mitmproxy import http

from kimi_core.exchange import AnswerHead, Attempt, Reply, RequestHead
from kimi_core.headers import Headers
from kimi_core.proxy.fields import Indexed, headers_of, indexed, set_headers, to_bytes

# Fields between the client and this proxy (RFC 9110 §7.6.1): mitmproxy answers the one itself, and closes the client's
# connection by the other. So the flow keeps the client's; what an identity says of its connection goes onto the wire.
OWN_LEG = (b"expect", b"connection")
_CONNECTION = (b"connection",)
_CODINGS = frozenset({b"transfer-encoding", b"content-encoding"})  # of the body that the client sent
_HEAD = attrgetter("method", "scheme", "host", "port", "path", "headers", "secrets", "label")


def head_of(flow: http.HTTPFlow) -> RequestHead:
    """Return the head of a flow's request in the project's own words."""
    request = flow.request
    indexed(request)  # it is asked a dozen times from here on
    return RequestHead(
        method=request.method,
        scheme=request.scheme,
        host=request.host,
        port=request.port,
        path=request.path,
        headers=headers_of(request),
        peer=flow.client_conn.peername[0],
    )


def answer_head(response: http.Response) -> AnswerHead:
    """Return the head of an answer in the project's own words."""
    return AnswerHead(response.status_code, headers_of(response))


def dress(request: http.Request, attempt: Attempt, before: Attempt | None = None) -> None:
    """Make *request* what *attempt* says, labels in place of secrets.

    *before* is what it was dressed in already; where that differs in its body alone, only that is put in.
    """
    if before is None or _HEAD(before) != _HEAD(attempt):
        _dress_head(request, attempt)
    if attempt.body is not None:
        request.data.content = attempt.body
        length = {b"content-length": b"%d" % len(attempt.body)}
        request.data.headers = indexed(request).changed(_CODINGS, length)


def _dress_head(request: http.Request, attempt: Attempt) -> None:
    request.method = attempt.method
    request.scheme = attempt.scheme
    request.data.host = attempt.host  # the property would rewrite Host and authority by its own rules
    request.data.port = attempt.port
    request.path = attempt.path
    if request.data.authority:
        request.authority = attempt.headers.get("host") or attempt.host
    came = request.data.headers
    own = {name: to_bytes(came[name]) for name in OWN_LEG if name in came}
    set_headers(request, attempt.headers)
    request.data.headers = indexed(request).changed(OWN_LEG, own)


def twin(request: http.Request) -> http.Request:
    """Return a copy whose head may be changed, at a tenth of what `Request.copy` costs; the body is the same object."""
    data = _copy_of(request.data, headers=_copy_of(indexed(request)))
    return _copy_of(request, data=data)


def _copy_of[T](thing: T, **changes: object) -> T:
    """Return what `copy.copy` would, but for *changes*."""
    made = object.__new__(type(thing))
    vars(made).update(vars(thing), **changes)
    return made


def unlabelled(request: http.Request, attempt: Attempt) -> http.Request:
    """Put *attempt*'s secrets into *request*, which is a copy for the wire, and return it.

    The copy is written as HTTP/1.1 whatever the client spoke: mitmproxy then turns it into a proper HTTP/2 request
    itself where the server speaks that, and leaves the spelling of the names alone where it does not.
    """
    secrets = {to_bytes(name): to_bytes(value) for name, value in attempt.secrets.items()}
    wire = indexed(request).changed(_CONNECTION, secrets)
    request.data.headers = _insert_connection(wire, attempt.headers)
    if request.is_http2 or request.is_http3:
        request.http_version = "HTTP/1.1"
        request.authority = ""
    return request


def _insert_connection(wire: Indexed, headers: Headers) -> Indexed:
    """Put the Connection field of *headers*, if it has one, before the first of *wire* that comes after it there."""
    pairs = iter(headers)
    connection = next((pair for pair in pairs if pair[0].lower() == "connection"), None)
    if connection is None:
        return wire
    names = wire.names()
    after = (to_bytes(name).lower() for name, _ in pairs)  # the rest of them
    place = next((names.index(name) for name in after if name in names), len(names))
    field = (to_bytes(connection[0]), to_bytes(connection[1]))
    return Indexed.of((*wire.fields[:place], field, *wire.fields[place:]))


def response_for(reply: Reply) -> http.Response:
    """Return mitmproxy's response for a reply of ours."""
    response = http.Response.make(reply.status, reply.body)
    bodiless = reply.status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}  # RFC 9110 §8.6
    length = () if bodiless else (("content-length", str(len(reply.body))),)
    set_headers(response, reply.headers.plus(*length))
    return response
