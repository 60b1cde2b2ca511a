"""GET one JSON document of the Kimi API: the call that models and usage share (`kimi_core.documents` does the work)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_core import documents
from kimi_core.documents import MAX_ANSWER
from kimi_core.headers import Headers

if TYPE_CHECKING:
    import httpx

__all__ = ["MAX_ANSWER", "get_json"]


async def get_json(client: httpx.AsyncClient, url: str, headers: Headers, *, what: str, seconds: float) -> object:
    """Return the parsed body of ``GET url``, sent with exactly *headers*, within *seconds*.

    *what* names the thing asked for in error sentences ("The model list"). Raises UpstreamError.
    """
    return await documents.fetch(client, "GET", url, headers, what=what, seconds=seconds)
