"""Accounts, surroundings and folders for the tests of logins."""

from kimi_core.headers import Headers
from kimi_core.kiro.accounts import Account, Registry, new_id
from kimi_core.kiro.stores import Surroundings

NOW = 1_800_000_000.0
HEADERS = Headers([("user-agent", "fake/1")])


def account(number=1, left=3600.0, now=NOW, **fields):
    """Return an account with fake tokens that has so many seconds left at *now*."""
    made = {
        "id": new_id(),
        "access_token": f"fake-access-{number}",
        "refresh_token": f"fake-refresh-{number}",
        "expires_at": int((now + left) * 1000),
        "refreshed_at": int((now + left - 3600) * 1000),
    }
    return Account(**(made | fields))


def granted(answer, now=NOW, left=None, **fields):
    """Return an account with the tokens of a fake service's *answer*."""
    life = answer["expiresIn"]
    tokens = {"access_token": answer["accessToken"], "refresh_token": answer["refreshToken"]}
    return account(left=life if left is None else left, now=now, **tokens, **fields)


def stored(folder, one):
    """Store an account and return it as it is stored."""
    return Registry(folder).update(lambda accounts: accounts.upsert(one))


def nowhere(tmp_path, **environ):
    """Return surroundings in which no other program has anything."""
    return Surroundings(environ, tmp_path / "home", "linux")
