"""Who owns the tokens: one refresh for many callers, good tokens spared, dead logins left alone."""

import asyncio
import errno
import logging
import threading

import pytest

from kimi_core.errors import AuthUnavailable, StoreBusy, StoreError
from kimi_core.kiro import auth
from kimi_core.kiro.accounts import AccountsDamaged, Registry
from kimi_core.kiro.auth import COOL_DOWN, ROUNDS, Tokens
from kimi_core.kiro.auth_errors import AccountDead, NoAccount
from kimi_core.kiro.constants import Endpoints
from kimi_core.kiro.records import Source
from kimi_core.kiro.stores import Surroundings
from kimi_core.store import Document
from kimi_core.tokens import digest
from tests.kiro.stand_ins import HEADERS, NOW, account, nowhere, stored


class Direct:
    """A way out that is not used."""

    def to_json(self):
        return {}


class Bench:
    """Tokens whose refresher is played here."""

    def __init__(self, tmp_path):
        self.folder = tmp_path / "data"
        self.registry = Registry(self.folder)
        self.now = NOW
        self.jobs = []
        self.number = 10
        self.failure = None
        self.hold = None
        self.around = nowhere(tmp_path)
        self.tokens = self.make()

    def make(self, **options):
        return Tokens(
            self.registry,
            lambda one: HEADERS,
            Direct(),
            Endpoints(),
            clock=lambda: self.now,
            refresher=self.refresher,
            around=self.around,
            **options,
        )

    async def refresher(self, job):
        self.jobs.append(job)
        if self.hold:
            await self.hold.wait()
        if self.failure:
            raise self.failure
        self.number += 1
        pair = {
            "access_token": f"fake-access-{self.number}",
            "refresh_token": f"fake-refresh-{self.number}",
            "expires_at": int((self.now + 3600) * 1000),
        }

        def change(accounts):
            accounts.put(accounts.get(job.account_id).model_copy(update=pair))

        if job.account_id:
            self.registry.update(change)
        return "refreshed"


@pytest.fixture
def bench(tmp_path):
    """Return a bench without accounts."""
    return Bench(tmp_path)


async def test_a_token_that_is_not_due_is_handed_out(bench):
    """Nothing is refreshed while more than ten minutes are left."""
    one = stored(bench.folder, account(left=601))
    assert await bench.tokens.fresh(one.id) == one
    assert bench.jobs == []


