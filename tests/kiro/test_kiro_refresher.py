"""The refresh of an account in a process of its own, and many real processes that are killed at random."""

import asyncio
import json
import logging
import os
import random
import subprocess
import sys
import time
import uuid
from dataclasses import asdict
from pathlib import Path

import pytest

from kimi_core import detached
from kimi_core.kiro import refresher
from kimi_core.kiro.accounts import Registry
from kimi_core.kiro.auth import Tokens
from kimi_core.kiro.auth_errors import ERRORS, AccountDead, NoAccount
from kimi_core.kiro.constants import Endpoints
from kimi_core.kiro.refresher import in_child, in_process
from kimi_core.kiro.rotation import Job
from kimi_core.outbound import Outbound
from kimi_core.tokens import digest
from tests.kiro.stand_ins import HEADERS, granted, stored
from tests.servers.aws import FakeAws
from tests.servers.oauth import serve

ROOT = Path(__file__).parents[2]
ACCOUNTS = 3
WORKERS = 6
CHAOS = 6.0  # seconds of kills at random
MIN_KILLS, MIN_REFRESHES = 4, 4
DRAIN = 12.0  # seconds for detached refreshes to end
MARK = "KIMI_TEST_MARK"

needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds stray processes in /proc")

WORKER = """
import asyncio, json, pathlib, random, sys
from kimi_core.errors import KimiMitmError
from kimi_core.headers import Headers
from kimi_core.kiro.accounts import Registry
from kimi_core.kiro.auth import Tokens
from kimi_core.kiro.constants import Endpoints
from kimi_core.outbound import Outbound

def count(account_id):
    def change(accounts):
        now = accounts.get(account_id)
        accounts.put(now.model_copy(update={"request_count": now.request_count + 1}))
    return change

async def main(endpoints, folder, seed):
    registry = Registry(pathlib.Path(folder))
    tokens = Tokens(registry, lambda one: Headers(), Outbound(), Endpoints(**json.loads(endpoints)))
    chance = random.Random(int(seed))
    print("up", flush=True)
    while True:
        one = chance.choice(registry.load().accounts)
        try:
            fresh = await tokens.fresh(one.id)
            if chance.random() < 0.5:
                await tokens.renew(one.id, fresh.access_token)
            await registry.aupdate(count(one.id))
        except KimiMitmError as error:
            print(json.dumps({"error": error.code}), flush=True)
        await asyncio.sleep(chance.uniform(0.0, 0.2))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def fake():
    """Return the login services."""
    return FakeAws()


@pytest.fixture
def served(fake):
    """Serve them on loopback."""
    with serve(fake) as server:
        yield server


def endpoints_at(url):
    """Return the endpoints with the login services at *url*."""
    return Endpoints(oidc_origin=url, auth_origin=url)


def login(fake, folder, method="desktop", left=-1.0):
    """Store an account of the fake with so many seconds left."""
    fields = {"auth_method": method}
    if method == "builder":
        made = fake.register()
        fields |= {"client_id": made["clientId"], "client_secret": made["clientSecret"], "oidc_region": "us-east-1"}
    answer = fake.login("desktop" if method == "desktop" else "oidc", client=fields.get("client_id", ""))
    return stored(folder, granted(answer, now=time.time(), left=left, **fields))


@pytest.fixture
def job(served, tmp_path):
    """Return a function that makes jobs against the served fake."""
    return lambda **fields: Job(tmp_path / "data", endpoints_at(served.url), HEADERS, Outbound().to_json(), **fields)


@pytest.mark.parametrize("way", [in_child, in_process])
@pytest.mark.parametrize("method", ["desktop", "builder"])
async def test_a_due_account_is_renewed(fake, job, tmp_path, way, method):
    """Either way the successor is on disk when the call returns, and the headers were the identity's."""
    one = login(fake, tmp_path / "data", method)
    assert await way(job(account_id=one.id)) == "refreshed"
    now = Registry(tmp_path / "data").load().get(one.id)
    assert fake.valid(now.access_token)
    assert fake.alive(now.refresh_token)
    assert fake.seen[-1].header("user-agent") == "fake/1"
    assert await way(job(account_id=one.id)) == "adopted"
    assert fake.refreshes == 1


async def test_failures_of_the_other_process_are_raised_here(fake, job, tmp_path):
    """The same exceptions with the hints of Kiro, not those of another provider."""
    with pytest.raises(NoAccount, match="no such account"):
        await in_child(job(account_id="gone"))
    one = login(fake, tmp_path / "data")
    fake.revoke()
    with pytest.raises(AccountDead) as caught:
        await in_child(job(account_id=one.id))
    assert "login kiro" in caught.value.sentence
    assert Registry(tmp_path / "data").load().get(one.id).state == "needs_login"


def test_every_error_in_the_table_has_its_code():
    """Codes and classes agree, and those of Kiro go before the shared ones."""
    assert {kind.code: kind for kind in ERRORS.values()} == dict(ERRORS)
    assert ERRORS["login_dead"] is AccountDead


