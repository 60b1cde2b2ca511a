"""Secrets go onto the wire, never into the flow.

The flow that mitmproxy shows, saves and exports carries a label (``Bearer [kimi]``); the secret is put in on a copy of
the request, at the place where it leaves for the server.
"""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus

from mitmproxy import http

from kimi_core.exchange import AnswerHead, Attempt, Headers, Reply, RequestHead
from kimi_core.proxy.fields import Indexed, headers_of, set_headers, to_bytes

# Fields between the client and this proxy (RFC 9110 §7.6.1): mitmproxy answers the one itself, and closes the client's
# connection by the other. So the flow keeps the client's; what an identity says of its connection goes onto the wire.
OWN_LEG = ("expect", "connection")
_CONNECTION = b"connection"
_CODINGS = {b"transfer-encoding", b"content-encoding"}  # of the body that the client sent


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


def answer_head(response: http.Response) -> AnswerHead:
    """Return the head of an answer in the project's own words."""
    return AnswerHead(response.status_code, headers_of(response))


def dress(request: http.Request, attempt: Attempt, before: Attempt | None = None) -> None:
    """Make *request* what *attempt* says, labels in place of secrets.

    *before* is what it was dressed in already; where that differs in its body alone, only that is put in.
    """
    if before is None or (before is not attempt and replace(before, body=attempt.body) != attempt):
        _dress_head(request, attempt)
    if attempt.body is not None:
        request.data.content = attempt.body
        fields = [field for field in request.data.headers.fields if field[0].lower() not in _CODINGS]
        _put(fields, b"content-length", b"%d" % len(attempt.body))
        request.data.headers = Indexed.of(tuple(fields))


def _dress_head(request: http.Request, attempt: Attempt) -> None:
    request.method = attempt.method
    request.scheme = attempt.scheme
    request.data.host = attempt.host  # the property would rewrite Host and authority by its own rules
    request.data.port = attempt.port
    request.path = attempt.path
    if request.data.authority:
        request.authority = attempt.headers.get("host") or attempt.host
    came = headers_of(request)
    own = [(name, ", ".join(values)) for name in OWN_LEG if (values := came.get_all(name))]
    set_headers(request, Headers([*attempt.headers.without(*OWN_LEG), *own]))


def twin(request: http.Request) -> http.Request:
    """Return a copy whose head may be changed, at a tenth of what `Request.copy` costs; the body is the same object."""
    data = _copy_of(request.data, headers=Indexed.of(request.data.headers.fields))
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
    fields = [field for field in request.data.headers.fields if field[0].lower() != _CONNECTION]
    for name, value in attempt.secrets.items():
        _put(fields, to_bytes(name), to_bytes(value))
    if attempt.headers.get("connection") is not None:
        _insert_connection(fields, attempt.headers)
    request.data.headers = Indexed.of(tuple(fields))
    if request.is_http2 or request.is_http3:
        request.http_version = "HTTP/1.1"
        request.authority = ""
    return request


def _put(fields: list[tuple[bytes, bytes]], name: bytes, value: bytes) -> None:
    """Give the field *name* this one value: in its place and spelling, at the end where it is not there."""
    wanted = name.lower()
    places = [place for place, (each, _) in enumerate(fields) if each.lower() == wanted]
    for place in reversed(places[1:]):
        del fields[place]
    if places:
        fields[places[0]] = (fields[places[0]][0], value)
    else:
        fields.append((name, value))


def _insert_connection(fields: list[tuple[bytes, bytes]], headers: Headers) -> None:
    """Put the Connection field of *headers* before the first of *fields* that comes after it there."""
    pairs = list(headers)
    at = next(place for place, (name, _) in enumerate(pairs) if name.lower() == "connection")
    present = [name.lower() for name, _ in fields]
    after = (to_bytes(name.lower()) for name, _ in pairs[at + 1 :])
    before = next((present.index(name) for name in after if name in present), len(fields))
    name, value = pairs[at]
    fields.insert(before, (to_bytes(name), to_bytes(value)))


def response_for(reply: Reply) -> http.Response:
    """Return mitmproxy's response for a reply of ours."""
    response = http.Response.make(reply.status, reply.body)
    bodiless = reply.status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}  # RFC 9110 §8.6
    length = () if bodiless else (("content-length", str(len(reply.body))),)
    set_headers(response, reply.headers.plus(*length))
    return response
