"""Fetch one JSON document from a service: the call by which models, usage and profiles are asked for.

Foreign errors are mapped here, at the border: whatever goes wrong is an UpstreamError whose sentence holds the status
and a short excerpt of the answer, and never the credentials that were sent.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from pydantic_core import from_json

from kimi_core import later
from kimi_core.errors import UpstreamError
from kimi_core.headers import Headers
from kimi_core.outbound import body_of

if TYPE_CHECKING:
    import httpx
else:
    httpx = later.module("httpx")

MAX_ANSWER = 4 * 1024 * 1024  # the longest model list seen is a few KiB; a bound keeps a wrong host from filling memory
EXCERPT = 200  # characters of a refused answer that a message repeats
SHORTEST_SECRET = 8  # what is shorter ("gzip", "*/*") is no credential and may stand in an excerpt


class Declined(UpstreamError):
    """The service answered with a status other than 200.

    `headers` and `body` (bounded) are the answer's own, for whoever can read more from them; they are in no message
    but as an excerpt.
    """

    def __init__(self, message: str, http_status: int, headers: Headers, body: bytes) -> None:
        super().__init__(message, http_status=http_status)
        self.headers = headers
        self.body = body


async def fetch(
    client: httpx.AsyncClient,
    method: Literal["GET", "POST"],
    url: str,
    headers: Headers,
    *,
    what: str,
    seconds: float,
    content: bytes | None = None,
) -> object:
    """Return the parsed body of the answer; *seconds* bounds the whole call.

    Exactly *headers* are sent, plus Host and, with *content*, its length: no User-Agent of the HTTP library slips in
    beside an identity. *what* names the thing asked for in error sentences ("The model list").
    Raises UpstreamError: no answer in time, too long, or no JSON; Declined for a status other than 200.
    """
    timeout = {"timeout": client.timeout.as_dict()}
    request = httpx.Request(method, url, headers=list(headers), content=content, extensions=timeout)
    try:
        async with asyncio.timeout(seconds):
            status, got, body = await _read(client, request)
    except TimeoutError as error:
        raise UpstreamError(f"{what} did not come within {seconds:g} s.") from error
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise UpstreamError(f"{what} could not be fetched: {type(error).__name__}.") from error
    if status != httpx.codes.OK:
        told = f"{what} was answered with status {status}{_quote(body, headers)}."
        raise Declined(told, status, got, body[:MAX_ANSWER])
    if len(body) > MAX_ANSWER:
        raise UpstreamError(f"{what} is longer than {MAX_ANSWER} bytes.", http_status=status)
    try:
        return from_json(body)
    except ValueError as error:
        raise UpstreamError(f"{what} is no JSON{_quote(body, headers)}.", http_status=status) from error


async def _read(client: httpx.AsyncClient, request: httpx.Request) -> tuple[int, Headers, bytes]:
    response = await client.send(request, stream=True)
    try:
        body = await body_of(response, MAX_ANSWER)
    finally:
        await response.aclose()
    return response.status_code, Headers(response.headers.multi_items()), body


def _quote(body: bytes, headers: Headers) -> str:
    """Return `: "…"` with the beginning of *body* on one line, or nothing; a header value that it echoes is cut out."""
    text = body.decode(errors="replace")
    for _, value in headers:
        secret = value.rpartition(" ")[2]  # of "Bearer …"
        text = text.replace(secret, "…") if len(secret) >= SHORTEST_SECRET else text
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f': "{text[:EXCERPT]}"' if text else ""
