"""How fast the proxy answers: of itself, and with an answer of Kimi's, beside the same answer asked for directly."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import httpx

from kimi_core.cli.checks.check import Check, Finding, NothingToJudge, ok, problem, warning
from kimi_core.cli.checks.login import USABLE, everybody
from kimi_core.cli.checks.machine import Machine
from kimi_core.cli.checks.proxy import RESTART, running
from kimi_core.cli.checks.service import account_of
from kimi_core.errors import KimiMitmError
from kimi_core.kimi import models
from kimi_core.proxy.guard import KEY_HEADER
from kimi_core.proxy.key import AUTO, key_path
from kimi_core.store import Document

SLOW = 0.5  # seconds; /health takes a few milliseconds unless something holds the proxy up
SLOWER = 1.0  # seconds that the way through the proxy may add to a call
CALL_SECONDS = 15.0  # for one list of models
TIMES = 3  # that the proxy itself is asked


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds to the first byte of the list of models, directly and through the proxy.

    `proxied` is None where the proxy brought no list; `refusal` says what it answered in its place.
    """

    direct: float
    proxied: float | None
    refusal: str = ""


def gather_health(machine: Machine) -> float:
    """Return how long the proxy takes to answer: the best of a few times, for the machine is busy with other checks."""
    found = running(machine)
    with httpx.Client(trust_env=False, timeout=CALL_SECONDS, verify=False) as client:  # noqa: S501 - plain http, no TLS
        return min(_seconds(client, f"{found.url}/health") for _ in range(TIMES))


def _seconds(client: httpx.Client, url: str) -> float:
    began = time.monotonic()
    with client.stream("GET", url):
        return time.monotonic() - began


def gather_speed(machine: Machine) -> Speed:
    """Return how long the list of models takes both ways. Raises NothingToJudge without a login."""
    found = running(machine)
    if everybody(machine).kimi[0].status.state not in USABLE:
        raise NothingToJudge("There is no Kimi login to ask for the models with.")
    direct = _direct(machine)
    proxied, refusal = _proxied(machine, found.url)
    return Speed(direct, proxied, refusal)


def _direct(machine: Machine) -> float:
    times: list[float] = []

    async def ask_models() -> None:
        async def question(client: httpx.AsyncClient, site: Any, headers: Any) -> object:
            async def note(_: httpx.Response) -> None:
                times.append(time.monotonic() - began)

            client.event_hooks = {"response": [note]}
            began = time.monotonic()
            return await models.fetch(client, site, headers)

        async with asyncio.timeout(CALL_SECONDS):
            await account_of(machine).call("models", question)

    try:
        asyncio.run(ask_models())
    except (KimiMitmError, TimeoutError) as error:
        raise NothingToJudge("The models could not be asked for directly: see service.plan.") from error
    return times[-1]


def _proxied(machine: Machine, url: str) -> tuple[float | None, str]:
    try:
        with httpx.Client(trust_env=False, timeout=CALL_SECONDS) as client:
            began = time.monotonic()
            with client.stream("GET", f"{url}/kimi/v1/models", headers=_key(machine)) as answer:
                seconds = time.monotonic() - began
    except httpx.HTTPError as error:
        return None, type(error).__name__
    if answer.status_code == httpx.codes.OK:
        return seconds, ""
    return None, f"status {answer.status_code}, {answer.headers.get('x-kimi-mitm-reason', 'no reason given')}"


def _key(machine: Machine) -> dict[str, str]:
    """Return the client key as a header field; none where the proxy asks for none."""
    option = machine.configuration.settings.kimi_client_key
    stored = Document(key_path(machine.app.folder)).read() if option == AUTO else {"key": option}
    key = (stored or {}).get("key")
    return {KEY_HEADER: str(key)} if key else {}


def judge_health(seconds: float) -> Finding:
    """Judge how long the proxy takes to answer."""
    told = f"The proxy answers within {_ms(seconds)}."
    if seconds > SLOW:
        return warning(f"{told} Something holds it up.", f"kimi-mitm logs; if that says nothing: {RESTART}")
    return ok(told)


def judge_speed(speed: Speed) -> Finding:
    """Judge what the way through the proxy costs."""
    if speed.proxied is None:
        return problem(
            f"The proxy does not bring the list of models: {speed.refusal}.",
            "kimi-mitm logs shows what the proxy says; docs/troubleshooting.md explains each reason",
        )
    told = f"First byte of the models after {_ms(speed.proxied)} through the proxy, {_ms(speed.direct)} directly."
    if speed.proxied - speed.direct > SLOWER:
        return warning(told, "See what stands between the proxy and Kimi: mode: upstream:… in mitmproxy's config.yaml")
    return ok(told)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


CHECKS = (
    Check("proxy.health", "Answer of the proxy", gather_health, judge_health),
    Check("proxy.speed", "First byte", gather_speed, judge_speed, 2 * CALL_SECONDS + 5, network=True),
)
