"""Run all tests, and those that failed once more by themselves: what fails beside others and passes alone is unsteady.

`make coverage` calls it. Tests that stay in their process come first, and their branches are counted; those that start
proxies and clients follow, without: to count in each of those processes would double their time, and they find little
that the others have not met. Arguments go to pytest. Unsteady tests are named at the end, so that nobody takes them for
good ones; more than `MOST` failures are no matter of steadiness, and nothing is tried again. Exit code: pytest's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

FAILED_TESTS = "FAILED_TESTS"  # variable: the file into which tests/conftest.py writes the ids of failed tests
SOME_FAILED, NONE_FOUND = 1, 5  # pytest's exit codes
MOST = 30
# as in the Makefile: whole files go to one worker, in the order of tests/conftest.py
WORKERS = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
PROCESSES = ("tests/e2e", "tests/chaos")  # folders of tests that start processes
PYTEST = ("-m", "pytest", "--hypothesis-profile=ci")
COUNTED = ("-m", "coverage", "run", *PYTEST)


def run(*words: str, failed: Path) -> int:
    """Run Python with *words*, pytest's among them; the ids of failed tests are in *failed* afterwards."""
    environ = {**os.environ, FAILED_TESTS: str(failed)}
    return subprocess.run([sys.executable, *words], env=environ, check=False).returncode


def names_in(file: Path) -> list[str]:
    """Return the ids in *file*, none where it is not there."""
    return file.read_text().splitlines() if file.exists() else []


def main(arguments: list[str]) -> int:
    """Run, and run again what failed; return the exit code."""
    with tempfile.TemporaryDirectory(prefix="kimi-mitm-tests-") as name:
        folder = Path(name)
        first, second, again, still = (folder / f"{each}.txt" for each in ("first", "second", "again", "still"))
        codes = (
            run(*COUNTED, *WORKERS, *(f"--ignore={each}" for each in PROCESSES), *arguments, failed=first),
            run(*PYTEST, *WORKERS, *PROCESSES, *arguments, failed=second),
        )
        names = names_in(first) + names_in(second)
        if SOME_FAILED not in codes:
            return min(codes) if max(codes) == NONE_FOUND else max(codes)
        if not set(codes) <= {0, SOME_FAILED, NONE_FOUND} or not 0 < len(names) <= MOST:
            return max(codes)
        print(f"\n{len(names)} failed; once more, by themselves:", flush=True)
        again.write_text("".join(f"{each}\n" for each in names))
        code = run(*PYTEST, "-n", "0", f"@{again}", failed=still)
        for each in sorted(set(names) - set(names_in(still))):
            print(f"unsteady: {each}")
        return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
