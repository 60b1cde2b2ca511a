"""Who owns the login: fresh tokens, renewed tokens, the timer, login and logout, status."""

import asyncio
import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from kimi_core.errors import (
    AuthUnavailable,
    ConfigError,
    LoginDead,
    NotLoggedIn,
    StoreBusy,
    StoreDamaged,
    StoreError,
)
from kimi_core.headers import Headers
from kimi_core.kimi.constants import Site
from kimi_core.kimi.logins import StoredLogin
from kimi_core.kimi.rotation import Job, rotate
from kimi_core.kimi.session import COOL_DOWN, JUMP, ROUNDS, TICK, WARN_EVERY, Session
from kimi_core.outbound import Outbound
from kimi_core.store import Document
from kimi_core.tokens import OAuthToken, digest

SITE = Site("kimi.test", "http://127.0.0.1:9", "http://127.0.0.1:9/coding/v1")
OUTBOUND = Outbound(proxy="http://127.0.0.1:8")


class Me:
    def headers(self, operation: str) -> Headers:
        return Headers([("X-For", operation)])


class Bench:
    """A session whose refreshes run here, against a login service that is a counter."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.now = 10_000.0
        self.folder = folder
        self.login = StoredLogin(folder, SITE.slot)
        self.jobs: list[Job] = []
        self.issued = 1
        self.failure: Exception | None = None
        self.spent: list[str] = []
        self.session = self.another(**options)

    def another(self, **options: Any) -> Session:
        """Return one more session on the same folder, as another process would have it."""
        return Session(
            SITE, Me(), OUTBOUND, folder=self.folder, clock=lambda: self.now, refresher=self.refresher, **options
        )

    def token(self, number: int, left: float = 900.0) -> OAuthToken:
        return OAuthToken(f"fake-access-{number}", f"fake-refresh-{number}", self.now + left, 900.0, "kimi-code")

    def log_in(self, left: float) -> OAuthToken:
        token = self.token(self.issued, left)
        self.login.put(token)
        return token

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)

    async def refresher(self, job: Job) -> None:
        self.jobs.append(job)
        await rotate(job, self._refresh, clock=lambda: self.now, sleep=self.sleep)

    async def _refresh(self, old: OAuthToken) -> OAuthToken:
        self.spent.append(old.refresh_token)
        await asyncio.sleep(0)
        if self.failure:
            raise self.failure
        self.issued += 1
        return self.token(self.issued)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a bench without a login."""
    return Bench(tmp_path / "data")


async def test_a_token_with_enough_life_is_handed_out(bench: Bench) -> None:
    """No refresh above kimi-cli's bound."""
    token = bench.log_in(450)
    assert await bench.session.fresh() == token
    assert bench.jobs == []


async def test_a_due_token_is_refreshed_ahead(bench: Bench) -> None:
    """Below the bound the successor is handed out, and it is on disk by then; the job names no token."""
    bench.log_in(449)
    token = await bench.session.fresh()
    assert token.access_token == "fake-access-2"
    assert bench.login.token() == token
    job = bench.jobs[0]
    assert (job.site, job.folder, job.rejected) == (SITE, bench.folder, None)
    assert list(job.headers) == [("X-For", "oauth")]
    assert job.outbound == OUTBOUND.to_json()


async def test_without_a_login_or_with_a_damaged_one_it_says_so(bench: Bench) -> None:
    """NotLoggedIn and StoreDamaged, from both calls; the damaged file stays as it is."""
    for call in (bench.session.fresh, lambda: bench.session.renew("fake-access-1")):
        with pytest.raises(NotLoggedIn, match=r"kimi\.test"):
            await call()
    bench.log_in(900)
    bench.login.document.path.write_text("damaged")
    for call in (bench.session.fresh, lambda: bench.session.renew("fake-access-1")):
        with pytest.raises(StoreDamaged):
            await call()
    assert bench.login.document.path.read_text() == "damaged"
    assert bench.spent == []


async def test_fifty_callers_cause_one_refresh(bench: Bench) -> None:
    """Concurrent `fresh` and concurrent `renew` share one flight each."""
    bench.log_in(100)
    tokens = await asyncio.gather(*(bench.session.fresh() for _ in range(50)))
    assert {token.access_token for token in tokens} == {"fake-access-2"}
    tokens = await asyncio.gather(*(bench.session.renew("fake-access-2") for _ in range(50)))
    assert {token.access_token for token in tokens} == {"fake-access-3"}
    assert bench.spent == ["fake-refresh-1", "fake-refresh-2"]


