"""Where this proxy is, told to the commands: by a record that is there while it is, for its user only.

The record of a proxy that `kimi-mitm run` or `kimi-mitm start` has started is theirs (`hosted`). Of any other one, be
it from ``make run``, the addon here writes it, named after the port: what a killed proxy has left, the next one there
writes over, and who reads it looks whether the process is still the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mitmproxy import ctx
from mitmproxy.utils import asyncio_utils

from kimi_core import later
from kimi_core.errors import StoreError
from kimi_core.proxy.local import installed_version
from kimi_core.store import Document, state_dir

if TYPE_CHECKING:
    import psutil
else:
    psutil = later.module("psutil")

ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1", "": "127.0.0.1"}  # noqa: S104 - where it is reached, not bound
PROXIES = ("regular", "upstream")  # modes whose listener is a proxy to its clients
BY_HAND = "hand"  # how the names of records begin that are written here

logger = logging.getLogger(__name__)


def whereabouts() -> dict[str, Any]:
    """Return process, address and mitmweb's address; port 0 where no listener is a proxy to its clients.

    The start of the process tells it from a later one with the same number.
    """
    servers: Any = ctx.master.addons.get("proxyserver").servers
    listeners = [address for one in servers if one.mode.type_name in PROXIES for address in one.listen_addrs]
    host, port = listeners[0][:2] if listeners else ("", 0)
    return {
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "host": ANYWHERE.get(host, host),
        "port": port,
        "web_url": getattr(ctx.master, "web_url", None),
        "version": installed_version(),
        "confdir": str(Path(ctx.options.confdir).expanduser().absolute()),
    }


class Whereabouts:
    """Tells. It follows the listeners, which the guard may have moved, and which mitmweb's options can move."""

    def __init__(self) -> None:
        self._told: Document | None = None
        self._turn = asyncio.Lock()
        self._ended = False

    def running(self) -> None:
        """Begin to tell, unless `hosted` does, or there are no listeners at all (in mitmproxy's own kit for tests)."""
        proxyserver: Any = ctx.master.addons.get("proxyserver")
        if proxyserver is None or ("hosted_record" in ctx.options and ctx.options.hosted_record):
            return
        proxyserver.servers.changed.connect(self.tell)
        asyncio_utils.create_task(self.tell(), name="kimi-mitm whereabouts", keep_ref=True)

    async def tell(self) -> None:
        """Write where the proxy is now, where it is anywhere."""
        async with self._turn:
            if not self._ended:
                found = whereabouts()
                await asyncio.to_thread(self._write, found)

    def done(self) -> None:
        """Take the record away: there is no proxy any more."""
        self._ended = True
        self._forget()

    def _write(self, found: dict[str, Any]) -> None:
        self._forget()
        if not found["port"]:
            return
        record = Document(state_dir() / f"{BY_HAND}-{found['port']}.json")
        try:
            record.write(found)
        except StoreError as error:
            logger.info("Commands will not find this proxy by themselves: %s", error)
        else:
            self._told = record

    def _forget(self) -> None:
        if self._told is not None:
            with contextlib.suppress(StoreError):
                self._told.remove()
            self._told = None
