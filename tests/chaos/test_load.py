"""Thousands of streams one after the other, and hundreds at once: nothing of them is left in the process."""

import asyncio
import contextlib
import json
import shutil
from itertools import count
from pathlib import Path

import httpx
import pytest

from tests.chaos import gauge
from tests.chaos.lab import PROVIDERS, SECONDS, Lab
from tests.chaos.raw import END, chunk, head
from tests.e2e.harness import ADDON, ROOT, wait_until
from tests.e2e.kiro_harness import KiroProxy, KiroWorld
from tests.servers.script import chat_events

SEQUENTIAL = {"kimi": 400, "kiro": 150}  # `make soak` has many times as many
WARM = 100  # streams after which caches, pools and the allocator have what they keep
AT_ONCE = 200
PIECE = "x" * 48_000  # a body that is kept for each stream would show
MEMORY = 8 * 1024  # KiB by which the allocator may grow after all
KIB_PER_STREAM = 2
OBJECTS = 2000  # what the collector counts: a call of the program's own that is under way, a client and all it has
OBJECTS_PER_STREAM = 2  # a stream that is kept whole is hundreds
RELOADS = 2
CALM = 60.0  # seconds for the ends of connections, and for calls beside requests
MOST_LEFT = 40  # of any kind of object, once all streams are over: connections that are kept alive, and our own probe


class Quiet(KiroProxy):
    """A proxy that logs as much as users have it log: what tests have it say besides takes most of the time."""

    def command(self):
        loud = {"termlog_verbosity=debug": "termlog_verbosity=info", "flow_detail=2": "flow_detail=1"}
        return [loud.get(word, word) for word in super().command()]


@pytest.fixture(scope="module")
def lab(background, ca, confdir, tmp_path_factory):
    """Run a proxy that counts what it has; its script is a copy."""
    folder = tmp_path_factory.mktemp("load")
    copy = folder / "addons" / "kimi.py"
    copy.parent.mkdir()
    shutil.copy(ADDON, copy)
    scripts = (Path(gauge.__file__), copy)
    with KiroWorld(background, ca, folder) as world:
        environ = {"PYTHONPATH": str(ROOT)}
        with Lab(world, ca, folder, confdir, patience=0, kind=Quiet, scripts=scripts, environ=environ) as made:
            made.script = copy
            yield made


