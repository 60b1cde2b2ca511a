"""The certificates that a client of the proxy trusts: mitmproxy's CA, and one file that holds it with all others.

Most clients take one file that replaces what they would trust otherwise. Hosts that the proxy does not decrypt answer
with their own certificates, and so that file has to hold the system's CAs as well, and those that the user has added.
Keys are never copied: of each file only what stands between BEGIN CERTIFICATE and END CERTIFICATE is taken.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import re
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import certifi
import platformdirs

from kimi_core.cli.configuration import CA_NAME
from kimi_core.cli.environment import own_cas
from kimi_core.errors import KimiMitmError, StoreError
from kimi_core.store import DATA_DIR_VARIABLE

POLL = 0.05  # seconds between two looks for a CA that is being made
PATIENCE = 10.0  # seconds in which mitmproxy makes its CA; it takes a fraction of one
KEYCHAIN_PATIENCE = 10.0  # seconds; macOS answers in a fraction of one
MAX_FILE = 16 * 1024 * 1024  # bytes; the CAs of all systems together are a few hundred kilobytes
# where systems have all their CAs in one file: Debian, Fedora, openSUSE, newer Fedora, Alpine and macOS, FreeBSD
SYSTEM_FILES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
    Path("/etc/ssl/ca-bundle.pem"),
    Path("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"),
    Path("/etc/ssl/cert.pem"),
    Path("/usr/local/share/certs/ca-root-nss.crt"),
)
KEYCHAINS = ("/System/Library/Keychains/SystemRootCertificates.keychain", "/Library/Keychains/System.keychain")
_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_LINE = 64  # characters in a line of PEM (RFC 7468)


class CaMissing(KimiMitmError):
    """mitmproxy has made no CA so far, or it cannot be read."""

    code = "ca_missing"
    hint = "mitmproxy makes it at its first start: run `kimi-mitm start` once."


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of what can be made again: below KIMI_MITM_DATA_DIR, else the platform's place for caches."""
    chosen = environ.get(DATA_DIR_VARIABLE)
    return Path(chosen).expanduser().absolute() / "cache" if chosen else platformdirs.user_cache_path("kimi-mitm")


def mitmproxy_ca(
    confdir: Path,
    *,
    patience: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Return the certificate of mitmproxy's CA in *confdir*, waiting *patience* seconds for it to be made.

    Raises CaMissing.
    """
    path = confdir.expanduser() / CA_NAME
    end = clock() + patience
    while not any(_certificates(_read(path))):
        if clock() >= end:
            raise CaMissing(f"There is no certificate of mitmproxy's in {path}.")
        sleep(POLL)
    return path


def bundle(
    ca: Path, cache: Path, environ: Mapping[str, str], *, system: Callable[[], Iterable[bytes]] | None = None
) -> Path:
    """Return a file with *ca*, the system's CAs and those that *environ* names; it lies in the folder *cache*.

    There is one for each set of places that the CAs come from. It is written where one of them has changed, and
    replaced as a whole, so that a client that reads it meanwhile sees the old or the new one. *system* gives PEM or
    DER (`system_cas`). Raises CaMissing, and StoreError where it cannot be written.
    """
    own = own_cas(environ)
    ours = [*_certificates(_read(ca))]
    if not ours:
        raise CaMissing(f"There is no certificate of mitmproxy's in {ca}.")
    texts = [text for place in own for text in _texts(place)]
    known = filter(_readable, dict.fromkeys([*ours, *_all(texts), *_all((system or system_cas)())]))
    places = "\n".join(map(str, [ca.absolute(), *own]))
    target = cache / f"cas-{hashlib.sha256(places.encode()).hexdigest()[:16]}.pem"
    content = b"".join(map(_pem, known))
    try:
        if _read(target) != content or not _private(target):
            _replace(target, content)
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {error.strerror or error}.") from error
    return target


def system_cas(platform: str = sys.platform) -> list[bytes]:
    """Return what this machine trusts, as PEM or DER; what comes with Python where the system has nothing."""
    found = [*_system_files()]
    if platform == "darwin":
        found.append(_keychains())
    elif platform == "win32":
        found += _windows_store()
    return found if any(_all(found)) else [_read(Path(certifi.where()))]


# --- parts ------------------------------------------------------------------------------------------------------------


def _system_files() -> Iterator[bytes]:
    """Yield the first file that holds CAs: they are all copies of one another."""
    paths = ssl.get_default_verify_paths()
    for path in (Path(paths.openssl_cafile), *SYSTEM_FILES, Path(paths.openssl_capath)):
        texts = list(_texts(path))
        if any(_all(texts)):
            yield from texts
            return


def _keychains() -> bytes:
    """Return what an administrator has added on macOS, which its file of CAs does not have."""
    command = ["/usr/bin/security", "find-certificate", "-a", "-p", *KEYCHAINS]
    try:
        return subprocess.run(  # noqa: S603 - the system's own program, by its full path
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=KEYCHAIN_PATIENCE, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return b""


def _windows_store() -> list[bytes]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    return context.get_ca_certs(binary_form=True)


def _texts(place: Path) -> Iterator[bytes]:
    """Yield the content of the file *place*, or of each file in the folder *place*."""
    if not place.is_dir():
        yield _read(place)
        return
    with contextlib.suppress(OSError):
        for path in sorted(place.iterdir()):
            yield _read(path)


def _read(path: Path) -> bytes:
    """Return the content of a file; empty where it cannot be had: what no client could read is missed by none."""
    try:
        if not path.is_file():  # to open a pipe would wait for its writer
            return b""
        with path.open("rb") as file:
            return file.read(MAX_FILE)
    except OSError:
        return b""


def _all(texts: Iterable[bytes]) -> Iterator[bytes]:
    for text in texts:
        yield from _certificates(text)


def _certificates(text: bytes) -> Iterator[bytes]:
    """Yield each certificate in *text*, PEM with whatever else, or one as DER, as DER."""
    if text.startswith(b"\x30"):  # a SEQUENCE: DER itself (X.690)
        yield text
        return
    for found in _BLOCK.finditer(text):
        with contextlib.suppress(binascii.Error):
            yield base64.b64decode(b"".join(found[1].split()), validate=True)


def _readable(der: bytes) -> bool:
    """Tell whether OpenSSL reads a certificate: one that it cannot read would spoil the whole file."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=der)
    except (ssl.SSLError, ValueError):
        return False
    return True


def _pem(der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
    return b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""])


def _private(path: Path) -> bool:
    return os.name == "nt" or path.stat().st_mode & 0o077 == 0


def _replace(target: Path, content: bytes) -> None:
    """Put *content* in place of *target*, in one step; only the user may write what decides whom clients trust."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
