"""The two ways to log in to Kiro, step by step: a device code of AWS, and Kiro's own page for Google and GitHub."""

from __future__ import annotations

import sys

import httpx

from kimi_core.cli.app import App
from kimi_core.cli.steps import Steps
from kimi_core.cli.wish import Wish
from kimi_core.device_flow import DeviceCode
from kimi_core.errors import ConfigError, LoginError
from kimi_core.kiro import callback, portal
from kimi_core.kiro.accounts import Account, new_id
from kimi_core.kiro.constants import BUILDER_START_URL, DEFAULT_REGION
from kimi_core.kiro.login import LIKELY_REGIONS, Sso, device_login
from kimi_core.kiro.portal import Attempt, Callback
from kimi_core.kiro.service import Service

PASTES = 3  # addresses that may be pasted before the login is given up


async def device(app: App, service: Service, steps: Steps, wish: Wish) -> Account:
    """Log in with a code: Builder ID, or the IAM Identity Center of *wish*. Raises LoginError, ConfigError."""
    if wish.region and not wish.start_url:
        raise ConfigError("--region goes with --start-url; a Builder ID has no region.")
    if wish.paste:
        raise ConfigError("--paste goes with --social.")
    start_url = wish.start_url or BUILDER_START_URL
    return await _with_code(app, service, steps, start_url, regions(wish.start_url, wish.region))


async def social(app: App, service: Service, steps: Steps, wish: Wish) -> Account:
    """Log in on Kiro's page; where the user chooses AWS there after all, go on with a code. Raises LoginError."""
    if wish.start_url or wish.region:
        raise ConfigError("--social does not go with --start-url and --region.")
    async with app.configuration.outbound.client() as client:
        if wish.paste:
            attempt = portal.begin(service.endpoints, callback.PORTS[0])
            steps.page(attempt.url, paste=True)
            found = _pasted(attempt)
        else:
            async with callback.listen(callback.PORTS) as listener:
                attempt = portal.begin(service.endpoints, listener.port)
                steps.page(attempt.url, paste=False)
                found = await listener.wait(attempt)
        if found.code is not None:
            return await _exchanged(app, service, client, attempt, found)
    return await _with_code(
        app, service, steps, found.start_url or BUILDER_START_URL, regions(found.start_url, found.region)
    )


def regions(start_url: str | None, region: str | None) -> tuple[str, ...]:
    """Return the regions in which the start page may live, the likeliest first."""
    if region:
        return (region,)
    return LIKELY_REGIONS if start_url and start_url.rstrip("/") != BUILDER_START_URL else (DEFAULT_REGION,)


async def _with_code(app: App, service: Service, steps: Steps, start_url: str, where: tuple[str, ...]) -> Account:
    def show(code: DeviceCode) -> None:
        service.registry.document.reserve()  # what was taken before may have gone into a registration
        steps.code(code)

    async with app.configuration.outbound.client() as client:
        sso = Sso(client, service.endpoints, service.registry, clock=app.world.clock, sleep=app.world.sleep)
        return await device_login(sso, start_url=start_url, regions=where, on_code=show, on_wait=steps.waiting)


async def _exchanged(
    app: App, service: Service, client: httpx.AsyncClient, attempt: Attempt, found: Callback
) -> Account:
    nobody = Account(id=new_id(), machine_id="")
    headers = service.identity_for(nobody).headers("refresh", invocation="")
    return await portal.exchange(client, service.endpoints, headers, attempt, found, clock=app.world.clock)


def _pasted(attempt: Attempt) -> Callback:
    """Read the address from standard input; nothing else runs meanwhile, so that this may block."""
    for _ in range(PASTES):
        line = sys.stdin.readline()
        if not line:
            break
        if line.strip() and (found := portal.read_callback(line, attempt)) is not None:
            return found
    raise LoginError("No address of this login was pasted.")
