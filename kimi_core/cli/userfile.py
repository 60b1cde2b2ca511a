"""A user's own file, changed with care: seen as a diff first, kept as a backup, replaced as a whole.

A symbolic link is followed and stays: what it leads to is replaced, as those want it who keep their dotfiles elsewhere.
The new file has the permissions and the owner of the old one. Nothing is written where nothing changes.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from kimi_core.blocks.place import PLACEHOLDER_KEY
from kimi_core.errors import KimiMitmError

CONTEXT = 3  # lines around a change, as diff -u has it
_SECRET = re.compile(
    r"""((?:key|token|secret|passw|pwd|auth|credential|cookie|bearer|_pat\b)[\w-]*["']?\s*[:=]\s*)"""  # up to the value
    r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\[[^\]]*\]|(?:Bearer|Basic)\s+[^\s"']+|[^\s,{}\[\]"']+)""",
    re.IGNORECASE,
)
_LOGIN = re.compile(r"""(?<=://)[^/@\s"']+@""")  # within an address
_REFERENCES = ("{env:", "{file:", "$")  # with which a value says where the secret is


class ClientFileError(KimiMitmError):
    """A client's file cannot be read, understood or written."""

    code = "client_file"
    hint = "It was left as it is."


@dataclass(frozen=True, slots=True)
class Change:
    """What is to become of the file that `path` leads to; `before` is None where there is none."""

    path: Path
    target: Path
    before: str | None = field(repr=False)
    after: str = field(repr=False)

    @property
    def needed(self) -> bool:
        """False where the file is as it should be."""
        return self.before != self.after

    def diff(self) -> str:
        """Return the change as a unified diff, without the values of keys and tokens that are the user's own.

        A line of the user's can be among those that are added, too: with a comma that it did not have before.
        """
        old, new = (self.before or "").splitlines(), self.after.splitlines()
        names = (str(self.path) if self.before is not None else os.devnull, str(self.path))
        lines = difflib.unified_diff(old, new, *names, n=CONTEXT, lineterm="")
        return "\n".join(_LOGIN.sub("…@", _SECRET.sub(_hidden, line)) for line in lines)


def plan(path: Path, edit: Callable[[str], str]) -> Change:
    """Return what *edit* makes of the file at *path* ("" where there is none).

    *edit* raises ValueError with a place and a reason where it does not understand the text. Raises ClientFileError.
    """
    try:
        target = Path(os.path.realpath(path.expanduser()))  # `resolve` raises at a circle of links in Python 3.12
        before = _read(target)
        return Change(path, target, before, edit(before or ""))
    except OSError as error:
        raise ClientFileError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ClientFileError(f"{path} is no text in UTF-8.") from error
    except ValueError as error:
        raise ClientFileError(f"{path}, {error}.") from error


def apply(change: Change, now: float) -> Path | None:
    """Write *change*; return the backup, None where there was no file. *now* in seconds since the epoch names it.

    Raises ClientFileError, also where somebody has changed the file since it was read.
    """
    try:
        if _read(change.target) != change.before:
            raise ClientFileError(f"{change.path} was changed by another program in the meantime.")
        change.target.parent.mkdir(parents=True, exist_ok=True)
        backup = None if change.before is None else _backup(change.target, now)
        _replace(change.target, change.after.encode())
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise ClientFileError(f"{change.path} cannot be written: {reason or error}.") from error
    return backup


def _hidden(found: re.Match[str]) -> str:
    """Return a name with its value, or with a sign in place of the value where that may be a secret."""
    value = found[2].strip("\"'")
    return found[0] if value == PLACEHOLDER_KEY or value.startswith(_REFERENCES) else f"{found[1]}…"


def _read(path: Path) -> str | None:
    """Return the text with its line ends as they are, None where there is no file."""
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None


def _backup(target: Path, now: float) -> Path:
    """Copy *target* to a new name beside it, with its permissions from the first byte on."""
    content, like = target.read_bytes(), target.stat()
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    path, number = target.with_name(f"{target.name}.{stamp}.bak"), 1
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            break
        except FileExistsError:
            number += 1
            path = target.with_name(f"{target.name}.{stamp}-{number}.bak")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    _dress(path, like)
    return path


def _replace(target: Path, content: bytes) -> None:
    """Put *content* in place of *target* in one step."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            _dress(temporary, target.stat())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _dress(path: Path, like: os.stat_result) -> None:
    """Give *path* owner and permissions of another file; the owner as far as we may."""
    if hasattr(os, "chown"):
        with contextlib.suppress(PermissionError):
            os.chown(path, like.st_uid, like.st_gid)
    path.chmod(stat.S_IMODE(like.st_mode))
