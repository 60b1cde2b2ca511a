"""What a benchmark prints: tables whose rows appear as they are found, kept for the report."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FIRST, OTHER = 50, 12  # widths of the columns on a terminal, which two blanks keep apart
MISSED = "MISSED"


@dataclass
class Table:
    """A heading, named columns of which the first says what a row is about, and sentences below."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """Print the head."""
        print(f"\n{self.title}", flush=True)
        self._print(self.columns)

    def add(self, *cells: str, missed: bool = False) -> None:
        """Print one row and keep it; *missed* marks the last cell, which is the target's."""
        assert len(cells) == len(self.columns)
        row = [*cells[:-1], f"{cells[-1]} {MISSED}" if missed else cells[-1]]
        self._print(row)
        self.rows.append(row)

    def note(self, sentence: str) -> None:
        """Print a sentence and keep it."""
        print(sentence, flush=True)
        self.notes.append(sentence)

    def markdown(self) -> str:
        """Return the table as Markdown, under a heading of the third level."""
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = [f"| {' | '.join(row)} |" for row in (self.columns, rule, *self.rows)] if self.rows else []
        return "\n\n".join(part for part in (f"### {self.title}", "\n".join(lines), *self.notes) if part)

    @staticmethod
    def _print(cells: list[str]) -> None:
        print((f"{cells[0]:<{FIRST}}" + "".join(f"  {cell:>{OTHER}}" for cell in cells[1:])).rstrip(), flush=True)


@dataclass(frozen=True)
class Picture:
    """An SVG for the folder of pages, and what it shows."""

    name: str
    alt: str
    svg: str


type Found = Table | Picture


def publish(measure: Callable[[], Iterator[Found]]) -> int:
    """Run a benchmark; with `--json FILE` keep there what it found. Return an exit code."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--json", type=Path, help="keep the results in this file, too")
    target: Path | None = arguments.parse_args().json
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is ended, too
    found: list[dict[str, Any]] = []
    for each in measure():
        found.append(asdict(each))
        if target is not None:  # after each: what was found stays, should a later one fail
            target.write_text(json.dumps(found))
    return 0


def read(file: Path) -> list[Found]:
    """Return what a benchmark has kept in *file*."""
    return [Picture(**each) if "svg" in each else Table(**each) for each in json.loads(file.read_text())]
