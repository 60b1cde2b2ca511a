"""Cost of the whole program: real mitmdump processes between a client and a fake service, against a plain mitmdump.

Run `python benchmarks/proxy.py` (Linux; one to two minutes). All is plain HTTP on loopback: the
client uses the local endpoint (/kimi/v1, /kiro/v1) of the one with the addon, and the other as its HTTP proxy, so that
TLS, which costs both the same, hides no difference. The plain one streams the same bytes of the same service through
a callable that does nothing. Both run with mitmdump's own defaults.

Processor time is that of the proxy's process; rounds of both alternate, and each ratio is the median of the rounds'
own. Streams go in lockstep: a piece is written when the client has the one before.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._proxy_process import Machines, Mitmdump
from benchmarks._proxy_servers import Answer, Client, FakeService, kimi_answer, kiro_answer, request

LONGEST = 115.0  # seconds for the whole
SECONDS = 12.0  # of one comparison, after which no further pair of rounds begins
ROUNDS = 6  # even: each proxy is the first in half of them
REQUESTS = 150  # of a round
PIECES = 4000  # of the stream of a round: half a second of processor time, since that is counted in 10 ms
STREAMS = 200
HELD_PIECES = 8  # that each open stream has brought so far
WARM_UP = 40  # requests
SETTLE = 1.0  # seconds for what a process does beside its first requests

KIMI_CPU = 1.10
KIRO_CPU = 1.30
FIRST_BYTE = 2.0  # ms
STREAM_MEMORY = 50.0  # KB
READY = "all is here"  # the end of what an open stream brings

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


@dataclass(frozen=True)
class Kind:
    """One service: how it is asked for through either proxy, and what it answers."""

    name: str
    model: str
    local: str
    upstream: str
    answer: Callable[..., Answer]

    def request(self, target: str, host: str) -> bytes:
        body = {"model": self.model, "messages": MESSAGES, "tools": [TOOL], "stream": True}
        return request(target, host, body)


KIMI = Kind("Kimi", "kimi-for-coding", "/kimi/v1/chat/completions", "/coding/v1/chat/completions", kimi_answer)
KIRO = Kind("Kiro", "claude-sonnet-4.5", "/kiro/v1/chat/completions", "/generateAssistantResponse", kiro_answer)


@dataclass
class Side:
    """A proxy and the request that goes through it."""

    proxy: Mitmdump
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


def sides(kind: Kind, plain: Mitmdump, ours: Mitmdump, service: FakeService) -> tuple[Side, Side]:
    host = f"127.0.0.1:{service.port}"
    return (
        Side(plain, kind.request(f"http://{host}{kind.upstream}", host), service),
        Side(ours, kind.request(kind.local, f"127.0.0.1:{ours.port}"), service),
    )


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


async def stream(side: Side) -> Round:
    """Send one request whose answer is long."""
    client = await side.client()
    begin = side.proxy.cpu()
    first, whole = await client.fetch(side.request)
    cpu = side.proxy.cpu() - begin
    client.close()
    return Round(cpu / PIECES * 1e6, first * 1e3, whole / PIECES * 1e3)


async def compare(pair: tuple[Side, Side], measure: Callable[[Side], Awaitable[Round]]) -> list[tuple[Round, Round]]:
    """Return rounds of plain and ours; in every other pair ours goes first."""
    plain, ours = pair
    found: list[tuple[Round, Round]] = []
    deadline = time.monotonic() + SECONDS
    for number in range(ROUNDS):
        if found and time.monotonic() > deadline:
            break
        if number % 2:
            second, first = await measure(ours), await measure(plain)
        else:
            first, second = await measure(plain), await measure(ours)
        found.append((first, second))
    return found


async def memory(side: Side, kind: Kind, answer: Answer) -> float:
    """Return the KB of resident memory that an open stream costs."""
    side.service.answer = kind.answer(1)
    await requests(side, WARM_UP)
    await asyncio.sleep(SETTLE)
    before = side.proxy.rss()
    side.service.answer = answer
    clients = []
    for _ in range(STREAMS):
        client = await side.client()
        clients.append(client)
        await client.fetch(side.request, READY.encode())
    after = side.proxy.rss()
    for client in clients:
        client.close()
    return (after - before) / STREAMS


# --- the table -----------------------------------------------------------------------------------------------------


def row(what: str, plain: str, ours: str, figure: str, target: str, *, missed: bool) -> None:
    print(f"{what:<42} {plain:>10} {ours:>10} {figure:>11}   {target:<12} {'MISSED' if missed else ''}".rstrip())


def show(what: str, found: list[tuple[Round, Round]], bound: float | None) -> None:
    """Print the processor time."""
    ratio = median(ours.cpu / plain.cpu for plain, ours in found)
    plain, ours = (median(pair[place].cpu for pair in found) for place in (0, 1))
    target = f"<= {bound:.2f}x" if bound else ""
    missed = bound is not None and ratio > bound
    row(what, f"{plain:.0f} µs", f"{ours:.0f} µs", f"{ratio:.2f}x", target, missed=missed)


def show_time(what: str, found: list[tuple[Round, Round]], name: str, bound: float | None) -> None:
    """Print one of the times."""
    pairs = [(getattr(plain, name), getattr(ours, name)) for plain, ours in found]
    added = median(ours - plain for plain, ours in pairs)
    plain, ours = (median(pair[place] for pair in pairs) for place in (0, 1))
    target = f"<= +{bound:g} ms" if bound else ""
    missed = bound is not None and added > bound
    row(what, f"{plain:.2f} ms", f"{ours:.2f} ms", f"{added:+.2f} ms", target, missed=missed)


async def speed(machines: Machines, service: FakeService) -> None:
    with ExitStack() as stack:
        plain, ours = (stack.enter_context(machine) for machine in (machines.plain(), machines.ours()))
        pairs = {kind: sides(kind, plain, ours, service) for kind in (KIMI, KIRO)}
        for kind, pair in pairs.items():
            service.answer = kind.answer(1)
            for side in pair:
                await requests(side, WARM_UP)
        await asyncio.sleep(SETTLE)
        for kind, pair in pairs.items():
            bound, unit = (KIMI_CPU, "1 KB chunk") if kind is KIMI else (KIRO_CPU, "frame")
            service.answer = kind.answer(1)
            found = await compare(pair, requests)
            show(f"{kind.name}: CPU per small request", found, KIMI_CPU if kind is KIMI else None)
            show_time(f"{kind.name}: first byte, p50", found, "first", FIRST_BYTE)
            show_time(f"{kind.name}: whole small answer, p50", found, "whole", None)
            service.answer = kind.answer(PIECES, paced=True)
            found = await compare(pair, stream)
            show(f"{kind.name}: CPU per {unit}", found, bound)


async def open_streams(machines: Machines, service: FakeService) -> None:
    for kind in (KIMI, KIRO):
        answer = kind.answer(HELD_PIECES, last=READY, open_end=True)
        with ExitStack() as stack:
            plain, ours = (stack.enter_context(machine) for machine in (machines.plain(), machines.ours()))
            costs = [await memory(side, kind, answer) for side in sides(kind, plain, ours, service)]
        plain_cost, cost = costs
        row(
            f"{kind.name}: memory per stream, {STREAMS} open",
            f"{plain_cost:.0f} KB",
            f"{cost:.0f} KB",
            f"{cost - plain_cost:+.0f} KB",
            f"<= +{STREAM_MEMORY:g} KB",
            missed=cost - plain_cost > STREAM_MEMORY,
        )


async def measure_all(folder: Path) -> None:
    service = FakeService()
    await service.open()
    row("", "plain", "kimi-mitm", "", "target", missed=False)
    try:
        async with asyncio.timeout(LONGEST) as whole:
            machines = Machines(folder, service.port)
            await open_streams(machines, service)
            await speed(machines, service)
    except TimeoutError:
        if not whole.expired():
            raise
        print(f"The rest is left out: {LONGEST:g} s are over; the machine is too busy for figures.")
    finally:
        service.close()


def main() -> int:
    """Print the figures; they are no gate."""
    if not Path("/proc/self/stat").exists():
        print("Left out: what a process costs is read from Linux's /proc.")
        return 0
    with tempfile.TemporaryDirectory(prefix="kimi-mitm-bench-") as folder:
        asyncio.run(measure_all(Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
