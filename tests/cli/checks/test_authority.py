from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = datetime.now(UTC)
YEAR = timedelta(days=365)


def make(folder, begins=NOW - YEAR, ends=NOW + YEAR):
    """Put a CA like mitmproxy's into *folder*; return the paths of certificate and key."""
    folder.mkdir(exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mitmproxy")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), begins, ends)
    public = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    certificate, both = folder / "mitmproxy-ca-cert.pem", folder / "mitmproxy-ca.pem"
    certificate.write_bytes(public)
    both.write_bytes(private + public)
    both.chmod(0o600)
    return certificate, both


@pytest.fixture
def ca(cli):
    """Return the files of a CA that nothing is wrong with."""
    return make(cli.folder / "mitmproxy")


def test_a_ca_that_is_well(cli, find, ca):
    """A certificate in its time, with its key, is well."""
    assert find(cli, "ca.certificate")["state"] == "ok"
    assert find(cli, "ca.key")["state"] == "ok"


def test_no_ca(cli, find):
    """Before mitmproxy's first start there is none."""
    found = find(cli, "ca.certificate")
    assert found["state"] == "problem"
    assert found["fix"] == "kimi-mitm start"
    assert find(cli, "ca.key")["state"] == "skipped"


@pytest.mark.parametrize(("gone", "check"), [(0, "ca.certificate"), (1, "ca.key")])
def test_half_a_ca(cli, find, ca, gone, check):
    """A key without its certificate, and a certificate without its key, are problems."""
    ca[gone].unlink()
    found = find(cli, check)
    assert found["state"] == "problem"
    assert "missing" in found["message"]


@pytest.mark.parametrize(("file", "check"), [(0, "ca.certificate"), (1, "ca.key")])
def test_a_file_that_holds_something_else(cli, find, ca, file, check):
    """A file without what it should hold is a problem."""
    ca[file].write_text("something else")
    found = find(cli, check)
    assert found["state"] == "problem"
    assert "holds no" in found["message"]


@pytest.mark.parametrize(("file", "check"), [(0, "ca.certificate"), (1, "ca.key")])
def test_a_file_that_cannot_be_read(cli, find, ca, file, check):
    """A file that the system does not give out (here: a folder in its place) is a problem."""
    ca[file].unlink()
    ca[file].mkdir()
    found = find(cli, check)
    assert found["state"] == "problem"
    assert "cannot be read" in found["message"]


@pytest.mark.parametrize(
    ("begins", "ends", "state", "word"),
    [
        (NOW - 2 * YEAR, NOW - YEAR, "problem", "ran out on"),
        (NOW + YEAR, NOW + 2 * YEAR, "problem", "begins on"),
        (NOW - YEAR, NOW + timedelta(days=5), "warning", "runs out on"),
    ],
)
def test_a_ca_out_of_its_time(cli, find, begins, ends, state, word):
    """A certificate that is over, or has not begun, is a problem; one that ends soon is a warning."""
    make(cli.folder / "mitmproxy", begins, ends)
    found = find(cli, "ca.certificate")
    assert found["state"] == state
    assert word in found["message"]


def test_files_of_two_cas(cli, find, ca):
    """A certificate that is not of the key's CA is a problem: no client would trust the proxy."""
    kept = ca[0].read_bytes()
    make(cli.folder / "mitmproxy")
    ca[0].write_bytes(kept)
    assert find(cli, "ca.key")["state"] == "problem"


def test_a_key_that_others_may_read(cli, find, ca):
    """A key that others may read is a warning."""
    ca[1].chmod(0o644)
    found = find(cli, "ca.key")
    assert found["state"] == "warning"
    assert found["fix"] == f"chmod 600 {ca[1]}"
