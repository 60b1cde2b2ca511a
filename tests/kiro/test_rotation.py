"""One refresh of an account, and one fork, from reading to having the successor on disk."""

import asyncio
import errno
import json
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kimi_core.errors import AuthUnavailable, LoginDead, StoreBusy, StoreError
from kimi_core.kiro.accounts import Accounts, Registry
from kimi_core.kiro.auth_errors import AccountDead, NoAccount
from kimi_core.kiro.constants import Endpoints
from kimi_core.kiro.records import ForkRecord, Source
from kimi_core.kiro.rotation import LOCKS, NEXT_LOOK, SECOND_LOOK, WRITE_PAUSES, Job, do
from kimi_core.kiro.sync import Person, identify
from kimi_core.store import Document
from kimi_core.tokens import digest
from tests.kiro.stand_ins import HEADERS, NOW, account, nowhere, stored


class Bench:
    """A folder, a clock that stands, and a login service that is one function."""

    def __init__(self, folder):
        self.folder = folder / "data"
        self.registry = Registry(self.folder)
        self.around = nowhere(folder)
        self.slept = []
        self.spent = []
        self.answers = []
        self.meanwhile = None
        self.asleep = None

    async def sleep(self, seconds):
        self.slept.append(seconds)
        if self.asleep:
            self.asleep()

    async def refresh(self, old):
        self.spent.append(old.refresh_token)
        if self.meanwhile:
            self.meanwhile()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return old.model_copy(update=answer)

    def job(self, **fields):
        return Job(self.folder, Endpoints(), HEADERS, {}, **fields)

    async def do(self, lock_wait=1.0, **fields):
        return await do(
            self.job(**fields),
            self.refresh,
            clock=lambda: NOW,
            sleep=self.sleep,
            around=self.around,
            lock_wait=lock_wait,
        )

    def get(self, one):
        return self.registry.load().get(one.id)


def pair(number, left=3600.0):
    """Return what a refresh changes."""
    return {
        "access_token": f"fake-access-{number}",
        "refresh_token": f"fake-refresh-{number}",
        "expires_at": int((NOW + left) * 1000),
        "refreshed_at": int(NOW * 1000),
    }


@pytest.fixture
def bench(tmp_path):
    """Return a bench whose folder does not exist yet."""
    return Bench(tmp_path)


def test_a_job_survives_json_and_shows_no_token():
    """What the other process gets is what was asked, and a repr has no secret."""
    candidate = account().to_json()
    job = Job(Path("/fake"), Endpoints(), HEADERS, {"proxy_auth": "fake:secret"}, "one", "d", True, candidate)
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job
    assert "fake-" not in repr(job)
    assert "secret" not in repr(job)


async def test_a_due_account_is_refreshed_and_stored(bench):
    """The successor is on disk; what is not the login's stays."""
    one = stored(bench.folder, account(left=100, request_count=7, their_key="keep"))
    bench.answers = [pair(2)]
    assert await bench.do(account_id=one.id) == "refreshed"
    now = bench.get(one)
    assert (now.access_token, now.refresh_token, now.request_count) == ("fake-access-2", "fake-refresh-2", 7)
    assert now.model_extra == {"their_key": "keep"}
    assert not now.due(NOW)


async def test_an_account_that_was_merged_meanwhile_hands_its_new_login_on(bench):
    """Who turns out to be another account while its token is being spent has the successor kept there."""
    twin = stored(bench.folder, account(1, user_id="u"))
    one = stored(bench.folder, account(2, left=-1))
    bench.meanwhile = lambda: bench.registry.update(lambda accounts: identify(accounts, one.id, Person("u")))
    bench.answers = [pair(3)]
    assert await bench.do(account_id=one.id) == "refreshed"
    (left,) = bench.registry.load().accounts
    assert (left.id, left.access_token, left.refresh_token) == (twin.id, "fake-access-3", "fake-refresh-3")


async def test_an_account_that_was_removed_meanwhile_stays_away(bench):
    """The user's word counts, and nobody else has its login."""
    stored(bench.folder, account(1))
    one = stored(bench.folder, account(2, left=-1))
    bench.meanwhile = lambda: bench.registry.update(lambda accounts: accounts.remove(one.id))
    bench.answers = [pair(3)]
    assert await bench.do(account_id=one.id) == "adopted"
    (left,) = bench.registry.load().accounts
    assert left.refresh_token == "fake-refresh-1"


