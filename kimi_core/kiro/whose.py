"""Whose login it is, asked of the service with a login that need not be stored (kiro.md §8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kimi_core.errors import AuthUnavailable, KimiMitmError
from kimi_core.kiro import usage
from kimi_core.kiro.accounts import Account
from kimi_core.kiro.constants import Endpoints
from kimi_core.kiro.identity import KiroIdentity
from kimi_core.kiro.management import Caller, WayOut
from kimi_core.kiro.sync import Person


@dataclass(frozen=True, slots=True)
class Lent:
    """The tokens of one account as they are: nothing is ever renewed, for that would spend another program's login."""

    account: Account

    async def fresh(self, account_id: str) -> Account:
        """Return the account."""
        assert account_id == self.account.id
        return self.account

    async def renew(self, account_id: str, rejected: str) -> Account:
        """Raise AuthUnavailable, unless another token was refused than there is."""
        account = await self.fresh(account_id)
        if account.access_token != rejected:
            return account
        raise AuthUnavailable("The access token was refused, and is not ours to renew.")


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks the service; is the `sync.Who` of an import."""

    endpoints: Endpoints
    identity_for: Callable[[Account], KiroIdentity]
    outbound: WayOut

    async def __call__(self, account: Account) -> Person | None:
        """Return whose *account* is, None where the service does not say or cannot be asked."""
        caller = Caller(Lent(account), self.endpoints, self.identity_for, self.outbound)
        try:
            found = await usage.fetch(caller, account.id, 0)
        except KimiMitmError:
            return None
        return Person(found.user_id, found.email) if found.user_id else None
