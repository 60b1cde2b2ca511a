"""A script for mitmdump: what a test would have to wait for comes soon.

The pauses before an attempt more at Kiro are a fraction of themselves. ``GET /patience/SECONDS`` on the proxy's own
port sets how long a service may be silent.

Loaded before the addon, so that its answer stands before the addon looks.
"""

from mitmproxy import ctx, http

from kimi_core.kiro import verdict

PATH = "/patience/"
LIMITS = ("kimi_first_byte_timeout", "kimi_idle_timeout", "kiro_first_byte_timeout", "kiro_idle_timeout")
HASTE = 50

verdict.PAUSES = {kind: tuple(pause / HASTE for pause in pauses) for kind, pauses in verdict.PAUSES.items()}


async def requestheaders(flow: http.HTTPFlow) -> None:
    """Set the limits, and answer that they are set."""
    if flow.request.path.startswith(PATH):
        seconds = int(flow.request.path.removeprefix(PATH))
        ctx.options.update(**dict.fromkeys(LIMITS, seconds))
        flow.response = http.Response.make(200)
