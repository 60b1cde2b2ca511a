"""The refresh in a process of its own, so that killing the proxy cannot lose a rotated token.

Between the login service's answer and the rename of the file the new refresh token exists in one process only. That
process is this one, for as long as a refresh takes: it holds the lock, belongs to no terminal and no process group of
its parent, ignores the signals that end a session, and outlives whoever started it.

Standard input brings a `Job` as JSON; standard output says ``ready`` before anything is touched, and the outcome at
the end, each a JSON line and neither with a token in it: the parent reads the store. What needs httpx is imported
once it is clear, under the lock, that a refresh is due; most processes find that another one has done it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
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
from kimi_core.kimi.rotation import LOCK_WAIT, Job, Refresh, rotate
from kimi_core.tokens import OAuthToken

LIFETIME = 2 * LOCK_WAIT + 20  # seconds after which the process ends whatever it is doing: the wait, the work, slack
CREATE_NEW_PROCESS_GROUP = 0x200  # the numbers of subprocess, which has them on Windows only
DETACHED_PROCESS = 0x8
SUPERVISOR = "kimi-refresh"  # name of the threads that wait for a process
READY = {"ready": True}
BOOT = (  # without click, httpx leaves out its own command line, with rich and pygments: a third of all imports here
    "import sys; root = sys.argv[1]; root in sys.path or sys.path.insert(0, root); sys.modules['click'] = None; "
    "from kimi_core.kimi.refresher import main; main()"
)
ERRORS: dict[str, type[KimiMitmError]] = {
    kind.code: kind
    for kind in (NotLoggedIn, LoginDead, AuthUnavailable, StoreDamaged, StoreBusy, StoreError, ConfigError)
}

logger = logging.getLogger(__name__)

type Refresher = Callable[[Job], Awaitable[None]]


class _NotStarted(Exception):
    """No process could be had; nothing has been touched."""


async def in_process(job: Job) -> None:
    """Do *job* in this process. Raises what `rotate` raises."""
    await rotate(job, http_refresh(job))


async def in_child(job: Job) -> None:
    """Do *job* in a process of its own, or here where none can be started. Raises what `rotate` raises."""
    try:
        lines = await _supervised(job)
    except _NotStarted as error:
        logger.warning("No process for the refresh could be started (%s); it runs in this one.", error)
        await in_process(job)
        return
    outcome = lines[1] if len(lines) > 1 else {}
    if "error" in outcome:
        raise ERRORS.get(outcome["error"], AuthUnavailable)(outcome["message"])
    if "outcome" not in outcome:
        raise AuthUnavailable("The process that renews the login ended without a result.")


def http_refresh(job: Job) -> Refresh:
    """Return the call to the login service that `rotate` takes."""

    async def refresh(token: OAuthToken) -> OAuthToken:
        oauth = importlib.import_module("kimi_core.kimi.oauth")
        outbound = importlib.import_module("kimi_core.outbound")
        async with outbound.Outbound.from_json(dict(job.outbound)).client() as client:
            new: OAuthToken = await oauth.refresh(client, job.site, job.headers, token)
            return new

    return refresh


async def _supervised(job: Job) -> list[dict[str, Any]]:
    """Run the process and return the lines it wrote. It is never killed from here, not even on cancellation."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[list[dict[str, Any]]] = loop.create_future()
    process = _start()

    def wait() -> None:
        output, _ = process.communicate(json.dumps(job.to_json()).encode())
        with contextlib.suppress(RuntimeError):  # the loop is gone, and with it whoever waited
            loop.call_soon_threadsafe(_settle, result, output)

    # a thread that nobody joins: asyncio's own subprocesses are killed, and executors waited for, when a loop ends
    threading.Thread(target=wait, name=SUPERVISOR, daemon=True).start()
    return await result


def _settle(result: asyncio.Future[list[dict[str, Any]]], output: bytes) -> None:
    if result.cancelled():
        return
    lines = [json.loads(line) for line in output.splitlines() if line.startswith(b"{")]
    if lines[:1] == [READY]:
        result.set_result(lines)
    else:
        result.set_exception(_NotStarted("it ended before it was ready"))


def _start() -> subprocess.Popen[bytes]:
    if getattr(sys, "frozen", False) or not sys.executable:
        raise _NotStarted("this is a bundled program without an interpreter")
    root = str(Path(kimi_core.__file__).resolve().parents[1])
    try:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-P", "-c", BOOT, root],  # -P: the working directory is no place to import from
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            **detached(),
        )
    except OSError as error:
        raise _NotStarted(str(error)) from error


def detached(system: str = os.name) -> dict[str, Any]:
    """Return what makes a process independent of the terminal and the fate of its parent on *system*."""
    if system == "nt":
        return {"creationflags": DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def main() -> None:
    """Be the process: read a job, do it, say how it went. Ends by itself within LIFETIME seconds."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    watchdog = threading.Timer(LIFETIME, os._exit, (1,))
    watchdog.daemon = True
    watchdog.start()
    spec = sys.stdin.buffer.read()
    if not spec:  # the parent died before it could say what to do
        return
    job = Job.from_json(json.loads(spec))
    _say(READY)
    try:
        outcome = asyncio.run(rotate(job, http_refresh(job)))
    except KimiMitmError as error:
        _say({"error": error.code, "message": str(error)})
    else:
        _say({"outcome": outcome})


def _say(line: dict[str, Any]) -> None:
    """Write one line; a parent that is gone is no reason to stop."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(line).encode() + b"\n")


if __name__ == "__main__":
    main()
