"""This machine in the words of the official clients, and the id file that each of them keeps (kimi.md §2.1, §2.3)."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Device:
    """Facts of this machine, as Python's `platform` names them; `mac_version` is "" off macOS."""

    system: str
    release: str
    machine: str
    version: str
    node: str
    mac_version: str = ""

    @classmethod
    def here(cls) -> Device:
        """Read the facts of the machine this runs on."""
        return cls(
            platform.system(),
            platform.release(),
            platform.machine(),
            platform.version(),
            platform.node() or socket.gethostname(),
            platform.mac_ver()[0],
        )

    @property
    def windows_build(self) -> int:
        """Build number out of ``10.0.22631``; 0 where there is none."""
        last = self.version.rpartition(".")[2]
        return int(last) if last.isdecimal() else 0


def cli_model(device: Device) -> str:
    """Device model of kimi-cli (kimi.md §2.1)."""
    match device.system:
        case "":
            return "Unknown"
        case "Darwin":
            parts = ("macOS", device.mac_version or device.release, device.machine)
        case "Windows":
            # Windows 11 calls itself release 10; its builds begin at 22000
            eleven = device.release == "10" and device.windows_build >= 22000  # noqa: PLR2004 - explained above
            parts = ("Windows", "11" if eleven else device.release, device.machine)
        case _:
            parts = (device.system, device.release, device.machine)
    return " ".join(part for part in parts if part)


_NODE_ARCH = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "i386": "ia32", "i686": "ia32", "armv7l": "arm"}
STAINLESS_OS = {"Darwin": "MacOS"}


def node_arch(device: Device) -> str:
    """Architecture in node's words, which is also what both SDKs report (kimi.md §2.3)."""
    machine = device.machine.lower()
    return _NODE_ARCH.get(machine, machine)


def node_release(device: Device) -> str:
    """Release in node's words: on Windows the full NT version, where Python says only "10"."""
    return device.version if device.system == "Windows" else device.release


def code_model(device: Device) -> str:
    """Device model of Kimi Code (kimi.md §2.3)."""
    system = {"Darwin": "macOS"}.get(device.system, device.system)
    release = device.mac_version or device.release if device.system == "Darwin" else node_release(device)
    return " ".join(part for part in (system, release, node_arch(device)) if part)


def sanitise(value: str) -> str:
    """Return *value* as a legal header value: 0x20–0x7E only, stripped, "unknown" if nothing is left."""
    return "".join(char for char in value if " " <= char <= "~").strip() or "unknown"


def device_id_path(name: str, environ: Mapping[str, str] = os.environ, home: Path | None = None) -> Path | None:
    """Return the device id file that the client of that name keeps, None for `own`."""
    home = home or Path.home()
    match name:
        case "kimi-cli":
            return Path(environ.get("KIMI_SHARE_DIR") or home / ".kimi") / "device_id"
        case "kimi-code":
            return Path(environ.get("KIMI_CODE_HOME") or home / ".kimi-code") / "device_id"
        case _:
            return None


def read_device_id(path: Path, device: Device, *, dashed: bool) -> str:
    """Return the id in *path*, which is made (0600) where it is missing and never overwritten.

    Where it can be neither made nor read, an id derived from the machine's name stands in, the same at every start.
    *dashed*: Kimi Code writes its id with dashes, kimi-cli without.
    """
    try:
        if not path.exists():
            _create(path, str(uuid.uuid4()) if dashed else uuid.uuid4().hex)
        found = path.read_text(encoding="utf-8", errors="ignore").strip()
    except OSError:
        found = ""
    return found or _derived(device, dashed=dashed)


def _create(path: Path, content: str) -> None:
    """Make *path* with *content*, mode 0600, unless it is there: a link is atomic and never replaces a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(content)
        with contextlib.suppress(FileExistsError):  # whoever comes second reads what the first one wrote
            path.hardlink_to(draft)
    finally:
        draft.unlink()


def _derived(device: Device, *, dashed: bool) -> str:
    stable = uuid.uuid5(uuid.NAMESPACE_DNS, f"{device.node}.{sys.platform}")
    return str(stable) if dashed else stable.hex
