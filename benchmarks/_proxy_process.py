"""Processes that `proxy.py` and its like measure, plain mitmdump or with the addon and its logins.

What they cost is what the kernel says of them (proc(5)).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from mitmproxy.certs import CertStore

from kimi_core.kimi import identity
from kimi_core.kimi.constants import site_for
from kimi_core.kimi.session import Session
from kimi_core.kiro.accounts import Account, Registry, new_id
from kimi_core.kiro.constants import SOCIAL_PROFILE
from kimi_core.outbound import Outbound
from kimi_core.tokens import OAuthToken
from tests.e2e.harness import ADDON, environment, free_port, wait_until

PLAIN = Path(__file__).with_name("_proxy_plain.py")
OWN_ROUNDS = Path(__file__).with_name("_proxy_own_rounds.py")
KEY_BITS = 2048
LIFE = 86_400.0  # seconds that the fake logins are good for: nothing is refreshed while it is measured
START_SECONDS = 120.0  # until a process listens, be it under valgrind
STOP_SECONDS = 10.0
TICK = 1 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
USER_TIME, SYSTEM_TIME = 11, 12  # places in /proc/PID/stat after the name (proc(5))


class Process:
    """One server process on a port of loopback; its output goes to a file.

    `with` waits until it listens. `launch` does not; leaving `with`, or `end`, ends it.
    """

    def __init__(self, command: list[str], port: int, folder: Path, environ: dict[str, str]) -> None:
        self.command, self.port, self.environ = command, port, environ
        self._folder = folder
        self._log = folder / "log.txt"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.launch()
        try:
            wait_until(self._listens, f"the start of {Path(self.command[0]).name}", START_SECONDS)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def launch(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command, cwd=self._folder, env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def end(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def check(self) -> None:
        """Raise AssertionError, with what it said, where the process has ended."""
        assert self._process is not None
        assert self._process.poll() is None, f"{self.command[0]} ended at once:\n{self.log()}"

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def cpu(self) -> float:
        """Return the seconds of processor time that the process has had, in steps of a clock tick."""
        words = self._proc("stat").rpartition(")")[2].split()
        return (int(words[USER_TIME]) + int(words[SYSTEM_TIME])) * TICK

    def rss(self) -> float:
        """Return the resident memory in KB."""
        return int(self._proc("statm").split()[1]) * PAGE / 1024

    def _proc(self, name: str) -> str:
        return Path(f"/proc/{self.pid}/{name}").read_text()

    def _listens(self) -> bool:
        self.check()
        try:
            socket.create_connection(("127.0.0.1", self.port), 1.0).close()
        except OSError:
            return False
        return True


class Machines:
    """Makes mitmdump processes, each in a folder of its own, in front of the fake service on *port*.

    All have mitmdump's own defaults.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._confdir = folder / "confdir"
        self._number = 0
        self.origin = f"http://127.0.0.1:{port}"
        self._confdir.mkdir()
        CertStore.create_store(self._confdir, "mitmproxy", KEY_BITS)

    def plain(self) -> Process:
        home = self.home()
        return self._mitmdump([PLAIN], home, environment(home))

    def ours(self, *more: Path) -> Process:
        """Return one with the addon, logged in, and with *more* scripts."""
        home = self.home()
        places = {f"KIRO_{name}_URL": self.origin for name in ("RUNTIME", "MANAGEMENT", "Q", "OIDC", "AUTH", "PORTAL")}
        places |= {"KIMI_CODE_BASE_URL": f"{self.origin}/coding/v1", "KIMI_CODE_OAUTH_HOST": self.origin}
        environ = environment(home, places)
        _log_in(home, environ)
        return self._mitmdump([ADDON, *more], home, environ)

    def home(self) -> Path:
        """Return a new folder."""
        self._number += 1
        home = self._folder / f"home-{self._number}"
        home.mkdir()
        return home

    def _mitmdump(self, scripts: Sequence[Path], home: Path, environ: dict[str, str]) -> Process:
        port = free_port()
        tool = Path(sys.executable).with_name("mitmdump")
        command = [str(tool), "--listen-host", "127.0.0.1", "-p", str(port), "--set", f"confdir={self._confdir}"]
        return Process([*command, *(word for script in scripts for word in ("-s", str(script)))], port, home, environ)


def _log_in(home: Path, environ: dict[str, str]) -> None:
    """Store a login of each service that needs no refresh."""
    data, now = Path(environ["KIMI_MITM_DATA_DIR"]), time.time()
    granted = {"access_token": "fake-access-1", "refresh_token": "fake-refresh-1", "token_type": "Bearer"}
    token = OAuthToken.from_response({**granted, "expires_in": LIFE, "scope": "kimi-code"}, now)
    who = identity.load("kimi-cli", environ, home)
    Session(site_for("cn", environ), who, Outbound(), folder=data).save(token)
    account = Account(
        id=new_id(),
        label="fake",
        user_id="d-fake",
        access_token="fake-access-2",
        refresh_token="fake-refresh-2",
        expires_at=int((now + LIFE) * 1000),
        refreshed_at=int(now * 1000),
        profile_arn=SOCIAL_PROFILE,
    )
    Registry(data).update(lambda accounts: accounts.upsert(account))
