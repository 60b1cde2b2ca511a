"""Instructions that a real mitmdump executes per request and per streamed piece, plain and with the addon.

Run `python benchmarks/instructions.py` (Linux with valgrind; about three minutes). callgrind counts what the processor
is told to do, which no neighbour on the machine can change: two runs differ by a percent or so, by what Python's
allocator and garbage collector happen to do. What an instruction costs is another matter; read these figures beside
those of `proxy.py`.

Each figure is the difference of a long and a short run over their difference in length, so that what happens once per
run (a connection, a timer) is not in it.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._proxy_process import Machines, Process
from benchmarks._proxy_rounds import KINDS, Side, fair_sides, requests, stream
from benchmarks._proxy_servers import Answer, FakeService
from benchmarks._table import Found, Table, publish

TOOLS = ("valgrind", "callgrind_control")
WARM_UP = 20  # requests: enough for every cache, and each is slow here
FEW, MANY = 5, 125  # requests; the garbage collector comes every ten or so
SHORT, LONG = 50, 300  # pieces
PATIENCE = 20.0  # seconds for a piece to arrive: the process is fifty times slower
CONTROL_SECONDS = 60.0
TOTAL = re.compile(r"^totals: (\d+)", re.MULTILINE)


class Counter:
    """Counts the instructions of one process that runs under callgrind."""

    def __init__(self, process: Process, folder: Path) -> None:
        self._process, self._folder = process, folder
        folder.mkdir()
        valgrind = ["valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no"]
        process.command = [*valgrind, f"--callgrind-out-file={folder}/out", sys.executable, *process.command]
        process.environ |= {"PYTHONHASHSEED": "0"}  # the same tables in every run

    async def begin(self) -> None:
        await self._control("-z")
        await self._control("-i", "on")

    async def end(self) -> int:
        """Return the instructions since `begin`."""
        await self._control("-d")
        await self._control("-i", "off")
        files = list(self._folder.iterdir())
        count = max(total(file.read_text(errors="replace")) for file in files)
        for file in files:
            file.unlink()
        return count

    async def _control(self, *words: str) -> None:
        await asyncio.to_thread(control, *words, str(self._process.pid))


def control(*words: str) -> None:
    command = ["callgrind_control", *words]
    subprocess.run(command, capture_output=True, timeout=CONTROL_SECONDS, check=True)


def total(dump: str) -> int:
    """Return the instructions that a callgrind file counts, 0 where it is empty."""
    return sum(map(int, TOTAL.findall(dump)))


async def per_request(side: Side, counter: Counter) -> float:
    counts = []
    for number in (FEW, MANY):
        await counter.begin()
        await requests(side, number)
        counts.append(await counter.end())
    return (counts[1] - counts[0]) / (MANY - FEW)


async def per_piece(side: Side, counter: Counter, answer: Callable[..., Answer]) -> float:
    counts = []
    for number in (SHORT, LONG):
        side.service.answer = answer(number, paced=True)
        await counter.begin()
        await stream(side, number)
        counts.append(await counter.end())
    return (counts[1] - counts[0]) / (LONG - SHORT)


async def count(which: int, folder: Path) -> dict[str, float]:
    """Return name of the row -> instructions; *which* is 0 for the plain mitmdump, 1 for that with the addon."""
    service = FakeService()
    service.pace.patience = PATIENCE
    await service.open()
    try:
        machines = Machines(folder, service.port)
        process = machines.ours() if which else machines.plain()
        counter = Counter(process, folder / "counts")
        await asyncio.to_thread(process.__enter__)
        try:
            return await all_of(which, process, counter, service)
        finally:
            await asyncio.to_thread(process.end)
    finally:
        service.close()


async def all_of(which: int, process: Process, counter: Counter, service: FakeService) -> dict[str, float]:
    found = {}
    for kind in KINDS:
        side = fair_sides(kind, process, process, service)[which]
        service.answer = kind.answer(1)
        await requests(side, WARM_UP)
        found[f"{kind.name}: small request"] = await per_request(side, counter)
        service.answer = kind.answer(SHORT, paced=True)
        await stream(side, SHORT)
        unit = "1 KB chunk" if kind.name == "Kimi" else "frame"
        found[f"{kind.name}: {unit}"] = await per_piece(side, counter, kind.answer)
    return found


async def both(folder: Path) -> list[dict[str, float]]:
    """Count in both at once: instructions do not mind."""
    folders = [Path(tempfile.mkdtemp(dir=folder)) for _ in range(2)]
    return list(await asyncio.gather(*(count(which, each) for which, each in enumerate(folders))))


def measure() -> Iterator[Found]:
    table = Table("Instructions", ["", "mitmdump", "kimi-mitm", "ratio"])
    table.begin()
    if all(map(shutil.which, TOOLS)):
        with tempfile.TemporaryDirectory(prefix="kimi-mitm-bench-") as folder:
            plain, ours = asyncio.run(both(Path(folder)))
        for name, few in plain.items():
            table.add(name, f"{few / 1000:,.0f} k", f"{ours[name] / 1000:,.0f} k", f"{ours[name] / few:.2f}x")
    else:
        table.note("Left out: valgrind is not installed.")
    yield table


if __name__ == "__main__":
    sys.exit(publish(measure))