async def test_two_sessions_on_one_store_refresh_once(bench: Bench) -> None:
    """What another process has refreshed is adopted under the lock."""
    bench.log_in(100)
    others = [bench.another() for _ in range(5)]
    tokens = await asyncio.gather(*(session.fresh() for session in others))
    assert {token.access_token for token in tokens} == {"fake-access-2"}
    assert bench.spent == ["fake-refresh-1"]


async def test_a_rejected_token_is_renewed_by_adoption_where_possible(bench: Bench) -> None:
    """Another unexpired access token in the store is handed out without a refresh, however little life it has."""
    bench.log_in(10)
    assert (await bench.session.renew("fake-access-0")).access_token == "fake-access-1"
    assert bench.jobs == []
    bench.now += 11
    assert (await bench.session.renew("fake-access-0")).access_token == "fake-access-2"


async def test_a_rejected_token_is_renewed_by_force(bench: Bench) -> None:
    """The stored token is the rejected one: one refresh, though it has life left."""
    bench.log_in(900)
    assert (await bench.session.renew("fake-access-1")).access_token == "fake-access-2"
    assert bench.jobs[0].rejected == digest("fake-access-1")


async def test_a_renewal_that_joins_a_flight_by_age_is_not_satisfied_with_the_rejected_token(bench: Bench) -> None:
    """The flight by age ends with the rejected token adopted; then a forced one follows."""
    bench.log_in(100)
    gate = asyncio.Event()
    real = bench.refresher

    async def slow(job: Job) -> None:
        await gate.wait()
        if job.rejected is None:  # by now another process has stored a younger sign of the same token
            bench.login.put(bench.token(1))
        await real(job)

    bench.session._refresher = slow
    by_age = asyncio.create_task(bench.session.fresh())
    await asyncio.sleep(0)
    forced = asyncio.create_task(bench.session.renew("fake-access-1"))
    await asyncio.sleep(0)
    gate.set()
    assert (await by_age).access_token == "fake-access-1"
    assert (await forced).access_token == "fake-access-2"


async def test_a_service_that_repeats_the_rejected_token_is_given_up(bench: Bench) -> None:
    """A bounded number of rounds, then AuthUnavailable."""
    bench.log_in(900)
    jobs = []

    async def useless(job: Job) -> None:
        jobs.append(job)

    bench.session._refresher = useless
    with pytest.raises(AuthUnavailable, match="keeps giving"):
        await bench.session.renew("fake-access-1")
    assert len(jobs) == ROUNDS


PASSING = [AuthUnavailable("fake"), StoreBusy("fake"), StoreError("fake"), LoginDead("fake"), ConfigError("fake")]


@pytest.mark.parametrize("failure", PASSING)
async def test_a_good_token_is_used_when_its_refresh_fails(
    bench: Bench, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """It is handed out, with one warning that has no secret in it, and no new try for a while."""
    token = bench.log_in(440)
    bench.failure = failure
    for _ in range(3):
        assert await bench.session.fresh() == token
    assert len(bench.spent) == 1
    bench.now += COOL_DOWN
    assert await bench.session.fresh() == token
    assert len(bench.spent) == (1 if isinstance(failure, LoginDead) else 2)
    assert len(caplog.records) == 1
    assert "440 s more" in caplog.text
    assert "fake-" not in caplog.text
    bench.now += WARN_EVERY
    assert await bench.session.fresh() == token
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (AuthUnavailable("fake"), AuthUnavailable),
        (StoreBusy("fake"), AuthUnavailable),
        (StoreError("fake"), StoreError),
        (LoginDead("fake"), LoginDead),
        (ConfigError("fake"), ConfigError),
    ],
)
async def test_an_expired_token_is_never_handed_out(bench: Bench, failure: Exception, raised: type[Exception]) -> None:
    """Then the failure itself is raised, at once again the next time, and the file is untouched."""
    bench.log_in(0)
    before = bench.login.document.path.read_bytes()
    bench.failure = failure
    for _ in range(2):
        with pytest.raises(raised) as caught:
            await bench.session.fresh()
        assert type(caught.value) is raised
    assert bench.login.document.path.read_bytes() == before


