"""Whether logins can be kept, by this user alone; files and folders are looked at, never changed."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kimi_core.cli.checks.check import Check, Finding, NothingToJudge, ok, problem, warning
from kimi_core.cli.checks.machine import Machine
from kimi_core.errors import StoreError
from kimi_core.kimi.device import device_id_path
from kimi_core.store import WINDOWS, Document

PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600
ENOUGH = 16 * 1024 * 1024  # bytes of free disk: logins are a few KiB, but what fills a disk fills the rest as well
TOO_LITTLE = 64 * 1024  # bytes below which a renewed login may not fit
CREDENTIALS = ("kimi-*.json", "kiro-accounts.json", "client-key.json")  # files that hold secrets
_DEVICE_ID = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a folder as the system describes it; `mode` has the permission bits alone. None of it is content."""

    path: Path
    exists: bool = True
    folder: bool = False
    link: bool = False
    mode: int = 0
    mine: bool = True
    readable: bool = True
    writable: bool = True
    damage: str = ""

    @classmethod
    def of(cls, path: Path) -> Entry:
        """Look at *path*."""
        try:
            found = path.lstat()
        except FileNotFoundError:
            return cls(path, exists=False)
        except OSError as error:
            return cls(path, readable=False, damage=error.strerror or str(error))
        return cls(
            path,
            folder=stat.S_ISDIR(found.st_mode),
            link=stat.S_ISLNK(found.st_mode),
            mode=stat.S_IMODE(found.st_mode),
            mine=WINDOWS or found.st_uid == os.getuid(),
            readable=os.access(path, os.R_OK),
            writable=os.access(path, os.W_OK),
        )

    def open_to_others(self, wanted: int) -> bool:
        """Tell whether others have permissions that *wanted* does not give; Windows has no such bits."""
        return not WINDOWS and bool(self.mode & ~wanted)


def _owner(path: Path) -> str:
    return f'sudo chown -R "$USER" {path}'


# --- the folder -------------------------------------------------------------------------------------------------------


def gather_folder(machine: Machine) -> Entry:
    """Look at the folder of the logins. Raises NothingToJudge where there is none yet."""
    path = machine.app.folder
    entry = Entry.of(path)
    if not entry.exists:
        raise NothingToJudge(f"{path} does not exist yet; the first login makes it.")
    if entry.link:  # the folder may be one; what counts is where it leads
        return Entry.of(Path(os.path.realpath(path)))  # `resolve` raises at a circle of links in Python 3.12
    return entry


def judge_folder(entry: Entry) -> Finding:
    """Judge the folder of the logins."""
    path = entry.path
    if not entry.exists or not entry.folder:
        return problem(f"{path} is no folder, so no login can be kept.", f"mv {path} {path}.old")
    if entry.mode & stat.S_IWOTH and not WINDOWS:
        return problem(f"Anyone may write to {path}; no login is kept there.", f"chmod 700 {path}")
    if not entry.mine:
        return problem(f"{path} belongs to another user.", _owner(path))
    if not (entry.readable and entry.writable):
        return problem(f"{path} cannot be read and written: a renewed login would be lost.", f"chmod 700 {path}")
    if entry.open_to_others(PRIVATE_FOLDER):
        return warning(f"Others may look into {path} (mode {entry.mode:04o}).", f"chmod 700 {path}")
    return ok(f"{path} is yours alone.")


# --- the files --------------------------------------------------------------------------------------------------------


def gather_files(machine: Machine) -> Sequence[Entry]:
    """Look at each file that holds a secret. Raises NothingToJudge where there is none."""
    folder = machine.app.folder
    try:
        paths = sorted({path for pattern in CREDENTIALS for path in folder.glob(pattern)})
    except OSError as error:
        raise NothingToJudge(f"{folder} cannot be looked into: see store.folder.") from error
    if not paths:
        raise NothingToJudge("No login is stored yet.")
    return [_checked(Entry.of(path)) for path in paths]


