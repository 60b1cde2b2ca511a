"""One call to a login service: bounded in time and size, and what came back put into words without a secret."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field
from typing import Any

import httpx

from kimi_core.outbound import body_of

MAX_BODY = 1 << 20  # bytes; token answers are a few hundred
EXCERPT = 120  # characters of an unusable answer that a message shows

_SECRET_LIKE = re.compile(r"[\w\-.~+/=%]{16,}")  # no word of an error message is that long, every credential is
_ERROR_CODE = re.compile(r"[a-z_]{1,40}")


class NoAnswer(Exception):
    """The call failed below HTTP; the text is secret-free."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Status and body of an answer."""

    status: int
    body: bytes = field(repr=False)

    @property
    def data(self) -> dict[str, Any]:
        """The JSON object in the body, or an empty one."""
        try:
            data = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return data if isinstance(data, dict) else {}

    @property
    def error(self) -> str:
        """The OAuth error code (RFC 6749 §5.2), or an empty text."""
        error = self.data.get("error")
        return error if isinstance(error, str) else ""

    def told(self) -> str:
        """Return what it says, for a person: status, error code and description, or an excerpt."""
        if _ERROR_CODE.fullmatch(self.error):
            words = f"{self.error}: {excerpt(str(self.data.get('error_description') or ''))}".rstrip(": ")
        else:
            words = excerpt(self.body.decode(errors="replace"))
        return f"HTTP {self.status}" + (f", {words}" if words else "")


def excerpt(text: str) -> str:
    """Return the beginning of *text* as one line in which everything that could be a credential is blacked out."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text[: 4 * EXCERPT]).split())
    hidden = _SECRET_LIKE.sub("[…]", line)
    return hidden if len(hidden) <= EXCERPT else hidden[: EXCERPT - 1] + "…"


async def call(client: httpx.AsyncClient, request: httpx.Request, seconds: float) -> Reply:
    """Send *request* and return the answer, of whose body MAX_BODY bytes are read. Raises NoAnswer."""
    try:
        async with asyncio.timeout(seconds):
            return await _receive(client, request)
    except (httpx.RequestError, TimeoutError) as error:
        detail = excerpt(str(error)).rstrip(".")
        raise NoAnswer(f"{type(error).__name__}: {detail}" if detail else type(error).__name__) from None


async def _receive(client: httpx.AsyncClient, request: httpx.Request) -> Reply:
    response = await client.send(request, stream=True)
    try:
        return Reply(response.status_code, (await body_of(response, MAX_BODY))[:MAX_BODY])
    finally:
        await response.aclose()
