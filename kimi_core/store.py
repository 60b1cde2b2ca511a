"""One JSON object in one file: whole or not at all, for its owner only, never overwritten when damaged.

A write goes to a temporary file in the same folder (0600), is fsynced, renamed over the old file, and the folder is
fsynced: after a crash there is the old document or the new one. Readers need no lock. Writers that read first hold
the lock, a kernel lock on a sibling ``.lock`` file: it is released by the kernel when its holder dies, so that no
lock can be stale. The lock file itself stays; deleting it would split the waiters.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import math
import os
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from kimi_core.errors import StoreBusy, StoreDamaged, StoreError

DATA_DIR_VARIABLE = "KIMI_MITM_DATA_DIR"
WINDOWS = os.name == "nt"
POLL = 0.05  # seconds between two tries for the lock; filelock's own default
REPLACE_PAUSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)  # Windows refuses a rename while a reader has the file open
LEFTOVER_AGE = 3600.0  # seconds after which a temporary file belongs to a writer that is no more
SETTLED = 20_000_000  # ns; a file changed later than this ago may change again without another time on it
HEADROOM = 4096  # bytes by which a document may grow between `reserve` and `write`


def data_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of logins and caches: KIMI_MITM_DATA_DIR, else the platform's place for user data."""
    chosen = environ.get(DATA_DIR_VARIABLE)
    return Path(chosen).expanduser().absolute() if chosen else platformdirs.user_data_path("kimi-mitm")


def state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of records and logs: below KIMI_MITM_DATA_DIR, else the platform's place for state."""
    return data_dir(environ) / "state" if environ.get(DATA_DIR_VARIABLE) else platformdirs.user_state_path("kimi-mitm")


def older_log(log: Path) -> Path:
    """Return the name that a log gets when a new one is begun; there is one such file."""
    return log.with_name(f"{log.name}.1")


