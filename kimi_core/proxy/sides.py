"""The other side of a flow, kept in its metadata: what the client sent, and what the service answered with.

A flow has room for one request and one answer. It shows the request as it went to the service and the answer as the
client got it; where those differ from what came, the original is kept here: for the views, and so that a flow that is
sent again begins where its client began. It is saved with the flow, and no field in it carries a credential.

All of it is bounded by `kimi_record_limit`, each body for itself.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Any

from mitmproxy import http

from kimi_core.exchange import RequestHead
from kimi_core.headers import Headers
from kimi_core.proxy.fields import indexed, to_bytes

SIDES = "kimi-mitm-sides"
_WORDS = ("provider", "operation", "method", "url")
WITHHELD = "[removed]"
_SET_ANEW = b"content-length"  # for each sending
_CREDENTIAL = re.compile(r"auth|cookie|token|secret|passw|credential|(?<!cache-)key|signature", re.IGNORECASE)
"""Names of fields whose values may be credentials: those of the clients' own choosing among them."""


class Kept(bytes):
    """A body in metadata. mitmproxy prints metadata to search it, and copies it with every copy of a flow."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self):,} bytes>"

    __str__ = __repr__

    def __deepcopy__(self, memo: object) -> Kept:
        return self


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """What a client sent, but for its credentials. `body` is the beginning of its `length` bytes."""

    provider: str
    operation: str
    method: str
    url: str
    headers: Headers
    body: bytes
    length: int

    @property
    def whole(self) -> bool:
        """True where the whole body is there."""
        return len(self.body) == self.length


@dataclass(frozen=True, slots=True)
class WireAnswer:
    """What the service sent, its content coding undone. `body` is the beginning of its `length` bytes."""

    content_type: str
    body: bytes
    length: int


def keep_request(
    flow: http.HTTPFlow, head: RequestHead, provider: str, operation: str, body: bytes, limit: int
) -> None:
    """Keep what the client sent; nothing where *limit* is 0. To be called once the flow shows what goes out."""
    if not limit:
        return
    unchanged = flow.request.data.content == body
    _sides(flow)["request"] = {
        "provider": provider,
        "operation": operation,
        "method": head.method,
        "url": _url(head),
        "headers": [[name, _shown(name, value)] for name, value in head.headers],
        "body": None if unchanged else Kept(body[:limit]),
        "length": len(body),
    }


def keep_answer(flow: http.HTTPFlow, content_type: str, body: bytes, length: int) -> None:
    """Keep what the service sent, where the client got it in another form."""
    _sides(flow)["answer"] = {"content_type": content_type, "body": Kept(body), "length": length}


def keep_cut(flow: http.HTTPFlow, length: int) -> None:
    """Note that the flow's answer is only the beginning of its *length* bytes."""
    _sides(flow)["cut"] = length


def sign(flow: http.HTTPFlow) -> None:
    """Remember how the flow's request looks now, so that an edited one is known when it is sent again."""
    found = flow.metadata.get(SIDES)
    if isinstance(found, dict) and "request" in found:
        found["request"]["sent"] = _print(flow.request)


def forget(flow: http.HTTPFlow) -> None:
    """Drop what an earlier sending of this flow has left."""
    flow.metadata.pop(SIDES, None)


def request_of(flow: http.HTTPFlow) -> ClientRequest | None:
    """Return what the client sent, None where nothing is kept."""
    found = _member(flow, "request")
    try:
        body = flow.request.data.content or b"" if found["body"] is None else bytes(found["body"])
        headers = Headers((str(name), str(value)) for name, value in found["headers"] if value != WITHHELD)
        provider, operation, method, url = (str(found[name]) for name in _WORDS)
        return ClientRequest(provider, operation, method, url, headers, body, int(found["length"]))
    except (LookupError, TypeError, ValueError, OverflowError):  # a file may hold anything
        return None


def untouched(flow: http.HTTPFlow) -> bool:
    """Tell whether the flow's request still is what went out, and not what a user made of it."""
    found = _member(flow, "request")
    return isinstance(found, dict) and found.get("sent") == _print(flow.request)


def answer_of(flow: http.HTTPFlow) -> WireAnswer | None:
    """Return what the service sent, None where nothing is kept."""
    found = _member(flow, "answer")
    try:
        return WireAnswer(str(found["content_type"]), bytes(found["body"]), int(found["length"]))
    except (LookupError, TypeError, ValueError, OverflowError):
        return None


def full_length(flow: http.HTTPFlow) -> int | None:
    """Return how many bytes the flow's answer had, None where all of them are in the flow."""
    found = _member(flow, "cut")
    return found if isinstance(found, int) else None


def _sides(flow: http.HTTPFlow) -> dict[str, Any]:
    return flow.metadata.setdefault(SIDES, {})  # type: ignore[no-any-return]  # metadata is untyped


def _member(flow: http.HTTPFlow, name: str) -> Any:
    found = flow.metadata.get(SIDES)
    return found.get(name) if isinstance(found, dict) else None


def _url(head: RequestHead) -> str:
    return f"{head.scheme}://{head.host}:{head.port}{head.path}"


def _shown(name: str, value: str) -> str:
    return WITHHELD if _CREDENTIAL.search(name) else value


def _print(request: http.Request) -> int:
    """Return a checksum of what a user may edit. It is no protection, and needs none."""
    head = to_bytes(f"{request.method} {request.scheme} {request.data.host} {request.data.port} {request.path}")
    headers = indexed(request)
    fields = [
        b":".join(field) for name, field in zip(headers.names(), headers.fields, strict=True) if name != _SET_ANEW
    ]
    return zlib.adler32(request.data.content or b"", zlib.adler32(b"\n".join(fields), zlib.adler32(head)))
