"""One refresh of a stored login, from reading it to having its successor on disk; and the files it works on."""

import errno
import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kimi_core.errors import AuthUnavailable, LoginDead, NotLoggedIn, StoreBusy, StoreDamaged, StoreError
from kimi_core.headers import Headers
from kimi_core.kimi.constants import Site
from kimi_core.kimi.logins import REJECTION_LIFE, StoredLogin
from kimi_core.kimi.rotation import LOCK_WAIT, NEXT_LOOK, SECOND_LOOK, WRITE_PAUSES, Job, rotate
from kimi_core.tokens import OAuthToken, digest

SITE = Site("kimi.test", "http://127.0.0.1:9", "http://127.0.0.1:9/coding/v1")
NOW = 10_000.0


def token(number: int, left: float = 900.0) -> OAuthToken:
    """Return the token pair *number* with so many seconds left."""
    return OAuthToken(f"fake-access-{number}", f"fake-refresh-{number}", NOW + left, 900.0, "kimi-code")


class Bench:
    """A stored login, a clock that stands, and a login service that is one function."""

    def __init__(self, folder: Path) -> None:
        self.login = StoredLogin(folder, SITE.slot)
        self.folder = folder
        self.now = NOW
        self.slept: list[float] = []
        self.spent: list[str] = []
        self.answers: list[OAuthToken | Exception] = []
        self.meanwhile: Any = None
        self.asleep: Any = None

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if self.asleep:
            self.asleep()

    async def refresh(self, old: OAuthToken) -> OAuthToken:
        self.spent.append(old.refresh_token)
        with pytest.raises(StoreBusy), StoredLogin(self.folder, SITE.slot).document.lock(0.0):
            pass  # nobody else can be at it
        if self.meanwhile:
            self.meanwhile()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def rotate(self, rejected: str | None = None, lock_wait: float = LOCK_WAIT) -> str:
        job = Job(SITE, Headers(), {}, self.folder, digest(rejected) if rejected else None)
        return await rotate(job, self.refresh, clock=lambda: self.now, sleep=self.sleep, lock_wait=lock_wait)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a bench whose folder does not exist yet."""
    return Bench(tmp_path / "data")


def test_a_job_survives_json_and_has_no_token() -> None:
    """What the other process gets is what was asked."""
    job = Job(SITE, Headers([("A", "1"), ("a", "2")]), {"proxy": "http://127.0.0.1:1"}, Path("/fake"), digest("x"))
    text = json.dumps(job.to_json())
    assert Job.from_json(json.loads(text)) == job
    assert "127.0.0.1:1" not in repr(job)


async def test_a_due_token_is_refreshed_and_stored(bench: Bench) -> None:
    """The successor is on disk; keys of others stay."""
    bench.login.document.write({"note": "keep me", **token(1, 100).to_json()})
    bench.answers = [token(2)]
    assert await bench.rotate() == "refreshed"
    assert bench.login.token() == token(2)
    assert (bench.login.document.read() or {})["note"] == "keep me"
    assert bench.spent == ["fake-refresh-1"]


@pytest.mark.parametrize(
    ("stored", "rejected", "adopted"),
    [
        (token(1, 451), None, True),
        (token(1, 449), None, False),
        (token(1, 900), "fake-access-1", False),
        (token(2, 900), "fake-access-1", True),
        (token(2, 10), "fake-access-1", True),
        (token(2, -1), "fake-access-1", False),
    ],
)
async def test_a_newer_token_is_adopted(bench: Bench, stored: OAuthToken, rejected: str | None, adopted: bool) -> None:
    """Enough life left, or another access token than the rejected one: nothing is spent."""
    bench.login.put(stored)
    bench.answers = [token(3)]
    assert await bench.rotate(rejected) == ("adopted" if adopted else "refreshed")
    assert bench.spent == ([] if adopted else [stored.refresh_token])


async def test_without_a_login_there_is_nothing_to_refresh(bench: Bench) -> None:
    """NotLoggedIn."""
    with pytest.raises(NotLoggedIn):
        await bench.rotate()


async def test_a_taken_lock_is_waited_for_and_then_busy(bench: Bench) -> None:
    """StoreBusy after the wait; nothing is spent."""
    bench.login.put(token(1, 1))
    with bench.login.document.lock(1.0), pytest.raises(StoreBusy):
        await bench.rotate(lock_wait=0.5)
    assert sum(bench.slept) == pytest.approx(0.5)
    assert bench.spent == []


async def test_a_failed_refresh_changes_nothing(bench: Bench) -> None:
    """The file is byte for byte what it was, and no mark is made."""
    bench.login.put(token(1, 1))
    before = bench.login.document.path.read_bytes()
    bench.answers = [AuthUnavailable("fake")]
    with pytest.raises(AuthUnavailable):
        await bench.rotate()
    assert bench.login.document.path.read_bytes() == before
    assert not bench.login.mark.path.exists()


async def test_a_rejected_refresh_token_is_marked_and_kept(bench: Bench) -> None:
    """After a second look the login is dead for 300 s for everybody; then it may be tried once more."""
    bench.login.put(token(1, 1))
    before = bench.login.document.path.read_bytes()
    bench.answers = [LoginDead("fake"), LoginDead("fake"), token(2)]
    for _ in range(2):
        with pytest.raises(LoginDead):
            await bench.rotate()
    assert bench.spent == ["fake-refresh-1"]
    assert bench.slept == [SECOND_LOOK]
    assert bench.login.document.path.read_bytes() == before
    assert "fake-refresh" not in bench.login.mark.path.read_text()
    bench.now += REJECTION_LIFE
    with pytest.raises(LoginDead):
        await bench.rotate()
    bench.now += REJECTION_LIFE - 1
    with pytest.raises(LoginDead):
        await bench.rotate()
    assert len(bench.spent) == 2
    bench.now += 1
    assert await bench.rotate() == "refreshed"
    assert not bench.login.mark.path.exists()


@pytest.mark.parametrize(("left", "outcome"), [(900, "adopted"), (1, "refreshed")])
async def test_after_a_rejection_a_changed_file_is_adopted(bench: Bench, left: float, outcome: str) -> None:
    """Somebody stored another pair meanwhile: it is used, or refreshed in its turn."""
    bench.login.put(token(1, 1))
    bench.answers = [LoginDead("fake"), token(3)]
    bench.asleep = lambda: bench.login.put(token(2, left))
    assert await bench.rotate() == outcome
    assert bench.login.token() == (token(2) if outcome == "adopted" else token(3))
    assert not bench.login.mark.path.exists()


async def test_after_two_rejections_it_ends_even_if_the_file_keeps_changing(bench: Bench) -> None:
    """The second look is had twice at the most."""
    bench.login.put(token(1, 1))
    numbers = iter(range(2, 99))
    bench.answers = [LoginDead("fake"), LoginDead("fake")]
    bench.asleep = lambda: bench.login.put(token(next(numbers), 1))
    with pytest.raises(LoginDead):
        await bench.rotate()
    assert bench.spent == ["fake-refresh-1", "fake-refresh-2"]


async def test_a_login_made_during_the_refresh_stays(bench: Bench) -> None:
    """A file that changed under the lock is newer than the refresh's result."""
    bench.login.put(token(1, 1))
    bench.answers = [token(2)]
    bench.meanwhile = lambda: bench.login.put(token(9))
    assert await bench.rotate() == "adopted"
    assert bench.login.token() == token(9)


