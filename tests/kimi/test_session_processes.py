"""Many real processes on one store, and a server that revokes a login whose refresh token is used twice."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from kimi_core.headers import Headers
from kimi_core.kimi.constants import Site
from kimi_core.kimi.logins import StoredLogin
from kimi_core.kimi.session import Session
from kimi_core.outbound import Outbound
from kimi_core.tokens import OAuthToken
from tests.servers.oauth import FakeOAuth, Served, serve

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds stray processes in /proc")

ROOT = Path(__file__).parents[2]
WORKERS = 12
RENEWALS = 0.1  # chance that a worker asks for another token than the one it got
MIN_CHAOS, MAX_CHAOS = 4.0, 22.0  # seconds of random kills
AIMED = 0.6  # share of the kills that wait for a refresh and hit the worker it is for
AIM = 1.0  # seconds to wait for one
KILLS, REFRESHES = 10, 6  # wanted before it ends
MIN_KILLS, MIN_REFRESHES = 8, 4  # on a machine so busy that time runs out first
DRAIN = 25.0  # seconds for detached refreshes to end
MARK = "KIMI_TEST_MARK"

# A worker asks for tokens without end; now and then it says that the one it got was refused.
WORKER = """
import asyncio, json, os, pathlib, random, sys
from kimi_core.errors import KimiMitmError
from kimi_core.headers import Headers
from kimi_core.kimi.constants import Site
from kimi_core.kimi.session import Session

class Me:
    def headers(self, operation): return Headers([("X-Worker", str(os.getpid()))])

class Direct:
    def to_json(self): return {}

