"""Whether somebody is logged in, at the right place, with a login that still works. Nobody is asked."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from kimi_core.cli.checks.check import Check, Finding, NothingToJudge, ok, problem, skipped, warning
from kimi_core.cli.checks.machine import Machine
from kimi_core.errors import StoreError
from kimi_core.kimi.constants import REGIONS, Site, sites
from kimi_core.kimi.device import Device
from kimi_core.kimi.identity import build
from kimi_core.kimi.session import Session, SessionStatus
from kimi_core.kiro.accounts import Account, Registry
from kimi_core.kiro.condition import SERVING, State, condition, name

LOGIN_KIMI = "kimi-mitm login kimi"
LOGIN_KIRO = "kimi-mitm login kiro"
USABLE = ("ok", "expired")  # states of a login that requests can be made with


@dataclass(frozen=True, slots=True)
class Login:
    """What is stored for one Kimi site; `region` is its option's value, None for a site of the environment's own.

    `writable`: a renewed token could be stored.
    """

    region: str | None
    status: SessionStatus
    writable: bool = True

    @property
    def command(self) -> str:
        """How to log in there."""
        return f"{LOGIN_KIMI} --region {self.region}" if self.region else LOGIN_KIMI


@dataclass(frozen=True, slots=True)
class Person:
    """One Kiro account in words: its state, what that means, and what to do about it."""

    name: str
    state: State
    meaning: str
    fix: str


@dataclass(frozen=True, slots=True)
class Everybody:
    """All logins of this machine: Kimi's with the site in use first, and Kiro's accounts (None = damaged)."""

    kimi: Sequence[Login]
    kiro: Sequence[Person] | None
    kiro_problem: str = ""
    kiro_enabled: bool = True

    @property
    def kimi_used(self) -> bool:
        """Whether anything of Kimi is stored at any site."""
        return any(login.status.state != "none" for login in self.kimi)


def everybody(machine: Machine) -> Everybody:
    """Read what is stored."""
    return machine.once("logins", lambda: _read(machine))


def _read(machine: Machine) -> Everybody:
    kimi = [_login(machine, site) for site in _sites(machine)]
    enabled = machine.configuration.settings.kiro_enabled
    try:
        stored = Registry(machine.app.folder).load()
    except StoreError as error:
        return Everybody(kimi, None, error.sentence, enabled)
    return Everybody(kimi, [_person(account, machine.now) for account in stored.accounts], "", enabled)


def _sites(machine: Machine) -> tuple[Site, ...]:
    """Return every site, the one in use first. Raises NothingToJudge as `Machine.site` does."""
    first = machine.site
    others = sites(machine.configuration.settings.kimi_region, machine.environ)[1:]
    return (first, *others)


def _login(machine: Machine, site: Site) -> Login:
    nobody = build(machine.configuration.settings.kimi_identity, Device.here(), "")  # no request is made
    session = Session(
        site, nobody, machine.configuration.outbound, folder=machine.app.folder, clock=machine.app.world.clock
    )
    status = session.status()
    region = next((region for region, home in REGIONS.items() if home == site), None)
    # asked without a try: a trial write would mend the folder's permissions, which store.folder is to look at
    writable = status.state not in USABLE or os.access(status.path.parent, os.W_OK | os.X_OK)
    return Login(region, status, writable)


def _person(account: Account, now: float) -> Person:
    found = condition(account, now)
    return Person(name(account), found.state, found.meaning, found.next or "")


# --- Kimi -------------------------------------------------------------------------------------------------------------


def judge_kimi(facts: Everybody) -> Finding:
    """Judge the login of the site in use."""
    login = facts.kimi[0]
    status = login.status
    match status.state:
        case "none":
            return _nobody(facts)
        case "dead":
            return problem(f"The login service no longer accepts the login for {status.slot}.", login.command)
        case "damaged":
            return problem(f"{status.problem or status.path}", login.command)
        case _ if not login.writable:
            return _unkept(status)
        case "expired":
            return ok(f"Logged in to {status.slot}; the token has run out and is renewed at the next request.")
        case _:
            return ok(f"Logged in to {status.slot}.")


def _nobody(facts: Everybody) -> Finding:
    """Judge that there is no login for the site in use."""
    login = facts.kimi[0]
    if any(other.status.state in USABLE for other in facts.kimi[1:]):
        return skipped("The login is for the other site: see login.region.")
    if facts.kiro:
        return skipped("Nobody is logged in to Kimi; the Kiro accounts are used.")
    return problem(f"Nobody is logged in to Kimi ({login.status.slot}).", f"{login.command}, or for Kiro: {LOGIN_KIRO}")


def _unkept(status: SessionStatus) -> Finding:
    """Judge a login whose successor cannot be stored."""
    cure = f"chmod 700 {status.path.parent}"
    if status.state == "expired":
        told = f"The login for {status.slot} has run out and cannot be renewed: its folder is not writable."
        return problem(told, cure)
    return warning(f"The login for {status.slot} cannot be renewed: its folder is not writable.", cure)


def judge_region(facts: Everybody) -> Finding:
    """Judge whether the login is for the site that requests go to."""
    login, *others = facts.kimi
    if not facts.kimi_used:
        return skipped("Nobody is logged in to Kimi.")
    if login.status.state != "none":
        return ok(f"The login is for {login.status.slot}, where requests go.")
    other = next((one for one in others if one.status.state in USABLE), None)
    if other is None:
        return skipped("No login that could be the right one is stored.")
    stay = f", or set kimi_region to {other.region}" if login.region and other.region else ""
    return problem(
        f"You are logged in at {other.status.slot}, but requests go to {login.status.slot}.", f"{login.command}{stay}"
    )


# --- Kiro -------------------------------------------------------------------------------------------------------------


def gather_kiro(machine: Machine) -> Everybody:
    """Return everybody. Raises NothingToJudge where Kiro is switched off."""
    if not machine.configuration.settings.kiro_enabled:
        raise NothingToJudge("Kiro is switched off (kiro_enabled).")
    return everybody(machine)


def judge_kiro(facts: Everybody) -> Finding:
    """Judge whether an account can serve."""
    if facts.kiro is None:
        return problem(facts.kiro_problem, LOGIN_KIRO)
    if not facts.kiro:
        if facts.kimi_used:
            return skipped("There is no Kiro account; Kimi is used.")
        return problem("There is no Kiro account.", f"{LOGIN_KIRO}, or for Kimi: {LOGIN_KIMI}")
    serving = [one for one in facts.kiro if one.state in SERVING]
    if serving:
        return ok(f"{len(serving)} of {len(facts.kiro)} Kiro accounts can serve.")
    counted = Counter(one.meaning for one in facts.kiro)
    why = "; ".join(f"{count} × {meaning}" if count > 1 else meaning for meaning, count in counted.items())
    return problem(f"No Kiro account can serve: {why}.", _advice(facts.kiro) or "kimi-mitm accounts list")


def judge_accounts(facts: Everybody) -> Finding:
    """Judge whether an account waits for its user: logged out, locked, about to be, or not understood."""
    if not facts.kiro:
        return skipped("There is no Kiro account.")
    concerned = [one for one in facts.kiro if one.state in _WAITS_FOR_USER]
    if not concerned:
        return ok("No Kiro account waits for you.")
    told = "; ".join(f"{one.name} {one.meaning}" for one in concerned)
    locked = any(one.state is State.suspended for one in concerned)
    return (problem if locked else warning)(f"{told}.", _advice(concerned))


_WAITS_FOR_USER = frozenset({State.needs_login, State.suspended, State.ending, State.no_profile, State.newer})


def _advice(people: Sequence[Person]) -> str:
    return "; ".join(dict.fromkeys(one.fix for one in people if one.fix))


CHECKS = (
    Check("login.kimi", "Kimi login", everybody, judge_kimi),
    Check("login.region", "Kimi region", everybody, judge_region),
    Check("login.kiro", "Kiro accounts", gather_kiro, judge_kiro),
    Check("login.accounts", "Kiro accounts that wait for you", gather_kiro, judge_accounts),
)
