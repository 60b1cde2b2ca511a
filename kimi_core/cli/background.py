"""The proxy as a process in the background: started, and stopped; its files are in `records`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from kimi_core.cli.configuration import LOOPBACK
from kimi_core.cli.probe import ask, is_loopback
from kimi_core.cli.records import Files, Running, tail
from kimi_core.detached import independent
from kimi_core.errors import KimiMitmError
from kimi_core.store import Document

START_PATIENCE = 60.0  # seconds; a start takes two, ten on a small machine that reads Python from a cold disk
STOP_PATIENCE = 10.0  # seconds from a polite word to the last one; it takes a fraction of one
POLL = 0.05  # seconds between two looks
LAST_LINES = 12  # of the log, shown where a proxy did not start


class NotStarted(KimiMitmError):
    """The proxy ended before it answered, or did not answer in time; the sentence ends with what it said itself."""

    code = "proxy_not_started"


class NotStopped(KimiMitmError):
    """The process is still there."""

    code = "proxy_not_stopped"


def free_port(wanted: int) -> int:
    """Return *wanted* where nothing listens there on this machine, else a port that was free a moment ago."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.create_server((LOOPBACK, port)) as listener:
            return int(listener.getsockname()[1])
    raise NotStarted("This machine has no port left.")


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be started: a command line, with where to listen apart; the process's environment; standard input.

    `stdin`: a descriptor, by which a proxy that ends with its users knows of them (`lease`).
    """

    command: Sequence[str]
    listener: Sequence[str]
    environ: Mapping[str, str] = field(repr=False)
    stdin: int = subprocess.DEVNULL
    lease: str = ""

    @property
    def digest(self) -> str:
        """What tells two orders apart but for where they listen: whoever wants the same may share a proxy."""
        return hashlib.sha256("\0".join(self.command).encode()).hexdigest()


def start(
    files: Files,
    order: Order,
    *,
    patience: float = START_PATIENCE,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Running:
    """Start the proxy and return it when it answers. Whatever else happens, nothing is left running.

    Raises NotStarted, StoreError.
    """
    files.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    Document(files.record).remove()
    process, begin = _spawn(files, order)
    try:
        return _answering(files, process, begin, _Wait(patience, clock, sleep))
    except BaseException:
        process.terminate()
        try:
            _gone(process, _Wait(STOP_PATIENCE, clock, sleep))
        finally:  # a second Ctrl-C shortens the wait
            if process.poll() is None:
                process.kill()
        raise


def stop(
    running: Running,
    *,
    patience: float = STOP_PATIENCE,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """End a proxy, politely first. Returns when it is gone. Raises NotStopped."""
    for end in (psutil.Process.terminate, psutil.Process.kill):
        process = running.process()
        if process is None:
            return
        try:
            end(process)
        except psutil.NoSuchProcess:
            return
        except psutil.AccessDenied as error:
            raise NotStopped(f"The proxy (process {running.pid}) belongs to somebody else.") from error
        wait = _Wait(patience, clock, sleep)
        while running.process() and wait.on():
            pass
    if running.process():
        raise NotStopped(f"The proxy (process {running.pid}) does not end.")


# --- parts ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Wait:
    """A bounded wait, in naps of `POLL`."""

    patience: float
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    _end: float = field(init=False)

    def __post_init__(self) -> None:
        self._end = self.clock() + self.patience

    def on(self) -> bool:
        """Take a nap; tell whether there is time left."""
        self.sleep(POLL)
        return self.clock() < self._end


def _spawn(files: Files, order: Order) -> tuple[subprocess.Popen[bytes], int]:
    """Start the process; return it, and the size of the log before it."""
    command = [
        *order.command,
        *order.listener,
        "--set",
        f"hosted_record={files.record}",
        "--set",
        f"hosted_log={files.log}",
    ]
    command += ["--set", f"hosted_lease={order.lease}", "--set", f"hosted_order={order.digest}"]
    log = os.open(files.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        begin = os.fstat(log).st_size
        more: Any = independent()
        process = subprocess.Popen(  # noqa: S603 - our own program, with what the user gave it
            command, stdin=order.stdin, stdout=log, stderr=log, env=dict(order.environ), **more
        )
    except OSError as error:
        raise NotStarted(f"{order.command[0]} cannot be started: {error.strerror or error}.") from error
    finally:
        os.close(log)
    # nobody waits for the end of a proxy that stays; a thread that nobody joins takes note of it
    threading.Thread(target=process.wait, name="proxy", daemon=True).start()
    return process, begin


def _answering(files: Files, process: subprocess.Popen[bytes], begin: int, wait: _Wait) -> Running:
    while wait.on():
        if process.poll() is not None:
            raise NotStarted("\n".join(["The proxy ended at once. It said:", *tail(files.log, LAST_LINES, begin)]))
        running = files.running()
        if running and _serves(running):
            return running
    late = f"The proxy did not answer within {wait.patience:g} s. It said:"
    raise NotStarted("\n".join([late, *tail(files.log, LAST_LINES, begin)]))


def _serves(running: Running) -> bool:
    """Tell whether a proxy answers; one that is no proxy to clients, or is so to other machines alone, is not asked."""
    return not running.port or not is_loopback(running.host) or ask(running.url)[0] == "running"


def _gone(process: subprocess.Popen[bytes], wait: _Wait) -> None:
    while process.poll() is None and wait.on():
        pass
