"""Device flow (RFC 8628) and refresh (RFC 6749 §6) against Kimi's login service (kimi.md §1.2-§1.5).

Nothing here knows where a login is stored. What an answer means is decided by its body first, because the service has
been seen to say "pending" with a 200; messages hold a short excerpt of an answer at the most, without anything that
looks like a secret.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlencode, urlsplit

import httpx

from kimi_core.calls import NoAnswer, Reply, call
from kimi_core.device_flow import DEVICE_GRANT, Clock, DeviceCode, Pending, Sleep, approval, undecided
from kimi_core.errors import AuthUnavailable, LoginDead, LoginError
from kimi_core.headers import Headers
from kimi_core.kimi.constants import CLIENT_ID, REGIONS, Site
from kimi_core.tokens import OAuthToken

_API = "/api/oauth"
DEVICE_PATH = f"{_API}/device_authorization"
TOKEN_PATH = f"{_API}/token"
TRY_TIMEOUT = 30.0  # seconds for one call, all in all, as in Kimi Code
CONNECT_TIMEOUT = 15.0  # as in kimi-cli

BACK_OFF = (1.0, 2.0)  # seconds between the three tries of a refresh; no jitter, Retry-After is not read (§1.5)
PASSING = frozenset({429, 500, 502, 503, 504})  # statuses after which a refresh is tried once more
UNAUTHORIZED = frozenset({401, 403})

DEFAULT_LIFE = 1800.0  # seconds that a device code is good for where the answer does not say

_SERVER_ERROR = 500


async def device_flow(
    client: httpx.AsyncClient,
    site: Site,
    headers: Headers,
    *,
    on_code: Callable[[DeviceCode], None],
    on_wait: Callable[[float, float], None],
    clock: Clock = time.time,
    sleep: Sleep = asyncio.sleep,
) -> OAuthToken:
    """Log in: get a code, show it with *on_code*, poll until it is approved, and return the token.

    While waiting, *on_wait* is called about every second with the seconds that the code is still good for and the
    present pace in seconds between polls. Raises LoginDenied, LoginExpired, and LoginError for anything else.
    """
    code = await request_code(client, site, headers)
    deadline = clock() + code.expires_in
    on_code(code)

    async def poll() -> OAuthToken | Pending:
        return await _poll(client, site, headers, code, clock)

    return await approval(poll, deadline=deadline, interval=code.interval, on_wait=on_wait, clock=clock, sleep=sleep)


async def request_code(client: httpx.AsyncClient, site: Site, headers: Headers) -> DeviceCode:
    """Start a device authorization (RFC 8628 §3.1). Raises LoginError, PageElsewhere."""
    try:
        answer = await _post(client, site, DEVICE_PATH, headers, {"client_id": CLIENT_ID})
    except NoAnswer as error:
        raise LoginError(f"The login service at {site.oauth} could not be reached: {error}.") from None
    data = answer.data if answer.status == httpx.codes.OK else {}
    code = DeviceCode.read(data, lambda url: browsable(url, site), DEFAULT_LIFE)
    if code is None:
        raise LoginError(f"The login service gave no code ({answer.told()}).")
    return code


async def refresh(
    client: httpx.AsyncClient,
    site: Site,
    headers: Headers,
    token: OAuthToken,
    *,
    clock: Clock = time.time,
    sleep: Sleep = asyncio.sleep,
) -> OAuthToken:
    """Spend the refresh token of *token* and return what follows it.

    Three tries where the network or a passing status is at fault. An answer without a refresh token keeps the old
    one. Raises LoginDead for 401, 403 and ``invalid_grant`` at any status, AuthUnavailable for the rest.
    """
    form = {"client_id": CLIENT_ID, "grant_type": "refresh_token", "refresh_token": token.refresh_token}
    for pause in (*BACK_OFF, None):
        try:
            answer = await _post(client, site, TOKEN_PATH, headers, form)
        except NoAnswer as error:
            problem = f"The login service at {site.oauth} could not be reached: {error}."
        else:
            if _grants(answer):
                return _granted(answer, clock, token.refresh_token)
            if answer.status in UNAUTHORIZED or answer.error == "invalid_grant":
                raise LoginDead("The login service no longer accepts this login.")
            problem = f"The login service refused to renew the login for now ({answer.told()})."
            if answer.status not in PASSING:
                break
        if pause is not None:
            await sleep(pause)
    raise AuthUnavailable(problem)


def browsable(url: str, site: Site) -> bool:
    """Tell whether *url* may be shown and opened: https on kimi.com, kimi.ai or below, or an overridden origin.

    No user names, no other ports, and nothing that browsers and `urlsplit` read differently.
    """
    if not (url.isascii() and url.isprintable()) or any(sign in url for sign in ' \\"<>'):
        return False
    try:
        parts = urlsplit(url)
        origin = (parts.scheme, parts.hostname, parts.port)
        home = urlsplit(site.oauth)
    except ValueError:
        return False
    if parts.username is not None or parts.password is not None:
        return False
    if site not in REGIONS.values() and origin == (home.scheme, home.hostname, home.port):
        return True
    own = any(origin[1] == known.slot or (origin[1] or "").endswith(f".{known.slot}") for known in REGIONS.values())
    return own and parts.scheme == "https" and parts.port in {None, 443}


async def _poll(
    client: httpx.AsyncClient, site: Site, headers: Headers, code: DeviceCode, clock: Clock
) -> OAuthToken | Pending:
    form = {"client_id": CLIENT_ID, "device_code": code.device_code, "grant_type": DEVICE_GRANT}
    try:
        answer = await _post(client, site, TOKEN_PATH, headers, form)
    except NoAnswer as error:
        return Pending(failure=f"The login service at {site.oauth} could not be reached: {error}.")
    if _grants(answer):
        try:
            return _granted(answer, clock)
        except AuthUnavailable as error:
            raise LoginError(str(error)) from None
    if (pending := undecided(answer.error)) is not None:
        return pending
    problem = f"The login service ended the login ({answer.told()})."
    if answer.status in PASSING or answer.status >= _SERVER_ERROR:
        return Pending(failure=problem)
    raise LoginError(problem)


def _grants(answer: Reply) -> bool:
    return answer.status == httpx.codes.OK and bool(answer.data.get("access_token"))


def _granted(answer: Reply, clock: Clock, refresh_token: str = "") -> OAuthToken:
    try:
        return OAuthToken.from_response(answer.data, clock(), refresh_token=refresh_token)
    except ValueError as error:
        raise AuthUnavailable(f"The login service gave a token that cannot be used: {error}.") from None


async def _post(client: httpx.AsyncClient, site: Site, path: str, headers: Headers, form: Mapping[str, str]) -> Reply:
    """Send one form. The header fields are those given and no others, in their order (the client adds none)."""
    body = urlencode(form).encode()
    fields = headers.plus(("Content-Length", str(len(body))), ("Content-Type", "application/x-www-form-urlencoded"))
    timeout = httpx.Timeout(TRY_TIMEOUT, connect=CONNECT_TIMEOUT).as_dict()
    request = httpx.Request(
        "POST", site.oauth + path, headers=list(fields), content=body, extensions={"timeout": timeout}
    )
    return await call(client, request, TRY_TIMEOUT)