async def test_a_login_deleted_during_the_refresh_is_not_brought_back(bench: Bench) -> None:
    """Who deletes the file means it."""
    bench.login.put(token(1, 1))
    bench.answers = [token(2)]
    bench.meanwhile = bench.login.remove
    with pytest.raises(NotLoggedIn):
        await bench.rotate()
    assert bench.login.token() is None


async def test_a_file_damaged_during_the_refresh_is_put_aside(bench: Bench) -> None:
    """The new pair exists nowhere else: it is stored, the damaged file is kept beside it."""
    bench.login.put(token(1, 1))
    bench.answers = [token(2)]
    bench.meanwhile = lambda: bench.login.document.path.write_text("damaged")
    assert await bench.rotate() == "refreshed"
    assert bench.login.token() == token(2)
    assert [path.read_text() for path in bench.folder.glob("*.damaged-*")] == ["damaged"]


async def test_a_full_disk_is_noticed_before_the_token_is_spent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """StoreError, and the login service has not been asked."""
    bench.login.put(token(1, 1))

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match="No space"):
        await bench.rotate()
    assert bench.spent == []


@pytest.mark.parametrize("failures", [1, len(WRITE_PAUSES), len(WRITE_PAUSES) + 1])
async def test_a_disk_that_fails_after_the_refresh_is_given_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """Storing the only copy is tried several times before it is given up."""
    bench.login.put(token(1, 1))
    bench.answers = [token(2)]
    real = StoredLogin.put
    left = [failures]

    def put(self: StoredLogin, new: OAuthToken) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise StoreError("fake")
        real(self, new)

    monkeypatch.setattr(StoredLogin, "put", put)
    if failures <= len(WRITE_PAUSES):
        assert await bench.rotate() == "refreshed"
        assert bench.login.token() == token(2)
    else:
        with pytest.raises(StoreError):
            await bench.rotate()
    assert bench.slept == list(WRITE_PAUSES[:failures])