async def test_fifty_callers_cause_one_refresh(bench):
    """Callers for one account share a flight; accounts fly beside each other."""
    one, two = (stored(bench.folder, account(number, left=-1)) for number in (1, 2))
    bench.hold = asyncio.Event()
    callers = [asyncio.create_task(bench.tokens.fresh(which.id)) for which in (one, two) for _ in range(25)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    bench.hold.set()
    found = await asyncio.gather(*callers)
    assert sorted(job.account_id for job in bench.jobs) == sorted([one.id, two.id])
    assert len({which.access_token for which in found}) == 2


async def test_an_unknown_account_is_named(bench):
    """There is nothing to refresh for an account that is not there."""
    for call in (bench.tokens.fresh("x"), bench.tokens.renew("x", "y"), bench.tokens.insist("x")):
        with pytest.raises(NoAccount, match="no such Kiro account"):
            await call


@pytest.mark.parametrize("failure", [AuthUnavailable("net"), AccountDead("dead"), StoreError("disk")])
async def test_a_good_token_survives_a_failed_refresh(bench, failure, caplog):
    """While there is life left a failure costs nothing but a warning, and is not repeated for a while."""
    one = stored(bench.folder, account(left=200))
    bench.failure = failure
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert (await bench.tokens.fresh(one.id)).access_token == "fake-access-1"
        assert len(bench.jobs) == 1
        bench.now += COOL_DOWN + 1
        await bench.tokens.fresh(one.id)
    assert len(bench.jobs) == 2
    assert len(caplog.records) == 1
    assert "fake-" not in caplog.text


async def test_a_token_that_has_run_out_is_not_spared(bench):
    """The failure itself is told, a lock that was not free as a passing one."""
    one = stored(bench.folder, account(left=-1))
    for failure, told in (
        (AuthUnavailable("net"), AuthUnavailable),
        (AccountDead("dead"), AccountDead),
        (StoreBusy("busy"), AuthUnavailable),
        (AccountsDamaged("bad"), AccountsDamaged),
    ):
        bench.failure = failure
        with pytest.raises(told):
            await bench.tokens.fresh(one.id)


async def test_a_slow_refresh_is_not_waited_for(bench):
    """With a good token at hand the caller goes on; the flight lands by itself."""
    one = stored(bench.folder, account(left=200))
    tokens = bench.make(patience=0.0)
    bench.hold = asyncio.Event()
    assert (await tokens.fresh(one.id)).access_token == "fake-access-1"
    assert (await tokens.fresh(one.id)).access_token == "fake-access-1"
    bench.hold.set()
    patient = bench.make(patience=10.0)
    patient._flights = tokens._flights
    assert (await patient.fresh(one.id)).access_token == "fake-access-11"
    assert (await tokens.fresh(one.id)).access_token == "fake-access-11"
    assert len(bench.jobs) == 1


async def test_no_stream_waits_for_a_slow_disk(bench, monkeypatch):
    """The look whether there is room for a renewed token waits for the disk in a thread of its own."""
    one = stored(bench.folder, account(left=-1))
    seen = []
    monkeypatch.setattr(Document, "probe", lambda _: seen.append(threading.current_thread()))
    await bench.tokens.fresh(one.id)
    assert seen
    assert threading.main_thread() not in seen


async def test_a_damaged_document_is_told(bench):
    """What cannot be read is no account without tokens."""
    one = stored(bench.folder, account(left=200))

    async def damage(job):
        bench.registry.document.path.write_text("half")
        raise AccountsDamaged("damaged")

    bench.tokens._refresher = damage
    with pytest.raises(AccountsDamaged):
        await bench.tokens.fresh(one.id)


async def test_a_refused_token_is_renewed_once(bench):
    """What another caller renewed meanwhile is taken; else there is one refresh for the refused token."""
    one = stored(bench.folder, account())
    first = await bench.tokens.renew(one.id, "fake-access-1")
    second = await bench.tokens.renew(one.id, "fake-access-1")
    assert first == second
    assert [job.rejected for job in bench.jobs] == [digest("fake-access-1")]


async def test_a_token_that_is_being_renewed_is_not_handed_out(bench):
    """Whoever needs an account while its refused token is renewed waits for the next one, and no longer than that."""
    one = stored(bench.folder, account())
    bench.hold = asyncio.Event()
    renewing = asyncio.create_task(bench.tokens.renew(one.id, one.access_token))
    await asyncio.sleep(0)
    asking = asyncio.create_task(bench.tokens.fresh(one.id))
    await asyncio.sleep(0)
    bench.hold.set()
    assert (await asking).access_token == (await renewing).access_token != one.access_token
    assert len(bench.jobs) == 1
    bench.failure = AuthUnavailable("down")
    now = (await renewing).access_token
    with pytest.raises(AuthUnavailable):
        await bench.tokens.renew(one.id, now)
    assert (await bench.tokens.fresh(one.id)).access_token == now


async def test_renewal_gives_up_on_a_service_that_repeats_itself(bench):
    """The same refused token again and again ends after a few rounds."""
    one = stored(bench.folder, account())

    async def useless(job):
        bench.jobs.append(job)
        return "adopted"

    bench.tokens._refresher = useless
    with pytest.raises(AuthUnavailable, match="keeps giving"):
        await bench.tokens.renew(one.id, "fake-access-1")
    assert len(bench.jobs) == ROUNDS


async def test_a_busy_lock_is_passing(bench):
    """A renewal that could not get the lock may be tried again."""
    one = stored(bench.folder, account())
    bench.failure = StoreBusy("busy")
    with pytest.raises(AuthUnavailable):
        await bench.tokens.renew(one.id, "fake-access-1")


@pytest.mark.parametrize(
    ("left", "state", "refused", "asked"),
    [
        (100, "ok", None, False),
        (-1, "ok", None, True),
        (-1, "needs_login", None, False),
        (100, "ok", "fake-access-1", True),
        (100, "needs_login", "fake-access-1", False),
    ],
)
async def test_a_dead_login_is_asked_for_once(bench, left, state, refused, asked):
    """A refresh token that was turned down starts no process, but for the one that writes down what it means."""
    one = stored(bench.folder, account(left=left, state=state, rejected_refresh=digest("fake-refresh-1")))
    bench.failure = AccountDead("dead")
    if left > 0 and refused is None:
        assert await bench.tokens.fresh(one.id) == one
    else:
        with pytest.raises(AccountDead):
            await (bench.tokens.renew(one.id, refused) if refused else bench.tokens.fresh(one.id))
    assert bool(bench.jobs) is asked


async def test_insisting_refreshes_whatever_is_known(bench):
    """The user's word goes before age and earlier rejections."""
    one = stored(bench.folder, account(state="needs_login", rejected_refresh=digest("fake-refresh-1")))
    await bench.tokens.insist(one.id)
    assert (bench.jobs[0].insist, bench.jobs[0].rejected) == (True, digest("fake-access-1"))


async def test_a_fork_is_a_job_with_the_candidate(bench):
    """The process that forks is told the token through its input alone."""
    candidate = account(7)
    await bench.tokens.fork(candidate)
    assert bench.jobs[0].candidate["refresh_token"] == "fake-refresh-7"
    assert "fake-refresh-7" not in repr(bench.jobs[0])


@pytest.mark.parametrize("way", ["refresh", "fork"])
async def test_a_disk_that_cannot_be_written_is_told_at_once(bench, monkeypatch, way):
    """No process is started that would wait for a lock first, and then say that it was busy."""
    one = stored(bench.folder, account(left=-1))

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        await (bench.tokens.fork(account(7)) if way == "fork" else bench.tokens.fresh(one.id))
    assert bench.jobs == []


async def test_an_api_key_is_read_from_the_environment(bench):
    """A key is never stored, never renewed, and refused for good when the service refuses it."""
    source = Source(kind="environment", path="KIRO_API_KEY", key="KIRO_API_KEY")
    one = stored(
        bench.folder,
        account(auth_method="api_key", access_token="", refresh_token="", source=source, identity_hash="d"),
    )
    with pytest.raises(NoAccount, match="KIRO_API_KEY"):
        await bench.tokens.fresh(one.id)
    bench.around = Surroundings({"KIRO_API_KEY": "ksk_fake"}, bench.around.home, "linux")
    tokens = bench.make()
    assert (await tokens.fresh(one.id)).access_token == "ksk_fake"
    assert (await tokens.renew(one.id, "another")).access_token == "ksk_fake"
    assert (await tokens.insist(one.id)).access_token == "ksk_fake"
    with pytest.raises(AccountDead, match="API key"):
        await tokens.renew(one.id, "ksk_fake")
    assert bench.jobs == []
    assert "ksk_fake" not in bench.registry.document.path.read_text()


async def test_an_account_without_any_token_is_told(bench):
    """An account that lost its tokens asks for a login."""
    one = stored(bench.folder, account(access_token="", refresh_token="", identity_hash="d"))
    with pytest.raises(NoAccount):
        await bench.tokens.fresh(one.id)


class Timer:
    """A sleep that ends the loop after some ticks, and what happens at each."""

    def __init__(self, bench, *ticks):
        self.bench = bench
        self.ticks = list(ticks)

    async def sleep(self, seconds):
        if not self.ticks:
            raise asyncio.CancelledError
        self.bench.now += self.ticks.pop(0)


async def keep(bench, timer, busy):
    """Run the timer to its end."""
    with pytest.raises(asyncio.CancelledError):
        await bench.tokens.keep_fresh(lambda: frozenset(busy), sleep=timer.sleep)


async def test_busy_accounts_are_kept_fresh(bench):
    """The timer renews what is in use, and leaves the rest alone."""
    one, _ = (stored(bench.folder, account(number, left=200)) for number in (1, 2))
    await keep(bench, Timer(bench, 60), [one.id])
    assert [job.account_id for job in bench.jobs] == [one.id]


async def test_after_a_sleep_all_accounts_are_looked_after(bench):
    """A machine that was asleep renews every account in use; disabled and dead ones not."""
    one = stored(bench.folder, account(1, left=200))
    stored(bench.folder, account(2, left=200, enabled=False))
    stored(bench.folder, account(3, left=200, state="suspended"))
    await keep(bench, Timer(bench, 600), [])
    assert [job.account_id for job in bench.jobs] == [one.id]


async def test_a_timer_survives_a_damaged_document(bench):
    """The timer goes on when there is nothing to read."""
    bench.folder.mkdir(mode=0o700)
    bench.registry.document.path.write_text("half")
    await keep(bench, Timer(bench, 600, 60), [])
    assert bench.jobs == []


async def test_timer_failures_are_logged_once(bench, caplog):
    """Each kind of failure is told once per account until something works again."""
    one = stored(bench.folder, account(left=-1))
    bench.failure = AuthUnavailable("net")
    with caplog.at_level(logging.WARNING):
        await keep(bench, Timer(bench, 60, 60, 60), [one.id])
        assert len(caplog.records) == 1
        bench.failure = None
        await keep(bench, Timer(bench, 60), [one.id])
    assert len(caplog.records) == 1
    assert auth.TICK == 60.0
