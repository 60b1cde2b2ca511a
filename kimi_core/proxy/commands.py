"""Commands for mitmproxy's console and mitmweb. They may not wait: what needs the network reports in the log."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Coroutine

from mitmproxy.addonmanager import Loader
from mitmproxy.exceptions import CommandError

from kimi_core.errors import KimiMitmError
from kimi_core.kimi.provider import Kimi
from kimi_core.kimi.usage import Usage
from kimi_core.kiro import health, pool
from kimi_core.kiro.provider import Kiro

logger = logging.getLogger(__name__)


class KimiCommands:
    """``kimi.status``, ``kimi.usage``, ``kimi.models``, ``kimi.refresh``."""

    def __init__(self, kimi: Callable[[], Kimi], start: Callable[[Coroutine[object, object, None], str], None]) -> None:
        self._kimi = kimi
        self._start = start

    def declare(self, loader: Loader) -> None:
        """Make the commands known to mitmproxy."""
        for each in (self.status, self.usage, self.models, self.refresh):
            loader.add_command(f"kimi.{each.__name__}", each)

    def status(self) -> str:
        """Show who is logged in and how long the token is good for."""
        return json.dumps(self._kimi().health())

    def usage(self) -> str:
        """Show what is left of the plan; a fresh answer follows in the log."""
        self._start(self._log_usage(), "kimi.usage")
        usage = self._kimi().home.usage
        return "\n".join(_lines(usage)) if usage else "Asking; the answer follows in the log."

    def models(self) -> str:
        """Show the models of the plan; a fresh list follows in the log."""
        self._start(self._log_models(), "kimi.models")
        found = [model.id for model in self._kimi().home.cache.catalog.models]
        return ", ".join(found) if found else "Asking; the answer follows in the log."

    def refresh(self) -> str:
        """Renew the login now; the outcome follows in the log."""
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


class KiroCommands:
    """``kiro.accounts``, ``kiro.use``, ``kiro.usage``, ``kiro.models``, ``kiro.refresh``."""

    def __init__(self, kiro: Callable[[], Kiro], start: Callable[[Coroutine[object, object, None], str], None]) -> None:
        self._kiro = kiro
        self._start = start

    def declare(self, loader: Loader) -> None:
        """Make the commands known to mitmproxy."""
        for each in (self.accounts, self.use, self.usage, self.models, self.refresh):
            loader.add_command(f"kiro.{each.__name__}", each)

    def accounts(self) -> str:
        """Show the accounts: who serves, who does not and why."""
        service = self._kiro().service
        stored = _asked(service.accounts)
        lines = pool.unavailable(stored.accounts, service.clock(), in_flight=service.in_flight).reasons
        free = [
            f"{account.label or account.id}: {'active' if account.id == stored.active_account_id else 'ready'}"
            for account in stored.accounts
            if health.obstacle(account, service.clock()) is None
        ]
        stuck = [
            line
            for account, line in zip(stored.accounts, lines, strict=True)
            if health.obstacle(account, service.clock()) is not None
        ]
        return "\n".join([*free, *stuck]) or "No account. Run `kimi-mitm login kiro`."

    def use(self, account: str) -> str:
        """Make an account, by its label or the beginning of its id, the active one."""
        service = self._kiro().service
        found = _asked(service.accounts).find(account)
        if len(found) != 1:
            raise CommandError(f"{account!r} names {len(found) or 'no'} accounts.")
        _asked(lambda: service.activate(found[0].id))
        return f"{found[0].label or found[0].id} is the active account."

    def usage(self, anew: bool = False) -> str:
        """Show what is left of each account's plan; what is older than 5 minutes (true: any) follows in the log."""
        service = self._kiro().service
        stored = _asked(service.accounts).accounts
        for account in stored:
            if service.usage_due(account, forced=anew):
                self._start(self._log_usage(account.id, account.label), "kiro.usage")
        known = [
            f"{account.label}: {account.usage.limit - account.usage.used:g} of {account.usage.limit:g} credits left"
            for account in stored
            if account.usage
        ]
        return "\n".join(known) or "Asking; the answer follows in the log."

    def models(self) -> str:
        """Show the models of all accounts."""
        return ", ".join(model.id for model in _asked(self._kiro().service.catalog).models)

    def refresh(self) -> str:
        """Renew the login of every account now; the outcome follows in the log."""
        stored = _asked(self._kiro().service.accounts).accounts
        for account in stored:
            if account.auth_method != "api_key":  # a key never runs out
                self._start(self._log_refresh(account.id, account.label), "kiro.refresh")
        return "Refreshing; the outcome follows in the log."

    async def _log_usage(self, account_id: str, label: str) -> None:
        found = await self._kiro().service.fetch_usage(account_id)
        logger.warning("Kiro usage of %s: %g of %g credits used.", label, found.used, found.limit)

    async def _log_refresh(self, account_id: str, label: str) -> None:
        service = self._kiro().service
        account = await service.tokens.insist(account_id)
        logger.warning("Kiro login of %s refreshed; good for %d s.", label, account.remaining(service.clock()))


def _asked[T](question: Callable[[], T]) -> T:
    """Return the answer. Raises CommandError, the only kind that the console shows, where the accounts are damaged."""
    try:
        return question()
    except KimiMitmError as error:
        raise CommandError(error.sentence) from error


async def report(work: Coroutine[object, object, None]) -> None:
    """Run what a command started; an error is a line in the log."""
    try:
        await work
    except KimiMitmError as error:
        logger.warning("%s", error.sentence)


def _lines(usage: Usage) -> list[str]:
    now = time.time()
    return [f"{row.label}: {row.text(now)}" for row in usage.rows]
