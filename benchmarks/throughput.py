"""Requests per second through a plain mitmdump and through the addon, with 1, 8 and 64 connections at work.

Run `python benchmarks/throughput.py` (Linux; about a minute). The set-up is that of `proxy.py`. The client and the fake
service share one process: `peers.py` shows what they do by themselves, which is far more.
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

from benchmarks._proxy_process import Machines
from benchmarks._proxy_rounds import KINDS, WARM_UP, fair_sides, load, requests, take_turns
from benchmarks._proxy_servers import FakeService
from benchmarks._table import Found, Table, publish

CONNECTIONS = (1, 8, 64)
ROUNDS = 4  # even: each proxy is the first in half of them
SECONDS = 2.0  # of one round of one proxy
LONGEST = 30.0  # seconds of one comparison, after which no further round begins


async def measure_all(table: Table, folder: Path) -> None:
    service = FakeService()
    await service.open()
    machines = Machines(folder, service.port)
    try:
        with ExitStack() as stack:
            plain, ours = (stack.enter_context(machine) for machine in (machines.plain(), machines.ours()))
            for kind in KINDS:
                service.answer = kind.answer(1)
                sides = fair_sides(kind, plain, ours, service)
                for side in sides:
                    await requests(side, WARM_UP)
                for connections in CONNECTIONS:
                    busy = partial(load, connections=connections, seconds=SECONDS)
                    found = await take_turns(sides, busy, rounds=ROUNDS, seconds=LONGEST)
                    rates = [median(row[place].rate for row in found) for place in range(2)]
                    ratio = median(row[1].rate / row[0].rate for row in found)
                    name = f"{kind.name}: {connections} connection{'s' * (connections > 1)}"
                    table.add(name, *(f"{rate:.0f}/s" for rate in rates), f"{ratio:.2f}x")
    finally:
        service.close()


def measure() -> Iterator[Found]:
    table = Table("Small requests per second", ["", "mitmdump", "kimi-mitm", "ratio"])
    table.begin()
    if not Path("/proc/self/stat").exists():
        table.note("Left out: what a process costs is read from Linux's /proc.")
    else:
        with tempfile.TemporaryDirectory(prefix="kimi-mitm-bench-") as folder:
            asyncio.run(measure_all(table, Path(folder)))
    yield table


if __name__ == "__main__":
    sys.exit(publish(measure))
