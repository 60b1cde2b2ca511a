"""Which profiles an account of an organisation has (kiro.md §7.4).

Only IAM Identity Center and external identity providers have profiles to look for: a Google or GitHub login brings its
own, a Builder ID may not ask, and an API key needs none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kimi_core.errors import KimiMitmError, UpstreamError
from kimi_core.kiro.accounts import Account
from kimi_core.kiro.catalog import next_token
from kimi_core.kiro.constants import REGIONS, arn_region
from kimi_core.kiro.failures import AnswerFailed
from kimi_core.kiro.identity import KiroIdentity
from kimi_core.kiro.management import Caller, Question, pages
from kimi_core.kiro.profile import login

LOOKED_FOR = ("idc", "external_idp")  # kinds of login whose profile must be found
ARN = "arn:"


@dataclass(frozen=True, slots=True)
class Profile:
    """One profile of an organisation."""

    arn: str
    name: str = ""


def question(_: KiroIdentity) -> Question:
    """Return the question for the profiles."""
    return Question("profiles", "The list of profiles", {})


def parse(data: object) -> tuple[Profile, ...]:
    """Return the profiles of a parsed ListAvailableProfiles answer. Raises UpstreamError for another shape."""
    items = data.get("profiles") if isinstance(data, Mapping) else None
    if not isinstance(items, list):
        raise UpstreamError("The list of profiles has an unknown shape.")
    return tuple(profile for item in items if isinstance(item, Mapping) and (profile := _profile(item)))


async def discover(caller: Caller, account: Account) -> tuple[Profile, ...]:
    """Return the profiles of *account* in every region that serves the API; none where there are none to look for.

    A region that refuses or cannot be reached counts as having none, as long as another one answers. Raises the first
    region's error where none does.
    """
    if login(account) not in LOOKED_FOR:
        return ()
    found: dict[str, Profile] = {}
    errors: list[KimiMitmError] = []
    for region in REGIONS:
        try:
            answers = await pages(caller, account.id, question, next_token, region=region)
            found |= {profile.arn: profile for answer in answers for profile in parse(answer)}
        except (UpstreamError, AnswerFailed) as error:
            errors.append(error)
    if len(errors) == len(REGIONS):
        raise errors[0]
    return tuple(found.values())


def with_profile(account: Account, arn: str) -> Account:
    """Return *account* with that profile; it is served from the region that the profile names."""
    return account.model_copy(update={"profile_arn": arn, "region": arn_region(arn) or account.region})


def _profile(item: Mapping[str, Any]) -> Profile | None:
    arn, name = item.get("arn"), item.get("profileName")
    if not isinstance(arn, str) or not arn.startswith(ARN):
        return None
    return Profile(arn, name if isinstance(name, str) else "")
