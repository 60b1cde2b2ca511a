"""Which account serves a request. Pure but for `Conversations`, which remembers who served whom.

Strategies, each among the accounts that nothing stands against (`health.obstacle`) and that this request has not
tried yet:

- ``sticky``: the active account, else the first one in the document.
- ``round-robin``: the least recently used one, ties by id.
- ``hybrid``: the active account unless its credits are used up; else the most credits left, then the fewest requests
  in flight, then the least recently used, ties by id.

In all of them a conversation stays on its account while that is healthy, because the service keeps its prompt there.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from kimi_core.errors import KimiMitmError
from kimi_core.kiro.accounts import Account, Strategy
from kimi_core.kiro.health import NEEDS_USER, Obstacle, cooling, obstacle, remaining_credits
from kimi_core.kiro.refusals import AllUnavailable, NoneUsable

KEPT_CONVERSATIONS = 4096  # a line of work has a handful; an entry is two short texts
BUSY_WAIT = 2.0  # seconds: a guess at when a running request or a probe has shown how it goes


def choose(
    accounts: Sequence[Account],
    now: float,
    *,
    strategy: Strategy,
    active: str | None = None,
    conversation: str | None = None,
    model: str | None = None,
    in_flight: Mapping[str, int] | None = None,
    tried: AbstractSet[str] = frozenset(),
    catalogs: Mapping[str, AbstractSet[str]] | None = None,
    listed_only: bool = False,
    concurrency: int = 0,
) -> Account | None:
    """Return the account for the next attempt, None where there is none.

    *accounts* are in the document's order; *now* is in unix seconds. *active* is the active account's id and
    *conversation* the id of the account that the conversation is on. *in_flight* counts requests by account id,
    *tried* has the ids that this request has used up. *catalogs* has the models of each account whose list is known:
    accounts whose list lacks *model* come last, and with *listed_only* only those whose list has it are taken.
    *concurrency* is how many requests an account may have at a time, 0 for any number.
    """
    flying = in_flight or {}
    free = [
        account
        for account in accounts
        if account.id not in tried
        and obstacle(account, now, in_flight=flying.get(account.id, 0), concurrency=concurrency) is None
    ]
    candidates = _serving(free, model, catalogs or {}, listed_only=listed_only)
    if not candidates:
        return None
    fresh = [account for account in candidates if account.quota_state != "exhausted"]
    bound = _by_id(fresh or candidates, conversation)
    if bound is not None:
        return bound
    if strategy == "sticky":
        return _by_id(candidates, active) or candidates[0]
    if strategy == "round-robin":
        return min(candidates, key=lambda account: (account.last_used, account.id))
    return _by_id(fresh, active) or min(candidates, key=lambda account: _rank(account, flying))


def _serving(
    free: list[Account], model: str | None, catalogs: Mapping[str, AbstractSet[str]], *, listed_only: bool
) -> list[Account]:
    """Return the accounts that have the model; all of them where no list says so, unless only listed ones count."""
    if model is None:
        return free
    if listed_only:
        return [account for account in free if model in catalogs.get(account.id, ())]
    return [account for account in free if model in catalogs.get(account.id, (model,))] or free


def _rank(account: Account, in_flight: Mapping[str, int]) -> tuple[bool, float, int, int, str]:
    return (
        account.quota_state == "exhausted",
        -remaining_credits(account),
        in_flight.get(account.id, 0),
        account.last_used,
        account.id,
    )


def _by_id(accounts: Sequence[Account], account_id: str | None) -> Account | None:
    return next((account for account in accounts if account.id == account_id), None)


class Conversations:
    """Which account a conversation is on; the least recently used entries go first."""

    def __init__(self, keep: int = KEPT_CONVERSATIONS) -> None:
        self._keep = keep
        self._accounts: OrderedDict[str, str] = OrderedDict()

    def get(self, conversation: str) -> str | None:
        """Return the id of the account that *conversation* is on, None where none is known."""
        found = self._accounts.get(conversation)
        if found is not None:
            self._accounts.move_to_end(conversation)
        return found

    def bind(self, conversation: str, account_id: str) -> None:
        """Remember that *conversation* is served by that account from now on."""
        self._accounts[conversation] = account_id
        self._accounts.move_to_end(conversation)
        if len(self._accounts) > self._keep:
            self._accounts.popitem(last=False)


class Unavailable(NamedTuple):
    """Why no account serves: seconds until the first may (None: not before the user does something), a line each."""

    retry_after: int | None
    reasons: tuple[str, ...]

    def error(self) -> KimiMitmError:
        """Return the error for the client."""
        if self.retry_after is None:
            return NoneUsable(self.reasons)
        return AllUnavailable(self.retry_after, self.reasons)


def unavailable(
    accounts: Sequence[Account],
    now: float,
    *,
    in_flight: Mapping[str, int] | None = None,
    concurrency: int = 0,
) -> Unavailable:
    """Return when to come back, and what stands against each account: ``label: what, 30 s (LAST_ERROR)``."""
    flying = in_flight or {}
    waits: list[float] = []
    reasons: list[str] = []
    for account in accounts:
        found = obstacle(account, now, in_flight=flying.get(account.id, 0), concurrency=concurrency)
        wait = _wait(account, found, now)
        if wait is not None:
            waits.append(wait)
        reasons.append(_reason(account, found, wait))
    return Unavailable(max(math.ceil(min(waits)), 1) if waits else None, tuple(reasons))


def _wait(account: Account, found: Obstacle | None, now: float) -> float | None:
    if found in NEEDS_USER:
        return None
    return cooling(account, now) or (BUSY_WAIT if found else 0.0)


def _reason(account: Account, found: Obstacle | None, wait: float | None) -> str:
    what = found.value if found else "tried in vain"
    time = f", {math.ceil(wait)} s" if wait else ""
    error = f" ({account.last_error})" if account.last_error else ""
    return f"{account.label or account.id}: {what}{time}{error}"
