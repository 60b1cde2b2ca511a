"""The endpoint on the proxy's own port, but for the status page: /health, and a plain word for what is not there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from mitmproxy import http

from kimi_core.errors import BadRequest, Refused
from kimi_core.exchange import JSON, Provider, Reply, RequestHead, reply_for
from kimi_core.headers import Headers
from kimi_core.proxy import guard, seal
from kimi_core.proxy.passing import PassingControl
from kimi_core.proxy.replay import Attempt


class UnknownPath(BadRequest):
    """Nothing is served at this path of the proxy's own port."""

    code = "unknown_path"
    status = 404


class WrongPort(Refused):
    """The request was meant for this proxy and names another port of this machine, at which nobody listens."""

    code = "wrong_port"
    status = 421
    hint = "Put the proxy's own port into the base URL of your client."


def misses(head: RequestHead, flow: http.HTTPFlow, providers: Sequence[Provider]) -> bool:
    """Tell whether this request seems meant for the proxy, but for its port: a provider's path on this machine."""
    here = head.scheme == "http" and head.host.lower() in guard.LOOPBACK_NAMES
    known = any(head.path.startswith(provider.prefix) for provider in providers)
    return here and known and flow.client_conn.proxy_mode.type_name != "reverse"


class OtherPortControl(PassingControl):
    """Sends such a request where it wants to go, for another proxy may be there; says what is wrong where none is."""

    def __init__(self, asked: int, own: int, max_body: int) -> None:
        self.max_body = max_body
        self._error = WrongPort(f"Nobody answers at port {asked} of this machine; this proxy listens at {own}.")

    async def judge(self, attempt: Attempt) -> None:
        """Answer in place of mitmproxy, whose page speaks of a failed connection."""
        if attempt.response is None:
            attempt.response = seal.response_for(reply_for(self._error, "openai"))
            attempt.decision = "reply"

    def too_large(self, flow: http.HTTPFlow) -> http.Response:  # noqa: ARG002 - answers a protocol's question
        """Return the answer to a body beyond the limit."""
        return seal.response_for(reply_for(self._error, "openai"))


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
