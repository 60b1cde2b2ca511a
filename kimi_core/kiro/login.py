"""Login at AWS SSO-OIDC by device flow: Builder ID, or an organisation's IAM Identity Center (kiro.md §7.5).

This program is registered as a client once per region; the registration is stored, used again while it is good for
long enough, and made anew where the service no longer knows it. The account that comes back is not stored yet.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from kimi_core.calls import NoAnswer, Reply
from kimi_core.device_flow import (
    DEVICE_GRANT,
    Clock,
    DeviceCode,
    Pending,
    Sleep,
    approval,
    printable,
    undecided,
)
from kimi_core.errors import ConfigError, LoginError, LoginExpired, StoreBusy, StoreDamaged
from kimi_core.headers import Headers
from kimi_core.kiro.accounts import Account, Registry, new_id
from kimi_core.kiro.auth_errors import CodeExpired
from kimi_core.kiro.constants import BUILDER_START_URL, DEFAULT_REGION, Endpoints, api_region
from kimi_core.kiro.expiry import milliseconds
from kimi_core.kiro.records import Registration
from kimi_core.kiro.refresh import JSON_TYPE, PASSING, post, tokens_of
from kimi_core.kiro.stores import sso_method

CLIENT_NAME = "kimi-mitm"  # what the page of the approval shows; free text
SCOPES = ("codewhisperer:completions", "codewhisperer:analysis", "codewhisperer:conversations")
HONEST = Headers([("user-agent", CLIENT_NAME), ("accept", "application/json")])
LIKELY_REGIONS = ("us-east-1", "eu-west-1", "eu-central-1", "us-east-2", "us-west-2", "ap-southeast-1")
GOOD_FOR = 30 * 86_400_000  # milliseconds that a registration must have left, for a login dies with it
DEFAULT_LIFE = 600.0  # seconds that a device code is good for where the answer does not say
_AWS_PAGES = (
    re.compile(  # below amazonaws.com anybody may have pages (buckets, gateways): only the host of logins counts
        r"device\.sso\.[a-z0-9-]+\.amazonaws\.com|(?:[a-z0-9-]+\.)*(?:awsapps\.com|amazon\.com|aws\.dev|app\.aws)"
    )
)


class _Refused(Exception):
    """The service answered with an error; `code` is the OAuth one."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.reply = reply
        self.code = reply.error


@dataclass(frozen=True, slots=True)
class Sso:
    """What the calls of a login share."""

    client: httpx.AsyncClient
    endpoints: Endpoints
    registry: Registry
    clock: Clock = time.time
    sleep: Sleep = asyncio.sleep

    async def call(self, region: str, path: str, data: Mapping[str, Any]) -> Reply:
        """Post JSON to the SSO service of *region*. Raises LoginError where there is no answer."""
        origin = self.endpoints.oidc(region)
        try:
            return await post(self.client, origin + path, HONEST, json.dumps(dict(data)).encode(), JSON_TYPE)
        except NoAnswer as error:
            raise LoginError(f"The login service at {origin} could not be reached: {error}.") from None


async def device_login(
    sso: Sso,
    *,
    start_url: str = BUILDER_START_URL,
    regions: Sequence[str] = (DEFAULT_REGION,),
    on_code: Callable[[DeviceCode], None],
    on_wait: Callable[[float, float], None],
) -> Account:
    """Log in: get a code, show it with *on_code*, wait until it is approved, and return the new account.

    *regions* are tried in order until one knows *start_url* (`LIKELY_REGIONS` where the user does not know it).
    Raises LoginDenied, CodeExpired, ConfigError for what is no region or start URL, and LoginError for anything else.
    """
    if urlsplit(start_url).scheme != "https" or not urlsplit(start_url).hostname:
        raise ConfigError(f"{start_url!r} is no start URL; they look like https://example.awsapps.com/start.")
    region, registration, code = await _first_code(sso, start_url, regions)
    deadline = sso.clock() + code.expires_in
    on_code(code)

    async def poll() -> Account | Pending:
        return await _poll(sso, region, registration, code, start_url)

    try:
        return await approval(
            poll, deadline=deadline, interval=code.interval, on_wait=on_wait, clock=sso.clock, sleep=sso.sleep
        )
    except LoginExpired as error:
        raise CodeExpired(str(error)) from None  # what to do next is another command here


