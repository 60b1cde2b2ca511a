"""Cost of the whole program: real mitmdump processes between a client and a fake service, against a plain mitmdump.

Run `python benchmarks/proxy.py` (Linux; two to four minutes). All is plain HTTP on loopback: the
client uses the local endpoint (/kimi/v1, /kiro/v1) of the one with the addon, and the other as its HTTP proxy, so that
TLS, which costs both the same, hides no difference. The plain one streams the same bytes of the same service through
a callable that does nothing. Both run with mitmdump's own defaults.

Processor time is that of the proxy's process; rounds of both alternate, and each ratio is the median of the rounds'
own. Streams go in lockstep: a piece is written when the client has the one before.

Kiro's own clients ask for a new connection with each request, and so does the addon in their name. The targets are
therefore judged against a plain mitmdump whose connection to the service is ended after each answer, too; the figures
against one that keeps its connection stand below. So does what a request costs where mitmproxy's events make rounds of
mitmproxy's own (`kimi_core/proxy/rounds.py`).
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._proxy_process import OWN_ROUNDS, Machines
from benchmarks._proxy_rounds import (
    KIMI,
    KINDS,
    KIRO,
    WARM_UP,
    Kind,
    Round,
    Side,
    fair_sides,
    our_side,
    plain_side,
    requests,
    stream,
    take_turns,
)
from benchmarks._proxy_servers import Answer, FakeService
from benchmarks._table import Found, Table, publish

LONGEST = 300.0  # seconds for the whole
SECONDS = 30.0  # of one comparison, after which no further round begins
ROUNDS = 16  # even: each proxy is the first in half of them
PIECES = 4000  # of the stream of a round: half a second of processor time, since that is counted in 10 ms
STREAMS = 200
HELD_PIECES = 8  # that each open stream has brought so far
SETTLE = 1.0  # seconds for what a process does beside its first requests

KIMI_CPU = 1.10
KIRO_CPU = 1.30
FIRST_BYTE = 2.0  # ms
STREAM_MEMORY = 50.0  # KB
READY = "all is here"  # the end of what an open stream brings
OWN = "Kimi, mitmproxy's own rounds"
KEPT = "Kiro, to kept connections"
COLUMNS = ["", "mitmdump", "kimi-mitm", "added", "target"]

type Pairs = list[tuple[Round, Round]]


def medians(pairs: Pairs, name: str) -> tuple[float, float]:
    plain, ours = zip(*((getattr(one, name), getattr(other, name)) for one, other in pairs), strict=True)
    return median(plain), median(ours)


def add_cpu(table: Table, what: str, pairs: Pairs, bound: float | None) -> None:
    """Add the processor time."""
    ratio = median(ours.cpu / plain.cpu for plain, ours in pairs)
    plain, ours = medians(pairs, "cpu")
    missed = bound is not None and ratio > bound
    target = f"≤ {bound:.2f}x" if bound else ""
    table.add(what, f"{plain:.0f} µs", f"{ours:.0f} µs", f"{ratio:.2f}x", target, missed=missed)


def add_time(table: Table, what: str, pairs: Pairs, name: str, bound: float | None) -> None:
    """Add one of the times."""
    added = median(getattr(ours, name) - getattr(plain, name) for plain, ours in pairs)
    plain, ours = medians(pairs, name)
    missed = bound is not None and added > bound
    target = f"≤ +{bound:g} ms" if bound else ""
    table.add(what, f"{plain:.2f} ms", f"{ours:.2f} ms", f"{added:+.2f} ms", target, missed=missed)


def add_requests(table: Table, name: str, pairs: Pairs, cpu: float | None, first: float | None) -> None:
    add_cpu(table, f"{name}: CPU per small request", pairs, cpu)
    add_time(table, f"{name}: first byte, p50", pairs, "first", first)
    add_time(table, f"{name}: whole small answer, p50", pairs, "whole", None)


async def speed(table: Table, machines: Machines, service: FakeService) -> None:
    made = machines.plain(), machines.ours(), machines.ours(OWN_ROUNDS)
    with ExitStack() as stack:
        plain, ours, own_rounds = (stack.enter_context(machine) for machine in made)
        beside = {KIMI: our_side(KIMI, own_rounds, service), KIRO: plain_side(KIRO, plain, service)}
        sides = {kind: [*fair_sides(kind, plain, ours, service), beside[kind]] for kind in KINDS}
        for kind, each in sides.items():
            service.answer = kind.answer(1)
            for side in each:
                await requests(side, WARM_UP)
        await asyncio.sleep(SETTLE)
        for kind, each in sides.items():
            service.answer = kind.answer(1)
            found = await take_turns(each, requests, rounds=ROUNDS, seconds=SECONDS)
            pairs = [(row[0], row[1]) for row in found]
            add_requests(table, kind.name, pairs, KIMI_CPU if kind is KIMI else None, FIRST_BYTE)
            if kind is KIMI:
                add_cpu(table, f"{OWN}: CPU per small request", [(row[0], row[2]) for row in found], None)
            else:
                add_requests(table, KEPT, [(row[2], row[1]) for row in found], None, None)
            service.answer = kind.answer(PIECES, paced=True)
            found = await take_turns(each[:2], partial(stream, pieces=PIECES), rounds=ROUNDS, seconds=SECONDS)
            unit, bound = ("1 KB chunk", KIMI_CPU) if kind is KIMI else ("frame", KIRO_CPU)
            add_cpu(table, f"{kind.name}: CPU per {unit}", [(row[0], row[1]) for row in found], bound)


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


async def open_streams(table: Table, machines: Machines, service: FakeService) -> None:
    for kind in KINDS:
        answer = kind.answer(HELD_PIECES, last=READY, open_end=True)
        with ExitStack() as stack:
            plain, ours = (stack.enter_context(machine) for machine in (machines.plain(), machines.ours()))
            sides = plain_side(kind, plain, service), our_side(kind, ours, service)
            plain_cost, cost = [await memory(side, kind, answer) for side in sides]
        table.add(
            f"{kind.name}: memory per stream, {STREAMS} open",
            f"{plain_cost:.0f} KB",
            f"{cost:.0f} KB",
            f"{cost - plain_cost:+.0f} KB",
            f"≤ +{STREAM_MEMORY:g} KB",
            missed=cost - plain_cost > STREAM_MEMORY,
        )


async def measure_all(table: Table, folder: Path) -> None:
    service = FakeService()
    await service.open()
    try:
        async with asyncio.timeout(LONGEST) as whole:
            machines = Machines(folder, service.port)
            await open_streams(table, machines, service)
            await speed(table, machines, service)
    except TimeoutError:
        if not whole.expired():
            raise
        table.note(f"The rest is left out: {LONGEST:g} s are over; the machine is too busy for figures.")
    finally:
        service.close()


def measure() -> Iterator[Found]:
    """Measure; these figures are no gate."""
    table = Table("Against a plain mitmdump", COLUMNS)
    table.begin()
    if not Path("/proc/self/stat").exists():
        table.note("Left out: what a process costs is read from Linux's /proc.")
    else:
        with tempfile.TemporaryDirectory(prefix="kimi-mitm-bench-") as folder:
            asyncio.run(measure_all(table, Path(folder)))
    yield table


if __name__ == "__main__":
    sys.exit(publish(measure))
