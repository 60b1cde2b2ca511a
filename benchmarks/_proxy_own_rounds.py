"""What has mitmproxy make its rounds itself, beside the addon: to see what the shorter ones are worth."""

from __future__ import annotations

from kimi_core.proxy import rounds


def running() -> None:
    rounds.remove()
