"""What the commands about Kiro share: the Kiro side of one run, which account a word means, what is learnt of one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from kimi_core.cli.app import App, AppCommand
from kimi_core.cli.output import Report
from kimi_core.errors import ConfigError, KimiMitmError
from kimi_core.kiro.accounts import Account, Accounts
from kimi_core.kiro.auth_errors import AccountNewer
from kimi_core.kiro.condition import handle, name
from kimi_core.kiro.service import Service
from kimi_core.kiro.stores import Surroundings
from kimi_core.kiro.whose import Asker

PROVIDER = "kiro"


class KiroCommand(AppCommand):
    """A command about Kiro alone."""

    def __init__(self, name: str | None, **attributes: Any) -> None:
        super().__init__(name, provider=PROVIDER, **attributes)


def around(app: App) -> Surroundings:
    """Return where other programs keep their logins."""
    return Surroundings(app.world.environ, app.world.home or Path.home(), app.world.platform)


def service_of(app: App) -> Service:
    """Return the Kiro side of this run."""
    return Service(
        app.configuration.settings,
        app.configuration.outbound,
        app.folder,
        environ=app.world.environ,
        clock=app.world.clock,
        sleep=app.world.sleep,
        around=around(app),
    )


def asker(app: App, service: Service) -> Asker:
    """Return who asks whose a login is."""
    return Asker(service.endpoints, service.identity_for, app.configuration.outbound)


def strategy(app: App, stored: Accounts) -> str:
    """Return the strategy in use: the option's, else the document's."""
    return app.configuration.settings.kiro_strategy or stored.strategy


def pick(stored: Accounts, word: str) -> Account:
    """Return the account that *word* means: id or its beginning, label, or e-mail. Raises ConfigError."""
    found = stored.find(word) or tuple(account for account in stored.accounts if word in {account.email, name(account)})
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{handle(account)} ({name(account)})" for account in found or stored.accounts)
    problem = "means several accounts" if found else "is no Kiro account"
    raise ConfigError(f"{word!r} {problem}; there are: {known or 'none'}.")


def pick_usable(stored: Accounts, word: str) -> Account:
    """Return like `pick` an account that something can be done with. Raises ConfigError, AccountNewer."""
    found = pick(stored, word)
    if found.unknown:
        raise AccountNewer(f"The Kiro account {name(found)} was made by a newer version.")
    return found


def remove(app: App, account: Account) -> Report:
    """Remove *account* from this machine."""
    service = service_of(app)
    removed = service.registry.update(lambda stored: stored.remove(account.id))
    asyncio.run(service.catalogs.forget([account.id]))
    sentence = f"{name(account)} is removed from this machine. Nothing was sent: at Kiro the login lives on."
    return Report({"id": account.id, "name": name(account), "removed": removed}, Text(sentence))


async def learn(service: Service, account_id: str) -> KimiMitmError | None:
    """Find out whose an account is, its profile, credits and models; return the first problem, None for none."""
    problems: list[KimiMitmError] = []

    async def attempt[T](work: Callable[[], Awaitable[T]]) -> T | None:
        try:
            return await work()
        except KimiMitmError as error:
            problems.append(error)
            return None

    await attempt(lambda: service.ready(account_id))
    learned = await attempt(lambda: service.learn_usage(account_id))
    if learned is not None:
        account_id, _ = learned
    await attempt(lambda: service.fetch_models(account_id))
    return problems[0] if problems else None


async def each(accounts: Sequence[Account], work: Callable[[Account], Awaitable[object]]) -> dict[str, str]:
    """Do *work* for each account, side by side; return what went wrong, by account id."""

    async def one(account: Account) -> str | None:
        try:
            await work(account)
        except KimiMitmError as error:
            return error.sentence
        return None

    told = await asyncio.gather(*(one(account) for account in accounts))
    return {account.id: text for account, text in zip(accounts, told, strict=True) if text is not None}