async def test_a_login_that_failed_works_again_after_a_refresh(bench: Bench) -> None:
    """The cool-down ends with the first success of anybody."""
    bench.log_in(440)
    bench.failure = AuthUnavailable("fake")
    await bench.session.fresh()
    bench.failure = None
    assert (await bench.session.renew("fake-access-1")).access_token == "fake-access-2"
    bench.now += 500
    assert (await bench.session.fresh()).access_token == "fake-access-3"


async def test_a_damaged_file_found_by_the_refresh_is_reported(bench: Bench) -> None:
    """Damage is no passing failure, even while there was a good token."""
    bench.log_in(440)
    bench.failure = StoreDamaged("fake")
    with pytest.raises(StoreDamaged):
        await bench.session.fresh()


@pytest.mark.parametrize(("failure", "raised"), [(StoreBusy("fake"), AuthUnavailable), (LoginDead("x"), LoginDead)])
async def test_a_renewal_that_fails_says_so(bench: Bench, failure: Exception, raised: type[Exception]) -> None:
    """The rejected token is never handed out again."""
    bench.log_in(900)
    bench.failure = failure
    with pytest.raises(raised):
        await bench.session.renew("fake-access-1")


async def test_a_rejected_login_is_not_tried_again_by_anybody(bench: Bench) -> None:
    """The mark on disk holds for other processes too; a new login ends it."""
    bench.log_in(900)
    bench.failure = LoginDead("fake")
    for session in (bench.session, bench.another(), bench.session):
        with pytest.raises(LoginDead):
            await session.renew("fake-access-1")
    assert len(bench.spent) == 1
    assert len(bench.jobs) == 1
    assert bench.session.status().state == "dead"
    bench.failure = None
    bench.session.save(bench.token(7))
    assert (await bench.session.renew("fake-access-1")).access_token == "fake-access-7"
    assert bench.session.status().state == "ok"


async def test_a_slow_refresh_does_not_hold_up_a_good_token(tmp_path: Path) -> None:
    """Past the patience the present token is used; the flight goes on and its result is used afterwards."""
    bench = Bench(tmp_path, patience=0.0)
    token = bench.log_in(440)
    gate = asyncio.Event()
    real = bench.refresher

    async def slow(job: Job) -> None:
        await gate.wait()
        await real(job)

    bench.session._refresher = slow
    for _ in range(3):
        assert await bench.session.fresh() == token
    waiting = asyncio.create_task(bench.session.renew("fake-access-1"))
    await asyncio.sleep(0)
    gate.set()
    assert (await waiting).access_token == "fake-access-2"
    assert (await bench.session.fresh()).access_token == "fake-access-2"
    assert len(bench.jobs) == 1


async def test_a_token_about_to_expire_is_waited_for(tmp_path: Path) -> None:
    """With less than half a minute left the refresh is waited for whatever the patience."""
    bench = Bench(tmp_path, patience=0.0)
    bench.log_in(29)
    assert (await bench.session.fresh()).access_token == "fake-access-2"


async def test_no_stream_waits_for_a_slow_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look whether there is room for a renewed token waits for the disk in a thread of its own."""
    bench.log_in(-1)
    seen: list[threading.Thread] = []
    monkeypatch.setattr(Document, "probe", lambda _: seen.append(threading.current_thread()))
    await bench.session.fresh()
    assert seen
    assert threading.main_thread() not in seen


def test_a_login_is_saved_over_a_damaged_file(bench: Bench) -> None:
    """The damaged file is kept aside, and the path is returned."""
    bench.folder.mkdir()
    bench.login.document.path.write_text("damaged")
    assert bench.session.status().state == "damaged"
    assert bench.session.save(bench.token(1)) == bench.login.document.path
    assert bench.login.token() == bench.token(1)
    assert [path.read_text() for path in bench.folder.glob("*.damaged-*")] == ["damaged"]


def test_a_login_is_saved_even_if_the_lock_stays_taken(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for a refresh under way, but a new login is never lost to a lock."""
    monkeypatch.setattr("kimi_core.kimi.session.LOCK_WAIT", 0.0)
    with Document(bench.login.document.path).lock(1.0):
        bench.session.save(bench.token(1))
    assert bench.login.token() == bench.token(1)


