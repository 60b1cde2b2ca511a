"""A login that was approved is stored, be it later."""

import errno
import json
from pathlib import Path

import pytest

from kimi_core.cli import keeping
from kimi_core.cli.steps import Steps
from kimi_core.errors import ConfigError, StoreBusy, StoreError
from kimi_core.kiro import accounts
from kimi_core.store import Document
from tests.servers.kiro import Login

PAGE = Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md"
PAUSE = 7.0  # seconds; nothing else sleeps as long


@pytest.fixture(params=["kimi", "kiro"])
def program(request, monkeypatch):
    """Return the command line for each provider, its login file, and how its login is made."""
    monkeypatch.setattr(keeping, "PAUSE", PAUSE)
    if request.param == "kimi":
        cli = request.getfixturevalue("cli")
        return cli, cli.login_file, ("login", "kimi")
    kiro = request.getfixturevalue("kiro")
    kiro.service.login = lambda token: Login(kind="builder")
    return kiro, kiro.document, ("login", "kiro")


def meanwhile(monkeypatch, cli, tries, then):
    """Have *then* happen in the pause after so many tries."""
    sleep, seen = type(cli.time).sleep, []

    async def passing(self, seconds):
        await sleep(self, seconds)
        if seconds == PAUSE:
            seen.append(seconds)
            if len(seen) == tries:
                then()

    monkeypatch.setattr(type(cli.time), "sleep", passing)
    return seen


def fail(number):
    """Return what a call of the system does on such a disk."""

    def failing(*_args, **_more):
        raise OSError(number, "No space left on device")

    return failing


def test_a_disk_that_fills_while_the_user_approves_is_waited_for(program, monkeypatch):
    """What is in the way is told once; when it is gone the login is stored, and nothing lies about."""
    cli, path, command = program
    full = pytest.MonkeyPatch()
    write = Document.write

    def begin(self, data):
        if self.path == path:
            full.setattr("os.fsync", fail(errno.ENOSPC))
            monkeypatch.setattr(Document, "write", write)
        write(self, data)

    if command[1] == "kiro":
        assert cli(*command).exit_code == 0  # the registration is stored, which is none of this
    monkeypatch.setattr(Document, "write", begin)
    paused = meanwhile(monkeypatch, cli, 3, full.undo)
    result = cli(*command)
    assert result.exit_code == 0
    assert len(paused) == 3
    assert result.stderr.count("not stored yet") == 1
    assert "No space left" in result.stderr
    assert "Logged in." in result.stdout
    assert json.loads(path.read_text())
    assert not [*path.parent.glob(f".{path.name}*")]


def test_the_room_for_a_login_is_held_from_the_code_to_the_end(kiro, monkeypatch):
    """A disk that others fill meanwhile has room for a first login too, which had to store a registration before."""
    kiro.service.login = lambda token: Login(kind="builder")
    code = Steps.code

    def then_full(self, shown):
        monkeypatch.setattr(Document, "_new", fail(errno.ENOSPC))  # what is reserved can be written all the same
        code(self, shown)

    monkeypatch.setattr(Steps, "code", then_full)
    told = [json.loads(line)["event"] for line in kiro("login", "kiro", "--json").stdout.splitlines()]
    assert "unstored" not in told
    assert len(kiro.accounts) == 1
    assert [*kiro.data.glob(".*.tmp")] == []


def test_a_program_learns_why_a_login_is_not_stored_yet(program, monkeypatch):
    """An event of its own, before those of success."""
    cli, path, command = program
    write, failures = Document.write, [StoreError("fake trouble")] * 2

    def failing(self, data):
        if self.path == path and failures:
            raise failures.pop()
        write(self, data)

    if command[1] == "kiro":
        assert cli(*command).exit_code == 0
    monkeypatch.setattr(Document, "write", failing)
    told = [json.loads(line) for line in cli(*command, "--json").stdout.splitlines()]
    names = [event["event"] for event in told]
    assert names[-4:] == ["unstored", "approved", "stored", "models"]
    assert told[-4]["problem"]["message"] == "fake trouble"


def test_a_store_that_others_use_is_waited_for(kiro, monkeypatch):
    """Another process that holds the lock for longer than anybody does costs the user a wait, and no login."""
    monkeypatch.setattr(accounts, "LOCK_WAIT", 0.1)
    monkeypatch.setattr(keeping, "PAUSE", PAUSE)
    kiro.service.login = lambda token: Login(kind="builder")
    lock = Document(kiro.document).lock(1.0)
    lock.__enter__()
    meanwhile(monkeypatch, kiro, 2, lambda: lock.__exit__(None, None, None))
    result = kiro("login", "kiro")
    assert result.exit_code == 0
    assert "in use by another process" in result.stderr
    assert len(kiro.accounts) == 1


