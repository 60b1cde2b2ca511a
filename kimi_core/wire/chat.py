"""How an error reaches a client in the middle of a stream: the shapes of the OpenAI and the Anthropic dialect.

A stream that was cut must not look finished. So an error event ends it, without a finish_reason, without ``[DONE]``
and without ``message_stop``; the clients' SDKs raise on it. Whether a client asks again is decided by the words of the
error (`kimi_core.errors`), which are passed on as they are.
"""

from __future__ import annotations

from kimi_core.errors import KimiMitmError, anthropic_body, openai_body

DONE = b"[DONE]"  # value of the data field that ends an OpenAI stream


def openai_error_event(error: KimiMitmError) -> bytes:
    """Return the event ``data: {"error": {"message", "type", "param", "code"}}``."""
    return b"data: " + openai_body(error) + b"\n\n"


def anthropic_error_event(error: KimiMitmError) -> bytes:
    """Return the event ``error`` with the data ``{"type": "error", "error": {"type", "message", "code"}}``."""
    return b"event: error\ndata: " + anthropic_body(error) + b"\n\n"
