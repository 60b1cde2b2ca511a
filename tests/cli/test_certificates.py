import os
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import certifi
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.cli import certificates
from kimi_core.cli.certificates import CaMissing, bundle, cache_dir, mitmproxy_ca, system_cas
from kimi_core.errors import StoreError

KEY = b"-----BEGIN PRIVATE KEY-----\nZmFrZQ==\n-----END PRIVATE KEY-----\n"


def certificate():
    """Return a CA's certificate as PEM."""
    return trustme.CA(key_type=trustme.KeyType.ECDSA).cert_pem.bytes()


OURS, OFFICE, SYSTEM, OTHER = (certificate() for _ in range(4))


def der(pem):
    """Return a certificate without its wrapping."""
    return ssl.PEM_cert_to_DER_cert(pem.decode())


@pytest.fixture
def ca(tmp_path):
    """Return where mitmproxy has put its own."""
    path = tmp_path / "mitmproxy" / "mitmproxy-ca-cert.pem"
    path.parent.mkdir()
    path.write_bytes(OURS)
    return path


@pytest.fixture
def make(ca, tmp_path):
    """Make the bundle for an environment, on a machine that trusts one CA."""

    def bundled(system=lambda: [SYSTEM], **environ):
        return bundle(ca, tmp_path / "cache", environ, system=system)

    return bundled


def trusted(path):
    """Return what OpenSSL reads from a bundle."""
    return set(ssl.create_default_context(cafile=path).get_ca_certs(binary_form=True))


def test_a_bundle_holds_the_proxys_ca_and_the_systems(make):
    """A client that reads the bundle trusts what it would trust without, and the proxy."""
    assert trusted(make()) == {der(OURS), der(SYSTEM)}


def test_cas_of_the_user_are_kept(make, tmp_path):
    """Files and folders that the user has named stay trusted; what cannot be read is left out."""
    (tmp_path / "office.pem").write_bytes(OFFICE)
    folder = tmp_path / "certs"
    folder.mkdir()
    (folder / "other.crt").write_bytes(OTHER)
    (folder / "below").mkdir()
    made = make(
        SSL_CERT_FILE=str(tmp_path / "office.pem"),
        SSL_CERT_DIR=str(folder),
        REQUESTS_CA_BUNDLE=str(tmp_path / "none.pem"),
    )
    assert trusted(made) == {der(each) for each in (OURS, OFFICE, SYSTEM, OTHER)}


def test_only_certificates_are_copied_and_each_once(make, tmp_path):
    """Keys, remarks and broken blocks stay where they are; DER is read as well as PEM."""
    broken = b"".join(
        b"-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n" % text for text in (b"abc", b"ZmFr")
    )
    office = tmp_path / "office.pem"
    office.write_bytes(b"# the office\n" + KEY + OFFICE + broken + OFFICE + SYSTEM)
    made = make(system=lambda: [der(SYSTEM), SYSTEM], SSL_CERT_FILE=str(office))
    text = made.read_bytes()
    assert text.count(b"BEGIN CERTIFICATE") == 3
    assert b"PRIVATE" not in text
    assert b"office" not in text


def test_a_bundle_is_written_anew_only_where_something_changed(make, ca):
    """What nobody changed stays the same file; a new CA of the proxy or the system makes a new one in its place."""
    first = make()
    before = first.stat()
    assert make() == first
    assert first.stat().st_ino == before.st_ino
    assert make(system=lambda: [OTHER]) == first
    assert trusted(first) == {der(OURS), der(OTHER)}
    ca.write_bytes(OFFICE)
    assert trusted(make()) == {der(OFFICE), der(SYSTEM)}


def test_environments_that_differ_have_files_of_their_own(make, tmp_path):
    """Two clients with other CAs do not write over each other, and a bundle can be a part of the next."""
    (tmp_path / "office.pem").write_bytes(OFFICE)
    plain, office = make(), make(SSL_CERT_FILE=str(tmp_path / "office.pem"))
    assert plain != office
    inner = make(SSL_CERT_FILE=str(office))
    assert inner not in (plain, office)
    assert trusted(inner) == {der(OURS), der(OFFICE), der(SYSTEM)}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such bits")
def test_nobody_else_may_write_a_bundle(make):
    """File and folder are the user's alone, and one that is not is replaced."""
    made = make()
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.parent.stat().st_mode) == 0o700
    made.chmod(0o666)
    assert stat.S_IMODE(make().stat().st_mode) == 0o600


def test_a_link_in_its_place_is_replaced_not_followed(make, tmp_path):
    """What a link in the cache leads to is never written."""
    made = make()
    made.unlink()
    (tmp_path / "precious").write_bytes(b"precious")
    made.symlink_to(tmp_path / "precious")
    assert trusted(make()) == {der(OURS), der(SYSTEM)}
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_bundle_without_the_proxys_ca_is_refused(make, ca):
    """No client is sent to a proxy that it cannot trust."""
    ca.write_bytes(KEY)
    with pytest.raises(CaMissing, match="no certificate of mitmproxy"):
        make()


