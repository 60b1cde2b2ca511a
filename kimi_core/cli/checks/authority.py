"""mitmproxy's CA: the certificate that clients are told to trust, and the key that belongs to it."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from kimi_core.cli.checks.check import Check, Finding, NothingToJudge, ok, problem, warning
from kimi_core.cli.checks.machine import Machine
from kimi_core.store import WINDOWS

CA_KEY_NAME = "mitmproxy-ca.pem"  # certificate and key, mitmproxy's own; clients get the certificate alone
SOON = 30 * 86400.0  # seconds before its end in which a certificate is spoken of


@dataclass(frozen=True, slots=True)
class Authority:
    """What is in mitmproxy's folder.

    `state` is that of the certificate: "ok", "missing", "unreadable" or "damaged"; `begins` and `ends` are unix
    seconds. `key` is that of the other file: "ok", "missing", "unreadable", "damaged" or "other" (another CA's).
    `exposed`: others may read the key.
    """

    path: Path
    state: str
    key: str
    now: float
    begins: float = 0.0
    ends: float = 0.0
    exposed: bool = False

    @property
    def key_path(self) -> Path:
        """The file with the key."""
        return self.path.with_name(CA_KEY_NAME)


def gather(machine: Machine) -> Authority:
    """Look at both files; of the key nothing is kept but whether it fits."""
    path = machine.configuration.ca_certificate
    state, certificate = _certificate(path)
    key, exposed = _key(path.with_name(CA_KEY_NAME), certificate)
    begins, ends = 0.0, 0.0
    if certificate is not None:
        begins, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return Authority(path, state, key, machine.now, begins, ends, exposed)


def _certificate(path: Path) -> tuple[str, x509.Certificate | None]:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return "missing", None
    except OSError:
        return "unreadable", None
    try:
        return "ok", x509.load_pem_x509_certificate(text)
    except ValueError:
        return "damaged", None


def _key(path: Path, certificate: x509.Certificate | None) -> tuple[str, bool]:
    try:
        text = path.read_bytes()
        exposed = not WINDOWS and bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
    except FileNotFoundError:
        return "missing", False
    except OSError:
        return "unreadable", False
    try:
        key = serialization.load_pem_private_key(text, password=None)
    except (ValueError, TypeError):  # none in it, or one with a password
        return "damaged", exposed
    if certificate is not None and key.public_key() != certificate.public_key():
        return "other", exposed
    return "ok", exposed


def judge_certificate(found: Authority) -> Finding:
    """Judge the certificate that clients are told to trust."""
    return _certificate_at_fault(found) or _age(found)


def _certificate_at_fault(found: Authority) -> Finding | None:
    path, anew = found.path, _anew(found)
    if found.state == "missing" and found.key == "missing":
        return problem(f"{path} does not exist: mitmproxy makes it at its first start.", "kimi-mitm start")
    return {
        "missing": problem(f"{path} is missing, though its key {found.key_path.name} is there.", anew),
        "unreadable": problem(f"{path} cannot be read.", f"chmod 644 {path}"),
        "damaged": problem(f"{path} holds no certificate.", anew),
    }.get(found.state)


def _age(found: Authority) -> Finding:
    if found.now > found.ends:
        return problem(f"mitmproxy's CA ran out on {_day(found.ends)}.", _anew(found))
    if found.now < found.begins:
        return problem(
            f"mitmproxy's CA begins on {_day(found.begins)}, by a clock that says {_day(found.now)}.",
            "Set the clock of this machine.",
        )
    if found.ends - found.now < SOON:
        return warning(f"mitmproxy's CA runs out on {_day(found.ends)}.", _anew(found))
    return ok(f"mitmproxy's CA is {found.path}, good until {_day(found.ends)}.")


def judge_key(found: Authority) -> Finding:
    """Judge the key with which the proxy makes certificates."""
    key, anew = found.key_path, _anew(found)
    at_fault = {
        "missing": problem(f"{key} is missing: at its next start mitmproxy makes another CA.", anew),
        "unreadable": problem(f"{key} cannot be read, so the proxy cannot start.", f"chmod 600 {key}"),
        "damaged": problem(f"{key} holds no key that can be used.", anew),
        "other": problem(f"{found.path.name} is not of the CA that the proxy has the key of ({key.name}).", anew),
    }.get(found.key)
    if at_fault is not None:
        return at_fault
    if found.exposed:
        return warning(f"Others may read {key}: with it they can read what your clients send.", f"chmod 600 {key}")
    return ok("The key of mitmproxy's CA belongs to its certificate.")


def _anew(found: Authority) -> str:
    folder = found.path.parent
    return f"Move {folder}/mitmproxy-ca* away and start the proxy: it makes new ones, for clients to trust anew."


def gather_key(machine: Machine) -> Authority:
    """Look at both files. Raises NothingToJudge where there is neither."""
    found = gather(machine)
    if (found.state, found.key) == ("missing", "missing"):
        raise NothingToJudge("mitmproxy has made no CA so far.")
    return found


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")


CHECKS = (
    Check("ca.certificate", "mitmproxy's CA", gather, judge_certificate),
    Check("ca.key", "Key of mitmproxy's CA", gather_key, judge_key),
)