async def test_a_fork_runs_there_too(fake, job, tmp_path):
    """The other program's token is spent by the other process, and no output of it has a token."""
    answer = fake.login()
    candidate = granted(answer, now=time.time())
    made = await in_child(job(candidate=candidate.to_json()))
    accounts = Registry(tmp_path / "data").load()
    assert fake.valid(accounts.get(made).access_token)
    assert not fake.alive(answer["refreshToken"])


async def test_without_another_process_the_refresh_runs_here(fake, job, tmp_path, monkeypatch, caplog):
    """A bundled program has no interpreter to start: done here, with a warning."""
    monkeypatch.setattr(detached.sys, "frozen", True, raising=False)
    one = login(fake, tmp_path / "data")
    with caplog.at_level(logging.WARNING):
        assert await in_child(job(account_id=one.id)) == "refreshed"
    assert "runs in this one" in caplog.text


def test_it_starts_as_a_module_too(fake, job, tmp_path):
    """``python -m kimi_core.kiro.refresher`` does the same, without httpx where nothing is due."""
    one = login(fake, tmp_path / "data", left=3600.0)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", refresher.MODULE],
        input=json.dumps(job(account_id=one.id).to_json()).encode(),
        capture_output=True,
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"ready": True}, {"outcome": "adopted"}]
    assert b"httpx" not in done.stderr


class Crowd:
    """Workers on one folder; only what was started here is ever signalled."""

    def __init__(self, url, folder, log):
        self.endpoints = endpoints_at(url)
        self.folder = folder
        self.log = log
        self.mark = uuid.uuid4().hex
        self.alive = []

    def start(self, seed):
        command = [sys.executable, "-c", WORKER, json.dumps(asdict(self.endpoints)), str(self.folder), str(seed)]
        with self.log.open("ab") as log:
            worker = subprocess.Popen(
                command,
                env=os.environ | {"PYTHONPATH": str(ROOT), MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.alive.append(worker)

    def kill(self, worker):
        worker.kill()
        worker.wait()
        self.alive.remove(worker)

    def drain(self):
        """Wait for the refreshes that outlive their workers."""
        wanted = f"{MARK}={self.mark}".encode()
        deadline = time.monotonic() + DRAIN
        while any(wanted in environment for environment in _environments()):
            assert time.monotonic() < deadline, "a detached refresh does not end"
            time.sleep(0.1)


def _environments():
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            yield entry.read_bytes()
        except OSError:
            continue


@pytest.fixture
def crowd(served, tmp_path):
    """Yield an empty crowd; at the end nothing of it is left."""
    crowd = Crowd(served.url, tmp_path / "data", tmp_path / "workers.log")
    try:
        yield crowd
    finally:
        for worker in list(crowd.alive):
            crowd.kill(worker)
        crowd.drain()


@needs_proc
def test_kills_at_random_moments_lose_no_account(fake, crowd):
    """Processes share accounts of a service that revokes on reuse; kill -9 at random: every account stays alive."""
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    fake.delay = 0.08
    methods = ["desktop", "builder", "desktop"]
    accounts = [login(fake, crowd.folder, methods[number], left=3600.0) for number in range(ACCOUNTS)]
    for number in range(WORKERS):
        crowd.start(seed + number)
    kills = 0
    begin = time.monotonic()
    while time.monotonic() - begin < CHAOS:
        deadline = time.monotonic() + 0.6
        while not fake.in_flight and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 2 * fake.delay))  # before, at and after the rotation
        crowd.kill(chance.choice(crowd.alive))
        kills += 1
        crowd.start(seed + WORKERS + kills)
    for worker in list(crowd.alive):
        crowd.kill(worker)
    crowd.drain()
    fake.delay = 0.0

    async def afterwards():
        registry = Registry(crowd.folder)
        tokens = Tokens(registry, lambda one: HEADERS, Outbound(), crowd.endpoints, refresher=in_process)
        found = [await tokens.fresh(one.id) for one in accounts]
        again = [await tokens.renew(one.id, one.access_token) for one in found]
        return [fake.valid(one.access_token) for one in found + again]

    assert asyncio.run(afterwards()) == [True] * 2 * ACCOUNTS
    sys.stdout.write(f"seed {seed}: {kills} kills, {fake.refreshes} refreshes\n")
    assert (fake.reuses, fake.rejections, fake.wrong_service, fake.max_in_flight) == (0, 0, 0, 1)
    assert kills >= MIN_KILLS
    assert fake.refreshes >= MIN_REFRESHES
    log = crowd.log.read_text()
    assert "Traceback" not in log
    assert "fake-refresh" not in log
    assert list(crowd.folder.glob("*.damaged-*")) == []


@needs_proc
async def test_the_end_of_the_proxy_does_not_lose_a_rotated_token(fake, served, crowd):
    """The proxy is killed while the service holds the answer with the next refresh token: it is stored all the same."""
    one = login(fake, crowd.folder)
    gate = served.run(fake.close_gate)
    crowd.start(1)
    assert await asyncio.to_thread(fake.holding.wait, 20.0)
    crowd.kill(crowd.alive[0])
    registry = Registry(crowd.folder)
    assert digest(registry.load().get(one.id).refresh_token) == digest(one.refresh_token)
    fake.gate = None
    served.run(gate.set)
    await asyncio.to_thread(crowd.drain)
    assert fake.alive(registry.load().get(one.id).refresh_token)
    assert fake.reuses == 0