def test_a_login_that_is_being_renewed_is_waited_for_with_a_word(cli, monkeypatch):
    """Kimi's has one file and one lock for both: it is waited for as long as a renewal may take, and then not."""
    monkeypatch.setattr("kimi_core.kimi.session.LOCK_WAIT", 0.1)
    cli.log_in()
    before = cli.stored()
    with Document(cli.login_file).lock(1.0):
        result = cli("login", "kimi")
    assert result.exit_code == 0
    assert "in use by another process" in result.stderr
    assert cli.stored()["access_token"] != before["access_token"]


def test_a_login_that_is_being_renewed_is_told_of_once(cli, monkeypatch):
    """However often the new one is tried to be stored, and whatever else is in its way."""
    monkeypatch.setattr("kimi_core.kimi.session.LOCK_WAIT", 0.1)
    monkeypatch.setattr(keeping, "TRIES", 3)
    cli.log_in()
    write = Document.write

    def full(self, data):
        if self.path == cli.login_file:
            raise StoreError("fake trouble")
        write(self, data)

    monkeypatch.setattr(Document, "write", full)
    with Document(cli.login_file).lock(1.0):
        told = [json.loads(line) for line in cli("login", "kimi", "--json").stdout.splitlines()]
    problems = [event["problem"] for event in told if event["event"] == "unstored"]
    assert [problem["code"] for problem in problems] == ["store_busy", "store_error"]
    assert problems[0]["message"] == f"{cli.login_file} is in use by another process, which is waited for."


def test_a_damaged_login_is_put_aside_once(program, monkeypatch):
    """However often the new one is tried to be stored, the user is told where the old one is."""
    cli, path, command = program
    cli.data.mkdir(mode=0o700)
    path.write_text("damaged")
    full = pytest.MonkeyPatch()
    put_aside = Document.put_aside

    def then_full(self):
        aside = put_aside(self)
        full.setattr("os.fsync", fail(errno.ENOSPC))
        return aside

    monkeypatch.setattr(Document, "put_aside", then_full)
    meanwhile(monkeypatch, cli, 2, full.undo)
    told = [json.loads(line) for line in cli(*command, "--json").stdout.splitlines()]
    (stored,) = [event for event in told if event["event"] == "stored"]
    assert [str(found) for found in cli.data.glob("*.damaged-*")] == [stored["put_aside"]]
    assert "access_token" in path.read_text()


def test_where_nothing_can_be_stored_nobody_is_asked_to_approve(program, monkeypatch):
    """It is said before there is a code."""
    cli, path, command = program
    monkeypatch.setattr("os.fsync", fail(errno.EROFS))
    result = cli(*command)
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr
    assert "Code" not in result.stdout
    assert not path.exists()


async def test_it_is_tried_for_ten_minutes_at_least():
    """As the page says; what each try waits for comes on top."""
    paused, waited = [], []

    class Told:
        def unstored(self, problem):
            pass

    async def store():
        waited.append(accounts.LOCK_WAIT)
        raise StoreBusy("in use")

    async def sleep(seconds):
        paused.append(seconds)

    with pytest.raises(StoreBusy):
        await keeping.kept(store, Told(), sleep)
    assert sum(paused) == 600
    assert sum(waited) > 600
    (row,) = [line for line in PAGE.read_text().splitlines() if "not stored yet" in line]
    assert "for ten minutes at least, longer where a file is in use" in row


async def test_it_ends_some_time(monkeypatch):
    """With what is in the way; other failures end it at once."""
    monkeypatch.setattr(keeping, "TRIES", 3)
    tries, paused, told = [], [], []

    class Told:
        def unstored(self, problem):
            told.append(str(problem))

    async def store():
        tries.append(1)
        raise StoreError("one" if len(tries) < 3 else "another")

    async def sleep(seconds):
        paused.append(seconds)

    with pytest.raises(StoreError, match="another"):
        await keeping.kept(store, Told(), sleep)
    assert (len(tries), len(paused), told) == (4, 3, ["one", "another"])

    async def refused():
        raise ConfigError("no")

    with pytest.raises(ConfigError):
        await keeping.kept(refused, Told(), sleep)
    assert len(paused) == 3
