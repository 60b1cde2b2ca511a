"""One JSON document in one file: atomic, private, locked, never overwritten when damaged."""

import asyncio
import contextlib
import errno
import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kimi_core.errors import StoreBusy, StoreDamaged, StoreError
from kimi_core.store import LEFTOVER_AGE, REPLACE_PAUSES, SETTLED, Document, Kept, data_dir

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")


@pytest.fixture
def document(tmp_path: Path) -> Document:
    """Return a document in a folder that does not exist yet."""
    return Document(tmp_path / "data" / "fake.json")


def mode(path: Path) -> int:
    """Return the permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def no_space(*_args: object, **_more: object) -> None:
    """Fail as a full disk does."""
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_folder_is_the_variables_or_the_platforms(tmp_path: Path) -> None:
    """KIMI_MITM_DATA_DIR wins; without it the folder is named after the program."""
    assert data_dir({"KIMI_MITM_DATA_DIR": str(tmp_path)}) == tmp_path
    assert data_dir({"KIMI_MITM_DATA_DIR": "here"}) == Path.cwd() / "here"
    assert data_dir({}).name == "kimi-mitm"


def test_what_is_written_is_read(document: Document) -> None:
    """A document is absent, then what was written last; strange text and numbers survive."""
    assert document.read() is None
    for data in ({"a": 1}, {"b": "ü\ud800", "n": 2**70, "deep": [{"x": None}]}):
        document.write(data)
        assert document.read() == data
    assert document.path.read_bytes().endswith(b"\n")
    assert str(document.path) in repr(document)


@posix
def test_file_and_folder_are_the_owners_alone(document: Document) -> None:
    """Files are 0600 in a folder 0700, also where they were wider before; so is the lock."""
    document.path.parent.mkdir(mode=0o755)
    document.path.write_text("{}")
    document.path.chmod(0o644)
    with document.lock(1.0):
        document.write({"a": 1})
    assert mode(document.path.parent) == 0o700
    assert {mode(path) for path in document.path.parent.iterdir()} == {0o600}


@posix
def test_a_folder_that_anyone_may_write_to_is_refused(document: Document) -> None:
    """A world-writable folder is neither used nor changed."""
    document.path.parent.mkdir()
    document.path.parent.chmod(0o777)
    with pytest.raises(StoreError, match="anyone may write"):
        document.write({})
    with pytest.raises(StoreError, match="anyone may write"), document.lock(1.0):
        pass
    assert mode(document.path.parent) == 0o777


@posix
def test_a_folder_of_another_user_is_left_as_it_is(document: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions are tightened on folders of one's own only."""
    document.path.parent.mkdir(mode=0o755)
    monkeypatch.setattr("os.getuid", lambda: 2**31)
    document.write({"a": 1})
    assert mode(document.path.parent) == 0o755


def test_windows_has_no_permission_bits_and_no_folder_sync(document: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    """There neither the folder's mode nor its fsync is touched."""
    document.path.parent.mkdir(mode=0o755)
    before = mode(document.path.parent)
    monkeypatch.setattr("kimi_core.store.WINDOWS", True)
    document.write({"a": 1})
    assert document.read() == {"a": 1}
    assert mode(document.path.parent) == before


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000, b"1" * 5000, b"{'a': 1}"]
)
def test_a_damaged_file_is_named_and_kept(document: Document, content: bytes) -> None:
    """Reading and writing raise StoreDamaged with the path, without the content, and change nothing."""
    document.path.parent.mkdir()
    document.path.write_bytes(content)
    for act in (document.read, lambda: document.write({"a": 1})):
        with pytest.raises(StoreDamaged, match=r"fake\.json") as caught:
            act()
        assert caught.value.__cause__ is None
    assert document.path.read_bytes() == content


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary()
    | st.text().map(str.encode)
    | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(lambda value: json.dumps(value).encode())
)
def test_any_content_is_an_object_or_damaged(document: Document, content: bytes) -> None:
    """No bytes in the file bring up anything but StoreDamaged."""
    document.path.parent.mkdir(exist_ok=True)
    document.path.write_bytes(content)
    with contextlib.suppress(StoreDamaged):
        assert isinstance(document.read(), dict)


def test_a_damaged_file_can_be_put_aside(document: Document) -> None:
    """The damaged bytes live on under another name, and the place is free."""
    document.path.parent.mkdir()
    document.path.write_bytes(b"damaged")
    aside = document.put_aside()
    assert aside.read_bytes() == b"damaged"
    assert aside.name.startswith("fake.json.damaged-")
    document.write({"a": 1})
    assert document.read() == {"a": 1}
    assert aside.exists()


