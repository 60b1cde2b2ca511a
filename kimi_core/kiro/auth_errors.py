"""Why there is no access token of a Kiro account; each says what to do about it."""

from __future__ import annotations

from collections.abc import Mapping

from kimi_core import detached
from kimi_core.errors import KimiMitmError, LoginDead, LoginExpired, NotLoggedIn
from kimi_core.kiro.accounts import AccountsDamaged


class NoAccount(NotLoggedIn):
    """There is no such account, or nothing to log it in with."""

    hint = "Run `kimi-mitm login kiro` or `kimi-mitm accounts sync`."


class AccountNewer(NotLoggedIn):
    """The account was made by a newer version, and is left alone."""

    hint = "Install the newest version of kimi-mitm, or take another account: run `kimi-mitm accounts list`."


class AccountDead(LoginDead):
    """The login service turned the refresh token of an account down."""

    hint = "Log in again: run `kimi-mitm login kiro`."


class CodeExpired(LoginExpired):
    """The code of a login, or the time for it, ran out."""

    hint = "Start again: run `kimi-mitm login kiro`."


_OWN: tuple[type[KimiMitmError], ...] = (NoAccount, AccountDead, AccountsDamaged)
ERRORS: Mapping[str, type[KimiMitmError]] = {**detached.ERRORS, **{kind.code: kind for kind in _OWN}}