def test_a_logout_removes_everything_but_other_logins(bench: Bench) -> None:
    """Token and mark go; it tells whether there was a login; a folder that is not there is not made."""
    assert bench.session.forget() is False
    assert not bench.folder.exists()
    bench.log_in(900)
    bench.login.reject(bench.token(1), bench.now)
    other = StoredLogin(bench.folder, "other.test")
    other.put(bench.token(1))
    assert bench.session.forget() is True
    assert bench.session.forget() is False
    assert other.token() == bench.token(1)
    assert {path.suffix for path in bench.folder.iterdir() if "kimi.test" in path.name} == {".lock"}


def test_a_logout_does_not_wait_for_a_token_that_cannot_be_stored(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has the lock for so long keeps one, and finds the login gone."""
    monkeypatch.setattr("kimi_core.kimi.session.LOCK_WAIT", 0.0)
    bench.log_in(900)
    with Document(bench.login.document.path).lock(1.0):
        assert bench.session.forget() is True
    assert bench.login.token() is None


def test_the_status_shows_no_secret(bench: Bench) -> None:
    """State, path, expiry and a sentence for each state."""
    none = bench.session.status()
    assert (none.state, none.expires_at, none.slot) == ("none", None, "kimi.test")
    assert none.problem is not None
    assert "kimi-mitm login" in none.problem
    token = bench.log_in(10)
    ok = bench.session.status()
    assert (ok.state, ok.expires_at, ok.problem) == ("ok", token.expires_at, None)
    bench.now += 10
    assert bench.session.status().state == "expired"
    bench.login.reject(token, bench.now)
    dead = bench.session.status()
    bench.login.document.path.write_text(json.dumps({"access_token": "fake-access-1"}))
    damaged = bench.session.status()
    assert (dead.state, damaged.state) == ("dead", "damaged")
    assert "fake-" not in repr([none, ok, dead, damaged])
    assert damaged.path == bench.login.document.path


class Stop(Exception):
    """Ends the timer from within its sleep."""


async def tick(bench: Bench, steps: list[tuple[float, bool]]) -> list[float]:
    """Run the timer; each step is (seconds that the tick takes by the clock, busy afterwards)."""
    left = list(steps)
    asked: list[float] = []
    busy = False

    async def sleep(seconds: float) -> None:
        nonlocal busy
        asked.append(seconds)
        if not left:
            raise Stop
        took, busy = left.pop(0)
        bench.now += took

    with pytest.raises(Stop):
        await bench.session.keep_fresh(lambda: busy, sleep=sleep)
    return asked


async def test_the_timer_refreshes_while_busy(bench: Bench) -> None:
    """Every minute, and only while something is open."""
    bench.log_in(460)
    assert await tick(bench, [(TICK, False)]) == [TICK, TICK]
    assert bench.spent == []
    await tick(bench, [(TICK, True)])
    assert bench.spent == ["fake-refresh-1"]
    await tick(bench, [(TICK, True)] * 7)
    assert len(bench.spent) == 1
    await tick(bench, [(TICK, True)] * 2)
    assert len(bench.spent) == 2


@pytest.mark.parametrize(("took", "looked"), [(JUMP, False), (JUMP + 1, True)])
async def test_the_timer_looks_after_the_token_when_the_machine_wakes(bench: Bench, took: float, looked: bool) -> None:
    """A tick of more than two minutes means sleep: the token is renewed though nothing is open."""
    bench.log_in(100)
    await tick(bench, [(took, False)])
    assert bool(bench.spent) is looked


async def test_the_timer_tells_each_trouble_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Failures are logged, not raised; again only after something worked or something else fails."""
    with caplog.at_level(logging.WARNING):
        await tick(bench, [(TICK, True)] * 3)
        assert len(caplog.records) == 1
        assert "kimi-mitm login" in caplog.text
        bench.log_in(1)
        bench.failure = AuthUnavailable("fake")
        await tick(bench, [(TICK, True)] * 3)
        assert len(caplog.records) == 2
        bench.failure = None
        await tick(bench, [(TICK, True)])
        assert len(caplog.records) == 2


async def test_the_timer_ends_when_it_is_cancelled(bench: Bench) -> None:
    """Cancellation comes out as such and leaves nothing running."""
    timer = asyncio.create_task(bench.session.keep_fresh(lambda: True))
    await asyncio.sleep(0)
    timer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await timer
    assert len(asyncio.all_tasks()) == 1
