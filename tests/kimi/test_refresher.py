"""The refresh in a process of its own: what it is told, what it says, and what happens where there is none."""

import asyncio
import io
import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kimi_core import detached, errors
from kimi_core.errors import AuthUnavailable, KimiMitmError, LoginDead, NotLoggedIn, StoreDamaged
from kimi_core.headers import Headers
from kimi_core.kimi import refresher
from kimi_core.kimi.constants import Site
from kimi_core.kimi.logins import StoredLogin
from kimi_core.kimi.refresher import in_child, in_process
from kimi_core.kimi.rotation import Job
from kimi_core.outbound import Outbound
from kimi_core.tokens import OAuthToken, digest
from tests.servers.oauth import FakeOAuth, Served, serve


@pytest.fixture
def fake() -> FakeOAuth:
    """Return the login service."""
    return FakeOAuth()


@pytest.fixture
def served(fake: FakeOAuth) -> Iterator[Served]:
    """Serve it on loopback."""
    with serve(fake) as server:
        yield server


def job_for(url: str, folder: Path, rejected: str | None = None) -> Job:
    """Return a job for the fake at *url*."""
    headers = Headers([("X-Msh-Platform", "kimi_cli"), ("User-Agent", "fake/1")])
    site = Site("kimi.test", url, url)
    return Job(site, headers, Outbound().to_json(), folder, digest(rejected) if rejected else None)


@pytest.fixture
def job(served: Served, tmp_path: Path) -> Job:
    """Return a job by age against the served fake."""
    return job_for(served.url, tmp_path / "data")


def log_in(fake: FakeOAuth, job: Job, left: float = 1.0) -> StoredLogin:
    """Store a login with so many seconds left."""
    login = StoredLogin(job.folder, job.site.slot)
    login.put(OAuthToken.from_response(fake.login(), time.time() - 900 + left))
    return login


def supervisors_end() -> None:
    """Wait for the threads that wait for the other process."""
    for thread in threading.enumerate():
        if thread.name == detached.SUPERVISOR:
            thread.join(20.0)
            assert not thread.is_alive()


@pytest.mark.parametrize("way", [in_child, in_process])
async def test_a_due_login_is_renewed(fake: FakeOAuth, job: Job, way: refresher.Refresher) -> None:
    """Either way the successor is on disk when the call returns, and the headers were the identity's."""
    login = log_in(fake, job)
    await way(job)
    token = login.token()
    assert token is not None
    assert fake.valid(token.access_token)
    assert fake.refreshes == 1
    assert fake.requests()[0].header("user-agent") == "fake/1"
    await way(job)
    assert fake.refreshes == 1


async def test_the_failures_of_the_other_process_are_raised_here(fake: FakeOAuth, job: Job) -> None:
    """No login, damaged file, rejected token, plain failure: the same exceptions with the same sentences."""
    with pytest.raises(NotLoggedIn):
        await in_child(job)
    login = log_in(fake, job)
    fake.failures.append(404)
    with pytest.raises(AuthUnavailable, match="HTTP 404"):
        await in_child(job)
    fake.revoke()
    with pytest.raises(LoginDead):
        await in_child(job)
    assert login.mark.path.exists()
    login.document.path.write_text("damaged")
    with pytest.raises(StoreDamaged, match=r"kimi-kimi\.test\.json"):
        await in_child(job)


def test_no_secret_is_given_to_or_taken_from_the_other_process(fake: FakeOAuth, job: Job) -> None:
    """Neither its arguments, its input nor its output hold a token."""
    log_in(fake, job)
    seen: list[Any] = []
    real = subprocess.Popen

    class Watched(real):  # type: ignore[type-arg, misc, valid-type]  # a subclass of the real thing that remembers
        def __init__(self, command: list[str], **options: Any) -> None:
            seen.extend([command, options])
            super().__init__(command, **options)

    talk = detached._talk

    def talked(process: subprocess.Popen[bytes], order: bytes) -> list[dict[str, Any]]:
        said = talk(process, order)
        seen.extend([order, said])
        return said

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detached.subprocess, "Popen", Watched)
        patch.setattr(detached, "_talk", talked)
        asyncio.run(in_child(job))
    assert fake.refreshes == 1
    assert "refreshed" in repr(seen)
    assert "fake-" not in repr(seen)


