"""A script for a mitmproxy that runs in the background: it says where it listens, and knows when to end.

`kimi-mitm run` and `kimi-mitm start` load it beside the addon, with four options of its own:

- ``hosted_record``: a file, for its owner only, that is there while the proxy is. It holds the process and when it was
  started (a number alone may be another process by now), the address, and mitmweb's with its token.
- ``hosted_log``: the file that standard output and standard error go to; it is turned over when it grows.
- ``hosted_lease``: a named pipe, or empty for a proxy that stays until it is stopped. Each user of the proxy holds it
  open for writing, and standard input reads it: when the last user is gone, be it by kill -9, the kernel says so here,
  and the proxy ends. ``-``: an unnamed pipe, which has one user only.
- ``hosted_order``: a word of whoever started it, repeated in the record.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mitmproxy import ctx
from mitmproxy.addonmanager import Loader

from kimi_core.errors import StoreError
from kimi_core.proxy.whereabouts import whereabouts
from kimi_core.store import Document, older_log

LOG_LIMIT = 5 * 1024 * 1024  # bytes; there is one older file beside it, so the disk has twice that at most
LOG_PACE = 20.0  # seconds between two looks at the size of the log
ENDING = 10.0  # seconds that mitmproxy has to end in; it takes a fraction of one
NAMELESS = "-"  # the pipe has no name
TELLERS = ("mitmproxy.tools.web.master", "mitmproxy.tools.web.webaddons", "tornado.access")  # may log mitmweb's address
_TOKEN = re.compile(r"([?&]token=)[^&\s'\"]+")


def without_token(record: logging.LogRecord) -> bool:
    """Take mitmweb's token out of a log record: whoever may read a log need not be able to read the traffic."""
    record.msg, record.args = _TOKEN.sub(r"\1…", record.getMessage()), ()
    return True


class Lease:
    """Whether anybody uses this proxy: *descriptor* reads the pipe that all users hold open, *path* is its name.

    Without a name, nobody can come after the first user.
    """

    def __init__(self, descriptor: int, path: Path | None) -> None:
        self._descriptor = descriptor
        self._path = path

    def wait(self) -> None:
        """Return when the last user has gone and nobody can come any more."""
        while True:
            os.set_blocking(self._descriptor, True)
            while os.read(self._descriptor, 1):
                pass
            if self._path is None or self._over(self._path):
                return

    def _over(self, path: Path) -> bool:
        """Take the name away, then look whether somebody came by it a moment before."""
        path.unlink(missing_ok=True)
        os.set_blocking(self._descriptor, False)
        try:
            return not os.read(self._descriptor, 1)
        except BlockingIOError:
            return False


def turn_over(log: Path, limit: int, descriptors: Iterable[int] = (1, 2)) -> bool:
    """Give *log* the name of the older file, and go on in a new one, if it has more than *limit* bytes.

    Each of *descriptors* then writes there. Where a file that is open cannot be renamed (Windows) it is emptied.
    """
    streams = list(descriptors)
    if os.fstat(streams[0]).st_size <= limit:
        return False
    try:
        with contextlib.suppress(FileNotFoundError):  # removed by hand
            log.replace(older_log(log))
    except PermissionError:
        os.ftruncate(streams[0], 0)
        return True
    fresh = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in streams:
        os.dup2(fresh, stream)
    os.close(fresh)
    return True


class Hosted:
    """The addon."""

    def __init__(self, *, thread: Callable[[Callable[[], None], str], object] | None = None) -> None:
        self._thread = thread or _in_thread
        self._ended = threading.Event()

    def load(self, loader: Loader) -> None:
        """Declare the options, and keep mitmweb's token out of the log."""
        loader.add_option("hosted_record", str, "", "File that says where this proxy listens.")
        loader.add_option("hosted_log", str, "", "File that the output goes to; it is kept small.")
        loader.add_option(
            "hosted_lease", str, "", "Named pipe with whose last user this proxy ends; - = a pipe without a name."
        )
        loader.add_option("hosted_order", str, "", "Word of whoever started this proxy, repeated in the record.")
        for name in TELLERS:
            logging.getLogger(name).addFilter(without_token)

    def running(self) -> None:
        """Tell where the proxy is, and begin to watch. What was asked for and is not there ends the start."""
        if unknown := ", ".join(sorted(_given(sys.argv) & set(ctx.options.deferred))):
            logging.getLogger(__name__).error("mitmproxy has no option %s.", unknown)
            return
        try:
            Document(Path(ctx.options.hosted_record)).write(self._whereabouts())
        except StoreError as error:
            # an error while mitmproxy starts ends it
            logging.getLogger(__name__).error("The proxy cannot tell where it is: %s", error)  # noqa: TRY400
            return
        if ctx.options.hosted_lease:
            self._thread(self._watch_users, "users")
        if ctx.options.hosted_log:
            self._thread(self._watch_log, "log")

    def done(self) -> None:
        """Take the record away: there is no proxy any more."""
        self._ended.set()
        with contextlib.suppress(StoreError):
            Document(Path(ctx.options.hosted_record)).remove()
        if ctx.options.hosted_lease not in {"", NAMELESS}:
            Path(ctx.options.hosted_lease).unlink(missing_ok=True)

    def _whereabouts(self) -> dict[str, Any]:
        return whereabouts() | {"lease": ctx.options.hosted_lease, "order": ctx.options.hosted_order}

    def _watch_users(self) -> None:
        lease = ctx.options.hosted_lease
        Lease(0, None if lease == NAMELESS else Path(lease)).wait()
        os.kill(os.getpid(), signal.SIGTERM)
        if not self._ended.wait(ENDING):
            os._exit(1)

    def _watch_log(self) -> None:
        log = Path(ctx.options.hosted_log)
        while not self._ended.wait(LOG_PACE):
            turn_over(log, LOG_LIMIT)


def _given(words: list[str]) -> set[str]:
    """Return the names of the options that a command line sets."""
    return {value.partition("=")[0] for flag, value in itertools.pairwise(words) if flag == "--set"}


def _in_thread(work: Callable[[], None], name: str) -> None:
    threading.Thread(target=work, name=f"hosted-{name}", daemon=True).start()


addons = [Hosted()]