def test_a_cache_that_cannot_be_written_is_named(ca, tmp_path):
    """The sentence says which file it was, and nothing is left behind."""
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StoreError, match="cannot be written"):
        bundle(ca, tmp_path / "cache", {}, system=lambda: [SYSTEM])


def test_a_failed_write_leaves_nothing(make, monkeypatch):
    """A bundle that could not be put in its place is taken away again."""

    def refuse(self, target):
        raise PermissionError(13, "refused")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StoreError, match="refused"):
        make()
    monkeypatch.undo()
    assert [path.name for path in make().parent.iterdir()] == [make().name]


class Clock:
    """Time that only sleeping moves; *then* happens at the third sleep."""

    def __init__(self, then=lambda: None):
        self.now, self.naps, self.then = 0.0, 0, then

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.naps += 1
        if self.naps == 3:
            self.then()


def test_a_ca_that_is_being_made_is_waited_for(tmp_path):
    """A first start makes the CA; whoever needs it waits, and not for half of it."""
    path = tmp_path / "mitmproxy-ca-cert.pem"
    path.write_bytes(OURS[:40])
    clock = Clock(lambda: path.write_bytes(OURS))
    assert mitmproxy_ca(tmp_path, patience=1.0, clock=clock, sleep=clock.sleep) == path
    assert clock.naps == 3


def test_a_ca_that_never_comes_is_missed(tmp_path):
    """The wait is bounded, and without patience there is none."""
    clock = Clock()
    with pytest.raises(CaMissing, match=r"mitmproxy-ca-cert\.pem"):
        mitmproxy_ca(tmp_path, patience=1.0, clock=clock, sleep=clock.sleep)
    assert 1.0 <= clock.now < 1.2
    with pytest.raises(CaMissing):
        mitmproxy_ca(tmp_path)


# what a machine trusts


def test_the_first_file_of_the_system_that_holds_cas_counts(tmp_path, monkeypatch):
    """Files that are missing or empty are passed over; those after the first are copies."""
    files = [tmp_path / name for name in ("none", "empty", "first", "second")]
    for path, text in zip(files[1:], (b"", SYSTEM, OTHER), strict=True):
        path.write_bytes(text)
    monkeypatch.setattr(certificates, "SYSTEM_FILES", tuple(files[1:]))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths(tmp_path, "none"))
    assert system_cas("linux") == [SYSTEM]


def paths(folder, cafile):
    """What OpenSSL says where its CAs are."""
    return ssl.DefaultVerifyPaths(None, None, "SSL_CERT_FILE", str(folder / cafile), "SSL_CERT_DIR", str(folder / "d"))


def test_a_folder_of_the_system_is_read_where_there_is_no_file(tmp_path, monkeypatch):
    """Systems that have only a folder of CAs are served as well."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "one.pem").write_bytes(SYSTEM)
    (tmp_path / "d" / "two.pem").write_bytes(OTHER)
    monkeypatch.setattr(certificates, "SYSTEM_FILES", ())
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths(tmp_path, "none"))
    assert system_cas("linux") == [SYSTEM, OTHER]


def test_without_any_the_ones_that_come_with_python_are_used(tmp_path, monkeypatch):
    """A machine without CAs of its own, as bare containers are, gets certifi's."""
    monkeypatch.setattr(certificates, "SYSTEM_FILES", ())
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths(tmp_path, "none"))
    assert system_cas("linux") == [Path(certifi.where()).read_bytes()]


@pytest.mark.parametrize("fault", [None, FileNotFoundError("security"), subprocess.TimeoutExpired("security", 1)])
def test_cas_that_an_administrator_added_on_macos_are_taken(monkeypatch, fault):
    """They stand in keychains, which the system's file does not repeat; without the tool the file has to do."""

    def security(command, **options):
        if fault:
            raise fault
        assert command[:2] == ["/usr/bin/security", "find-certificate"]
        return subprocess.CompletedProcess(command, 0, OFFICE, b"")

    monkeypatch.setattr(subprocess, "run", security)
    assert (OFFICE in system_cas("darwin")) == (fault is None)


def test_cas_of_the_windows_store_are_taken(monkeypatch, make):
    """Windows has its CAs in a store that Python reads, as DER."""

    class Store(ssl.SSLContext):
        def load_default_certs(self, purpose=ssl.Purpose.SERVER_AUTH):
            self.load_verify_locations(cadata=OFFICE.decode())

    monkeypatch.setattr(ssl, "SSLContext", Store)
    found = system_cas("win32")
    monkeypatch.undo()
    assert der(OFFICE) in found
    assert der(OFFICE) in trusted(make(system=lambda: found))


def test_this_machine_trusts_something():
    """The real thing, wherever this runs."""
    assert any(certificates._certificates(text) for text in system_cas(sys.platform))
    assert cache_dir().name


@given(st.lists(st.binary(max_size=60) | st.sampled_from([OFFICE, KEY, OTHER]), max_size=6).map(b"".join))
def test_no_file_of_a_users_breaks_the_reading(text):
    """Whatever a file holds, what is read from it are certificates, or nothing."""
    for found in certificates._certificates(text):
        assert b"PRIVATE" not in found or text.startswith(b"\x30")
