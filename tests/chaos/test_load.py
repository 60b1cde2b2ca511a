"""Thousands of streams one after the other, and hundreds at once: nothing of them is left in the process."""

import asyncio
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
from tests.e2e.kiro_harness import KiroWorld
from tests.servers.script import chat_events

SEQUENTIAL = {"kimi": 1500, "kiro": 500}
WARM = 150  # streams after which caches, pools and the allocator have what they keep
AT_ONCE = 200
PIECE = "x" * 4000  # a body that is kept for each stream would show: some 60 MB after all of them
KIB_PER_STREAM = 8  # of resident memory; what is kept of a stream is twice its bodies, which is more
OBJECTS_PER_STREAM = 2  # what the collector counts: a stream that is kept whole is hundreds
RELOADS = 2
MOST_LEFT = 40  # of any kind of object, once all streams are over: connections that are kept alive, and our own probe


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
        with Lab(world, ca, folder, confdir, patience=0, scripts=scripts, environ=environ) as made:
            made.script = copy
            yield made


def gauged(lab):
    """Return what the process has now: objects and tasks by its own count, files, sockets and KiB by the kernel's."""
    found = httpx.get(f"{lab.proxy.url}{gauge.PATH}", trust_env=False, timeout=SECONDS).json()
    files = [str(each.readlink()) for each in Path(f"/proc/{lab.proxy.pid}/fd").iterdir() if each.is_symlink()]
    found["files"] = len(files)
    found["sockets"] = sum(each.startswith("socket:") for each in files)
    found["threads"] = int(lab.status_field("Threads"))
    found["memory"] = lab.memory()
    return found


def settled(lab, before):
    """Return what the process has once the ends of its connections have been seen to."""

    def calm():
        found = gauged(lab)
        return found if found["sockets"] <= before["sockets"] + 8 and found["HTTPFlow"] <= MOST_LEFT else None

    return wait_until(calm, f"that connections end (before: {before}, now: {gauged(lab)})", 15)


def assert_nothing_grew(before, after, streams):
    """Compare two gauges; *streams* passed between them."""
    for name in gauge.COUNTED:
        assert after[name] <= max(before[name], MOST_LEFT), (name, before, after)
    for name in ("files", "sockets", "tasks", "threads"):
        assert after[name] <= before[name] + 8, (name, before, after)
    assert after["objects"] - before["objects"] < OBJECTS_PER_STREAM * streams, (before, after)
    assert after["memory"] - before["memory"] < KIB_PER_STREAM * streams, (before, after)


async def stream(client, lab, provider, content, *, leave=False):
    """Ask once and read to the end, or leave after the first bytes; tell whether all was well."""
    body = lab.body(provider, content)
    async with client.stream("POST", f"{lab.base(provider)}/chat/completions", json=body) as answer:
        if leave:
            async for _ in answer.aiter_raw():
                return True
        text = await answer.aread()
    return answer.status_code == 200 and b"[DONE]" in text


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
    wait_until(lambda: lab.proxy.log().count("Loading script") > before, "the reload", 30)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_streams_one_after_the_other_leave_nothing(lab, soak, provider):
    """Every tenth client leaves in the middle, every seventh comes on a connection of its own."""
    big(provider, lab)
    numbers = count()

    async def run(times):
        async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as client:
            for _ in range(times):
                number = next(numbers)
                content = f"question {number} {PIECE}"
                if number % 7:
                    assert await stream(client, lab, provider, content, leave=number % 10 == 0), number
                    continue
                async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as other:
                    assert await stream(other, lab, provider, content), number

    asyncio.run(run(WARM))
    before = gauged(lab)
    asyncio.run(run(SEQUENTIAL[provider] * soak))
    assert_nothing_grew(before, settled(lab, before), SEQUENTIAL[provider] * soak)


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
        limits = httpx.Limits(max_connections=None)
        async with (
            httpx.AsyncClient(trust_env=False, timeout=60, limits=limits) as client,
            asyncio.TaskGroup() as group,
        ):
            tasks = [group.create_task(stream(client, lab, "kimi", f"crowd {n}")) for n in range(AT_ONCE)]
            await asyncio.to_thread(wait_until, lambda: len(opened) == AT_ONCE, "that all are open", 60)
            for number in range(RELOADS):
                await asyncio.to_thread(save_script, lab, number)
            lab.world.background.run(gate.set)
        return [task.result() for task in tasks]

    for _ in range(WARM // 50):
        lab.probe()
    before = gauged(lab)
    for _ in range(soak):
        opened.clear()
        lab.world.background.run(gate.clear)
        lab.servers["kimi", False].always = script
        assert all(asyncio.run(crowd()))
        lab.servers["kimi", False].always = None
    after = settled(lab, before)
    assert_nothing_grew(before | {"objects": before["objects"] + 5000}, after, 40 * AT_ONCE * soak)
    assert json.loads(httpx.get(f"{lab.proxy.url}/health", trust_env=False).text)