def gauged(lab):
    """Return what the process has now: objects and tasks by its own count, files, sockets and KiB by the kernel's."""
    found = httpx.get(f"{lab.proxy.url}{gauge.PATH}", trust_env=False, timeout=SECONDS).json()
    files = []
    for each in Path(f"/proc/{lab.proxy.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            files.append(str(each.readlink()))
    found["files"] = len(files)
    found["sockets"] = sum(each.startswith("socket:") for each in files)
    found["threads"] = int(lab.status_field("Threads"))
    found["memory"] = lab.memory()
    return found


def grown(before, after, streams):
    """Return what of *after* is more than *streams* between two gauges explain."""
    spare = dict.fromkeys(gauge.COUNTED, MOST_LEFT) | dict.fromkeys(("files", "sockets", "tasks", "threads"), 8)
    spare["objects"] = OBJECTS + OBJECTS_PER_STREAM * streams
    spare["memory"] = MEMORY + KIB_PER_STREAM * streams
    return {name: (before[name], after[name]) for name, more in spare.items() if after[name] > before[name] + more}


def assert_nothing_grew(lab, before, streams):
    """Compare a gauge with what the process has once it has seen to the ends of its connections."""
    left = {}

    def calm():
        left.clear()
        left.update(grown(before, gauged(lab), streams))
        return not left

    with contextlib.suppress(AssertionError):
        wait_until(calm, "calm", CALM)
    assert not left


class Client:
    """A keep-alive connection to the proxy. A client library takes longer for a stream than the proxy does."""

    def __init__(self, lab):
        self.lab = lab
        self.writer = None

    async def ask(self, provider, content, *, leave=False):
        """Ask once and read to the end, or leave after the first bytes; tell whether all was well."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.lab.proxy.port)
        body = json.dumps(self.lab.body(provider, content)).encode()
        lines = [f"POST /{provider}/v1/chat/completions HTTP/1.1", f"host: 127.0.0.1:{self.lab.proxy.port}"]
        lines += ["content-type: application/json", f"content-length: {len(body)}", "", ""]
        self.writer.write("\r\n".join(lines).encode() + body)
        async with asyncio.timeout(SECONDS * 2):
            if leave:
                await self.reader.read(1)
                await self.close()
                return True
            answer = await self.reader.readuntil(b"\r\n0\r\n\r\n")
        return answer.startswith(b"HTTP/1.1 200") and b"data: [DONE]" in answer

    async def close(self):
        if self.writer is not None:
            self.writer.close()
            self.writer = None


async def once(lab, provider, content):
    """Ask over a connection of its own; tell whether all was well."""
    client = Client(lab)
    well = await client.ask(provider, content)
    await client.close()
    return well


def big(provider, lab):
    """Have the service send some kilobytes."""
    server = lab.servers[provider, False]
    if provider == "kimi":
        whole = b"".join(chat_events(PIECE, calls=[("ls", "{}")]))

        async def script(exchange):
            await exchange.send(head(server.kind), chunk(whole[:2000]), chunk(whole[2000:]), END)

        server.always = script


def save_script(lab, number):
    """Save the script, and wait until mitmproxy has loaded it anew."""
    before = lab.proxy.log().count("Loading script")
    lab.script.write_text(f"{ADDON.read_text()}\n# saved {number}\n")
    wait_until(lambda: lab.proxy.log().count("Loading script") > before, "the reload", SECONDS)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_streams_one_after_the_other_leave_nothing(lab, soak, provider):
    """Every tenth client leaves in the middle, every seventh comes on a connection of its own."""
    big(provider, lab)
    numbers = count()

    async def run(times):
        client = Client(lab)
        for _ in range(times):
            number = next(numbers)
            content = f"question {number} {PIECE}"
            if number % 7:
                assert await client.ask(provider, content, leave=number % 10 == 0), number
            else:
                assert await once(lab, provider, content), number
        await client.close()

    asyncio.run(run(WARM))
    before = gauged(lab)
    asyncio.run(run(SEQUENTIAL[provider] * soak))
    assert_nothing_grew(lab, before, SEQUENTIAL[provider] * soak)


def test_many_streams_at_once_leave_nothing(lab, soak):
    """All are open together, the script is saved in the middle of them, and each is answered whole."""
    gate = asyncio.Event()
    waiting = count(1)
    opened = []

    async def script(exchange):
        opened.append(next(waiting))
        server = lab.servers["kimi", False]
        await exchange.send(head(server.kind), chunk(server.good[:100]))
        await gate.wait()
        await exchange.send(chunk(server.good[100:]), END)

    async def crowd():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(once(lab, "kimi", f"crowd {number}")) for number in range(AT_ONCE)]
            await asyncio.to_thread(wait_until, lambda: len(opened) == AT_ONCE, "that all are open", SECONDS)
            for number in range(RELOADS):
                await asyncio.to_thread(save_script, lab, number)
            lab.world.background.run(gate.set)
        return [task.result() for task in tasks]

    before = {}
    for _ in range(1 + soak):  # the first crowd makes the room that the others need as well
        if opened:
            before = before or gauged(lab)
        opened.clear()
        lab.world.background.run(gate.clear)
        lab.servers["kimi", False].always = script
        assert all(asyncio.run(crowd()))
        lab.servers["kimi", False].always = None
    assert_nothing_grew(lab, before, AT_ONCE * soak)
    assert json.loads(httpx.get(f"{lab.proxy.url}/health", trust_env=False).text)