async def main(url, folder, seed, renewals):
    session = Session(Site("kimi.test", url, url), Me(), Direct(), folder=pathlib.Path(folder))
    chance = random.Random(seed)
    print("up", flush=True)
    while True:
        try:
            token = await session.fresh()
            if chance.random() < renewals:
                await session.renew(token.access_token)
        except KimiMitmError as error:
            print(json.dumps({"error": error.code}), flush=True)
        await asyncio.sleep(chance.uniform(0.0, 0.6))

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
"""


class Me:
    def headers(self, operation: str) -> Headers:
        return Headers([("User-Agent", "fake")])


class Crowd:
    """Workers on one folder; only what was started here is ever signalled."""

    def __init__(self, url: str, folder: Path, log: Path) -> None:
        self.site = Site("kimi.test", url, url)
        self.folder = folder
        self.log = log
        self.mark = uuid.uuid4().hex
        self.alive: list[subprocess.Popen[bytes]] = []

    def start(self, seed: int, renewals: float) -> subprocess.Popen[bytes]:
        env = os.environ | {"PYTHONPATH": str(ROOT), MARK: self.mark}
        command = [sys.executable, "-c", WORKER, self.site.oauth, str(self.folder), str(seed), str(renewals)]
        with self.log.open("ab") as log:
            worker = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.alive.append(worker)
        return worker

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        worker.kill()
        worker.wait()
        self.alive.remove(worker)

    def refreshing(self, fake: FakeOAuth) -> subprocess.Popen[bytes] | None:
        """Return the worker whose refresh the server is busy with, or None if there is none for a while."""
        deadline = time.monotonic() + AIM
        while not fake.in_flight and time.monotonic() < deadline:
            time.sleep(0.01)
        if not fake.in_flight:
            return None
        time.sleep(fake.delay)  # past the rotation: now the new token exists in one place only
        pid = fake.requests()[-1].header("x-worker")
        return next((worker for worker in self.alive if str(worker.pid) == pid), None)

    def drain(self) -> None:
        """Wait for the refreshes that outlive their workers."""
        deadline = time.monotonic() + DRAIN
        while self._strays():
            assert time.monotonic() < deadline, "a detached refresh does not end"
            time.sleep(0.1)

    def _strays(self) -> list[str]:
        wanted = f"{MARK}={self.mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdecimal() and wanted in (entry / "environ").read_bytes():
                    found.append(entry.name)
        return found


@pytest.fixture
def fake() -> FakeOAuth:
    """Return the login service."""
    return FakeOAuth(lifetime=900.0)


@pytest.fixture
def served(fake: FakeOAuth) -> Iterator[Served]:
    """Serve it on loopback."""
    with serve(fake) as server:
        yield server


@pytest.fixture
def crowd(served: Served, tmp_path: Path) -> Iterator[Crowd]:
    """Yield an empty crowd; at the end nothing of it is left."""
    crowd = Crowd(served.url, tmp_path / "data", tmp_path / "workers.log")
    try:
        yield crowd
    finally:
        for worker in list(crowd.alive):
            crowd.kill(worker)
        crowd.drain()


def log_in(fake: FakeOAuth, crowd: Crowd) -> OAuthToken:
    """Store a login and return its token."""
    token = OAuthToken.from_response(fake.login(), time.time())
    StoredLogin(crowd.folder, crowd.site.slot).put(token)
    return token


def test_kills_at_random_moments_never_log_the_user_out(fake: FakeOAuth, crowd: Crowd) -> None:
    """12 processes share a login that rotates; kill -9 at random: it stays alive, one refresh runs at a time."""
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    fake.delay = 0.1
    log_in(fake, crowd)
    for number in range(WORKERS):
        crowd.start(seed + number, RENEWALS)
    kills = aimed = 0
    begin = time.monotonic()
    while (took := time.monotonic() - begin) < MAX_CHAOS:
        if took > MIN_CHAOS and kills >= KILLS and fake.refreshes >= REFRESHES:
            break
        time.sleep(chance.uniform(0.1, 0.6))
        busy = crowd.refreshing(fake) if chance.random() < AIMED else None
        aimed += busy is not None
        crowd.kill(busy or chance.choice(crowd.alive))
        kills += 1
        crowd.start(seed + WORKERS + kills, RENEWALS)
    for worker in list(crowd.alive):
        crowd.kill(worker)
    crowd.drain()
    refreshes = fake.refreshes

    async def afterwards() -> tuple[bool, bool]:
        session = Session(crowd.site, Me(), Outbound(), folder=crowd.folder)
        token = await session.fresh()
        return fake.valid(token.access_token), fake.valid((await session.renew(token.access_token)).access_token)

    assert asyncio.run(afterwards()) == (True, True)
    sys.stdout.write(f"seed {seed}: {took:.1f} s, {kills} kills ({aimed} aimed), {refreshes} refreshes\n")
    assert (fake.reuses, fake.rejections, fake.max_in_flight) == (0, 0, 1)
    assert refreshes >= MIN_REFRESHES
    assert kills >= MIN_KILLS
    assert aimed > 0
    log = crowd.log.read_text()
    assert log.count("up") >= WORKERS
    assert "Traceback" not in log
    assert "fake-refresh" not in log
    assert list(crowd.folder.glob("*.damaged-*")) == []


@pytest.mark.parametrize("ending", ["kill", "interrupt", "hang up"])
async def test_the_end_of_the_proxy_does_not_lose_a_rotated_token(
    fake: FakeOAuth, served: Served, crowd: Crowd, ending: str
) -> None:
    """The proxy dies while the server holds the answer with the next refresh token: it is on disk afterwards."""
    before = log_in(fake, crowd)
    gate = served.run(fake.close_gate)
    worker = crowd.start(1, renewals=1.0)
    assert fake.holding.wait(20.0)
    if ending == "kill":
        worker.kill()
    else:
        os.killpg(worker.pid, {"interrupt": signal.SIGINT, "hang up": signal.SIGHUP}[ending])
    worker.wait(60.0)
    crowd.alive.remove(worker)
    login = StoredLogin(crowd.folder, crowd.site.slot)
    assert json.loads(login.document.path.read_text())["access_token"] == before.access_token
    served.run(gate.set)
    with login.document.lock(20.0):  # the refresh holds it until the rename
        after = login.token()
    assert after is not None
    assert after.access_token != before.access_token
    assert fake.valid(after.access_token)
    session = Session(crowd.site, Me(), Outbound(), folder=crowd.folder)
    assert fake.valid((await session.renew(after.access_token)).access_token)
    assert fake.reuses == 0
