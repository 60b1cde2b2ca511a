"""The refresh calls of Kiro's login services, one per way of logging in (kiro.md §7.3).

Nothing here knows where an account is stored. A service's answer gives new tokens; or says that the refresh token is
no good (`AccountDead`); or says nothing about it, because the network or the service failed (`AuthUnavailable`).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx

from kimi_core.calls import NoAnswer, Reply, call
from kimi_core.errors import AuthUnavailable, ConfigError
from kimi_core.headers import Headers
from kimi_core.kiro.accounts import Account
from kimi_core.kiro.auth_errors import AccountDead
from kimi_core.kiro.constants import Endpoints
from kimi_core.origins import check

TRY_TIMEOUT = 30.0  # seconds for one call, all in all
CONNECT_TIMEOUT = 15.0
BACK_OFF = (1.0, 2.0)  # seconds between the three tries
PASSING = frozenset({408, 425, 429}) | frozenset(range(500, 600))  # statuses that say nothing about the token
DEAD = frozenset({401, 403})
DEAD_WORDS = (  # in a 400; lower case
    "invalid_grant",
    "invalid refresh token",
    "invalidgrant",
    "expiredtoken",
    "expired_token",
    "invalid_client",
    "invalidclient",
    "expired_client",
    "expiredclient",
    "unauthorized_client",
)
CLIENT_WORDS = ("client", "registration")  # of those, what is said about the registration and not the token
DEFAULT_LIFE = 3600  # seconds of an access token whose answer does not say; a pair is not lost for such a field
MAX_LIFE = 31 * 86400  # seconds; more is a mistake, and the default stands
JSON_TYPE = "application/json"
FORM_TYPE = "application/x-www-form-urlencoded"

type Sleep = Callable[[float], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class _Call:
    url: str
    kind: str
    fields: Mapping[str, str] = field(repr=False)

    @property
    def content(self) -> bytes:
        text = urlencode(self.fields) if self.kind == FORM_TYPE else json.dumps(dict(self.fields))
        return text.encode()


async def refresh(
    client: httpx.AsyncClient,
    account: Account,
    endpoints: Endpoints,
    headers: Headers,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Sleep = asyncio.sleep,
) -> Account:
    """Spend the refresh token of *account* at the service it came from; return the account with what follows it.

    Three tries where the network or a passing status is at fault. An answer without a refresh token keeps the old
    one. *headers* are the identity's for this call. Raises AccountDead, AuthUnavailable, and ConfigError for an
    account whose own addresses must not be sent a token.
    """
    made = _call_for(account, endpoints)
    where = f"{urlsplit(made.url).scheme}://{urlsplit(made.url).netloc}"
    for pause in (*BACK_OFF, None):
        try:
            reply = await post(client, made.url, headers, made.content, made.kind)
        except NoAnswer as error:
            problem = f"The login service at {where} could not be reached: {error}."
        else:
            if reply.status == httpx.codes.OK and (granted := tokens_of(reply.data, clock())):
                return account.model_copy(update=granted)
            if is_dead(reply):
                raise AccountDead(_epitaph(reply))
            problem = f"The login service at {where} did not renew the login ({reply.told()})."
            if reply.status not in PASSING:
                break
        if pause is not None:
            await sleep(pause)
    raise AuthUnavailable(problem)


def tokens_of(data: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Return the fields of an account that a token answer of any of the services has; empty without a token.

    camelCase (AWS) and snake_case (OAuth) names are taken. Tokens are visible ASCII, so that they fit a header.
    """
    access = _text(data, "accessToken", "access_token")
    if not access:
        return {}
    life = data.get("expiresIn", data.get("expires_in"))
    usual = isinstance(life, int | float) and not isinstance(life, bool) and 0 < life <= MAX_LIFE
    fields = {
        "access_token": access,
        "refresh_token": _text(data, "refreshToken", "refresh_token"),
        "profile_arn": _text(data, "profileArn", "profile_arn"),
    }
    moments = {"refreshed_at": int(now * 1000), "expires_at": int((now + (life if usual else DEFAULT_LIFE)) * 1000)}
    return {name: value for name, value in fields.items() if value} | moments


def is_dead(reply: Reply) -> bool:
    """Tell whether *reply* says that the refresh token, or the client it was made for, is no good any more.

    A page of HTML is not from the service but from something between it and here.
    """
    if reply.body.lstrip().startswith(b"<"):
        return False
    text = reply.body.decode(errors="replace").lower()
    return reply.status in DEAD or (reply.status == httpx.codes.BAD_REQUEST and any(w in text for w in DEAD_WORDS))


async def post(client: httpx.AsyncClient, url: str, headers: Headers, content: bytes, kind: str) -> Reply:
    """Send *content*. The header fields are those given and no others, in their order. Raises NoAnswer."""
    fields = headers.plus(("content-type", kind), ("content-length", str(len(content))))
    timeout = httpx.Timeout(TRY_TIMEOUT, connect=CONNECT_TIMEOUT).as_dict()
    request = httpx.Request("POST", url, headers=list(fields), content=content, extensions={"timeout": timeout})
    return await call(client, request, TRY_TIMEOUT)


def _call_for(account: Account, endpoints: Endpoints) -> _Call:
    """Return the call that renews *account*: by how it was logged in, never by trying."""
    if not account.renewable:
        raise AccountDead("This account has nothing that could be renewed.")
    if account.auth_method == "desktop":
        url = f"{endpoints.auth(account.region)}/refreshToken"
        return _Call(url, JSON_TYPE, {"refreshToken": account.refresh_token})
    if account.auth_method == "external_idp":
        return _idp_call(account)
    if not (account.client_id and account.client_secret):
        raise AccountDead("The client registration that this login was made with is not known.")
    fields = {
        "grantType": "refresh_token",
        "clientId": account.client_id,
        "clientSecret": account.client_secret,
        "refreshToken": account.refresh_token,
    }
    return _Call(f"{endpoints.oidc(account.oidc_region or account.region)}/token", JSON_TYPE, fields)


def _idp_call(account: Account) -> _Call:
    """Return the call to an identity provider of the user's own; it must be where the issuer is."""
    url = account.token_endpoint or ""
    check(url)
    if not account.issuer_url or urlsplit(url).netloc.lower() != urlsplit(account.issuer_url).netloc.lower():
        raise ConfigError("The identity provider's token endpoint is on another host than its issuer.")
    if not account.client_id:
        raise AccountDead("The client of the identity provider is not known.")
    fields = {"grant_type": "refresh_token", "client_id": account.client_id, "refresh_token": account.refresh_token}
    return _Call(url, FORM_TYPE, fields | ({"scope": " ".join(account.scopes)} if account.scopes else {}))


def _epitaph(reply: Reply) -> str:
    said = f"{reply.data.get('error', '')} {reply.data.get('error_description', '')} {reply.data.get('__type', '')}"
    if any(word in said.lower() for word in CLIENT_WORDS):
        return "The client registration of this login is no longer accepted; a new login makes a new one."
    return "The login service no longer accepts this login."


def _text(data: Mapping[str, Any], *names: str) -> str:
    """Return the first of *names* in *data* that is a text of visible ASCII, or an empty one."""
    found = (data.get(name) for name in names)
    return next((v for v in found if isinstance(v, str) and v and v.isascii() and v.isprintable()), "")
