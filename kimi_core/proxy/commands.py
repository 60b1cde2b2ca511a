"""Commands for mitmproxy's console and mitmweb. They may not wait: what needs the network reports in the log."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Coroutine

from mitmproxy import command

from kimi_core.errors import KimiMitmError
from kimi_core.kimi.provider import Kimi
from kimi_core.kimi.usage import Usage

logger = logging.getLogger(__name__)


class KimiCommands:
    """``kimi.status``, ``kimi.usage``, ``kimi.models``, ``kimi.refresh``."""

    def __init__(self, kimi: Callable[[], Kimi], start: Callable[[Coroutine[object, object, None], str], None]) -> None:
        self._kimi = kimi
        self._start = start

    @command.command("kimi.status")
    def status(self) -> str:
        """Show who is logged in and how long the token is good for."""
        return json.dumps(self._kimi().health())

    @command.command("kimi.usage")
    def usage(self) -> str:
        """Show what is left of the plan; a fresh answer follows in the log."""
        self._start(self._log_usage(), "kimi.usage")
        usage = self._kimi().home.usage
        return "\n".join(_lines(usage)) if usage else "Asking; the answer follows in the log."

    @command.command("kimi.models")
    def models(self) -> str:
        """Show the models of the plan; a fresh list follows in the log."""
        self._start(self._log_models(), "kimi.models")
        found = [model.id for model in self._kimi().home.cache.catalog.models]
        return ", ".join(found) if found else "Asking; the answer follows in the log."

    @command.command("kimi.refresh")
    def refresh(self) -> str:
        """Refresh the login now; the outcome follows in the log."""
        self._start(self._log_refresh(), "kimi.refresh")
        return "Refreshing; the outcome follows in the log."

    async def _log_usage(self) -> None:
        logger.warning("Kimi usage: %s", "; ".join(_lines(await self._kimi().home.fetch_usage())))

    async def _log_models(self) -> None:
        catalog = await self._kimi().home.fetch_models()
        logger.warning("Kimi models: %s", ", ".join(model.id for model in catalog.models))

    async def _log_refresh(self) -> None:
        session = self._kimi().home.session
        token = await session.fresh()
        renewed = await session.renew(token.access_token)
        logger.warning("Kimi login refreshed; good for %d s.", renewed.remaining(time.time()))


async def report(work: Coroutine[object, object, None]) -> None:
    """Run what a command started; an error is a line in the log."""
    try:
        await work
    except KimiMitmError as error:
        logger.warning("%s", error.sentence)


def _lines(usage: Usage) -> list[str]:
    now = time.time()
    return [f"{row.label}: {row.text(now)}" for row in usage.rows]
