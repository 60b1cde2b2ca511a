"""Small programs that a check has run for it: bounded in time, without a terminal, killed when they are late."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SECONDS = 8.0  # for one child: a cold start of Node.js or Python on a slow disk takes two
LONGEST = 64 * 1024  # characters of output that are looked at


@dataclass(frozen=True, slots=True)
class Done:
    """How a child ended. `code` None: it was late, or could not be started at all (`error` says why)."""

    code: int | None
    out: str = ""
    error: str = ""


def run(words: Sequence[str], environ: Mapping[str, str], *, seconds: float = SECONDS) -> Done:
    """Run *words*, the first of which is a path, with exactly *environ*."""
    try:
        done = subprocess.run(  # noqa: S603 - words of our own, no shell
            list(words),
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return Done(None, error=f"it did not end within {seconds:g} s")
    except OSError as error:
        return Done(None, error=error.strerror or "it could not be started")
    return Done(done.returncode, done.stdout[:LONGEST], done.stderr[:LONGEST])