async def test_a_token_that_cannot_be_stored_is_kept_until_it_can(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits is told once, nobody else gets at the spent token meanwhile, and the successor is stored at last."""
    bench.login.put(token(1, 1))
    bench.answers = [token(2)]
    told: list[str] = []
    full = pytest.MonkeyPatch()
    bench.meanwhile = lambda: full.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))

    def wait() -> None:
        assert bench.login.token() == token(1, 1)
        with pytest.raises(StoreBusy), StoredLogin(bench.folder, SITE.slot).document.lock(0.0):
            pass
        if len(bench.slept) == len(WRITE_PAUSES) + 3:
            full.undo()

    bench.asleep = wait
    job = Job(SITE, Headers(), {}, bench.folder)
    done = await rotate(
        job, bench.refresh, clock=lambda: NOW, sleep=bench.sleep, tell=lambda error: told.append(error.code)
    )
    assert done == "refreshed"
    assert told == [StoreError.code]
    assert bench.login.token() == token(2)
    assert bench.slept == [*WRITE_PAUSES, *[NEXT_LOOK] * 3]


async def test_a_new_login_ends_the_wait_for_room(bench: Bench) -> None:
    """What the user has logged in with meanwhile is newer, and stays."""
    bench.login.put(token(1, 1))
    bench.answers = [token(2)]
    full = pytest.MonkeyPatch()
    bench.meanwhile = lambda: full.setattr(StoredLogin, "put", lambda *_: (_ for _ in ()).throw(StoreError("full")))

    def wait() -> None:
        if bench.slept[-1] == NEXT_LOOK:
            full.undo()
            bench.login.put(token(3))

    bench.asleep = wait
    job = Job(SITE, Headers(), {}, bench.folder)
    done = await rotate(job, bench.refresh, clock=lambda: NOW, sleep=bench.sleep, tell=lambda _: None)
    assert done == "adopted"
    assert bench.login.token() == token(3)


async def test_a_full_disk_has_room_for_the_mark(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room that the successor would have had: a token that was turned down is tried by nobody again."""
    bench.login.put(token(1, 1))
    bench.answers = [LoginDead("dead"), LoginDead("dead")]
    make = tempfile.mkstemp

    def full(*args: Any, **more: Any) -> tuple[int, str]:
        if [*bench.folder.glob(".*.tmp")]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return make(*args, **more)

    monkeypatch.setattr(tempfile, "mkstemp", full)
    with pytest.raises(LoginDead):
        await bench.rotate()
    assert bench.login.rejected_at(token(1)) == NOW


async def test_a_file_that_is_damaged_meanwhile_costs_no_successor(bench: Bench) -> None:
    """Not even where the first write fails: the damaged file is back in its place, and the next try puts it aside."""
    bench.login.put(token(1, 1))
    bench.answers = [token(2)]
    failing = pytest.MonkeyPatch()

    def fail(*_: object) -> None:
        failing.undo()
        raise OSError(errno.EIO, "Input/output error")

    def meanwhile() -> None:
        bench.login.document.path.write_text("dam")
        failing.setattr("os.replace", fail)
        failing.setattr(Path, "replace", fail)

    bench.meanwhile = meanwhile
    assert await bench.rotate() == "refreshed"
    assert bench.login.token() == token(2)
    (aside,) = bench.folder.glob("*.damaged-*")
    assert aside.read_text() == "dam"


@pytest.mark.parametrize("answer", [token(2), AuthUnavailable("net"), LoginDead("dead")])
async def test_room_is_left_as_it_was(bench: Bench, answer: OAuthToken | Exception) -> None:
    """However a refresh ends, nothing lies about."""
    bench.login.put(token(1, 1))
    bench.answers = [answer]
    bench.meanwhile = lambda: bench.answers.append(bench.answers[0])
    with suppress(AuthUnavailable, LoginDead):
        await bench.rotate()
    assert not [*bench.folder.glob(".*")]


def test_a_damaged_token_file_is_named_and_put_aside_by_the_next_login(bench: Bench) -> None:
    """StoreDamaged without its content; put keeps the old bytes beside."""
    bench.login.put(token(1))
    damaged = json.dumps({**token(1).to_json(), "expires_at": "soon"})
    bench.login.document.path.write_text(damaged)
    with pytest.raises(StoreDamaged, match="expires_at") as caught:
        bench.login.token()
    assert "fake-" not in str(caught.value)
    bench.login.put(token(2))
    assert bench.login.token() == token(2)
    assert [path.read_text() for path in bench.folder.glob("*.damaged-*")] == [damaged]


@pytest.mark.parametrize(
    "mark", ["", "[]", "{}", '{"sha256": 1}', json.dumps({"sha256": digest("fake-refresh-1"), "at": "now"})]
)
def test_a_mark_that_makes_no_sense_is_no_mark(bench: Bench, mark: str) -> None:
    """It holds nobody back, and is replaced at the next rejection."""
    bench.login.put(token(1))
    bench.login.mark.path.write_text(mark)
    assert not bench.login.held_back(token(1), NOW)
    bench.login.reject(token(1), NOW)
    assert bench.login.held_back(token(1), NOW)
    assert not bench.login.held_back(token(2), NOW)


def test_a_mark_from_the_future_holds_nobody_back(bench: Bench) -> None:
    """A clock that was set back must not lock the user out."""
    bench.login.reject(token(1), NOW + 1)
    assert not bench.login.held_back(token(1), NOW)
    assert bench.login.rejected_at(token(1)) == NOW + 1


def test_removing_takes_token_and_mark(bench: Bench) -> None:
    """It tells whether there was a token file."""
    bench.login.put(token(1))
    bench.login.reject(token(1), NOW)
    assert bench.login.remove() is True
    assert bench.login.remove() is False
    assert list(bench.folder.iterdir()) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary()
    | st.dictionaries(
        st.sampled_from(["access_token", "refresh_token", "expires_at", "expires_in"]),
        st.none() | st.text() | st.floats() | st.integers(),
    ).map(lambda data: json.dumps(data).encode())
)
def test_any_stored_file_is_a_token_or_damaged(bench: Bench, content: bytes) -> None:
    """No bytes in the token file or the mark bring up anything but StoreDamaged."""
    bench.folder.mkdir(exist_ok=True)
    bench.login.document.path.write_bytes(content)
    bench.login.mark.path.write_bytes(content)
    try:
        assert bench.login.token() is not None
    except StoreDamaged:
        assert bench.login.rejected_at(token(1)) is None