@pytest.mark.parametrize(
    ("left", "rejected", "adopted"),
    [
        (601, None, True),
        (299, None, False),
        (3600, "fake-access-1", False),
        (3600, "fake-access-0", True),
        (-1, "fake-access-0", False),
    ],
)
async def test_what_is_already_done_is_adopted(bench, left, rejected, adopted):
    """A token that another process renewed meanwhile is used, and no refresh token is spent."""
    one = stored(bench.folder, account(left=left))
    bench.answers = [pair(2)]
    outcome = await bench.do(account_id=one.id, rejected=digest(rejected) if rejected else None)
    assert outcome == ("adopted" if adopted else "refreshed")
    assert bench.spent == ([] if adopted else ["fake-refresh-1"])


async def test_an_unknown_account_is_not_made(bench):
    """A job for an account that was removed ends, and makes no file."""
    with pytest.raises(NoAccount):
        await bench.do(account_id="gone")
    assert not bench.registry.document.path.exists()


async def test_a_rejected_token_marks_the_account(bench):
    """Once the login service says no, the account needs a login, and nobody tries that token again."""
    one = stored(bench.folder, account(left=-1))
    bench.answers = [AccountDead("The login service no longer accepts this login.")]
    with pytest.raises(AccountDead):
        await bench.do(account_id=one.id)
    now = bench.get(one)
    assert (now.state, now.is_healthy, now.refresh_token) == ("needs_login", False, "fake-refresh-1")
    assert now.last_error == "The login service no longer accepts this login."
    assert bench.slept == [SECOND_LOOK]
    with pytest.raises(AccountDead):
        await bench.do(account_id=one.id)
    assert bench.spent == ["fake-refresh-1"]


async def test_a_rejection_spares_the_access_token(bench):
    """While the access token is good the account goes on serving; a refused one ends it at once."""
    one = stored(bench.folder, account(left=100))
    bench.answers = [AccountDead("no")]
    with pytest.raises(AccountDead):
        await bench.do(account_id=one.id)
    assert (bench.get(one).state, bench.get(one).held_back) == ("ok", True)
    with pytest.raises(AccountDead):
        await bench.do(account_id=one.id, rejected=digest("fake-access-1"))
    assert bench.get(one).state == "needs_login"


async def test_insisting_tries_a_rejected_token_again(bench):
    """The user may have a login tried once more, and it is forgiven when that works."""
    one = stored(bench.folder, account(left=-1))
    bench.answers = [AccountDead("no"), pair(2)]
    with pytest.raises(AccountDead):
        await bench.do(account_id=one.id)
    await bench.do(account_id=one.id, rejected=digest("fake-access-1"), insist=True)
    now = bench.get(one)
    assert (now.state, now.is_healthy, now.last_error, now.held_back) == ("ok", True, None, False)


async def test_a_suspended_account_stays_suspended(bench):
    """A refresh that works does not lift a suspension, and one that fails does not rename it."""
    one = stored(bench.folder, account(left=-1, state="suspended", is_healthy=False))
    bench.answers = [pair(2, left=-1), AccountDead("no")]
    await bench.do(account_id=one.id)
    assert bench.get(one).state == "suspended"
    with pytest.raises(AccountDead):
        await bench.do(account_id=one.id)
    assert bench.get(one).state == "suspended"


async def test_a_login_made_meanwhile_is_tried(bench):
    """After a rejection the account is read again; a newer chain is refreshed once, then it is over."""
    one = stored(bench.folder, account(left=-1))

    def log_in():
        bench.registry.update(lambda accounts: accounts.put(bench.get(one).model_copy(update=pair(5, left=-1))))

    bench.asleep = log_in
    bench.answers = [AccountDead("no"), AccountDead("still no")]
    with pytest.raises(AccountDead, match="still no"):
        await bench.do(account_id=one.id)
    assert bench.spent == ["fake-refresh-1", "fake-refresh-5"]
    assert bench.get(one).rejected_refresh == digest("fake-refresh-5")


