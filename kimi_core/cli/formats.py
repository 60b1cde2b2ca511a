"""Times and numbers as people read them. Pure."""

from __future__ import annotations


def clock(seconds: float) -> str:
    """Return a countdown: ``29:59``."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    return f"{minutes}:{rest:02}"


def tokens(count: int | None) -> str:
    """Return a number of tokens: ``256K``, ``1M``, as powers of 1024 where they are ones."""
    if count is None:
        return "—"
    for unit, size in (("M", 1024 * 1024), ("K", 1024)):
        if count >= size and count % size == 0:
            return f"{count // size}{unit}"
    return f"{count:,}"


def thousands(count: int | None) -> str:
    """Return a number of tokens as services name theirs: ``200k``, ``1M``, as powers of 1000 where they are ones."""
    if count is None:
        return "—"
    for unit, size in (("M", 1_000_000), ("k", 1000)):
        if count >= size and count % size == 0:
            return f"{count // size}{unit}"
    return f"{count:,}"
