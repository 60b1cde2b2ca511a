"""The endpoint on the proxy's own port, but for the status page: /health, and a plain word for what is not there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from mitmproxy import http

from kimi_core.errors import BadRequest
from kimi_core.exchange import JSON, Headers, Provider, Reply, reply_for


class UnknownPath(BadRequest):
    """Nothing is served at this path of the proxy's own port."""

    code = "unknown_path"
    status = 404


def answer(request: http.Request, providers: Sequence[Provider]) -> Reply:
    """Answer a request on the proxy's own port that is no provider's."""
    path = request.path.partition("?")[0]
    if path == "/health" and request.method in {"GET", "HEAD"}:
        return _health(providers)
    served = " and ".join(f"{provider.prefix}v1/…" for provider in providers)
    return reply_for(
        UnknownPath(f"There is nothing at {path[:80]!r}; served here: / (the status page), /health, {served}."),
        "openai",
    )


def _health(providers: Sequence[Provider]) -> Reply:
    """Return 200 while the proxy runs; whether each provider is logged in stands in the body."""
    state = {
        "status": "ok",
        "version": installed_version(),
        "providers": {provider.name: provider.health() for provider in providers},
    }
    headers = Headers([("content-type", JSON), ("cache-control", "no-store")])
    return Reply(200, headers, json.dumps(state).encode())


def installed_version() -> str:
    """Return the version of this program, "0" for a checkout that was never installed."""
    try:
        return version("kimi-mitm")
    except PackageNotFoundError:
        return "0"