class Document:
    """One JSON object in the file *path*.

    Every method raises StoreError where the system refuses (permissions, full disk) and where the file is a symbolic
    link: a link in place of a credential file is either a mistake or a trap.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reserved: Path | None = None

    def __repr__(self) -> str:
        return f"Document({str(self.path)!r})"

    def read(self) -> dict[str, Any] | None:
        """Return the object, or None where there is no file. Raises StoreDamaged where it does not parse."""
        with self._mapped("read"):
            raw = self._raw()
        if raw is None:
            return None
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError):
            # the parser's own message and context quote the text, which holds secrets
            raise StoreDamaged(f"{self.path} is damaged: it holds no JSON.") from None
        if not isinstance(data, dict):
            raise StoreDamaged(f"{self.path} is damaged: it holds no JSON object.")
        return data

    def stamp(self) -> tuple[int, ...] | None:
        """Return what tells this state of the file from any other; None where there is none, or it is too young."""
        try:
            found = self.path.lstat()
        except OSError:
            return None
        changed = max(found.st_mtime_ns, found.st_ctime_ns)
        regular = stat.S_ISREG(found.st_mode)
        settled = regular and time.time_ns() - changed > SETTLED
        return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns) if settled else None

    def write(self, data: Mapping[str, Any]) -> None:
        """Replace the document by *data*, durably. Raises StoreDamaged over a damaged file: put it aside first."""
        self.read()
        text = json.dumps(dict(data)) + "\n"
        with self._mapped("written"):
            self._prepare()
            self._sweep(time.time() - LEFTOVER_AGE)
            temporary = self._temporary(text.encode())
            try:
                self._replace(temporary)
            except BaseException:
                self._drop(temporary)
                raise
            self._reserved = None
            _sync_folder(self.path.parent)

    def probe(self) -> None:
        """Raise StoreError if a `write` would fail now; one whose room is taken would not."""
        if self._reserved is None or not self._reserved.exists():
            other = Document(self.path)  # what is taken here is for no write, be it one in another thread
            other.reserve()
            other.release()

    def reserve(self) -> None:
        """Take the room for the next `write`, or raise StoreError. For what is spent then, and must be kept.

        A disk that others fill meanwhile has room for that write all the same. `release` gives back what is not used.
        """
        self.release()
        with self._mapped("written"):
            self._prepare()
            size = len(self._raw() or b"") + HEADROOM
            self._reserved = self._temporary(os.urandom(size))  # what a file system cannot make smaller

    def release(self) -> None:
        """Give back what `reserve` took and no `write` has used."""
        reserved, self._reserved = self._reserved, None
        if reserved is not None:
            with contextlib.suppress(OSError):  # it is swept with the others then
                reserved.unlink()

    def put_aside(self) -> Path:
        """Rename the file to ``<name>.damaged-<UTC time>`` and return that path. Raises StoreError if it is gone."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        aside = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
        with self._mapped("put aside"):
            self.path.rename(aside)
            _sync_folder(self.path.parent)
        return aside

    def put_back(self, aside: Path) -> None:
        """Undo `put_aside`, unless there is another file by now; one that cannot be put back stays where it is."""
        with contextlib.suppress(OSError):
            os.link(aside, self.path)  # unlike a renaming it takes nothing's place
            aside.unlink()

    def remove(self) -> bool:
        """Delete the file, and what writers have left that were killed; tell whether there was one."""
        with self._mapped("removed"):
            self._sweep(math.inf)
            try:
                self.path.unlink()
            except FileNotFoundError:
                return False
            _sync_folder(self.path.parent)
        return True

    @contextlib.contextmanager
    def lock(self, timeout: float) -> Iterator[None]:
        """Hold the lock, waiting at most *timeout* seconds for it in this thread. Raises StoreBusy."""
        lock = self._file_lock()
        with self._mapped("locked"):
            try:
                lock.acquire(timeout=timeout, poll_interval=POLL)
            except Timeout:
                raise self._busy(timeout) from None
        try:
            yield
        finally:
            lock.release()

    @contextlib.asynccontextmanager
    async def alock(
        self, wait: float, *, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    ) -> AsyncIterator[None]:
        """Like `lock` for a coroutine, *wait* seconds at most: others run meanwhile. A cancelled waiter holds nothing.

        The lock is tried without blocking, so that no thread is left behind which might get it later.
        """
        lock = self._file_lock()
        for pause in [POLL] * round(wait / POLL):
            if self._try(lock):
                break
            await sleep(pause)
        else:
            if not self._try(lock):
                raise self._busy(wait)
        try:
            yield
        finally:
            lock.release()

    def _file_lock(self) -> FileLock:
        with self._mapped("locked"):
            self._prepare()
        return FileLock(f"{self.path}.lock", mode=0o600, thread_local=False)

    def _try(self, lock: FileLock) -> bool:
        with self._mapped("locked"):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return False
        return True

    def _busy(self, timeout: float) -> StoreBusy:
        return StoreBusy(f"{self.path} was in use by another process for more than {timeout:g} s.")

    def _raw(self) -> bytes | None:
        if self.path.is_symlink():
            raise OSError(errno.ELOOP, "it is a symbolic link")
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None

    def _prepare(self) -> None:
        """Make the folder, or see to it that it is its owner's alone."""
        folder = self.path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if WINDOWS:  # there the profile's access list keeps others out
            return
        found = folder.stat()
        if found.st_mode & stat.S_IWOTH:
            raise OSError(errno.EPERM, f"anyone may write to the folder {folder}; choose one of your own")
        if found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) != stat.S_IRWXU:
            folder.chmod(stat.S_IRWXU)

    def _temporary(self, content: bytes) -> Path:
        """Return a file with *content*, which is on disk: what was reserved, else a new one."""
        temporary = self._reserved if self._reserved and self._reserved.exists() else self._new()
        try:
            with temporary.open("r+b") as file:
                file.write(content)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            self._drop(temporary)
            raise
        return temporary

    def _new(self) -> Path:
        handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", suffix=".tmp", dir=self.path.parent)  # 0600
        os.close(handle)
        return Path(name)

    def _drop(self, temporary: Path) -> None:
        """Delete what could not be written; of what was reserved the room is kept for the next try, not the content."""
        if temporary == self._reserved:
            with contextlib.suppress(OSError), temporary.open("r+b") as file:
                file.write(os.urandom(temporary.stat().st_size))
                return
            self._reserved = None
        with contextlib.suppress(OSError):  # why it could not be written is what is to be told
            temporary.unlink()

    def _replace(self, temporary: Path) -> None:
        for pause in REPLACE_PAUSES:
            with contextlib.suppress(PermissionError):
                temporary.replace(self.path)
                return
            time.sleep(pause)
        temporary.replace(self.path)

    def _sweep(self, oldest: float) -> None:
        """Delete what writers left, before *oldest*, that were killed with a temporary file not yet renamed."""
        for leftover in self.path.parent.glob(f".{self.path.name}.*.tmp"):
            with contextlib.suppress(OSError):  # gone by now, or on Windows just being written
                if leftover != self._reserved and leftover.lstat().st_mtime < oldest:
                    leftover.unlink()

    @contextlib.contextmanager
    def _mapped(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"{self.path} cannot be {what}: {error.strerror or error}.") from error


class Kept[T]:
    """What *read* made of *document*, for as long as the file stays as it is: asking the system costs far less.

    For readers alone. Who reads in order to write reads under the lock, and reads the file.
    """

    def __init__(self, document: Document, read: Callable[[], T]) -> None:
        self._document = document
        self._read = read
        self._kept: tuple[tuple[int, ...], T] | None = None

    def get(self) -> T:
        """Return what is stored now; raises what *read* raises."""
        stamp = self._document.stamp()  # before the file is read: what is read may be newer, never older
        if stamp is None:
            self._kept = None
            return self._read()
        if self._kept is None or self._kept[0] != stamp:
            self._kept = (stamp, self._read())
        return self._kept[1]


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; Windows has no such call and needs none."""
    if WINDOWS:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
