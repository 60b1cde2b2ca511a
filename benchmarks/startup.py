"""Time from the start of a process to its first answer, plain and with the addon, and what the imports of it take.

Run `python benchmarks/startup.py` (Linux; about half a minute). A process is started when its port is known to nobody,
and asked again and again until a request has gone through it to the fake service and back: that the port is open is not
yet an answer. Processor time is what the process had until then; it depends less on what else runs on the machine.
The imports are read from `python -X importtime`, which itself makes them slower: shares count, not sums.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._proxy_process import Machines, Process
from benchmarks._proxy_rounds import KIMI, Side, first_answer, our_side, plain_side
from benchmarks._proxy_servers import FakeService
from benchmarks._table import Found, Table, publish

ROUNDS = 6  # even: each is the first in half of them
LONGEST = 60.0  # seconds for one start
ADDED = 0.5  # s
SHOWN = 12  # packages with the longest imports
IMPORT_RUNS = 5
PLAIN = "import mitmproxy.tools.main, mitmproxy.tools.dump"  # what mitmdump has loaded before it looks at a script
OURS = f"{PLAIN}; import kimi_core.proxy.addon"
LINE = re.compile(r"^import time:\s+(\d+) \|\s+\d+ \| (\s*)(\S+)$", re.MULTILINE)


class Start(NamedTuple):
    """Seconds from the start of a new process to the end of its first answer, and of processor time that it had."""

    wall: float
    cpu: float


async def start(make: Callable[[], Process], side: Callable[[Process], Side]) -> Start:
    process = make()
    begin = time.perf_counter()
    process.launch()
    try:
        await first_answer(side(process), process.check, LONGEST)
        return Start(time.perf_counter() - begin, process.cpu())
    finally:
        await asyncio.to_thread(process.end)


async def starts(table: Table, folder: Path) -> None:
    service = FakeService()
    await service.open()
    machines = Machines(folder, service.port)
    try:
        found = []
        for number in range(ROUNDS + 1):
            both = [
                (machines.plain, lambda process: plain_side(KIMI, process, service)),
                (machines.ours, lambda process: our_side(KIMI, process, service)),
            ]
            order = (0, 1) if number % 2 else (1, 0)
            times = {place: await start(*both[place]) for place in order}
            found.append((times[0], times[1]))
        found = found[1:]  # the first has compiled what was not
    finally:
        service.close()
    added = median(ours.wall - plain.wall for plain, ours in found)
    wall = [median(pair[place].wall for pair in found) for place in range(2)]
    target = f"≤ +{ADDED:g} s"
    table.add("start to first answer", *map(_seconds, wall), f"{added:+.2f} s", target, missed=added > ADDED)
    for what, part in (("the same, the quickest round", "wall"), ("processor time until then, the least", "cpu")):
        plain, ours = (min(getattr(pair[place], part) for pair in found) for place in range(2))
        table.add(what, _seconds(plain), _seconds(ours), f"{ours - plain:+.2f} s", "")


def _seconds(value: float) -> str:
    return f"{value:.2f} s"


def imports(code: str) -> dict[str, float]:
    """Return module -> its own import time in ms, without what it imports itself (`-X importtime`)."""
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True)
    return parse_imports(done.stderr)


def parse_imports(text: str) -> dict[str, float]:
    return {name: int(micros) / 1000 for micros, _, name in LINE.findall(text)}


def by_package(added: dict[str, float]) -> dict[str, float]:
    """Return distribution-like name -> ms: the first word of a module, for our own the first two."""
    totals: defaultdict[str, float] = defaultdict(float)
    for name, millis in added.items():
        words = name.split(".")
        totals[".".join(words[: 2 if words[0] == "kimi_core" else 1])] += millis
    return totals


def import_costs(table: Table) -> None:
    plain = set(imports(PLAIN))
    runs = [
        by_package({name: ms for name, ms in imports(OURS).items() if name not in plain}) for _ in range(IMPORT_RUNS)
    ]
    packages = {name: median(run.get(name, 0.0) for run in runs) for name in set().union(*runs)}
    whole = sum(packages.values())
    for name, ms in sorted(packages.items(), key=lambda item: -item[1])[:SHOWN]:
        table.add(f"`{name}`", f"{ms:.0f} ms", f"{ms / whole:.0%}")
    table.add("all that mitmdump has not loaded itself", f"{whole:.0f} ms", "100%")


def measure() -> Iterator[Found]:
    table = Table("Start-up", ["", "mitmdump", "kimi-mitm", "added", "target"])
    table.begin()
    if not Path("/proc/self/stat").exists():
        table.note("Left out: what a process costs is read from Linux's /proc.")
    else:
        with tempfile.TemporaryDirectory(prefix="kimi-mitm-bench-") as folder:
            asyncio.run(starts(table, Path(folder)))
    yield table
    table = Table("What the addon imports", ["package", "time", "share"])
    table.begin()
    import_costs(table)
    yield table


if __name__ == "__main__":
    sys.exit(publish(measure))
