"""A process that has imported everything and forks workers on one store: to start one and kill it costs little.

Standard input has a line per worker, its seed; standard output answers with its pid. Each worker does one thing after
another until it is killed: asks for fresh tokens, has them renewed, imports another program's login, notes something.
"""

import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path

from kimi_core.errors import KimiMitmError
from kimi_core.exchange import Headers
from kimi_core.kimi.constants import Site
from kimi_core.kimi.session import Session
from kimi_core.kiro import refresher
from kimi_core.kiro.accounts import Account, Registry, new_id
from kimi_core.kiro.auth import Tokens
from kimi_core.kiro.constants import Endpoints
from kimi_core.kiro.rotation import Job
from kimi_core.outbound import Outbound

HEADERS = Headers([("User-Agent", "fake")])


class Me:
    def headers(self, operation):
        return HEADERS


def count(account_id):
    """Return a change that counts one more request of an account."""

    def change(accounts):
        now = accounts.get(account_id)
        accounts.put(now.model_copy(update={"request_count": now.request_count + 1}))

    return change


class Worker:
    def __init__(self, order, seed):
        self.folder = Path(order["folder"])
        self.endpoints = Endpoints(oidc_origin=order["aws"], auth_origin=order["aws"])
        self.imports = order["imports"]
        self.session = Session(Site("kimi.test", order["kimi"], order["kimi"]), Me(), Outbound(), folder=self.folder)
        self.registry = Registry(self.folder)
        self.tokens = Tokens(self.registry, lambda _: HEADERS, Outbound(), self.endpoints)
        self.chance = random.Random(seed)

    async def renew_kimi(self):
        token = await self.session.fresh()
        await self.session.renew(token.access_token)

    async def renew_kiro(self):
        one = self.chance.choice(self.registry.load().accounts)
        fresh = await self.tokens.fresh(one.id)
        await self.tokens.renew(one.id, fresh.access_token)

    async def note(self):
        one = self.chance.choice(self.registry.load().accounts)
        await self.registry.aupdate(count(one.id))

    async def take_over(self):
        found = self.chance.choice(self.imports)
        candidate = Account(id=new_id(), **found).to_json()
        await refresher.in_child(Job(self.folder, self.endpoints, HEADERS, Outbound().to_json(), candidate=candidate))

    async def work(self):
        works = (self.renew_kimi, self.renew_kiro, self.take_over, self.note, self.note)
        while True:
            try:
                await self.chance.choice(works)()
            except KimiMitmError as error:
                sys.stderr.write(f"{error.code}\n")


def main():
    """Fork a worker for each line, until there are no more."""
    order = json.loads(sys.argv[1])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a worker
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            sys.stdin.close()
            asyncio.run(Worker(order, int(line)).work())
        os.write(1, f"{pid}\n".encode())


if __name__ == "__main__":
    main()
