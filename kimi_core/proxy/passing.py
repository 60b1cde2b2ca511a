"""Controls of flows that are no exchange: what passes as it is, and what was answered here."""

from __future__ import annotations

from mitmproxy import connection, http

from kimi_core.exchange import Limits
from kimi_core.proxy.replay import Attempt, Broken


class PassingControl:
    """A control that has nothing to say: the request goes out as it is, and its answer comes back as it is."""

    buffers_body = True
    max_body = 0
    max_attempts = 1
    peek_limit = 0
    limits = Limits()

    def too_large(self, flow: http.HTTPFlow) -> http.Response:
        """Return the answer that stands already."""
        assert flow.response is not None
        return flow.response

    def permit(self, flow: http.HTTPFlow, server: connection.Server) -> str | None:
        """Let the request go where it wants: nothing of ours is in it."""
        return None

    def seal(self, request: http.Request) -> http.Request:
        """Add nothing."""
        return request

    def holds(self, flow: http.HTTPFlow, response: http.Response) -> bool:
        """Let every answer pass."""
        return False

    def peeks(self, flow: http.HTTPFlow, response: http.Response) -> bool:
        """Let every answer pass."""
        return False

    def peek(self, flow: http.HTTPFlow, data: bytearray, ended: bool) -> bool | None:
        """Let every answer pass."""
        return True

    async def judge(self, attempt: Attempt) -> None:
        """Leave the outcome as it is."""

    def cut(self, flow: http.HTTPFlow, limit: Broken) -> bytes | None:
        """Say nothing."""
        return None

    def ping(self, flow: http.HTTPFlow) -> bytes:
        """Say nothing."""
        return b""


class RefusedControl(PassingControl):
    """For a request that was answered before its body was read: the answer goes out at once, nothing is sent on."""

    def permit(self, flow: http.HTTPFlow, server: connection.Server) -> str | None:
        """Keep the request here."""
        return "the request was refused"
