"""Run all tests, and those that failed once more by themselves: what fails beside others and passes alone is unsteady.

`make coverage` calls it. Arguments go to pytest. Unsteady tests are named at the end, so that nobody takes them for
good ones; more than `MOST` failures are no matter of steadiness, and nothing is tried again. Exit code: pytest's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

FAILED_TESTS = "FAILED_TESTS"  # variable: the file into which tests/conftest.py writes the ids of failed tests
SOME_FAILED = 1  # pytest's exit code
MOST = 30
# as in the Makefile: whole files go to one worker, in the order of tests/conftest.py
WORKERS = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")


def run(*arguments: str, failed: Path) -> int:
    """Run pytest under coverage; the ids of failed tests are in *failed* afterwards."""
    command = [sys.executable, "-m", "coverage", "run", "-m", "pytest", "--hypothesis-profile=ci", *arguments]
    return subprocess.run(command, env={**os.environ, FAILED_TESTS: str(failed)}, check=False).returncode


def main(arguments: list[str]) -> int:
    """Run, and run again what failed; return the exit code."""
    with tempfile.TemporaryDirectory(prefix="kimi-mitm-tests-") as folder:
        failed = Path(folder) / "failed.txt"
        code = run(*WORKERS, *arguments, failed=failed)
        names = failed.read_text().splitlines() if failed.exists() else []
        if code != SOME_FAILED or not 0 < len(names) <= MOST:
            return code
        print(f"\n{len(names)} failed; once more, by themselves:", flush=True)
        again = Path(folder) / "again.txt"
        failed.rename(again)
        code = run("-n", "0", f"@{again}", failed=failed)
        still = failed.read_text().splitlines() if failed.exists() else []
        for name in sorted(set(names) - set(still)):
            print(f"unsteady: {name}")
        return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
