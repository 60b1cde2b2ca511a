"""Where an account's requests go and which profile ARN they name: the matrix of kiro.md §3.3 as a table.

Kind of login and host decide together; a wrong pair is a 400 or a 403. Each account has two places, the current host
and the older one. The first that serves is remembered with the account (`host_winner`); on a refusal that points to
the place (`verdict.Action.heal`), or where its host is not reached, the other one is tried once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from kimi_core.kiro.accounts import Account
from kimi_core.kiro.constants import (
    BUILDER_PROFILE,
    BUILDER_START_URL,
    SOCIAL_PROFILE,
    Endpoints,
    api_region,
    arn_region,
)

type Host = Literal["runtime", "q"]
type Login = Literal["social", "builder", "idc", "api_key", "external_idp"]

HOSTS: tuple[Host, Host] = ("runtime", "q")  # the current one first


class Profile(StrEnum):
    """Which profile ARN a request names."""

    own = "own"
    own_or_social = "own or social"
    builder = "builder"
    none = "none"


MATRIX: Mapping[Login, Mapping[Host, Profile]] = {
    "social": {"runtime": Profile.own_or_social, "q": Profile.own_or_social},
    "builder": {"runtime": Profile.builder, "q": Profile.none},
    "idc": {"runtime": Profile.own, "q": Profile.own},
    "api_key": {"runtime": Profile.none, "q": Profile.none},
    "external_idp": {"runtime": Profile.own, "q": Profile.own},
}
_ARNS: Mapping[Profile, Callable[[Account], str | None]] = {
    Profile.own: lambda account: account.profile_arn,
    Profile.own_or_social: lambda account: account.profile_arn or SOCIAL_PROFILE,
    Profile.builder: lambda _: BUILDER_PROFILE,
    Profile.none: lambda _: None,
}
_LOGINS: Mapping[str, Login] = {
    "desktop": "social",
    "builder": "builder",
    "idc": "idc",
    "api_key": "api_key",
    "external_idp": "external_idp",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A host, the region of its API, and the profile ARN that goes with them (None: the request names none)."""

    host: Host
    region: str
    profile_arn: str | None

    def origin(self, endpoints: Endpoints) -> str:
        """Return the origin that generates here."""
        return endpoints.runtime(self.region) if self.host == "runtime" else endpoints.q(self.region)


def login(account: Account) -> Login:
    """Return the kind of login. Other tools store a Builder ID as "idc"; its start URL tells it from a company's."""
    builder = account.auth_method == "idc" and (account.start_url or "").rstrip("/") == BUILDER_START_URL
    return "builder" if builder else _LOGINS[account.auth_method]


def at(account: Account, host: Host) -> Place:
    """Return the account's place on *host*."""
    arn = _ARNS[MATRIX[login(account)][host]](account) or None
    # a company's region of login says nothing about the region of its profile, which is the API's
    region = (arn_region(arn) if arn else None) or account.region
    return Place(host, api_region(region), arn)


def first(account: Account) -> Place:
    """Return the place to try first: the one that served the last time, else the current host."""
    return at(account, "q" if account.host_winner == "q" else "runtime")


def other(account: Account, place: Place) -> Place:
    """Return the place to try once where *place* does not serve."""
    return at(account, "q" if place.host == "runtime" else "runtime")


def remembered(account: Account, place: Place) -> Account:
    """Return the account with *place* as the one that serves; the same one where it is known already."""
    if account.host_winner == place.host:
        return account
    return account.changed(host_winner=place.host)


def needs_discovery(account: Account) -> bool:
    """Tell whether the account's profile has to be asked for (ListAvailableProfiles) before it can serve.

    Only logins of companies have profiles of their own; an external login may do without.
    """
    return login(account) == "idc" and not account.profile_arn