@pytest.mark.parametrize("failure", [AuthUnavailable("net"), StoreError("disk")])
async def test_a_failed_refresh_changes_nothing(bench, failure):
    """Network trouble is no verdict: the document stays as it is, and the account is as healthy as before."""
    one = stored(bench.folder, account(left=-1))
    before = bench.registry.document.path.read_bytes()
    bench.answers = [failure]
    with pytest.raises(type(failure)):
        await bench.do(account_id=one.id)
    assert bench.registry.document.path.read_bytes() == before


async def test_nothing_is_spent_where_nothing_can_be_written(bench, monkeypatch):
    """A full disk is found out before the refresh token is gone."""
    one = stored(bench.folder, account(left=-1))

    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Document, "_temporary", full)
    with pytest.raises(StoreError, match="No space"):
        await bench.do(account_id=one.id)
    assert bench.spent == []


async def test_a_disk_that_fails_is_given_a_moment(bench, monkeypatch):
    """The new pair exists nowhere else: storing it is tried again."""
    one = stored(bench.folder, account(left=-1))
    bench.answers = [pair(2)]
    real = Document.write
    failures = [StoreError("busy")] * len(WRITE_PAUSES)

    def write(self, data):
        if failures:
            raise failures.pop()
        real(self, data)

    monkeypatch.setattr(Document, "write", write)
    assert await bench.do(account_id=one.id) == "refreshed"
    assert bench.slept == list(WRITE_PAUSES)
    assert bench.get(one).refresh_token == "fake-refresh-2"


@pytest.mark.parametrize("way", ["rotation", "fork"])
async def test_a_pair_that_cannot_be_stored_is_kept_until_it_can(bench, monkeypatch, way):
    """Who waits is told once, and the new pair is stored at last: the old one is spent."""
    one = stored(bench.folder, account(left=-1))
    bench.answers = [pair(2)]
    told = []
    full = pytest.MonkeyPatch()

    def fail(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    bench.meanwhile = lambda: full.setattr("os.replace", fail)
    bench.asleep = lambda: full.undo() if bench.slept.count(NEXT_LOOK) == 2 else None
    fields = {"account_id": one.id} if way == "rotation" else {"candidate": account(number=7, left=-1).to_json()}
    outcome = await do(
        bench.job(**fields),
        bench.refresh,
        clock=lambda: NOW,
        sleep=bench.sleep,
        around=bench.around,
        tell=lambda error: told.append(error.code),
    )
    assert told == [StoreError.code]
    assert bench.slept == [*WRITE_PAUSES, NEXT_LOOK, NEXT_LOOK]
    kept = bench.get(one) if way == "rotation" else bench.registry.load().get(outcome)
    assert kept.refresh_token == "fake-refresh-2"
    assert not [*bench.folder.glob(".*")]


async def test_room_is_left_as_it_was(bench):
    """A refresh that fails leaves nothing lying about."""
    one = stored(bench.folder, account(left=-1))
    bench.answers = [AuthUnavailable("net")]
    with pytest.raises(AuthUnavailable):
        await bench.do(account_id=one.id)
    assert not [*bench.folder.glob(".*")]


async def test_who_cannot_be_told_hears_by_an_exception(bench):
    """A refresh in the proxy's own process does not wait for room."""
    one = stored(bench.folder, account(left=-1))
    bench.answers = [pair(2)]
    full = pytest.MonkeyPatch()
    bench.meanwhile = lambda: full.setattr(Document, "write", lambda *_: (_ for _ in ()).throw(StoreError("full")))
    with pytest.raises(StoreError, match="full"):
        await bench.do(account_id=one.id)
    full.undo()
    assert bench.slept == list(WRITE_PAUSES)


@pytest.mark.parametrize("change", ["login", "removal"])
async def test_what_happened_meanwhile_stays(bench, change):
    """A login or a removal during the refresh is newer than what the refresh brings."""
    one = stored(bench.folder, account(left=-1))

    def meanwhile():
        if change == "removal":
            bench.registry.update(lambda accounts: accounts.remove(one.id))
        else:
            bench.registry.update(lambda accounts: accounts.put(one.model_copy(update=pair(9))))

    bench.meanwhile = meanwhile
    bench.answers = [pair(2)]
    assert await bench.do(account_id=one.id) == "adopted"
    assert (bench.get(one) and bench.get(one).refresh_token) == (None if change == "removal" else "fake-refresh-9")


async def test_a_removal_during_a_rejection_stays(bench):
    """An account that was removed meanwhile is not brought back to be marked."""
    one = stored(bench.folder, account(left=-1))
    two = stored(bench.folder, account(2))
    bench.answers = [AccountDead("no")]

    def replaced():
        bench.registry.update(lambda accounts: accounts.put(one.model_copy(update={"label": "renamed"})))

    bench.asleep = replaced
    with pytest.raises(AccountDead):
        await bench.do(account_id=one.id)
    assert (bench.get(one).label, bench.get(one).state) == ("renamed", "needs_login")
    assert bench.get(two).state == "ok"


async def test_a_login_during_a_rejection_is_not_marked(bench, monkeypatch):
    """A login that is stored between the last look and the mark is not marked for the old one's failure."""
    one = stored(bench.folder, account(left=-1))
    bench.answers = [AccountDead("no")]
    real = Registry.aupdate

    async def late(self, change):
        self.update(lambda accounts: accounts.put(one.model_copy(update=pair(9))))
        return await real(self, change)

    monkeypatch.setattr(Registry, "aupdate", late)
    with pytest.raises(AccountDead):
        await bench.do(account_id=one.id)
    assert (bench.get(one).refresh_token, bench.get(one).state) == ("fake-refresh-9", "ok")


async def test_counters_written_meanwhile_survive(bench):
    """Requests that are counted while a refresh runs are not lost by its write."""
    one = stored(bench.folder, account(left=-1))

    def count():
        bench.registry.update(lambda accounts: accounts.put(bench.get(one).model_copy(update={"request_count": 5})))

    bench.meanwhile = count
    bench.answers = [pair(2)]
    await bench.do(account_id=one.id)
    assert (bench.get(one).request_count, bench.get(one).refresh_token) == (5, "fake-refresh-2")


async def test_accounts_do_not_wait_for_each_other(bench):
    """The lock is the account's: one that is held stops its own refresh only, and never the document."""
    one, two = (stored(bench.folder, account(number, left=-1)) for number in (1, 2))
    bench.answers = [pair(3)]
    async with Document(bench.folder / LOCKS / one.id).alock(1.0):
        with pytest.raises(StoreBusy):
            await bench.do(account_id=one.id, lock_wait=0.0)
        assert await bench.do(account_id=two.id) == "refreshed"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["good", "net", "dead", "login"]), max_size=8))
