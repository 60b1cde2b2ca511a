"""The record of a proxy that none of our commands has started: written while it is there, followed when it moves."""

import asyncio
import json
import os
import stat
from types import SimpleNamespace

import psutil
import pytest
from mitmproxy.test import taddons
from mitmproxy.utils.signals import AsyncSignal

from kimi_core.errors import StoreError
from kimi_core.proxy import whereabouts
from kimi_core.proxy.hosted import Hosted
from kimi_core.proxy.whereabouts import Whereabouts


class Listeners(list):
    """The listeners of a mitmproxy, which tell when they change."""

    def __init__(self):
        super().__init__()
        self.changed = AsyncSignal(lambda: None)

    async def move(self, *addresses, kind="regular"):
        """Listen at other addresses from now on."""
        self[:] = [SimpleNamespace(mode=SimpleNamespace(type_name=kind), listen_addrs=addresses)]
        await self.changed.send()


class Proxy:
    """A mitmproxy with the addon, and the folder of its record."""

    def __init__(self, context, addon, folder):
        self.context, self.addon, self.folder = context, addon, folder
        self.listeners = Listeners()
        context.master.addons.lookup["proxyserver"] = SimpleNamespace(servers=self.listeners)

    def records(self):
        """Return what is told, by the names of the files."""
        return {path.name: json.loads(path.read_text()) for path in sorted(self.folder.glob("*.json"))}

    async def start(self, *addresses):
        """Let it listen, and wait until it has told where."""
        await self.listeners.move(*addresses)
        self.addon.running()
        await asyncio.gather(*(task for task in asyncio.all_tasks() if "whereabouts" in task.get_name()))


@pytest.fixture
async def proxy(tmp_path, monkeypatch):
    """A proxy that does not run yet."""
    monkeypatch.setenv("KIMI_MITM_DATA_DIR", str(tmp_path))
    addon = Whereabouts()
    with taddons.context(addon) as context:
        context.options.update(confdir=str(tmp_path / "confdir"))
        yield Proxy(context, addon, tmp_path / "state")


async def test_it_tells_where_it_is_while_it_is(proxy, tmp_path):
    """Process, address as clients reach it, and the folder of the CA, for its user only; gone when it ends."""
    await proxy.start(("0.0.0.0", 9090))
    (told,) = proxy.records().values()
    assert list(proxy.records()) == ["hand-9090.json"]
    assert told["started"] == pytest.approx(psutil.Process().create_time())
    assert (told["pid"], told["host"], told["port"]) == (os.getpid(), "127.0.0.1", 9090)
    assert (told["confdir"], told["web_url"]) == (str(tmp_path / "confdir"), None)
    assert os.name == "nt" or stat.S_IMODE((proxy.folder / "hand-9090.json").stat().st_mode) == 0o600
    proxy.addon.done()
    assert proxy.records() == {}


async def test_it_follows_its_listener(proxy):
    """A listener that moves takes the record with it; after the end nothing is told any more."""
    await proxy.start(("127.0.0.1", 9090))
    await proxy.listeners.move(("127.0.0.1", 9091))
    assert list(proxy.records()) == ["hand-9091.json"]
    proxy.addon.done()
    await proxy.listeners.move(("127.0.0.1", 9092))
    assert proxy.records() == {}


async def test_a_proxy_to_nobody_tells_nothing(proxy):
    """Without a listener that is a proxy to its clients there is no record."""
    await proxy.start()
    await proxy.listeners.move(("127.0.0.1", 9090), kind="reverse")
    assert proxy.records() == {}
    proxy.addon.done()


async def test_a_hosted_proxy_is_told_of_by_its_host(proxy, tmp_path):
    """Where `kimi-mitm start` has named a record there is no second one."""
    with taddons.context(Hosted(), proxy.addon) as context:
        context.options.update(hosted_record=str(tmp_path / "proxy.json"))
        context.master.addons.lookup["proxyserver"] = SimpleNamespace(servers=proxy.listeners)
        await proxy.start(("127.0.0.1", 9090))
        await proxy.listeners.move(("127.0.0.1", 9091))
    assert proxy.records() == {}


async def test_a_folder_that_cannot_be_written_is_no_fault_of_the_proxy(proxy, monkeypatch, caplog):
    """The log says that commands will not find the proxy; it serves as ever."""
    caplog.set_level("INFO")

    def refuse(*_):
        raise StoreError("the disk is full")

    monkeypatch.setattr(whereabouts.Document, "write", refuse)
    await proxy.start(("127.0.0.1", 9090))
    assert "Commands will not find this proxy by themselves: the disk is full" in caplog.text
    proxy.addon.done()