async def _first_code(sso: Sso, start_url: str, regions: Sequence[str]) -> tuple[str, Registration, DeviceCode]:
    for region in regions:
        try:
            registration, code = await _code(sso, region, start_url)
        except _Refused as refused:
            if refused.code not in {"invalid_request", "invalid_grant"}:
                raise LoginError(f"The login service gave no code ({refused.reply.told()}).") from None
        else:
            return region, registration, code
    raise LoginError(
        f"The SSO service does not know {start_url} in {', '.join(regions)}; name its region with --region."
    )


async def _code(sso: Sso, region: str, start_url: str) -> tuple[Registration, DeviceCode]:
    """Return a device code; where the service no longer knows the stored registration, with a new one."""
    known = _registered(sso, region)
    if known is not None and not known.unknown and known.expires_at - sso.clock() * 1000 > GOOD_FOR:
        try:
            return known, await _authorize(sso, region, known, start_url)
        except _Refused as refused:
            if "client" not in refused.code:
                raise
    new = await register(sso, region)
    return new, await _authorize(sso, region, new, start_url)


def _registered(sso: Sso, region: str) -> Registration | None:
    """Return the stored registration; none where the document is damaged, which the login itself will put aside."""
    try:
        return sso.registry.load().registrations.get(region)
    except StoreDamaged:
        return None


async def register(sso: Sso, region: str) -> Registration:
    """Register this program with the SSO service of *region* and store the registration. Raises LoginError.

    A damaged document stays as it is until the login is approved, and one that is in use is not waited for: the
    registration is in the account alone then.
    """
    wanted = {"clientName": CLIENT_NAME, "clientType": "public", "scopes": list(SCOPES)}
    reply = await sso.call(region, "/client/register", wanted | {"grantTypes": [DEVICE_GRANT, "refresh_token"]})
    client, secret = printable(reply.data, "clientId"), printable(reply.data, "clientSecret")
    if reply.status != httpx.codes.OK or not (client and secret):
        raise LoginError(f"The login service did not register this program ({reply.told()}).")
    expires = milliseconds(reply.data.get("clientSecretExpiresAt"))
    made = Registration(client_id=client, client_secret=secret, expires_at=expires)
    with suppress(StoreDamaged, StoreBusy):
        await sso.registry.aupdate(lambda accounts: accounts.registrations.update({region: made}), wait=0.0)
    return made


async def _authorize(sso: Sso, region: str, registration: Registration, start_url: str) -> DeviceCode:
    fields = {"clientId": registration.client_id, "clientSecret": registration.client_secret, "startUrl": start_url}
    reply = await sso.call(region, "/device_authorization", fields)
    data = reply.data if reply.status == httpx.codes.OK else {}
    code = DeviceCode.read(data, lambda url: browsable(url, start_url), DEFAULT_LIFE, spelled=_camel_case)
    if code is None:
        raise _Refused(reply)
    return code


async def _poll(
    sso: Sso, region: str, registration: Registration, code: DeviceCode, start_url: str
) -> Account | Pending:
    fields = {
        "clientId": registration.client_id,
        "clientSecret": registration.client_secret,
        "deviceCode": code.device_code,
        "grantType": DEVICE_GRANT,
    }
    try:
        reply = await sso.call(region, "/token", fields)
    except LoginError as error:
        return Pending(failure=str(error))
    tokens = tokens_of(reply.data, sso.clock()) if reply.status == httpx.codes.OK else {}
    if tokens.get("refresh_token"):  # without one the account could not be renewed, nor told from another such
        login = {"client_id": registration.client_id, "client_secret": registration.client_secret}
        login |= {"start_url": start_url, "region": api_region(region), "oidc_region": region}
        moment = {"client_secret_expires_at": registration.expires_at}
        made = {"id": new_id(), "auth_method": sso_method(start_url)}
        return Account.model_validate(made | login | moment | tokens)
    if (pending := undecided(reply.error)) is not None:
        return pending
    problem = f"The login service ended the login ({reply.told()})."
    if reply.status in PASSING:
        return Pending(failure=problem)
    raise LoginError(problem)


def browsable(url: str, start_url: str) -> bool:
    """Tell whether *url* may be shown and opened: https on a page of AWS's own, or on the host of the start URL."""
    if not (url.isascii() and url.isprintable()) or any(sign in url for sign in ' \\"<>'):
        return False
    try:
        parts = urlsplit(url)
        usual = parts.scheme == "https" and parts.port in {None, 443} and "@" not in parts.netloc
    except ValueError:
        return False
    host = parts.hostname or ""
    own = host == urlsplit(start_url).hostname
    return usual and (own or _AWS_PAGES.fullmatch(host) is not None)


def _camel_case(name: str) -> str:
    """Return one of RFC 8628's names as AWS spells it: ``expires_in`` is ``expiresIn``."""
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))
