"""Requests to other OpenAI-style hosts whose model begins with the name of a provider here.

Which model a request wants stands in its body. So on the hosts of the option `openai_hosts` the body of a chat request
is read first; one that asks for ``kiro/…`` or ``kimi/…`` is taken over, every other one passes as it came, with the
client's own key.
"""

from __future__ import annotations

from collections.abc import Sequence

from mitmproxy import http

from kimi_core.errors import BadRequest
from kimi_core.exchange import Provider, Reply, RequestHead, reply_for
from kimi_core.proxy import seal
from kimi_core.proxy.passing import PassingControl
from kimi_core.wire.lossless import Document

CHAT = "/chat/completions"
HTTPS = 443


def concerns(head: RequestHead, hosts: Sequence[str]) -> bool:
    """Tell whether this request may turn out to be for a provider here."""
    path = head.path.partition("?")[0]
    listed = head.host.lower() in hosts and head.port == HTTPS and head.scheme == "https"
    return listed and head.method == "POST" and path.endswith(CHAT)


def claimed(body: bytes, providers: Sequence[Provider]) -> tuple[Provider, bytes] | None:
    """Return the provider that the body's model names and the body without that prefix; None for all others."""
    names = {f"{provider.name}/": provider for provider in providers}
    written = body.replace(rb"\/", b"/")  # as some programs write it
    if not any(name.encode() in written for name in names):
        return None
    try:
        document = Document(body)
    except BadRequest:
        return None
    model = document.values.get("model")
    for prefix, provider in names.items():
        if isinstance(model, str) and model.startswith(prefix):
            document.values["model"] = model.removeprefix(prefix)
            return provider, document.render()
    return None


def local_head(head: RequestHead, provider: Provider) -> RequestHead:
    """Return the head of the same request at the provider's local endpoint."""
    return RequestHead(
        head.method, head.scheme, head.host, head.port, f"{provider.prefix}v1{CHAT}", head.headers, head.peer
    )


class ReadingControl(PassingControl):
    """Has the body of a request read whole, whatever becomes of it."""

    def __init__(self, max_body: int) -> None:
        self.max_body = max_body

    def too_large(self, flow: http.HTTPFlow) -> http.Response:
        """Return the answer to a body that cannot be looked into."""
        return seal.response_for(too_large(self.max_body))


def too_large(limit: int) -> Reply:
    """Return the answer to a body beyond *limit* bytes."""
    error = BadRequest(f"The request body is larger than {limit >> 20} MiB (option kimi_max_body).")
    return reply_for(error, "openai")
