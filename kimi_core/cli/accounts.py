"""``kimi-mitm accounts``: Kiro's accounts, how each is, and which one serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from kimi_core.cli.app import App, AppCommand
from kimi_core.cli.kiro_service import around, asker, learn, pick, pick_usable, remove, service_of, strategy
from kimi_core.cli.kiro_views import account_object, account_view, accounts_object, accounts_view
from kimi_core.cli.output import ASKING, ExitCode, Report, error_object
from kimi_core.errors import ConfigError, KimiMitmError, LoginDead
from kimi_core.kiro import sources
from kimi_core.kiro.accounts import STRATEGIES, Account, Accounts, Registry, Strategy
from kimi_core.kiro.condition import name
from kimi_core.kiro.constants import arn_region
from kimi_core.kiro.profiles import Profile, discover, with_profile
from kimi_core.kiro.service import Service
from kimi_core.kiro.sync import Importer, Line

KINDS = {kind.replace("_", "-"): kind for kind in sources.NAMES}  # what --from takes
DONE = frozenset({"forked", "shared", "known", "older"})  # outcomes of an import that need nothing done
OUTCOMES = {  # as people read them; scripts get the names
    "forked": "taken over",
    "shared": "shared",
    "known": "known",
    "older": "left out",
    "unclear": "unclear",
    "rejected": "refused",
    "unavailable": "not now",
    "unreadable": "unreadable",
}
COLOURS = {"forked": "green", "shared": "green", "known": "dim", "older": "dim"}
PROVIDER = "kiro"

# \b keeps click from joining the lines
STRATEGY_HELP = """Show how accounts are chosen, or choose NAME.

\b
sticky       the active account; another one only while that cannot serve
round-robin  the account that was used the longest time ago
hybrid       the active account while it has credits, then the one with most

In each of them a conversation stays on its account while that is healthy.
"""

account_argument = click.argument("account")


class KiroCommand(AppCommand):
    """A command about Kiro alone."""

    def __init__(self, name: str | None, **attributes: Any) -> None:
        super().__init__(name, provider=PROVIDER, **attributes)


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


@accounts.command(cls=KiroCommand)
@click.option(
    "--from",
    "kinds",
    multiple=True,
    type=click.Choice(list(KINDS)),
    help="Look there only; may be given several times. Otherwise everywhere.",
)
@click.option("--shared", is_flag=True, help="Read the login from the other program each time; spend nothing of it.")
@click.option(
    "--only", multiple=True, metavar="KEY", help="Take over the login with this key only, as the output names it."
)
@click.option("--new", is_flag=True, help="Take logins of which nobody can say whose they are for new accounts.")
def sync(app: App, kinds: tuple[str, ...], *, shared: bool, only: tuple[str, ...], new: bool) -> ExitCode:
    """Take over the logins of other programs.

    Those of kiro-cli, the Kiro IDE and opencode's Kiro plugins, and the key in KIRO_API_KEY. Each login is taken
    over once: its token is spent for a pair of our own, and the other program's file stays as it is. Whether the other
    program's login outlives that is up to Kiro; with --shared it is left alone.
    """
    service = service_of(app)
    wanted = [KINDS[kind] for kind in kinds] or list(sources.NAMES)
    with app.out.busy(ASKING):
        lines = asyncio.run(_sync(app, service, wanted, shared=shared, only=frozenset(only), new=new))
    data = {"lines": [asdict(line) for line in lines]}
    code = ExitCode.OK if any(line.outcome in DONE for line in lines) else ExitCode.FAILED
    return app.out.show(Report(data, _sync_view(lines), code))


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


async def _sync(
    app: App, service: Service, kinds: list[str], *, shared: bool, only: frozenset[str], new: bool
) -> tuple[Line, ...]:
    places = sources.discover(around(app), kinds)
    importer = Importer(service.registry, service.tokens, asker(app, service), clock=app.world.clock)
    lines = await importer.run(places, shared=shared, new=new, only=only)
    for account_id in dict.fromkeys(line.account_id for line in lines if line.outcome in {"forked", "shared"}):
        if account_id is not None and (error := await learn(service, account_id)):
            app.out.warn(f"What the account has could not be read now: {error.sentence}")
    return lines


def _sync_view(lines: tuple[Line, ...]) -> Group | Text:
    if not lines:
        return Text("No login of another program was found. Log in with: kimi-mitm login kiro")
    table = Table.grid(padding=(0, 2))
    for line in lines:
        table.add_row(
            Text(line.place, style="bold", overflow="fold"),
            Text(OUTCOMES[line.outcome], style=COLOURS.get(line.outcome, "yellow")),
            Text(line.text),
            Text(line.key, style="dim", overflow="fold"),
        )
    return Group(table, Text("\nTo see the accounts: kimi-mitm accounts list"))