def test_no_history_loses_the_newest_pair(tmp_path_factory, history):
    """Whatever happens in whatever order, the document holds the newest refresh token that exists."""
    bench = Bench(tmp_path_factory.mktemp("history"))
    one = stored(bench.folder, account(0, left=-1))
    newest = "fake-refresh-0"
    for number, event in enumerate(history, 1):
        if event == "login":
            changed = bench.get(one).model_copy(update=pair(number, left=-1) | {"state": "ok"})
            bench.registry.update(lambda accounts, changed=changed: accounts.put(changed))
            newest = f"fake-refresh-{number}"
            continue
        held = bench.get(one).held_back
        bench.answers = [{"good": pair(number, left=-1), "net": AuthUnavailable("net"), "dead": LoginDead("no")}[event]]
        try:
            asyncio.run(bench.do(account_id=one.id))
            newest = f"fake-refresh-{number}"
            assert not held
        except (AuthUnavailable, LoginDead):
            assert event != "good" or held
        assert bench.get(one).refresh_token == newest


# forks


async def test_a_fork_makes_an_account_with_a_chain_of_its_own(bench):
    """The other program's token is spent once; what follows it is ours, and the token is remembered by its digest."""
    candidate = account(1, imported_from={"kiro-cli": digest("fake-refresh-1")})
    bench.answers = [pair(2)]
    made = await bench.do(candidate=candidate.to_json())
    accounts = bench.registry.load()
    assert accounts.get(made).refresh_token == "fake-refresh-2"
    assert accounts.forks[digest("fake-refresh-1")].account == made
    assert await bench.do(candidate=candidate.to_json()) == made
    assert bench.spent == ["fake-refresh-1"]
    assert "fake-refresh-1" not in bench.registry.document.path.read_text()


async def test_a_token_of_an_account_that_is_here_is_not_forked(bench):
    """What is our own already is not spent by an import."""
    one = stored(bench.folder, account(1))
    assert await bench.do(candidate=account(1).to_json()) == one.id
    assert bench.spent == []


