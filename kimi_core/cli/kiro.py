"""Kiro on the command line: where the commands meet the accounts, the models and the usage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from kimi_core.blocks.kiro import BLOCK_NAMES, blocks
from kimi_core.blocks.place import Block
from kimi_core.cli.app import App
from kimi_core.cli.keeping import kept
from kimi_core.cli.kiro_login import device, social
from kimi_core.cli.kiro_service import each, learn, pick, remove, service_of, strategy
from kimi_core.cli.kiro_views import (
    NOBODY,
    accounts_object,
    accounts_view,
    models_view,
    usage_object,
    usage_view,
)
from kimi_core.cli.output import ExitCode, Report, whole
from kimi_core.cli.steps import Steps
from kimi_core.cli.wish import Wish
from kimi_core.errors import ConfigError, StoreDamaged
from kimi_core.kiro.accounts import Account, Accounts, Registry
from kimi_core.kiro.auth_errors import NoAccount
from kimi_core.kiro.catalog import Catalog
from kimi_core.kiro.condition import SERVING, condition, name
from kimi_core.kiro.constants import DEFAULT_REGION
from kimi_core.kiro.models import listing
from kimi_core.kiro.service import Service

LOGIN = "kimi-mitm login kiro"  # what to run
API_PATH = "/v1"  # of OpenAI-style requests on Kiro's own hosts


class Kiro:
    """The `Provider` of Kiro."""

    wishes = frozenset({"output_limit", "start_url", "region", "social", "paste"})
    block_names: tuple[str, ...] = BLOCK_NAMES

    def status(self, app: App) -> Report:
        """Tell of every account; the exit code says whether one of them can serve."""
        registry, now = Registry(app.folder), app.world.clock()
        path = registry.document.path
        try:
            stored = registry.load()
        except StoreDamaged as error:
            data: dict[str, Any] = {"path": str(path), "accounts": [], "problem": str(error), "next": LOGIN}
            view = whole(Text.assemble(("Kiro  ", "bold"), (f"{error} {error.hint}", "red")))
            return Report(data, Group(view, Text()), ExitCode.NOT_LOGGED_IN)
        data = {"path": str(path), **accounts_object(stored, now), "problem": None, "next": None}
        if not stored.accounts:
            data["next"] = LOGIN
            return Report(data, Group(Text(NOBODY, style="dim"), Text()), ExitCode.NOT_LOGGED_IN, empty=True)
        serving = sum(condition(account, now).state in SERVING for account in stored.accounts)
        head = Text.assemble(("Kiro  ", "bold"), f"{serving} of {len(stored.accounts)} accounts can serve")
        kept = whole(Text.assemble(("  file  ", "dim"), str(path)))
        code = ExitCode.OK if serving else ExitCode.NOT_LOGGED_IN
        return Report(data, Group(head, kept, Text(), accounts_view(stored, now, strategy(app, stored)), Text()), code)

    async def login(self, app: App, steps: Steps, wish: Wish) -> None:
        """Log in, store the account, then learn whose it is and what it has; a failure of the latter loses nothing."""
        service = service_of(app)
        document = service.registry.document
        document.reserve()  # where it cannot be stored, that is said before anything is approved
        aside: list[Path] = []
        try:
            account = await (social if wish.social else device)(app, service, steps, wish)

            async def store() -> Account:
                return await service.registry.aupdate_or_begin(
                    lambda now: now.upsert(account, clock=app.world.clock), aside.append
                )

            stored = await kept(store, steps, app.world.sleep)
        finally:
            document.release()
        steps.stored(document.path, aside[0] if aside else None)
        problem = await learn(service, stored.id)
        catalog = service.catalog()
        lines = _blocks(app, service, catalog, wish.output_limit)
        steps.models(listing(catalog)["data"], lines, problem)

    def logout(self, app: App, account: str | None) -> Report:
        """Remove one account: the only one, or *account*. Raises ConfigError where that is not clear."""
        registry = Registry(app.folder)
        stored = registry.load()
        if not stored.accounts and account is None:
            return Report({"removed": None}, Text("There was no Kiro account."))
        if account is None and len(stored.accounts) > 1:
            known = ", ".join(name(one) for one in stored.accounts)
            raise ConfigError(f"There are several Kiro accounts; say which one with --account: {known}.")
        chosen = pick(stored, account) if account is not None else stored.accounts[0]
        return remove(app, chosen)

    async def usage(self, app: App) -> Report:
        """Ask for the usage of every account, those that were asked half a minute ago excepted."""
        service = service_of(app)
        accounts = _some(service.accounts())
        due = [account for account in accounts if account.enabled and service.usage_due(account, forced=True)]
        problems = await each(due, lambda account: service.fetch_usage(account.id))
        found = _some(service.accounts())
        data = {
            "accounts": [
                {
                    "id": account.id,
                    "name": name(account),
                    "usage": usage_object(account),
                    "problem": problems.get(account.id),
                }
                for account in found
            ]
        }
        code = ExitCode.FAILED if due and len(problems) == len(due) else ExitCode.OK
        return Report(data, usage_view(found, problems, app.world.clock()), code)

    async def models(self, app: App) -> Report:
        """Ask for the models of every account; what cannot be asked is told as it was known."""
        service = service_of(app)
        accounts = [account for account in _some(service.accounts()) if account.enabled]
        problems = await each(accounts, lambda account: service.fetch_models(account.id))
        for account in accounts:
            if account.id in problems:
                app.out.warn(f"{name(account)}: {problems[account.id]}")
        catalog = service.catalog()
        known = [name(account) for account in accounts if service.catalogs.known(account.id)]
        data = {"fetched_at": catalog.fetched_at, "accounts": known, "models": listing(catalog)["data"]}
        code = ExitCode.FAILED if accounts and len(problems) == len(accounts) else ExitCode.OK
        return Report(data, models_view(catalog, known), code)

    async def blocks(self, app: App, output_limit: int | None, *, local: bool | None = None) -> tuple[Block, ...]:
        """Return the lines for clients; with the models known from before where they cannot be read now."""
        service = service_of(app)
        accounts = [account for account in service.accounts().accounts if account.enabled]
        due = [account for account in accounts if service.catalogs.due(account.id, app.world.clock())]
        problems = await each(due, lambda account: service.fetch_models(account.id))
        for problem in dict.fromkeys(problems.values()):
            app.out.warn(f"The models could not be read now: {problem}")
        if not accounts:
            app.out.warn("There is no Kiro account yet; the models are those of a fixed list.")
        return _blocks(app, service, service.catalog(), output_limit, local=local)


def _some(stored: Accounts) -> list[Account]:
    """Return the accounts. Raises NoAccount where there is none."""
    if not stored.accounts:
        raise NoAccount("There is no Kiro account.")
    return stored.accounts


def _blocks(
    app: App, service: Service, catalog: Catalog, output_limit: int | None, *, local: bool | None = None
) -> tuple[Block, ...]:
    place = app.place("kiro", f"{service.endpoints.runtime(DEFAULT_REGION)}{API_PATH}", local=local)
    return blocks(catalog, place, output_limit)