@pytest.mark.parametrize(
    "breakage", [{"executable": ""}, {"executable": "/nowhere/python"}, {"frozen": True}, {"executable": "/bin/false"}]
)
async def test_without_another_process_the_refresh_runs_here(
    fake: FakeOAuth,
    job: Job,
    breakage: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No interpreter, a bundled program, a process that ends before it began: done here, with a warning."""
    login = log_in(fake, job)
    for name, value in breakage.items():
        monkeypatch.setattr(detached.sys, name, value, raising=False)
    with caplog.at_level(logging.WARNING):
        await in_child(job)
    token = login.token()
    assert token is not None
    assert fake.valid(token.access_token)
    assert "runs in this one" in caplog.text


async def test_a_process_that_dies_at_work_is_not_repeated(
    fake: FakeOAuth, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have spent the token: the refresh is not done a second time."""
    log_in(fake, job)
    monkeypatch.setattr(detached, "BOOT", "print('noise'); print('{\"ready\": true}', flush=True)")
    with pytest.raises(AuthUnavailable, match="without a result"):
        await in_child(job)
    assert fake.requests() == []


@pytest.mark.parametrize("last", ['{"outcome": "refre', "{noise}", "[1]", "\\xff"])
async def test_a_process_that_dies_in_mid_word_leaves_nobody_waiting(
    fake: FakeOAuth, job: Job, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it said last was cut, or is not its own: that counts as no result, and its caller hears so."""
    log_in(fake, job)
    monkeypatch.setattr(detached, "BOOT", f"print('{{\"ready\": true}}'); print({last!r}, end='', flush=True)")
    with pytest.raises(AuthUnavailable, match="without a result"):
        await in_child(job)
    assert fake.requests() == []


async def test_an_unknown_failure_counts_as_passing(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A code that is not in the table becomes AuthUnavailable with its message."""
    boot = "import json; print('{\"ready\": true}'); print(json.dumps({'error': 'odd', 'message': 'odd thing'}))"
    monkeypatch.setattr(detached, "BOOT", boot)
    with pytest.raises(AuthUnavailable, match="odd thing"):
        await in_child(job)


async def test_a_caller_that_leaves_does_not_stop_the_refresh(fake: FakeOAuth, served: Served, job: Job) -> None:
    """Cancelled while the server holds its answer: the new pair is stored all the same."""
    login = log_in(fake, job)
    gate = served.run(fake.close_gate)
    caller = asyncio.create_task(in_child(job))
    assert await asyncio.to_thread(fake.holding.wait, 20.0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    served.run(gate.set)
    await asyncio.to_thread(supervisors_end)
    token = login.token()
    assert token is not None
    assert fake.valid(token.access_token)


def test_a_loop_that_ends_does_not_stop_the_refresh(fake: FakeOAuth, served: Served, job: Job) -> None:
    """asyncio.run returns while the refresh is under way: it neither waits for it nor kills it."""
    login = log_in(fake, job)
    gate = served.run(fake.close_gate)

    async def leave() -> None:
        task = asyncio.create_task(in_child(job))
        await asyncio.to_thread(fake.holding.wait, 20.0)
        assert not task.done()

    asyncio.run(leave())
    served.run(gate.set)
    supervisors_end()
    token = login.token()
    assert token is not None
    assert fake.valid(token.access_token)


class Standard:
    """Standard input and output of `main`, played in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, given: bytes) -> None:
        self.said: list[dict[str, Any]] = []
        self.signals: dict[int, Any] = {}
        self.timers: list[float] = []
        monkeypatch.setattr(detached.sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        monkeypatch.setattr(detached.os, "write", self._write)
        monkeypatch.setattr(detached.signal, "signal", self.signals.setdefault)
        monkeypatch.setattr(detached.threading, "Timer", self._timer)
        self.broken = False

    def _write(self, handle: int, data: bytes) -> int:
        if self.broken:
            raise BrokenPipeError
        self.said.append(json.loads(data))
        return len(data)

    def _timer(self, seconds: float, *_: Any) -> Any:
        self.timers.append(seconds)

        class Quiet:
            daemon = False

            def start(self) -> None:
                assert self.daemon

            def cancel(_) -> None:  # noqa: N805 - of the timer
                self.timers.remove(seconds)

        return Quiet()


def test_the_process_says_ready_and_how_it_went(fake: FakeOAuth, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines; signals that end a session are ignored; its life is bounded."""
    log_in(fake, job)
    standard = Standard(monkeypatch, json.dumps(job.to_json()).encode())
    refresher.main()
    assert standard.said == [{"ready": True}, {"outcome": "refreshed"}]
    assert standard.signals == dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.SIG_IGN)
    assert standard.timers == [refresher.LIFETIME]


def test_the_process_says_what_failed(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stable code and the sentence, for the parent to raise."""
    standard = Standard(monkeypatch, json.dumps(job.to_json()).encode())
    refresher.main()
    assert standard.said[1]["error"] == "not_logged_in"


def test_a_parent_that_is_gone_does_not_stop_the_process(
    fake: FakeOAuth, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken pipe is no reason to lose a token."""
    login = log_in(fake, job)
    standard = Standard(monkeypatch, json.dumps(job.to_json()).encode())
    standard.broken = True
    refresher.main()
    token = login.token()
    assert token is not None
    assert fake.valid(token.access_token)


def test_work_that_must_not_end_goes_on_once_it_has_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails for those who wait, and then has as much time as what it waits for may take."""
    standard = Standard(monkeypatch, b"{}")

    async def work(_order: dict[str, Any], tell: detached.Tell) -> str:
        tell(errors.StoreError("full"))
        assert standard.timers == [detached.AFTERLIFE]
        return "done at last"

    detached.serve(work, 1.0)
    assert [*map(list, standard.said)] == [["ready"], ["error", "message"], ["outcome"]]


async def test_nobody_waits_for_work_that_has_told(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its caller hears at once, and the process lives on."""
    boot = (
        "import json, sys, time; sys.stdin.read(); print(json.dumps({'ready': True}));"
        "print(json.dumps({'error': 'store_error', 'message': 'full'}), flush=True); time.sleep(60)"
    )
    monkeypatch.setattr(detached, "BOOT", boot)
    made: list[subprocess.Popen[bytes]] = []
    start = detached._start
    monkeypatch.setattr(detached, "_start", lambda module: made.append(start(module)) or made[-1])
    with pytest.raises(errors.StoreError, match="full"):
        await in_child(job)
    assert made[0].poll() is None
    made[0].kill()
    await asyncio.to_thread(supervisors_end)


def test_a_process_without_orders_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent died before it wrote them."""
    standard = Standard(monkeypatch, b"")
    refresher.main()
    assert standard.said == []


def test_signals_that_a_platform_lacks_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no SIGHUP."""
    standard = Standard(monkeypatch, b"")
    monkeypatch.delattr(signal, "SIGHUP")
    refresher.main()
    assert set(standard.signals) == {signal.SIGINT, signal.SIGTERM}


def test_the_process_belongs_to_nobody() -> None:
    """Its own session here, its own group and no console on Windows."""
    assert detached.independent("posix") == {"start_new_session": True}
    assert detached.independent("nt") == {"creationflags": 0x208}


def test_every_error_that_a_refresh_raises_is_in_the_table() -> None:
    """Codes and classes agree."""
    for code, kind in detached.ERRORS.items():
        assert issubclass(kind, KimiMitmError)
        assert kind.code == code
        assert getattr(errors, kind.__name__) is kind


def test_it_starts_as_a_module_too(fake: FakeOAuth, job: Job) -> None:
    """``python -m kimi_core.kimi.refresher`` does the same, without httpx where nothing is due."""
    log_in(fake, job, left=800.0)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "kimi_core.kimi.refresher"],
        input=json.dumps(job.to_json()).encode(),
        capture_output=True,
        cwd=Path(refresher.__file__).parents[2],
        check=True,
        timeout=60,
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"ready": True}, {"outcome": "adopted"}]
    assert b"kimi_core.kimi.rotation" in done.stderr
    assert b"httpx" not in done.stderr
