"""What Kimi itself says: one call for the usage with the stored login, its answer, and the time in it.

Asked like `kimi-mitm usage` asks: directly, a login that is due is renewed first. Left out with ``--offline``.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

import httpx

from kimi_core.cli.checks.check import Check, Finding, NothingToJudge, ok, problem, skipped, warning
from kimi_core.cli.checks.login import USABLE, everybody
from kimi_core.cli.checks.machine import Machine
from kimi_core.documents import Declined
from kimi_core.errors import AuthUnavailable, KimiMitmError, LoginDead, NotLoggedIn, UpstreamError
from kimi_core.headers import Headers
from kimi_core.kimi import usage
from kimi_core.kimi.account import Account
from kimi_core.kimi.constants import Site
from kimi_core.kimi.identity import load
from kimi_core.kimi.usage import Usage, span
from kimi_core.kimi.verdict import Finding as Reading
from kimi_core.kimi.verdict import Reason, classify

SECONDS = 15.0  # for the whole call: a renewal of the login may come first
SKEW = 60.0  # seconds that clocks may differ: the shortest token of the service lives a few minutes
WORDS = {
    Reason.auth: "Kimi does not accept the login (401)",
    Reason.membership: "Kimi could not confirm a plan for this login (402 or 403)",
    Reason.entitlement: "the plan does not include what was asked for (403)",
    Reason.identity: "Kimi does not accept the client that our requests name (403)",
    Reason.permission: "Kimi does not permit this to the account (403)",
    Reason.blocked: "Kimi has closed the account",
    Reason.quota: "the plan's quota is used up",
    Reason.period_limit: "the limit of the present time window is used up",
    Reason.billing: "the account has no balance",
}


@dataclass(frozen=True, slots=True)
class Word:
    """What the service said: the usage, or why there is none.

    `skew` is how far this machine's clock is ahead of the service's, in seconds; None where no time came.
    """

    slot: str
    usage: Usage | None = None
    reading: Reading | None = None
    status: int | None = None
    error: KimiMitmError | None = None
    skew: float | None = None
    now: float = 0.0


def ask(machine: Machine) -> Word:
    """Return the service's word; it is asked once for all checks. Raises NothingToJudge where there is no login."""
    login = everybody(machine).kimi[0]
    if login.status.state not in USABLE:
        raise NothingToJudge(f"There is no login for {login.status.slot} that could be tried.")
    return machine.once("usage", lambda: asyncio.run(_ask(machine)))


async def _ask(machine: Machine) -> Word:
    site, told = machine.site, _Told()
    account = account_of(machine)

    async def question(client: httpx.AsyncClient, site: Site, headers: Headers) -> Usage:
        client.event_hooks = {"response": [told.note]}
        return await usage.fetch(client, site, headers)

    found: Usage | None = None
    problem_met: KimiMitmError | None = None
    reading, status = None, None
    try:
        async with asyncio.timeout(SECONDS):
            found = await account.call("usages", question)
    except Declined as error:
        problem_met, status = error, error.http_status
        reading = classify(error.http_status or 0, error.body)
    except KimiMitmError as error:
        problem_met = error
    except TimeoutError:
        problem_met = UpstreamError(f"Kimi did not answer within {SECONDS:g} s.")
    skew = told.skew(machine.now)
    return Word(site.slot, found, reading, status, problem_met, skew, machine.now)


def account_of(machine: Machine) -> Account:
    """Return the login in use, for calls of our own."""
    identity = load(machine.configuration.settings.kimi_identity, machine.environ, machine.home)
    world = machine.app.world
    return Account(machine.site, identity, machine.configuration.outbound, machine.app.folder, clock=world.clock)


class _Told:
    """The time that stands in an answer's head, and when it was read."""

    def __init__(self) -> None:
        self._date: float | None = None
        self._read_at = 0.0

    async def note(self, response: httpx.Response) -> None:
        """Keep what *response* says of the time."""
        try:
            date = parsedate_to_datetime(response.headers.get("date", ""))
        except ValueError:  # no date, or none that RFC 9110 §5.6.7 knows
            return
        self._date, self._read_at = date.replace(tzinfo=date.tzinfo or UTC).timestamp(), time.monotonic()

    def skew(self, now: float) -> float | None:
        """Return by how much *now* is ahead of the service's time."""
        if self._date is None:
            return None
        return now - (self._date + time.monotonic() - self._read_at)


# --- judgements -------------------------------------------------------------------------------------------------------


def judge_plan(word: Word) -> Finding:
    """Judge whether the plan serves."""
    if word.reading is not None:
        return _refused(word, word.reading)
    match word.error:
        case None:
            pass
        case LoginDead() | NotLoggedIn():
            return problem(f"{word.error}", "kimi-mitm login kimi")
        case AuthUnavailable():
            return warning(f"The login could not be renewed just now: {word.error}", "Try again; the login is kept.")
        case _:
            return warning(
                f"Kimi could not be asked: {word.error}",
                "See whether the network works; a company's proxy goes into mitmproxy's mode: upstream:http://host:port",
            )
    return _left(word.usage, word.now)


def _refused(word: Word, reading: Reading) -> Finding:
    what = WORDS.get(reading.reason)
    if what is None or not reading.final:
        return warning(f"Kimi answered with status {word.status}: {word.error}", reading.hint)
    return problem(f"For {word.slot}, {what}.", reading.hint)


def _left(found: Usage | None, now: float) -> Finding:
    used_up = [row for row in found.rows if row.exhausted] if found else []
    if not used_up:
        return ok("Kimi accepts the login, and the plan has something left.")
    rows = ", ".join(f"{row.label}: {row.text(now)}" for row in used_up)
    if found and found.booster and found.booster.cents_left > 0:
        return warning(f"The plan's quota is used up ({rows}); the booster serves.", "kimi-mitm usage")
    return problem(f"The plan's quota is used up ({rows}).", "kimi-mitm usage shows when it comes back")


def judge_clock(word: Word) -> Finding:
    """Judge this machine's clock against the service's."""
    if word.skew is None:
        return skipped("Kimi told no time.")
    if abs(word.skew) <= SKEW:
        return ok(f"This machine's clock and Kimi's differ by {abs(word.skew):.0f} s.")
    way = "ahead of" if word.skew > 0 else "behind"
    return warning(
        f"This machine's clock is {span(abs(word.skew))} {way} Kimi's: tokens are renewed too early or too late.",
        "Set the clock, or let the system do it: timedatectl set-ntp true (Linux)",
    )


CHECKS = (
    Check("service.plan", "Kimi's answer to the login", ask, judge_plan, SECONDS + 5, network=True),
    Check("service.clock", "Clock", ask, judge_clock, SECONDS + 5, network=True),
)
