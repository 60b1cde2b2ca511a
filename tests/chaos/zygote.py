"""A process that has imported everything and forks workers on one store: to start one and kill it costs little.

Standard input has a line per worker, its seed; standard output answers with its pid. Each worker does one thing after
another until it is killed: asks for fresh tokens, has them renewed, imports another program's login, notes something.

A refresh has a process of its own, as it has of the program's; but it is forked as well, by a process that does
nothing else, where the program starts an interpreter: that takes so long that most kills would meet imports.
"""

import asyncio
import importlib
import json
import os
import random
import signal
import socket
import sys
from pathlib import Path

from kimi_core import detached
from kimi_core.errors import KimiMitmError
from kimi_core.headers import Headers
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


class Forked:
    """Stands for the `subprocess.Popen` of `kimi_core.detached`: *nursery* forks the process."""

    def __init__(self, nursery, module):
        theirs, order = os.pipe()
        outcome, ours = os.pipe()
        self.stdin, self.stdout = os.fdopen(order, "wb"), os.fdopen(outcome, "rb")
        socket.send_fds(nursery, [module.encode()], [theirs, ours])
        os.close(theirs)
        os.close(ours)

    def wait(self):
        """Return at once: nobody has to see to its end."""


def nurse(asked):
    """Fork a process for each module and pair of pipes that comes, until nobody is left who could ask."""
    while True:
        module, pipes, *_ = socket.recv_fds(asked, 200, 2)
        if not module:
            os._exit(0)
        if not os.fork():
            os.setsid()
            for number, mine in enumerate((*pipes, os.open(os.devnull, os.O_WRONLY))):
                os.dup2(mine, number)
                os.close(mine)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            importlib.import_module(module.decode()).main()
            os._exit(0)
        for each in pipes:
            os.close(each)


def nursery():
    """Start the process that forks the others; return the socket that it is asked by."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not os.fork():
        ours.close()
        nurse(theirs)
    theirs.close()
    return ours


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
        self.outbound = Outbound(ca_file=order["ca"])  # one CA, for all the public ones take long to read
        self.session = Session(Site("kimi.test", order["kimi"], order["kimi"]), Me(), self.outbound, folder=self.folder)
        self.registry = Registry(self.folder)
        self.tokens = Tokens(self.registry, lambda _: HEADERS, self.outbound, self.endpoints)
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
        candidate, outbound = Account(id=new_id(), **found).to_json(), self.outbound.to_json()
        await refresher.in_child(Job(self.folder, self.endpoints, HEADERS, outbound, candidate=candidate))

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
    importlib.import_module("kimi_core.kimi.oauth")  # what a refresh would import only when it is due
    importlib.import_module("kimi_core.kiro.refresh")
    asked = nursery()
    detached._start = lambda module: Forked(asked, module)
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
