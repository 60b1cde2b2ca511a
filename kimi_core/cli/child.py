"""A program in the foreground, as if it had been started without us: its terminal, its signals, its exit code.

The child is in our process group. What the terminal sends (Ctrl-C, Ctrl-Z, a new size) the kernel gives to both: the
child decides what to do about it, and we wait for what becomes of it. What somebody sends to us alone is passed on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Self

NOT_FOUND = 127  # as shells have it
NOT_EXECUTABLE = 126
SIGNALLED = 128  # plus the signal's number
POSIX = os.name == "posix"
# Ctrl-Z stops the child, and we stop after it: stopped and continued with it, we might find it stopped, and stop again
PASSED_ON = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGINT", "SIGQUIT", "SIGTSTP")
FROM_TERMINAL = ("SIGINT", "SIGQUIT", "SIGTSTP")  # keys; the child has got them as well where it has the terminal


class CannotRun(Exception):
    """There is no such program, or it cannot be executed; `code` is the exit code that says so."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def run(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run *command* with *environ* until it ends; return its exit code, 128 + n where signal n ended it.

    Raises CannotRun. Windows: Ctrl-C goes to the child through the console, and there is nothing else to pass on.
    """
    with _Signals() as signals:
        try:
            process = subprocess.Popen(list(command), env=dict(environ), close_fds=True)  # noqa: S603 - the user's own
        except OSError as error:
            raise _cannot(command[0], error) from error
        signals.child(process.pid)
        process.returncode = _wait(process.pid) if POSIX else process.wait()
        return process.returncode


def _cannot(name: str, error: OSError) -> CannotRun:
    if error.errno == errno.ENOENT:
        return CannotRun(f"{name}: command not found.", NOT_FOUND)
    return CannotRun(f"{name} cannot be run: {error.strerror or error}.", NOT_EXECUTABLE)


def _wait(pid: int) -> int:
    """Wait for the end of a child; where it stops, stop as well, so that the shell takes its terminal back."""
    while True:
        _, status = os.waitpid(pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else SIGNALLED - code
        os.kill(os.getpid(), signal.SIGSTOP)
        # whoever continues us means the child, which may have been stopped on its own
        os.kill(pid, signal.SIGCONT)


class _Signals(contextlib.AbstractContextManager["_Signals"]):
    """Passes signals on while a child runs. What we were started to ignore (nohup) we and the child go on ignoring."""

    def __init__(self) -> None:
        self._pid = 0
        self._early: list[int] = []
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in _numbers(PASSED_ON):
            if signal.getsignal(number) is not signal.SIG_IGN:
                # a handler, for the child would inherit that a signal is ignored
                self._before[number] = signal.signal(number, self._came)
        return self

    def __exit__(self, *exc: object) -> None:
        self._pid = 0
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal gave

    def child(self, pid: int) -> None:
        """Pass on to *pid* from now on, and what has come by now."""
        self._pid = pid
        for number in self._early:
            os.kill(pid, number)

    def _came(self, number: int, _frame: FrameType | None) -> None:
        if not POSIX or (number in _numbers(FROM_TERMINAL) and _has_terminal()):
            return
        if not self._pid:
            self._early.append(number)
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, number)


def _numbers(names: Sequence[str]) -> Iterator[int]:
    return (getattr(signal, name) for name in names if hasattr(signal, name))


def _has_terminal() -> bool:
    """Tell whether the terminal's keys go to our process group."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
