#!/usr/bin/env python3
"""Log in to Kimi from a checkout: ``python scripts/login.py`` does what ``kimi-mitm login kimi`` does."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 12)


def main(arguments: list[str]) -> int:
    """Run the login with *arguments* added; return the exit code."""
    if sys.version_info < OLDEST:
        return _sorry(f"Python {'.'.join(map(str, OLDEST))} or newer is needed; this is {sys.version.split()[0]}.")
    sys.path.insert(0, str(ROOT))
    try:
        command = importlib.import_module("kimi_core.cli.main").main
        importlib.import_module("kimi_core.cli.login")  # loaded here, for what it lacks to be told below
    except ImportError as error:
        return _sorry(
            f"{error.name or error} is missing from this Python ({sys.executable}). "
            "Run `make run` once and use the Python in .venv, or `pip install .` in the checkout."
        )
    try:
        command.main(args=["login", "kimi", *arguments], prog_name="kimi-mitm")
    except SystemExit as end:  # how click ends, whatever came of it: it has told a wrong option by then
        return end.code if isinstance(end.code, int) else 1
    return 0


def _sorry(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
