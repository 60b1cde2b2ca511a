"""Work in a process of its own, so that killing the program cannot cut it in the middle.

Between a login service's answer and the rename of the file a new refresh token exists in one process only. That
process is made here: it belongs to no terminal and no process group of its parent, ignores the signals that end a
session, and outlives whoever started it, for a bounded time.

Standard input brings the order as JSON; standard output says ``ready`` before anything is touched, and the outcome at
the end, each a JSON line, neither to hold a secret: the parent reads the store. Work that failed and must not be given
up all the same says so before it goes on: nobody waits for it any longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import kimi_core
from kimi_core.errors import (
    AuthUnavailable,
    ConfigError,
    KimiMitmError,
    LoginDead,
    NotLoggedIn,
    StoreBusy,
    StoreDamaged,
    StoreError,
)

CREATE_NEW_PROCESS_GROUP = 0x200  # the numbers of subprocess, which has them on Windows only
DETACHED_PROCESS = 0x8
SUPERVISOR = "detached-work"  # name of the threads that wait for a process
READY = {"ready": True}
AFTERLIFE = 3600.0  # seconds that work may go on after its outcome was told: what fills a disk may last
BOOT = (  # without click, httpx leaves out its own command line, with rich and pygments: a third of all imports here
    "import importlib, sys; module, root = sys.argv[1:]; root in sys.path or sys.path.insert(0, root); "
    "sys.modules['click'] = None; importlib.import_module(module).main()"
)
ERRORS: Mapping[str, type[KimiMitmError]] = {
    kind.code: kind
    for kind in (NotLoggedIn, LoginDead, AuthUnavailable, StoreDamaged, StoreBusy, StoreError, ConfigError)
}


type Tell = Callable[[KimiMitmError], None]
"""Says that the work has failed, so that nobody waits for it; it goes on."""


class NotStarted(Exception):
    """No process could be had; nothing has been touched."""


async def run(module: str, order: Mapping[str, Any], errors: Mapping[str, type[KimiMitmError]] = ERRORS) -> Any:
    """Have *module*'s ``main()``, which is a call of `serve`, do *order* in a process of its own; return its outcome.

    Raises NotStarted; what the work raised, by its code in *errors*, or AuthUnavailable for a code that is not there
    and for a process that ends without a result. A caller that is cancelled leaves the process at work.
    """
    lines = await _supervised(module, order)
    outcome = lines[1] if len(lines) > 1 else {}
    if "error" in outcome:
        raise errors.get(outcome["error"], AuthUnavailable)(outcome["message"])
    if "outcome" not in outcome:
        raise AuthUnavailable("The process that renews the login ended without a result.")
    return outcome["outcome"]


def serve(work: Callable[[dict[str, Any], Tell], Awaitable[Any]], lifetime: float) -> None:
    """Be the process: read the order, do *work* on it, say how it went.

    Ends by itself within *lifetime* seconds, or within `AFTERLIFE` after *work* has told that it failed.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    watchdog = _watchdog(lifetime)
    order = sys.stdin.buffer.read()
    if not order:  # the parent died before it could say what to do
        return
    spec = json.loads(order)
    _say(READY)

    def tell(error: KimiMitmError) -> None:
        _watchdog(AFTERLIFE)
        watchdog.cancel()
        _say({"error": error.code, "message": str(error)})

    async def done() -> Any:
        return await work(spec, tell)

    try:
        outcome = asyncio.run(done())
    except KimiMitmError as error:
        _say({"error": error.code, "message": str(error)})
    else:
        _say({"outcome": outcome})


def _watchdog(seconds: float) -> threading.Timer:
    """End this process after so many seconds, whatever it is doing."""
    watchdog = threading.Timer(seconds, os._exit, (1,))
    watchdog.daemon = True
    watchdog.start()
    return watchdog


def independent(system: str = os.name) -> dict[str, Any]:
    """Return what makes a process independent of the terminal and the fate of its parent on *system*."""
    if system == "nt":
        return {"creationflags": DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


async def _supervised(module: str, order: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Run the process and return the lines it wrote. It is never killed from here, not even on cancellation."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[list[dict[str, Any]]] = loop.create_future()
    process = _start(module)

    def wait() -> None:
        lines = _talk(process, json.dumps(dict(order)).encode())
        with contextlib.suppress(RuntimeError):  # the loop is gone, and with it whoever waited
            loop.call_soon_threadsafe(_settle, result, lines)
        process.wait()

    # a thread that nobody joins: asyncio's own subprocesses are killed, and executors waited for, when a loop ends
    threading.Thread(target=wait, name=SUPERVISOR, daemon=True).start()
    return await result


def _talk(process: subprocess.Popen[bytes], order: bytes) -> list[dict[str, Any]]:
    """Give the process its order, and return what it says up to its outcome."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError), process.stdin as given:  # one that is gone has said so by saying nothing
        given.write(order)
    lines = []
    with process.stdout as output:
        for line in filter(None, map(_said, output)):
            lines.append(line)
            if line.keys() & {"outcome", "error"}:
                break
    return lines


def _settle(result: asyncio.Future[list[dict[str, Any]]], lines: list[dict[str, Any]]) -> None:
    if result.cancelled():
        return
    if lines[:1] == [READY]:
        result.set_result(lines)
    else:
        result.set_exception(NotStarted("it ended before it was ready"))


def _said(line: bytes) -> dict[str, Any]:
    """Return what a line of the process's output says; nothing for one that is not of ours, or was cut."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _start(module: str) -> subprocess.Popen[bytes]:
    if getattr(sys, "frozen", False) or not sys.executable:
        raise NotStarted("this is a bundled program without an interpreter")
    root = str(Path(kimi_core.__file__).resolve().parents[1])
    try:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-P", "-c", BOOT, module, root],  # -P: the working directory is no place to import from
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            **independent(),
        )
    except OSError as error:
        raise NotStarted(str(error)) from error


def _say(line: dict[str, Any]) -> None:
    """Write one line; a parent that is gone is no reason to stop."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(line).encode() + b"\n")
