"""What is noted of accounts beside the requests: seen at once by this process, written a moment later, all together.

A request notes several things (it began, it was served, what it cost); one write for each would keep the disk busy.
What a kill loses is the last moment of counters and cool-downs. Tokens are never noted here: a new pair is on disk
before it is used (`rotation`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from kimi_core.kiro.accounts import Accounts, Registry

LINGER = 1.0  # seconds for which notes are gathered

type Alteration = Callable[[Accounts], None]


class Notebook:
    """The notes of one process on the accounts in *registry*."""

    def __init__(self, registry: Registry, linger: float = LINGER) -> None:
        self._registry = registry
        self._linger = linger
        self._taking = threading.Lock()
        self._notes: list[Alteration] = []  # nobody writes these yet
        self._writing: list[Alteration] = []  # under way to the disk
        self._stored: Accounts | None = None  # what `_view` was made of
        self._view = Accounts()
        self._shown = 0  # how many of the notes are in `_view`

    def accounts(self) -> Accounts:
        """Return what is stored, with what is noted and not written yet; not to be altered.

        Raises AccountsDamaged, StoreError.
        """
        stored = self._registry.current()
        if stored is not self._stored:
            self._stored, self._view, self._shown = stored, stored.copied(), 0
        with self._taking:
            notes = [*self._writing, *self._notes]
        for alter in notes[self._shown :]:
            alter(self._view)
        self._shown = len(notes)
        return self._view

    def add(self, alter: Alteration) -> None:
        """Note a change; `write` is to run some time after."""
        with self._taking:
            self._notes.append(alter)

    async def write(self) -> None:
        """Write what is noted until nothing is left. Raises StoreError; the notes that could not be written are gone.

        In a thread: the lock may be another process's, and the disk is waited for.
        """
        while self._notes:
            await asyncio.sleep(self._linger)
            try:
                await asyncio.to_thread(self._write_rest)
            finally:
                self._writing, self._stored = [], None

    def flush(self) -> None:
        """Write now what is noted and nobody writes yet. Raises StoreError."""
        try:
            self._write_rest()
        finally:
            self._writing, self._stored = [], None

    def _write_rest(self) -> None:
        """Write what is noted. Each note is taken once: the thread of a `write` that was cancelled goes on."""
        with self._taking:
            notes, self._notes = self._notes, []
            self._writing = [*self._writing, *notes]
        if notes:
            self._registry.update(lambda stored: _apply(notes, stored))


def _apply(notes: Sequence[Alteration], stored: Accounts) -> None:
    for alter in notes:
        alter(stored)