def _checked(entry: Entry) -> Entry:
    """Return *entry* with what is wrong with its content."""
    if entry.link or not entry.readable or entry.damage:
        return entry
    try:
        Document(entry.path).read()
    except StoreError as error:
        return Entry(entry.path, mode=entry.mode, mine=entry.mine, damage=str(error))
    return entry


def judge_files(entries: Sequence[Entry]) -> Finding:
    """Judge the files that hold secrets; the worst decides."""
    found = [_judge_file(entry) for entry in entries]
    worst = next((one for one in found if one.state == "problem"), None)
    return worst or next((one for one in found if one.state == "warning"), found[0])


def _judge_file(entry: Entry) -> Finding:
    path = entry.path
    if entry.link:
        return problem(
            f"{path} is a symbolic link; a login is never read through one.", f"Replace it by the file, or: rm {path}"
        )
    if not entry.mine:
        return problem(f"{path} belongs to another user.", _owner(path))
    if not entry.readable:
        return problem(f"{path} cannot be read.", f"chmod 600 {path}")
    if entry.damage:
        provider = "kiro" if path.name.startswith("kiro") else "kimi"
        return problem(entry.damage, f"kimi-mitm login {provider} keeps it aside and makes a new one")
    if entry.open_to_others(PRIVATE_FILE):
        return problem(f"Others may read {path} (mode {entry.mode:04o}).", f"chmod 600 {path}")
    return ok("The files of the logins are whole, and yours alone.")


# --- room -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes that are free on the disk of *path*."""

    path: Path
    free: int


def gather_room(machine: Machine) -> Room:
    """Return the free space where logins are kept, or will be."""
    path = machine.app.folder
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    return Room(there, shutil.disk_usage(there).free)


def judge_room(room: Room) -> Finding:
    """Judge whether a renewed login fits."""
    mib = room.free / 1024 / 1024
    if room.free < TOO_LITTLE:
        return problem(f"The disk of {room.path} is full: a renewed login would be lost.", "Make room on that disk.")
    if room.free < ENOUGH:
        return warning(f"The disk of {room.path} has {mib:.1f} MiB left.", "Make room on that disk.")
    return ok("There is room for the logins.")


# --- the device id ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeviceId:
    """The file of the device id: whether it is there, whether it could be made, and whether it holds an id."""

    path: Path
    exists: bool
    readable: bool
    makeable: bool
    sound: bool


def gather_device(machine: Machine) -> DeviceId:
    """Look at the device id of the identity in use. Raises NothingToJudge where that has none."""
    path = device_id_path(machine.configuration.settings.kimi_identity, machine.environ, machine.home)
    if path is None:
        raise NothingToJudge("The identity in use has no device id.")
    parent = next(folder for folder in path.parents if folder.exists())
    makeable = parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)
    try:
        text = path.read_text(encoding="utf-8", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return DeviceId(path, exists=False, readable=True, makeable=makeable, sound=True)
    except OSError:
        return DeviceId(path, exists=True, readable=False, makeable=makeable, sound=False)
    return DeviceId(path, exists=True, readable=True, makeable=makeable, sound=bool(_DEVICE_ID.fullmatch(text)))


def judge_device(found: DeviceId) -> Finding:
    """Judge the device id's file."""
    stand_in = "an id made from the machine's name stands in"
    if not found.exists:
        if found.makeable:
            return ok(f"{found.path} is made at the first request.")
        return warning(f"{found.path} cannot be made; {stand_in}.", f"Make {found.path.parent} writable for you.")
    if not found.readable:
        return warning(f"{found.path} cannot be read; {stand_in}.", f"chmod 600 {found.path}")
    if not found.sound:
        return warning(
            f"{found.path} holds no device id, so Kimi sees a device that no client of its own has.",
            f"rm {found.path}; a new one is made at the next request",
        )
    return ok(f"The device id is in {found.path}.")


CHECKS = (
    Check("store.folder", "Folder of the logins", gather_folder, judge_folder),
    Check("store.files", "Files of the logins", gather_files, judge_files),
    Check("store.room", "Free disk space", gather_room, judge_room),
    Check("store.device-id", "Device id", gather_device, judge_device),
)
