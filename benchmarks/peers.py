"""Other gateways beside kimi-mitm: the same client, the same fake service, the same streamed chat requests.

Run `python benchmarks/peers.py` (Linux; about two minutes); `--install` installs the peers, into .cache/bench. One that
is not installed is left out with a sentence. `direct` is the client at the service itself, with nothing between.

All gateways are up at once, one process each, and idle but for the one whose turn it is.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._peers import PEERS, NotInstallable, Peer
from benchmarks._proxy_process import Machines, Process
from benchmarks._proxy_rounds import (
    KIMI,
    WARM_UP,
    Load,
    Round,
    Side,
    first_answer,
    load,
    our_side,
    plain_side,
    requests,
    stream,
    take_turns,
)
from benchmarks._proxy_servers import FakeService
from benchmarks._table import Found, Table, publish

CONNECTIONS = (1, 8, 64)
ROUNDS = 3
REQUESTS = 60  # of a round
PIECES = 500  # of a round
LOAD_SECONDS = 1.0  # of one round of one gateway
SECONDS = 45.0  # of one comparison, after which no further round begins
STARTS = 180.0  # seconds until a gateway has to answer
INSTALL = "--install"
HOW = "`make bench-peers` installs it."


@dataclass
class Direct:
    """Nothing between the client and the service."""

    port: int

    def cpu(self) -> float:
        return 0.0

    def rss(self) -> float:
        return 0.0


@dataclass
class Gateway:
    """One column: what was found of it."""

    name: str
    side: Side
    start: float = 0.0
    rests: float = 0.0  # KB of memory after the first requests
    requests: list[Round] = field(default_factory=list)
    chunks: list[Round] = field(default_factory=list)
    loads: dict[int, list[Load]] = field(default_factory=dict)


@asynccontextmanager
async def running(name: str, process: Process, side: Side) -> AsyncIterator[Gateway]:
    """Start a gateway, wait for its first answer, and end it at last."""
    begin = time.perf_counter()
    process.launch()
    try:
        try:
            await first_answer(side, process.check, STARTS)
        except TimeoutError:
            raise AssertionError(f"{name} did not answer within {STARTS:g} s:\n{process.log()}") from None
        yield Gateway(name, side, start=time.perf_counter() - begin)
    finally:
        await asyncio.to_thread(process.end)


def processes(
    table: Table, machines: Machines, service: FakeService
) -> Iterator[tuple[str, Callable[[], tuple[Process, Side]]]]:
    """Yield name and maker of each gateway; say of the peers what they are, or why they are left out."""

    def plain() -> tuple[Process, Side]:
        process = machines.plain()
        return process, plain_side(KIMI, process, service)

    def ours() -> tuple[Process, Side]:
        process = machines.ours()
        return process, our_side(KIMI, process, service)

    def other(peer: Peer) -> tuple[Process, Side]:
        process = peer.process(machines.home(), machines.origin)
        return process, Side(process, peer.request(process.port, machines.origin), service)

    yield "mitmdump", plain
    yield "kimi-mitm", ours
    for peer in PEERS:
        if not peer.installed:
            table.note(f"{peer.name} is left out: it is not installed. {HOW}")
            continue
        table.note(f"{peer.name} {peer.version(peer.folder)}: {peer.settings}.")
        yield peer.name, partial(other, peer)


async def measure_all(table: Table, folder: Path) -> list[Gateway]:
    service = FakeService()
    await service.open()
    service.answer = KIMI.answer(1)
    direct = Side(Direct(service.port), KIMI.request(KIMI.upstream, f"127.0.0.1:{service.port}"), service)
    gateways = [Gateway("direct", direct)]
    try:
        async with AsyncExitStack() as stack:
            for name, make in processes(table, Machines(folder, service.port), service):
                try:
                    gateways.append(await stack.enter_async_context(running(name, *make())))
                except AssertionError as error:
                    table.note(f"{name} is left out: {str(error).splitlines()[0]}")
            for each in gateways:
                await requests(each.side, WARM_UP)
                each.rests = each.side.proxy.rss()
            await compare(gateways, service)
    finally:
        service.close()
    return gateways


async def compare(gateways: list[Gateway], service: FakeService) -> None:
    turns = partial(take_turns, [each.side for each in gateways], rounds=ROUNDS, seconds=SECONDS)
    for row in await turns(partial(requests, count=REQUESTS)):
        for each, one in zip(gateways, row, strict=True):
            each.requests.append(one)
    for connections in CONNECTIONS:
        for row in await turns(partial(load, connections=connections, seconds=LOAD_SECONDS)):
            for each, one in zip(gateways, row, strict=True):
                each.loads.setdefault(connections, []).append(one)
    service.answer = KIMI.answer(PIECES, paced=True)
    for row in await turns(partial(stream, pieces=PIECES)):
        for each, one in zip(gateways, row, strict=True):
            each.chunks.append(one)


def show(table: Table, gateways: list[Gateway]) -> None:
    """Fill the table; the first gateway is none, and has neither process nor added time."""
    direct = gateways[0]

    def added(each: Gateway, name: str) -> str:
        pairs = zip(direct.requests, each.requests, strict=True)
        return f"{median(getattr(one, name) - getattr(none, name) for none, one in pairs):+.2f} ms"

    def line(what: str, text: Callable[[Gateway], str], nothing: str | None = "") -> None:
        cells = [text(each) if nothing is None or each is not direct else nothing for each in gateways]
        table.add(what, *cells)

    line("start to first answer", lambda each: f"{each.start:.1f} s")
    line("memory after the first requests", lambda each: f"{each.rests / 1024:.0f} MB")
    line("first byte, p50", lambda each: f"{median(one.first for one in each.requests):.2f} ms", None)
    line("first byte, added", lambda each: added(each, "first"))
    line("whole small answer, added", lambda each: added(each, "whole"))
    line("CPU per small request", lambda each: f"{median(one.cpu for one in each.requests):.0f} µs")
    line("CPU per 1 KB chunk", lambda each: f"{median(one.cpu for one in each.chunks):.0f} µs")
    for connections in CONNECTIONS:
        name = f"requests per second, {connections} connection{'s' * (connections > 1)}"
        line(name, lambda each, count=connections: f"{median(one.rate for one in each.loads[count]):.0f}", None)


def install() -> int:
    """Install what is not, and say what is there; return 1 where something is not."""
    failed = 0
    for peer in PEERS:
        try:
            peer.ensure()
            print(f"{peer.name} {peer.version(peer.folder)} is installed.", flush=True)
        except NotInstallable as error:
            failed = 1
            print(f"{peer.name} cannot be installed: {error}", flush=True)
    return failed


def measure() -> Iterator[Found]:
    table = Table("Beside other gateways", [])
    if not Path("/proc/self/stat").exists():
        table.note("Left out: what a process costs is read from Linux's /proc.")
    else:
        with tempfile.TemporaryDirectory(prefix="kimi-mitm-bench-") as folder:
            gateways = asyncio.run(measure_all(table, Path(folder)))
        table.columns = ["", *(each.name for each in gateways)]
        table.begin()
        show(table, gateways)
    yield table


if __name__ == "__main__":
    sys.exit(install() if sys.argv[1:] == [INSTALL] else publish(measure))