async def test_a_failed_fork_never_replaces_a_good_chain(bench):
    """A token that is turned down is remembered, and the account of that user stays as it was."""
    one = stored(bench.folder, account(1, user_id="u1"))
    bench.answers = [AccountDead("no")]
    for _ in range(2):
        with pytest.raises(AccountDead):
            await bench.do(candidate=account(2, user_id="u1").to_json())
    assert bench.registry.load().accounts == [one]
    assert bench.registry.load().forks[digest("fake-refresh-2")].outcome == "rejected"
    assert bench.spent == ["fake-refresh-2"]


async def test_a_fork_that_met_no_service_may_be_tried_again(bench):
    """Network trouble is not remembered against the token."""
    bench.answers = [AuthUnavailable("net"), pair(2)]
    with pytest.raises(AuthUnavailable):
        await bench.do(candidate=account(1).to_json())
    assert bench.registry.load() == Accounts()
    assert await bench.do(candidate=account(1).to_json())


async def test_a_known_token_without_account_is_dead(bench):
    """A record that names no account gives none."""
    bench.registry.update(lambda accounts: accounts.note_fork(digest("fake-refresh-1"), ForkRecord(outcome="known")))
    with pytest.raises(AccountDead):
        await bench.do(candidate=account(1).to_json())


async def test_forks_at_once_spend_a_token_once(bench):
    """Two imports of one token at the same time make one account."""
    bench.answers = [pair(2)]
    candidate = account(1).to_json()
    first, second = await asyncio.gather(bench.do(candidate=candidate), bench.do(candidate=candidate))
    assert first == second
    assert bench.spent == ["fake-refresh-1"]


# shared accounts


class Shared:
    """Another program's database, and an account that is read from it."""

    def __init__(self, bench):
        self.path = bench.folder.parent / "data.sqlite3"
        with sqlite3.connect(self.path) as database:
            database.execute("CREATE TABLE auth_kv (key TEXT PRIMARY KEY, value TEXT)")
        self.connection = database
        self.source = Source(kind="kiro-cli", path=str(self.path), key="kirocli:social:token")
        self.account = stored(
            bench.folder, account(source=self.source, access_token="", refresh_token="", identity_hash="d")
        )

    def holds(self, number, left):
        row = {"access_token": f"fake-access-{number}", "refresh_token": f"fake-refresh-{number}"}
        row |= {"expires_at": NOW + left, "region": "us-east-1"}
        self.connection.execute("INSERT OR REPLACE INTO auth_kv VALUES (?, ?)", (self.source.key, json.dumps(row)))
        self.connection.commit()


@pytest.fixture
def shared(bench):
    """Return a shared account."""
    made = Shared(bench)
    yield made
    made.connection.close()


async def test_a_shared_login_is_refreshed_only_when_it_has_run_out(bench, shared):
    """Its owner renews it ahead of time; we do so at the end, keep what we got, and write nothing back."""
    shared.holds(1, left=100)
    assert await bench.do(account_id=shared.account.id) == "adopted"
    shared.holds(1, left=-1)
    before = shared.path.read_bytes()
    bench.answers = [pair(2)]
    assert await bench.do(account_id=shared.account.id) == "refreshed"
    assert await bench.do(account_id=shared.account.id) == "adopted"
    now = bench.get(shared.account)
    assert (now.refresh_token, now.shared_base) == ("fake-refresh-2", digest("fake-refresh-1"))
    assert shared.path.read_bytes() == before


async def test_our_successors_are_used_until_the_owner_moves_on(bench, shared):
    """What we made of a shared token goes on from there; a new login in the other program takes its place."""
    shared.holds(1, left=-1)
    bench.answers = [pair(2, left=-1), pair(3), pair(6)]
    await bench.do(account_id=shared.account.id)
    await bench.do(account_id=shared.account.id)
    assert bench.spent == ["fake-refresh-1", "fake-refresh-2"]
    assert bench.get(shared.account).shared_base == digest("fake-refresh-1")
    shared.holds(5, left=-1)
    await bench.do(account_id=shared.account.id)
    assert bench.spent[-1] == "fake-refresh-5"
    assert bench.get(shared.account).shared_base == digest("fake-refresh-5")
