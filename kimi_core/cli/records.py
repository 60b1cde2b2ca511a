"""What is known of the proxies on this machine: the record of each, its log, and where they are.

A proxy is known by its record, which it writes itself when it listens and takes away when it ends
(`kimi_core/proxy/whereabouts.py`). A record whose process is gone, or whose number belongs to another process by now,
is no proxy. Whether it serves is asked of itself, on its ``/health`` (`probe`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kimi_core.errors import StoreDamaged
from kimi_core.store import Document, older_log

SAME_START = 1.0  # seconds by which two readings of a process's start may differ; numbers are not used again so soon
PIECE = 64 * 1024  # bytes of a log that are read at once, from its end backwards
SHARED, STARTED = "run", "proxy"  # how the files of a proxy begin: one that ends with its users, one that stays
BY_HAND = "hand"  # one that none of our commands has started; it has a record alone
LEFTOVER_AGE = 24 * 3600.0  # seconds for which the log of a proxy that has ended is kept


class Running(BaseModel):
    """A proxy that is there, as its record tells. `web_url` has mitmweb's token in it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    pid: int
    started: float
    host: str
    port: int
    version: str
    lease: str = ""
    order: str = ""
    confdir: str = ""
    web_url: str | None = Field(default=None, repr=False)

    @property
    def url(self) -> str:
        """What clients put into HTTPS_PROXY."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def process(self) -> psutil.Process | None:
        """Return the process, or None where it is no more."""
        try:
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.started) < SAME_START
            return found if same and found.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one proxy: its record, its log, and the pipe that its users hold."""

    folder: Path
    name: str

    @property
    def record(self) -> Path:
        """What the proxy writes while it is there (`Running`)."""
        return self.folder / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """Its output."""
        return self.folder / f"{self.name}.log"

    @property
    def lease(self) -> Path:
        """The pipe."""
        return self.folder / f"{self.name}.lease"

    def running(self) -> Running | None:
        """Return the proxy that these files belong to, if it is there."""
        try:
            found = Running.model_validate(Document(self.record).read() or {})
        except (ValidationError, StoreDamaged):
            return None
        return found if found.process() else None


def proxies(folder: Path) -> Iterator[tuple[Files, Running]]:
    """Yield every proxy that is there and was started by this program: the one that stays, then the newest first."""
    yield from _there(folder, f"{STARTED}.json", f"{SHARED}-*.json")


def known(folder: Path) -> Iterator[tuple[Files, Running]]:
    """Yield every proxy that is there; those that were started by hand come after the one that stays."""
    yield from _there(folder, f"{STARTED}.json", f"{BY_HAND}-*.json", f"{SHARED}-*.json")


def _there(folder: Path, *patterns: str) -> Iterator[tuple[Files, Running]]:
    for pattern in patterns:
        for path in sorted(folder.glob(pattern), key=lambda path: path.name, reverse=True):
            files = Files(folder, path.stem)
            if running := files.running():
                yield files, running


def newest_log(folder: Path) -> Path:
    """Return the log of the proxy that runs, else the one that was written last, else where it would be."""
    for files, _ in proxies(folder):
        return files.log
    logs = sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
    return logs[-1] if logs else Files(folder, STARTED).log


def sweep(folder: Path, now: float) -> None:
    """Delete what proxies have left that ended long ago (`LEFTOVER_AGE`), or were killed."""
    for path in (*folder.glob(f"{SHARED}-*"), *folder.glob(f"{BY_HAND}-*")):
        with contextlib.suppress(OSError):
            if now - path.lstat().st_mtime > LEFTOVER_AGE and not Files(folder, path.name.partition(".")[0]).running():
                path.unlink()


def tail(log: Path, lines: int, begin: int = 0, end: int | None = None) -> list[str]:
    """Return the last *lines* of *log*, of what stands between two offsets; none where there is no file.

    As much of the file is read as they need; a proxy keeps its log small.
    """
    pieces: list[bytes] = []  # the last one first
    wanted = lines + 1 if lines else 0  # ends of lines; what stands before the first of them is not whole
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            place = size if end is None else min(end, size)
            start = begin if begin <= place else 0
            while wanted > 0 and place > start:
                length = min(PIECE, place - start)
                place -= length
                file.seek(place)
                pieces.append(file.read(length))
                wanted -= pieces[-1].count(b"\n")
    except FileNotFoundError:
        return []
    return b"".join(reversed(pieces)).decode(errors="replace").splitlines()[-lines:]


def last_lines(log: Path, lines: int, end: int) -> list[str]:
    """Return the last *lines* before the offset *end* of *log*, the older file's where it has fewer itself."""
    found = tail(log, lines, end=end)
    return tail(older_log(log), lines - len(found)) + found