def test_nothing_can_be_put_aside_twice(document: Document) -> None:
    """Putting aside what is not there is an error."""
    with pytest.raises(StoreError, match="put aside"):
        document.put_aside()


def test_removing_tells_whether_there_was_a_file(document: Document) -> None:
    """True, then False."""
    document.write({})
    assert document.remove() is True
    assert document.remove() is False


@posix
def test_a_symbolic_link_in_the_place_of_the_file_is_refused(document: Document, tmp_path: Path) -> None:
    """Neither read nor written through, and what it points at stays."""
    target = tmp_path / "target.json"
    target.write_text('{"a": 1}')
    document.path.parent.mkdir()
    document.path.symlink_to(target)
    for act in (document.read, lambda: document.write({"b": 2}), document.probe):
        with pytest.raises(StoreError, match="symbolic link"):
            act()
    assert target.read_text() == '{"a": 1}'
    assert document.path.is_symlink()


def test_a_failed_write_leaves_the_old_document_and_no_rubbish(
    document: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full disk at fsync or at the rename: StoreError, old content, no temporary file."""
    document.write({"old": 1})
    for target in ("os.fsync", "pathlib.Path.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(target, no_space)
            with pytest.raises(StoreError, match="No space left"):
                document.write({"new": 1})
        assert document.read() == {"old": 1}
        assert [path.name for path in document.path.parent.iterdir()] == ["fake.json"]


def test_a_probe_tells_beforehand_that_a_write_would_fail(document: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves nothing behind, and raises what the write would raise."""
    document.write({"old": 1})
    document.probe()
    assert [path.name for path in document.path.parent.iterdir()] == ["fake.json"]
    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(StoreError, match="No space left"):
        document.probe()


def folder_of(document: Document) -> list[str]:
    """Return what lies beside a document."""
    return sorted(path.name for path in document.path.parent.iterdir())


def test_room_that_was_taken_is_there_for_the_write(document: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that others fill meanwhile has none for a new file, and none is needed; once."""
    document.write({"old": 1})
    document.reserve()
    (beside,) = [name for name in folder_of(document) if name != "fake.json"]
    assert document.path.with_name(beside).stat().st_size > document.path.stat().st_size
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.mkstemp", no_space)
        document.probe()
        document.write({"new": 1})
        with pytest.raises(StoreError, match="No space left"):
            document.write({"newer": 1})
    assert document.read() == {"new": 1}
    assert folder_of(document) == ["fake.json"]


@pytest.mark.parametrize("step", ["os.fsync", "os.replace"])
def test_room_that_was_taken_outlives_a_failed_write(
    document: Document, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whatever of it fails: the old document stays as it is, and the next try has the room."""
    document.write({"old": 1})
    document.reserve()
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(step, no_space)
            with pytest.raises(StoreError, match="No space left"):
                document.write({"new": 1})
        assert document.read() == {"old": 1}
        assert len(folder_of(document)) == 2
    monkeypatch.setattr("tempfile.mkstemp", no_space)
    document.write({"new": 1})
    assert document.read() == {"new": 1}
    assert folder_of(document) == ["fake.json"]


def test_room_that_is_gone_is_not_needed(document: Document) -> None:
    """Somebody has cleaned up: the write makes a file of its own."""
    document.write({"old": 1})
    document.reserve()
    for path in document.path.parent.glob(".fake.json.*"):
        path.unlink()
    document.write({"new": 1})
    assert document.read() == {"new": 1}


def test_room_that_was_taken_long_ago_is_there_for_the_write(
    document: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine slept: what the write sweeps are the leftovers of others."""
    document.write({"old": 1})
    document.reserve()
    for path in document.path.parent.glob(".fake.json.*"):
        os.utime(path, (1, 1))
    monkeypatch.setattr("tempfile.mkstemp", no_space)
    document.write({"new": 1})
    assert document.read() == {"new": 1}


@pytest.mark.parametrize("step", ["os.fsync", "os.replace"])
def test_what_could_not_be_written_lies_nowhere(document: Document, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """The room is kept for the next try, not what was to go there: who is killed before that leaves no secret."""
    document.write({"old": 1})
    document.reserve()
    monkeypatch.setattr(step, no_space)
    with pytest.raises(StoreError):
        document.write({"token": "fake-secret"})
    (left,) = document.path.parent.glob(".fake.json.*")
    assert left.stat().st_size > 0
    assert b"fake-secret" not in left.read_bytes()


def test_what_cannot_be_overwritten_is_deleted(document: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes nothing any more leaves neither the secret nor the room."""
    document.reserve()
    monkeypatch.setattr("os.replace", no_space)
    monkeypatch.setattr("os.urandom", no_space)
    with pytest.raises(StoreError):
        document.write({"token": "fake-secret"})
    assert folder_of(document) == []


def test_what_is_removed_leaves_nothing_of_its_writers(document: Document) -> None:
    """Be it as young as it may: a writer that was killed had a secret in it."""
    document.write({"old": 1})
    (document.path.parent / ".fake.json.killed.tmp").write_text("fake-secret")
    assert document.remove() is True
    assert folder_of(document) == []
    assert document.remove() is False


def test_a_look_for_room_is_no_matter_of_the_next_write(document: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another thread writes meanwhile does not use what the look takes and gives back."""
    document.write({"old": 1})
    taken = Document._temporary

    def write_meanwhile(self: Document, content: bytes) -> Path:
        found = taken(self, content)
        if self is not document:
            monkeypatch.undo()
            assert document._reserved is None
            document.write({"new": 1})
        return found

    monkeypatch.setattr(Document, "_temporary", write_meanwhile)
    document.probe()
    assert document.read() == {"new": 1}
    assert folder_of(document) == ["fake.json"]


def test_what_was_put_aside_can_be_put_back(document: Document) -> None:
    """Where nothing has taken its place by then."""
    document.write({"old": 1})
    document.put_back(document.put_aside())
    assert document.read() == {"old": 1}
    assert folder_of(document) == ["fake.json"]
    aside = document.put_aside()
    document.write({"new": 1})
    document.put_back(aside)
    assert document.read() == {"new": 1}
    assert aside.exists()


def test_room_is_given_back(document: Document) -> None:
    """By who does not need it, at any time and any number of times; taking it twice takes it once."""
    document.release()
    for _ in range(2):
        document.reserve()
    assert len(folder_of(document)) == 1
    for path in document.path.parent.iterdir():
        path.unlink()
    document.release()
    document.reserve()
    document.release()
    assert folder_of(document) == []


@posix
def test_a_limit_on_files_leaves_the_old_document(document: Document) -> None:
    """A process that may write no more (EFBIG) neither cuts nor loses what is stored."""
    document.write({"old": "x" * 2000})
    script = (
        "import resource, sys; from pathlib import Path; from kimi_core.store import Document\n"
        "document = Document(Path(sys.argv[1])); document.reserve()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: document.write({'new': 'x' * 3000})\n"
        "except Exception as error: print(type(error).__name__)\n"
        "document.release()"
    )
    done = subprocess.run([sys.executable, "-c", script, document.path], capture_output=True, check=True, timeout=60)
    assert done.stdout.split() == [b"StoreError"]
    assert document.read() == {"old": "x" * 2000}
    assert folder_of(document) == ["fake.json"]


@pytest.mark.parametrize(("refusals", "written"), [(1, True), (len(REPLACE_PAUSES), True), (99, False)])
def test_a_rename_that_a_reader_blocks_is_tried_again(
    document: Document, monkeypatch: pytest.MonkeyPatch, refusals: int, written: bool
) -> None:
    """Windows refuses to replace an open file: a few tries, then StoreError."""
    document.write({"old": 1})
    pauses: list[float] = []
    real = Path.replace
    left = [refusals]

    def replace(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] >= 0:
            raise PermissionError(errno.EACCES, "in use")
        return real(self, target)

    monkeypatch.setattr("pathlib.Path.replace", replace)
    monkeypatch.setattr("kimi_core.store.time.sleep", pauses.append)
    if written:
        document.write({"new": 1})
        assert document.read() == {"new": 1}
    else:
        with pytest.raises(StoreError, match="in use"):
            document.write({"new": 1})
        assert document.read() == {"old": 1}
    assert pauses == list(REPLACE_PAUSES[:refusals])


def test_leftovers_of_killed_writers_are_swept(document: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old temporary files of this document go with the next write; young ones and other files stay."""
    document.write({})
    folder = document.path.parent
    names = {".fake.json.old.tmp": False, ".fake.json.young.tmp": True, ".other.json.old.tmp": True}
    for name in names:
        (folder / name).write_text("fake-refresh")
        if "old" in name:
            past = time.time() - 2 * LEFTOVER_AGE
            os.utime(folder / name, (past, past))
    document.write({})
    assert {name: (folder / name).exists() for name in names} == names


def test_the_lock_keeps_others_out_and_is_free_afterwards(document: Document) -> None:
    """A second holder gets StoreBusy; after an exception inside, the lock is free."""
    with document.lock(1.0), pytest.raises(StoreBusy, match="in use"), Document(document.path).lock(0.0):
        pass
    with pytest.raises(LookupError), document.lock(0.0):
        raise LookupError
    with document.lock(0.0):
        pass


def test_the_lock_is_waited_for(document: Document) -> None:
    """A thread that waits gets the lock when its holder lets go."""
    order = []

    def other() -> None:
        with Document(document.path).lock(10.0):
            order.append("other")

    with document.lock(1.0):
        thread = threading.Thread(target=other)
        thread.start()
        order.append("first")
    thread.join(10.0)
    assert order == ["first", "other"]


async def test_the_loop_goes_on_while_a_coroutine_waits_for_the_lock(document: Document) -> None:
    """The waiter sleeps between tries, and gets the lock when it is free."""
    pauses: list[float] = []
    holder = document.lock(1.0)
    holder.__enter__()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            holder.__exit__(None, None, None)

    async with Document(document.path).alock(1.0, sleep=sleep):
        assert len(pauses) == 3
        with pytest.raises(StoreBusy), document.lock(0.0):
            pass


async def test_a_coroutine_waits_for_the_lock_only_so_long(document: Document) -> None:
    """StoreBusy after the time given; the last try is after the last pause."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    with document.lock(1.0), pytest.raises(StoreBusy, match="1 s"):
        async with Document(document.path).alock(1.0, sleep=sleep):
            pass
    assert sum(waited) == pytest.approx(1.0)
    async with document.alock(0.0):
        pass


async def test_a_cancelled_waiter_holds_nothing(document: Document) -> None:
    """Cancellation while waiting, and inside, leaves the lock free."""
    entered = asyncio.Event()

    async def hold() -> None:
        async with Document(document.path).alock(60.0):
            entered.set()
            await asyncio.Event().wait()

    with document.lock(1.0):
        waiter = asyncio.create_task(hold())
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
    holder = asyncio.create_task(hold())
    await entered.wait()
    holder.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holder
    with document.lock(0.0):
        pass


def test_a_folder_that_cannot_be_made_is_a_store_error(tmp_path: Path) -> None:
    """A file in the place of the folder: StoreError for reading, writing and locking."""
    (tmp_path / "data").write_text("")
    document = Document(tmp_path / "data" / "fake.json")
    for act in (document.read, lambda: document.write({}), document.remove):
        with pytest.raises(StoreError):
            act()
    with pytest.raises(StoreError), document.lock(0.0):
        pass


def test_a_folder_in_the_place_of_the_lock_is_a_store_error(document: Document) -> None:
    """What cannot be locked is refused, not used without a lock."""
    Path(f"{document.path}.lock").mkdir(parents=True)
    with pytest.raises(StoreError, match="locked"), document.lock(0.0):
        pass


@pytest.fixture
def kept(document: Document) -> tuple[Document, Kept[dict[str, object] | None], list[int]]:
    """Return a document, what is kept of it, and a list that has an entry for each time the file was read."""
    reads: list[int] = []

    def read() -> dict[str, object] | None:
        reads.append(1)
        return document.read()

    document.write({"a": 1})
    return document, Kept(document, read), reads


def age(path: Path, nanoseconds: int = 2 * SETTLED) -> None:
    """Wait until the file has not been changed for so long."""
    while time.time_ns() - max(path.stat().st_mtime_ns, path.stat().st_ctime_ns) <= nanoseconds:
        time.sleep(SETTLED / 1e9)


def test_a_file_that_stays_is_read_once(kept):
    """Once it is settled a file is read once, and again only when it is another."""
    document, kept_, reads = kept
    age(document.path)
    assert [kept_.get() for _ in range(3)] == [{"a": 1}] * 3
    assert len(reads) == 1
    document.write({"a": 2})
    assert kept_.get() == {"a": 2}


def test_a_young_file_is_read_every_time(kept, monkeypatch):
    """A file that changed a moment ago may change again within a tick of its clock, so nothing of it is kept."""
    document, kept_, reads = kept
    monkeypatch.setattr(time, "time_ns", lambda: document.path.stat().st_mtime_ns)
    assert [kept_.get(), kept_.get()] == [{"a": 1}] * 2
    assert len(reads) == 2


def test_what_happens_to_a_kept_file_is_seen(kept):
    """A file that is deleted, damaged or replaced by a link is not hidden by what was kept of it."""
    document, kept_, _ = kept
    age(document.path)
    assert kept_.get() == {"a": 1}
    document.path.write_text("{")
    with pytest.raises(StoreDamaged):
        kept_.get()
    document.path.unlink()
    assert kept_.get() is None
    document.path.symlink_to(document.path.with_name("other"))
    assert document.stamp() is None
    with pytest.raises(StoreError, match="link"):
        kept_.get()
