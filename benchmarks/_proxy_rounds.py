"""Rounds of requests through a process and what they cost: shared by the benchmarks of whole processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from benchmarks._proxy_servers import CLOSE, Answer, Client, FakeService, kimi_answer, kiro_answer, request

REQUESTS = 150  # of a round
WARM_UP = 40  # requests
RETRY = 0.002  # seconds between two looks at a process that starts
TOOL = {
    "type": "function",
    "function": {
        "name": "read",
        "description": "Read a file of the project and return its lines.",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}
MESSAGES = [
    {"role": "system", "content": "You are a careful engineer who answers in few words. " * 6},
    {"role": "user", "content": "What does the function in src/main.py do, and who calls it?"},
]


class Measured(Protocol):
    """A process that listens."""

    port: int

    def cpu(self) -> float: ...

    def rss(self) -> float: ...


@dataclass(frozen=True)
class Kind:
    """One service: how it is asked for through either proxy, and what it answers."""

    name: str
    model: str
    local: str
    upstream: str
    answer: Callable[..., Answer]

    def request(self, target: str, host: str, *fields: str) -> bytes:
        return request(target, host, self.body(), *fields)

    def body(self) -> dict[str, Any]:
        return {"model": self.model, "messages": MESSAGES, "tools": [TOOL], "stream": True}


KIMI = Kind("Kimi", "kimi-for-coding", "/kimi/v1/chat/completions", "/coding/v1/chat/completions", kimi_answer)
KIRO = Kind("Kiro", "claude-sonnet-4.5", "/kiro/v1/chat/completions", "/generateAssistantResponse", kiro_answer)
KINDS = (KIMI, KIRO)


@dataclass
class Side:
    """A process and the request that goes through it."""

    proxy: Measured
    request: bytes
    service: FakeService

    async def client(self) -> Client:
        return await Client.connect(self.proxy.port, self.service.pace)


@dataclass(frozen=True)
class Round:
    """µs of processor time per unit, ms to the first byte and to the end (medians)."""

    cpu: float
    first: float
    whole: float


@dataclass(frozen=True)
class Load:
    """Requests per second, and µs of processor time for each."""

    rate: float
    cpu: float


def plain_side(kind: Kind, plain: Measured, service: FakeService, *, closing: bool = False) -> Side:
    """Return the side of a plain mitmdump, used as an HTTP proxy; *closing* has the service end each connection."""
    host = f"127.0.0.1:{service.port}"
    return Side(plain, kind.request(f"http://{host}{kind.upstream}", host, *([CLOSE] if closing else [])), service)


def our_side(kind: Kind, ours: Measured, service: FakeService) -> Side:
    """Return the side of the addon, at its local endpoint."""
    return Side(ours, kind.request(kind.local, f"127.0.0.1:{ours.port}"), service)


def fair_sides(kind: Kind, plain: Measured, ours: Measured, service: FakeService) -> tuple[Side, Side]:
    """Return both, with the same number of connections to the service: Kiro's clients ask for one per request."""
    return plain_side(kind, plain, service, closing=kind is KIRO), our_side(kind, ours, service)


# --- rounds --------------------------------------------------------------------------------------------------------


async def requests(side: Side, count: int = REQUESTS) -> Round:
    """Send *count* requests over one connection."""
    client = await side.client()
    begin = side.proxy.cpu()
    times = [await client.fetch(side.request) for _ in range(count)]
    cpu = side.proxy.cpu() - begin
    client.close()
    firsts, wholes = zip(*times, strict=True)
    return Round(cpu / count * 1e6, median(firsts) * 1e3, median(wholes) * 1e3)


async def stream(side: Side, pieces: int) -> Round:
    """Send one request whose answer has so many pieces."""
    client = await side.client()
    begin = side.proxy.cpu()
    first, whole = await client.fetch(side.request)
    cpu = side.proxy.cpu() - begin
    client.close()
    return Round(cpu / pieces * 1e6, first * 1e3, whole / pieces * 1e3)


async def load(side: Side, connections: int, seconds: float) -> Load:
    """Keep so many connections busy, each with one request at a time."""
    clients = [await side.client() for _ in range(connections)]
    cpu, begin = side.proxy.cpu(), time.perf_counter()

    async def drive(client: Client) -> int:
        count = 0
        while not count or time.perf_counter() - begin < seconds:
            await client.fetch(side.request)
            count += 1
        return count

    try:
        count = sum(await asyncio.gather(*map(drive, clients)))
    finally:
        for client in clients:
            client.close()
    return Load(count / (time.perf_counter() - begin), (side.proxy.cpu() - cpu) / count * 1e6)


async def first_answer(side: Side, check: Callable[[], None], longest: float) -> None:
    """Return as soon as the first request is answered; *check* raises where that cannot happen any more.

    Raises TimeoutError after *longest* seconds.
    """
    async with asyncio.timeout(longest):
        while True:
            check()
            try:
                client = await side.client()
            except OSError:
                await asyncio.sleep(RETRY)
                continue
            try:
                await client.fetch(side.request)
            except RuntimeError:  # it listens, but is not ready
                await asyncio.sleep(RETRY)
                continue
            else:
                return
            finally:
                client.close()


async def take_turns[T](
    sides: Sequence[Side], measure: Callable[[Side], Awaitable[T]], *, rounds: int, seconds: float
) -> list[list[T]]:
    """Return one row per round, one result per side; each round begins with another side.

    After *seconds* no further round begins, but for the first.
    """
    found: list[list[T]] = []
    deadline = time.monotonic() + seconds
    for number in range(rounds):
        if found and time.monotonic() > deadline:
            break
        row: dict[int, T] = {}
        for place in range(len(sides)):
            index = (place + number) % len(sides)
            row[index] = await measure(sides[index])
        found.append([row[index] for index in range(len(sides))])
    return found
