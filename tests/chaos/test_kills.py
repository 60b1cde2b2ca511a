"""kill -9 at any moment of a refresh, an import, or a note: no login is lost, and no document is ever half of one."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from itertools import count
from pathlib import Path

import certifi
import pytest

from kimi_core.headers import Headers
from kimi_core.kimi.constants import Site
from kimi_core.kimi.logins import StoredLogin
from kimi_core.kimi.session import Session
from kimi_core.kiro.accounts import Account, Registry, new_id
from kimi_core.kiro.auth import Tokens
from kimi_core.kiro.constants import Endpoints
from kimi_core.kiro.refresher import in_process
from kimi_core.outbound import Outbound
from kimi_core.tokens import OAuthToken
from tests.chaos import zygote
from tests.servers.aws import FakeAws
from tests.servers.oauth import FakeOAuth, serve

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds stray processes in /proc")

ROOT = Path(__file__).parents[2]
KILLS = 200
MOST_KILLS = 600  # on a slow machine, where the first kills met next to nothing; lives are longer then
WORKERS = 6
LIFE = 0.5  # seconds, twice what a worker lives on average: a refresh in a process of its own takes about as long
IMPORTS = 10
LEAST = 20  # rotations of Kiro's tokens, and half as many of Kimi's, that must have been: fewer, and nothing was tried
DRAIN = 60.0  # seconds for detached refreshes to end
MARK = "KIMI_TEST_MARK"
HEADERS = Headers([("User-Agent", "fake")])


class Zygote:
    """The forking process and its workers; only what it has forked is ever killed."""

    def __init__(self, order, log):
        self.mark = uuid.uuid4().hex
        self.log = log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, zygote.__file__, json.dumps(order)],
            env=os.environ | {"PYTHONPATH": str(ROOT), MARK: self.mark},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            bufsize=1,
        )
        self.alive = []

    def start(self, seed):
        self.process.stdin.write(f"{seed}\n")
        self.alive.append(int(self.process.stdout.readline()))

    def kill(self, pid):
        self.alive.remove(pid)
        os.kill(pid, signal.SIGKILL)

    def end(self):
        """End all that is left, and wait for the refreshes that outlive their workers."""
        for pid in list(self.alive):
            self.kill(pid)
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
        self.log.close()
        wanted = f"{MARK}={self.mark}".encode()
        deadline = time.monotonic() + DRAIN
        while any(wanted in each for each in environments()):
            assert time.monotonic() < deadline, "a detached refresh does not end"
            time.sleep(0.1)


def environments():
    """Yield the environment of every process that may be looked at."""
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            yield entry.read_bytes()


def family(aws):
    """Return the fields of an account with a new login."""
    answer = aws.login()
    return {
        "access_token": answer["accessToken"],
        "refresh_token": answer["refreshToken"],
        "expires_at": int((time.time() + answer["expiresIn"]) * 1000),
        "refreshed_at": int(time.time() * 1000),
    }


def enough(oauth, aws):
    """Tell whether so many tokens were rotated that the kills met some of it."""
    return oauth.refreshes >= LEAST // 2 and aws.refreshes >= LEAST


def test_kills_at_two_hundred_moments_lose_nothing(dice, soak, tmp_path):
    """Workers share two stores and services that revoke on reuse; each is killed within half a second."""
    oauth, aws = FakeOAuth(), FakeAws()
    folder, log = tmp_path / "data", tmp_path / "log"
    with serve(oauth) as kimi, serve(aws) as kiro:
        site = Site("kimi.test", kimi.url, kimi.url)
        StoredLogin(folder, site.slot).put(OAuthToken.from_response(oauth.login(), time.time()))
        registry = Registry(folder)
        registry.update(lambda accounts: [accounts.upsert(Account(id=new_id(), **family(aws))) for _ in range(2)])
        imports = [family(aws) for _ in range(IMPORTS * soak)]
        oauth.delay = aws.delay = 0.03
        order = {"folder": str(folder), "kimi": kimi.url, "aws": kiro.url, "imports": imports, "ca": certifi.where()}
        forks = Zygote(order, log)
        try:
            for _ in range(WORKERS):
                forks.start(dice.randrange(1 << 32))
            for number in count():
                if number >= KILLS * soak and (number >= MOST_KILLS * soak or enough(oauth, aws)):
                    break
                time.sleep(dice.uniform(0, LIFE / WORKERS * (1 + number // (KILLS * soak))))
                forks.kill(dice.choice(forks.alive))
                for path in (StoredLogin(folder, site.slot).document.path, registry.document.path):
                    json.loads(path.read_bytes())  # whatever the moment: it is whole
                forks.start(dice.randrange(1 << 32))
        finally:
            forks.end()
        oauth.delay = aws.delay = 0.0

        async def afterwards():
            session = Session(site, zygote.Me(), Outbound(), folder=folder)
            token = await session.renew((await session.fresh()).access_token)
            assert oauth.valid(token.access_token)
            endpoints = Endpoints(oidc_origin=kiro.url, auth_origin=kiro.url)
            tokens = Tokens(registry, lambda _: HEADERS, Outbound(), endpoints, refresher=in_process)
            for one in registry.load().accounts:
                token = await tokens.renew(one.id, (await tokens.fresh(one.id)).access_token)
                assert aws.valid(token.access_token)

        asyncio.run(afterwards())
        stored = {account.refresh_token for account in registry.load().accounts}
        assert {each.refresh for each in aws.families if each.generation > 1} <= stored, "a rotated token is lost"
        assert (oauth.reuses, oauth.rejections, oauth.max_in_flight) == (0, 0, 1)
        assert (aws.reuses, aws.rejections, aws.max_in_flight) == (0, 0, 1)
        assert enough(oauth, aws), (oauth.refreshes, aws.refreshes)
        assert not list(folder.rglob("*.damaged-*"))
        left = len(list(folder.rglob("*.tmp")))
        said = log.read_text()
        assert "Traceback" not in said, said
        assert "fake-refresh" not in said
        sys.stdout.write(f"{number} kills, {oauth.refreshes} and {aws.refreshes} rotations, {left} files left\n")
