"""Events go past the addons that have nothing for them.

mitmproxy has some three dozen addons and takes each event of a flow to every one of them, and then once more to say
that the flow has changed: more than a fifth of a small request's time, and most of it for nothing. While this is in
place an event's round leaves out who has neither the hook nor children that may have it. What happens is the same; the
time makes up for what our own hooks take (docs/benchmarks.md).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

from mitmproxy.addonmanager import AddonManager
from mitmproxy.hooks import Hook

from kimi_core.proxy import internals

_stock = inspect.unwrap(AddonManager.trigger_event)  # where this module is executed again, ours is in its place


class _Round:
    """The addon manager in one round: all that it is, and its chain without those who have nothing to do."""

    def __init__(self, manager: AddonManager, name: str) -> None:
        self._manager, self._name = manager, name

    @property
    def chain(self) -> Iterator[object]:
        """Each is looked at when its turn comes: those before it may have changed it, or the chain."""
        return (addon for addon in self._manager.chain if _may_listen(addon, self._name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)


def _may_listen(addon: object, name: str) -> bool:
    try:
        return hasattr(addon, name) or hasattr(addon, "addons")
    except Exception:  # noqa: BLE001 - an addon that fails at this fails again in its turn, where mitmproxy reports it
        return True


@functools.wraps(_stock)
async def trigger_event(manager: AddonManager, event: Hook) -> None:
    """Take *event* to all who may listen, in their order, as mitmproxy does."""
    await _stock(_Round(manager, event.name), event)  # it has all that a manager has


def install() -> None:
    """Have mitmproxy's rounds be shorter; one that makes them in another way goes on in its own."""
    if not internals.missing(internals.ROUNDS):
        AddonManager.trigger_event = trigger_event  # type: ignore[method-assign,assignment]  # replaced on purpose


def remove() -> None:
    """Undo `install`."""
    AddonManager.trigger_event = _stock  # type: ignore[method-assign]  # see `install`
