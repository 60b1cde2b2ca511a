"""What a command says: one JSON object for programs, or text and tables for people, and errors for both.

Colours and drawings appear only on a terminal; NO_COLOR is obeyed (no-color.org).
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.segment import Segment
from rich.text import Text

from kimi_core.errors import ConfigError, KimiMitmError, LoginDead, NotLoggedIn
from kimi_core.plain import plain

ASKING = "Asking the service …"  # while a call of ours is on its way
FILE_WIDTH = 400  # columns where no terminal wraps lines: a path must not be cut in two for grep


class ExitCode(IntEnum):
    """How a command ends; `kimi-mitm --help` lists them."""

    OK = 0
    FAILED = 1
    USAGE = 2  # click's own code for a wrong command line
    NOT_LOGGED_IN = 3
    NO_PROXY = 125  # as env, timeout and others have it for a fault of their own
    INTERRUPTED = 130  # 128 + SIGINT, as shells have it


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a command: `data` is its JSON object, `view` the same for a person.

    `empty`: there is nothing to tell of, because nobody has used this so far.
    """

    data: dict[str, Any]
    view: RenderableType = field(compare=False)
    code: ExitCode = ExitCode.OK
    empty: bool = False


def exit_code(error: KimiMitmError) -> ExitCode:
    """Return the exit code of *error*."""
    match error:
        case NotLoggedIn() | LoginDead():
            return ExitCode.NOT_LOGGED_IN
        case ConfigError():
            return ExitCode.USAGE
        case _:
            return ExitCode.FAILED


class _Plain(RenderHook):
    """Lets nothing but the console's own styles steer the terminal, whoever wrote what is printed."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Plainly(renderable) for renderable in renderables]


@dataclass(frozen=True, slots=True)
class _Plainly:
    renderable: ConsoleRenderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.renderable, options):
            yield segment if segment.control else Segment(plain(segment.text), segment.style)


def _console(stream: TextIO, *, no_color: bool) -> Console:
    # without markup and emoji: names with brackets and colons are not ours to read
    console = Console(file=stream, no_color=no_color, highlight=False, markup=False, emoji=False)
    console.push_render_hook(_Plain())
    if not console.is_terminal:
        console.width = FILE_WIDTH
    return console


class Output:
    """Standard output and standard error of one command."""

    def __init__(self, *, as_json: bool, environ: Mapping[str, str]) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal that lacks a sign shows "?", and no traceback
        no_color = bool(environ.get("NO_COLOR"))
        self.as_json = as_json
        self.console = _console(sys.stdout, no_color=no_color)
        self.errors = _console(sys.stderr, no_color=no_color)

    @property
    def is_terminal(self) -> bool:
        """True where a person watches: standard output is a terminal and nobody asked for JSON."""
        return self.console.is_terminal and not self.as_json

    def emit(self, data: Mapping[str, Any]) -> None:
        """Print one JSON object on one line, at once."""
        self.raw(json.dumps(data))

    def raw(self, text: str) -> None:
        """Print *text* exactly as it is: it will be copied or piped."""
        self.console.file.write(f"{text}\n")
        self.console.file.flush()

    def show(self, report: Report) -> ExitCode:
        """Print *report* and return its exit code."""
        if self.as_json:
            self.emit(report.data)
        else:
            self.console.print(report.view, crop=False)  # a line that is left whole, to be copied, is shown whole
        return report.code

    def busy(self, text: str) -> AbstractContextManager[object]:
        """Show on standard error that something takes its time; nothing where nobody watches."""
        watched = self.errors.is_terminal and not self.as_json
        return self.errors.status(Text(text)) if watched else nullcontext()

    def warn(self, text: str) -> None:
        """Tell a person of something that did not stop the command."""
        self.errors.print(f"Warning: {text}", style="yellow", soft_wrap=True)

    def fail(self, error: KimiMitmError) -> ExitCode:
        """Print *error* — a sentence and what to do on standard error, or a JSON object — and return its exit code."""
        if self.as_json:
            self.emit({"event": "error", "error": error_object(error)})
        else:
            self.errors.print(str(error), style="red", soft_wrap=True)
            if error.hint:
                self.errors.print(error.hint, soft_wrap=True)
        return exit_code(error)


def whole(line: Text) -> Text:
    """Return *line* so that it is not broken, however long it is: there is a path in it, or a command, to be copied."""
    line.no_wrap, line.overflow = True, "ignore"
    return line


def error_object(error: KimiMitmError) -> dict[str, Any]:
    """Return *error* as JSON: ``code`` is stable, ``message`` and ``hint`` are sentences."""
    return {"code": error.code, "message": str(error), "hint": error.hint}
