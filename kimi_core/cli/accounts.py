"""``kimi-mitm accounts``: Kiro's accounts, how each is, and which one serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click
from rich.console import Group
from rich.text import Text

from kimi_core.cli.accounts_sync import sync
from kimi_core.cli.app import App
from kimi_core.cli.kiro_service import KiroCommand, learn, pick, pick_usable, remove, service_of, strategy
from kimi_core.cli.kiro_views import account_object, account_view, accounts_object, accounts_view
from kimi_core.cli.output import ASKING, ExitCode, Report, error_object
from kimi_core.errors import ConfigError, KimiMitmError, LoginDead
from kimi_core.kiro.accounts import STRATEGIES, Account, Accounts, Registry, Strategy
from kimi_core.kiro.condition import name
from kimi_core.kiro.constants import arn_region
from kimi_core.kiro.profiles import Profile, discover, with_profile
from kimi_core.kiro.service import Service

# \b keeps click from joining the lines
STRATEGY_HELP = """Show how accounts are chosen, or choose NAME.

\b
sticky       the active account; one that steps in for it becomes the active one
round-robin  the account that was used the longest time ago
hybrid       the active account while it has credits, then the one with most

In each of them a conversation stays on its account while that is healthy.
"""

account_argument = click.argument("account")


@click.group()
def accounts() -> None:
    """Look after Kiro's accounts.

    ACCOUNT is an id or its beginning, as `accounts list` shows it, a label, or an e-mail address.
    """


@accounts.command("list", cls=KiroCommand)
def list_accounts(app: App) -> ExitCode:
    """Show how each account is, and what to do next.

    Only this machine is asked.
    """
    stored = Registry(app.folder).load()
    now = app.world.clock()
    code = ExitCode.OK if stored.accounts else ExitCode.NOT_LOGGED_IN
    view = accounts_view(stored, now, strategy(app, stored))
    return app.out.show(Report(accounts_object(stored, now), view, code))


@accounts.command(cls=KiroCommand)
@account_argument
def use(app: App, account: str) -> ExitCode:
    """Make ACCOUNT the active one.

    The strategies sticky and hybrid take it first.
    """

    def change(stored: Accounts, chosen: Account) -> None:
        stored.active_account_id = chosen.id

    return _changed(app, account, change, "{name} is the active account now.")


@accounts.command(cls=KiroCommand)
@account_argument
def enable(app: App, account: str) -> ExitCode:
    """Let ACCOUNT serve again.

    Also one that Kiro had locked: pauses and faults are forgotten.
    """

    def change(stored: Accounts, chosen: Account) -> None:
        healthy: dict[str, Any] = {"enabled": True, "cooldown_until": None}
        if chosen.state != "needs_login":
            healthy |= {"state": "ok", "is_healthy": True, "consecutive_failures": 0, "last_error": None}
        stored.put(chosen.model_copy(update=healthy))

    return _changed(app, account, change, "{name} is switched on.")


@accounts.command(cls=KiroCommand)
@account_argument
def disable(app: App, account: str) -> ExitCode:
    """Let ACCOUNT rest until it is enabled.

    Its login is kept, and not renewed.
    """

    def change(stored: Accounts, chosen: Account) -> None:
        stored.put(chosen.model_copy(update={"enabled": False}))

    return _changed(app, account, change, "{name} is switched off.")


@accounts.command("remove", cls=KiroCommand)
@account_argument
def remove_account(app: App, account: str) -> ExitCode:
    """Remove ACCOUNT from this machine.

    Nothing is sent: at Kiro the login lives on.
    """
    return app.out.show(remove(app, pick(Registry(app.folder).load(), account)))


@accounts.command("strategy", cls=KiroCommand, help=STRATEGY_HELP)
@click.argument("chosen", metavar="[NAME]", type=click.Choice(STRATEGIES), required=False)
def choose_strategy(app: App, chosen: Strategy | None) -> ExitCode:
    """Show how accounts are chosen, or choose NAME."""
    registry = Registry(app.folder)

    def change(stored: Accounts) -> None:
        stored.strategy = chosen or stored.strategy

    if chosen is not None:
        registry.update(change)
    stored = registry.load()
    used = strategy(app, stored)
    if stored.unknown_strategy:
        app.out.warn(
            "The strategy that is stored was made by a newer version; it is kept until you choose another one."
        )
    if used != stored.strategy:
        app.out.warn(f"The option kiro_strategy says {used}, which counts more than the accounts' own.")
    data = {"strategy": stored.strategy, "in_use": used}
    return app.out.show(Report(data, Text(f"Accounts are chosen by the strategy {used}.")))


@accounts.command(cls=KiroCommand)
@click.argument("account", required=False)
@click.option("--profile", "arn", metavar="ARN", help="Use this profile of the account's organisation from now on.")
def refresh(app: App, account: str | None, arn: str | None) -> ExitCode:
    """Renew the tokens of ACCOUNT, or of all.

    Profile, credits and models are asked for anew. A login that was turned down before is tried once more. Where an
    organisation has given you several profiles, all of them are shown.
    """
    registry = Registry(app.folder)
    stored = registry.load()
    chosen = [pick_usable(stored, account)] if account is not None else [one for one in stored.accounts if one.enabled]
    if arn is not None:
        _set_profile(registry, account, arn)
    service = service_of(app)
    with app.out.busy(ASKING):
        problems, found_profiles = asyncio.run(_refresh_all(service, chosen))
    left = registry.load()
    now = app.world.clock()
    data = {
        "accounts": [
            {
                **account_object(found, left.active_account_id, now),
                "refresh": _told(problems.get(found.id)),
                "profiles": [asdict(profile) for profile in found_profiles[found.id]],
            }
            for found in left.accounts
            if found.id in problems
        ]
    }
    views = [account_view(found, left.active_account_id, now) for found in left.accounts if found.id in problems]
    told = [Text(f"{name(one)}: {error.sentence}", style="yellow") for one in chosen if (error := problems[one.id])]
    told += [Text(_choice(one, found_profiles[one.id])) for one in chosen if len(found_profiles[one.id]) > 1]
    return app.out.show(Report(data, Group(*views, *told), _exit_code(list(problems.values()))))


accounts.add_command(sync)


# --- parts ------------------------------------------------------------------------------------------------------------


def _changed(app: App, word: str, change: Callable[[Accounts, Account], None], sentence: str) -> ExitCode:
    """Change the account that *word* means, and show it."""

    def alter(stored: Accounts) -> tuple[Account, str | None]:
        chosen = pick_usable(stored, word)
        change(stored, chosen)
        return stored.get(chosen.id) or chosen, stored.active_account_id

    account, active = Registry(app.folder).update(alter)
    now = app.world.clock()
    view = Group(Text(sentence.format(name=name(account))), Text(), account_view(account, active, now))
    return app.out.show(Report(account_object(account, active, now), view))


def _set_profile(registry: Registry, word: str | None, arn: str) -> None:
    if word is None:
        raise ConfigError("--profile is for one account: name it.")
    if arn_region(arn) is None:
        raise ConfigError(f"{arn!r} is no profile; they look like arn:aws:codewhisperer:us-east-1:…:profile/….")
    registry.update(lambda stored: stored.put(with_profile(pick_usable(stored, word), arn)))


async def _refresh_all(
    service: Service, chosen: list[Account]
) -> tuple[dict[str, KimiMitmError | None], dict[str, tuple[Profile, ...]]]:
    """Refresh each account; return its first problem, and its profiles, by id."""

    async def one(account: Account) -> tuple[KimiMitmError | None, tuple[Profile, ...]]:
        try:
            await service.tokens.insist(account.id)
            profiles = await discover(service.caller, account)
        except KimiMitmError as error:
            return error, ()
        return await learn(service, account.id), profiles

    told = await asyncio.gather(*(one(account) for account in chosen))
    problems = {account.id: error for account, (error, _) in zip(chosen, told, strict=True)}
    return problems, {account.id: profiles for account, (_, profiles) in zip(chosen, told, strict=True)}


def _choice(account: Account, profiles: tuple[Profile, ...]) -> str:
    names = "\n".join(f"  {profile.arn}  {profile.name}".rstrip() for profile in profiles)
    return f"{name(account)} has several profiles; choose one with --profile ARN:\n{names}"


def _told(error: KimiMitmError | None) -> dict[str, Any] | None:
    return error_object(error) if error else None


def _exit_code(problems: list[KimiMitmError | None]) -> ExitCode:
    if not problems or any(isinstance(problem, LoginDead) for problem in problems):
        return ExitCode.NOT_LOGGED_IN
    return ExitCode.FAILED if any(problems) else ExitCode.OK
