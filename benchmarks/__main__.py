"""Runs every benchmark, each in a process of its own: `python -m benchmarks`, or with `--report` to write the page.

What one finds does not depend on another, and one that fails or hangs does not keep the others from running. The exit
code is 1 where one has missed its bound or failed.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks._report import write
from benchmarks._table import Found, Table, read

HERE = Path(__file__).parent
LONGEST = 300.0  # seconds for one of them
ENDING = 30.0  # seconds that one has for ending its processes when its time is over
REPORTED = ("proxy", "throughput", "startup", "instructions", "peers", "curve")
PRINTED = ("rewrite", "kiro_request", "answer", "kiro_answer", "eventstream", "views")


def run(name: str, file: Path | None) -> int:
    """Run one; keep what it finds in *file*; return its exit code, 1 where it took too long."""
    command = [sys.executable, str(HERE / f"{name}.py"), *(["--json", str(file)] if file else [])]
    process = subprocess.Popen(command, cwd=HERE.parent)
    try:
        return process.wait(LONGEST)
    except subprocess.TimeoutExpired:
        print(f"{name} is ended: {LONGEST:g} s are over.", flush=True)
        return 1
    finally:
        process.terminate()
        try:
            process.wait(ENDING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def found_by(name: str, file: Path) -> tuple[int, list[Found]]:
    """Run one and return its exit code with what it has kept, which may be all, some or nothing."""
    code = run(name, file)
    found = read(file) if file.exists() else []
    if code and not found:
        found = [Table(name.capitalize(), [], notes=["Left out: it failed, or took too long on that machine."])]
    return code, found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--report", action="store_true", help="write docs/benchmarks.md and its picture, too")
    report = parser.parse_args().report
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # `run` ends what it has started
    codes, found = [], []
    with tempfile.TemporaryDirectory(prefix="kimi-mitm-bench-") as folder:
        for name in REPORTED:
            code, more = found_by(name, Path(folder) / f"{name}.json")
            codes.append(code)
            found += more
    if report:
        write(found, datetime.now(UTC).date())
    else:
        codes += [run(name, None) for name in PRINTED]
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
