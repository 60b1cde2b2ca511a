"""How an account is, in words: what is wrong with it and what to do next. Pure.

`CONDITIONS` is the table that `accounts list`, `status` and the Kiro page share.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from kimi_core.kiro import health
from kimi_core.kiro.accounts import Account
from kimi_core.kiro.health import Obstacle
from kimi_core.kiro.profile import login, needs_discovery

SHORT = 8  # characters of an id that people are shown; enough to tell a handful of accounts apart
TAIL = 4
METHODS: Mapping[str, str] = {  # kind of login (`profile.login`) -> what people call it
    "social": "Google or GitHub",
    "builder": "AWS Builder ID",
    "idc": "IAM Identity Center",
    "external_idp": "identity provider",
    "api_key": "API key",
}
_PLACEHOLDER = re.compile(r"kiro-(desktop|idc|builder|external_idp|api_key)-.*")  # labels made up for want of a name


class State(StrEnum):
    """The condition of an account, by the name that scripts see."""

    ready = "ready"
    probing = "probing"
    cooling = "cooling"
    quota = "quota"
    used_up = "used_up"
    no_profile = "no_profile"
    ending = "ending"
    needs_login = "needs_login"
    suspended = "suspended"
    disabled = "disabled"
    newer = "newer"


@dataclass(frozen=True, slots=True)
class Row:
    """What a state means for people; `advice` may hold {account} and {login}, and is empty where nothing is to do."""

    colour: str
    meaning: str
    advice: str = ""


CONDITIONS: Mapping[State, Row] = {
    State.ready: Row("green", "serves requests"),
    State.probing: Row("yellow", "had a fault; the next request tries it again"),
    State.cooling: Row("yellow", "pauses after a fault and comes back by itself"),
    State.quota: Row("yellow", "Kiro says that its credits are used up; it comes back when they begin anew"),
    State.used_up: Row("yellow", "its credits are used up, so others are taken first", "kimi-mitm usage kiro"),
    State.no_profile: Row("yellow", "its organisation's profile is not known", "kimi-mitm accounts refresh {account}"),
    State.ending: Row("yellow", "serves until its token runs out, but can no longer be renewed", "{login}"),
    State.needs_login: Row("red", "is logged out", "{login}"),
    State.suspended: Row("red", "is locked by Kiro", "ask Kiro's support, then: kimi-mitm accounts enable {account}"),
    State.disabled: Row("dim", "is switched off", "kimi-mitm accounts enable {account}"),
    State.newer: Row("yellow", "was made by a newer version", "install the newest version of kimi-mitm"),
}
SERVING = frozenset({State.ready, State.probing, State.used_up, State.no_profile, State.ending})

_OF_OBSTACLE: Mapping[Obstacle, State] = {
    Obstacle.newer: State.newer,
    Obstacle.disabled: State.disabled,
    Obstacle.needs_login: State.needs_login,
    Obstacle.suspended: State.suspended,
    Obstacle.quota: State.quota,
    Obstacle.cooling: State.cooling,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """The condition of one account; `seconds` until it comes back by itself, `next` is a command or None."""

    state: State
    meaning: str
    colour: str
    seconds: int | None
    next: str | None


def condition(account: Account, now: float) -> Condition:
    """Return how *account* is at *now* (unix seconds)."""
    state = _state(account, now)
    row = CONDITIONS[state]
    wait = health.cooling(account, now) if state in {State.cooling, State.quota} else 0.0
    advice = row.advice.format(account=handle(account), login=_login(account))
    return Condition(state, row.meaning + _unknown(account), row.colour, math.ceil(wait) or None, advice or None)


def name(account: Account) -> str:
    """Return what people know the account by: e-mail, else a label that says something, else the end of its profile."""
    if account.email:
        return account.email
    if account.label and not _PLACEHOLDER.fullmatch(account.label):
        return account.label
    return f"unknown (…{(account.profile_arn or account.id)[-TAIL:]})"


def handle(account: Account) -> str:
    """Return the word by which commands take the account, short and without spaces."""
    return account.id[:SHORT]


def method(account: Account) -> str:
    """Return how one logs the account in, in people's words; nothing where a newer version knows another way."""
    return "" if "auth_method" in account.unknown else METHODS[login(account)]


def _unknown(account: Account) -> str:
    """Return what this version does not know of the account."""
    return f": unknown {', '.join(account.unknown)}" if account.unknown else ""


def _state(account: Account, now: float) -> State:
    obstacle = health.obstacle(account, now)
    if obstacle is not None:
        return _OF_OBSTACLE[obstacle]
    if account.held_back:
        return State.ending if account.remaining(now) > 0 else State.needs_login
    if needs_discovery(account):
        return State.no_profile
    if health.half_open(account):
        return State.probing
    return State.used_up if account.quota_state == "exhausted" else State.ready


def _login(account: Account) -> str:
    """Return how to log the account in again."""
    if account.auth_method == "api_key":
        return "put a key that is good into KIRO_API_KEY, then: kimi-mitm accounts sync"
    if account.source is not None:
        return "log in again in the program that it is read from"
    if account.auth_method == "external_idp":
        return "log in again with kiro-cli, then: kimi-mitm accounts sync"
    if account.auth_method == "desktop":
        return "kimi-mitm login kiro --social google (or github)"
    if account.auth_method == "idc" and account.start_url:
        return f"kimi-mitm login kiro --start-url {account.start_url} --region {account.oidc_region or account.region}"
    return "kimi-mitm login kiro"
