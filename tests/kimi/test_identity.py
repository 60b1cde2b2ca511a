import dataclasses
import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.headers import Headers
from kimi_core.kimi import device
from kimi_core.kimi import identity as module
from kimi_core.kimi.device import Device, device_id_path, sanitise
from kimi_core.kimi.identity import build, load

LINUX = Device("Linux", "6.8.0-101-generic", "x86_64", "#101-Ubuntu SMP PREEMPT_DYNAMIC\n", "devbox")
MAC = Device("Darwin", "24.3.0", "arm64", "Darwin Kernel Version 24.3.0: Thu", "Mac.local", "15.3")
WIN11 = Device("Windows", "10", "AMD64", "10.0.22631", "DESKTOP-7Q2")
WIN10 = Device("Windows", "10", "AMD64", "10.0.19045", "DESKTOP-7Q2")
RECORDED = Device("Linux", "6.1.0-kernel", "x86_64", "#1 SMP PREEMPT_DYNAMIC", "vm")
RECORDINGS = Path(__file__).parent.parent / "recordings"
OPERATIONS = {
    "/api/oauth/device_authorization": "oauth",
    "/api/oauth/token": "oauth",
    "/coding/v1/models": "models",
    "/coding/v1/usages": "usages",
    "/coding/v1/chat/completions": "chat",
    "/coding/v1/search": "search",
    "/coding/v1/fetch": "fetch",
}
# what HTTP itself puts there, which the tables leave to it
TRANSPORT = {"host", "content-length"}
FILES = {"kimi-cli": "kimi-cli-1.52.0.jsonl", "kimi-code": "kimi-code-2.1.0.jsonl"}


def _recorded(name):
    seen = set()
    for line in (RECORDINGS / FILES[name]).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        operation = OPERATIONS[entry["target"]]
        if entry["host"].endswith("kimi.com") and operation not in seen:
            seen.add(operation)
            yield pytest.param(name, operation, entry["headers"], id=f"{name}-{operation}")


@pytest.mark.parametrize(("name", "operation", "headers"), [*_recorded("kimi-cli"), *_recorded("kimi-code")])
def test_headers_equal_the_recorded_clients_in_value_spelling_and_order(name, operation, headers):
    """What goes upstream for each endpoint is what the official client sent there, field by field and in its order."""
    fields = {key.lower(): value for key, value in headers}
    device_id = fields.get("x-msh-device-id", "")
    mine = build(name, RECORDED, device_id)
    client = Headers((key, value) for key, value in headers if key.lower() in {"content-type", "x-msh-tool-call-id"})
    composed = mine.compose(operation, client, fields.get("authorization", ""))
    want = [(key, value) for key, value in headers if key.lower() not in TRANSPORT]
    if operation == "oauth":  # form posts of our own: the form type is the HTTP client's to add
        want = [pair for pair in want if pair[0].lower() != "content-type"]
    assert list(composed) == want


@pytest.mark.parametrize(
    ("device", "model", "os_version"),
    [
        (LINUX, "Linux 6.8.0-101-generic x86_64", "#101-Ubuntu SMP PREEMPT_DYNAMIC"),
        (MAC, "macOS 15.3 arm64", "Darwin Kernel Version 24.3.0: Thu"),
        (WIN11, "Windows 11 AMD64", "10.0.22631"),
        (WIN10, "Windows 10 AMD64", "10.0.19045"),
        (dataclasses.replace(LINUX, release=""), "Linux x86_64", "#101-Ubuntu SMP PREEMPT_DYNAMIC"),
        (dataclasses.replace(LINUX, system="", version="é"), "Unknown", "unknown"),
        (dataclasses.replace(MAC, mac_version=""), "macOS 24.3.0 arm64", "Darwin Kernel Version 24.3.0: Thu"),
        (dataclasses.replace(WIN11, version="odd"), "Windows 10 AMD64", "odd"),
    ],
)
def test_kimi_cli_device_fields(device, model, os_version):
    """kimi-cli names the machine as kimi.md §2.1 has it for each system."""
    headers = build("kimi-cli", device, "d" * 32).headers("chat")
    assert headers.get("x-msh-device-model") == model
    assert headers.get("x-msh-os-version") == os_version


@pytest.mark.parametrize(
    ("device", "model", "os_version"),
    [
        (LINUX, "Linux 6.8.0-101-generic x64", "6.8.0-101-generic"),
        (MAC, "macOS 15.3 arm64", "24.3.0"),
        (WIN11, "Windows 10.0.22631 x64", "10.0.22631"),
        (dataclasses.replace(LINUX, machine="aarch64"), "Linux 6.8.0-101-generic arm64", "6.8.0-101-generic"),
    ],
)
def test_kimi_code_device_fields(device, model, os_version):
    """Kimi Code names the machine in node's words (kimi.md §2.3)."""
    headers = build("kimi-code", device, "id").headers("chat")
    assert headers.get("x-msh-device-model") == model
    assert headers.get("x-msh-os-version") == os_version


@pytest.mark.parametrize("operation", module.TABLES["own"])
def test_own_identity_is_honest(operation):
    """The identity `own` names this program and sends no X-Msh field of its own."""
    headers = build("own", LINUX, "").headers(operation)
    assert headers.get("user-agent").startswith("kimi-mitm/")
    assert not [name for name, _ in headers if name.lower().startswith("x-msh")]


@pytest.mark.parametrize("operation", module.TABLES["kimi-cli"])
def test_identities_are_never_mixed(operation):
    """No field of one client's identity stands in the table of the other."""
    cli = build("kimi-cli", LINUX, "a" * 32).headers(operation)
    code = build("kimi-code", LINUX, "b" * 36).headers(operation)
    assert "kimi-code" not in str(list(cli))
    assert "kimi_code" not in str(list(cli))
    assert not any(word in str(list(code)) for word in ("KimiCLI", "kimi_cli'", "aiohttp", "CPython"))


@given(st.text())
def test_any_value_becomes_a_legal_header_value(value):
    """Whatever a machine calls itself, the header value is printable ASCII without outer blanks, never empty."""
    clean = sanitise(value)
    assert clean
    assert clean == clean.strip()
    assert all(" " <= char <= "~" for char in clean)


@given(st.builds(Device, *[st.text()] * 6), st.sampled_from(["kimi-cli", "kimi-code", "own"]), st.text())
def test_any_machine_gives_legal_headers(device, name, device_id):
    """No fact of a machine can break a request: every value of every endpoint is a legal header value."""
    for operation in module.TABLES[name]:
        for _, value in build(name, device, device_id).headers(operation):
            assert value.isascii()
            assert value.isprintable()
            assert value == value.strip()


def test_client_identity_is_removed_and_named():
    """Foreign identity is not forwarded, and its names are told, so that nothing vanishes silently."""
    client = Headers(
        [
            ("Host", "api.kimi.com"),
            ("Content-Length", "2"),
            ("Content-Type", "application/json"),
            ("User-Agent", "opencode/1"),
            ("x-session-id", "ses_1"),
            ("X-Mine", "1"),
            ("Authorization", "Bearer x"),
        ]
    )
    mine = build("kimi-cli", LINUX, "d" * 32)
    out = mine.compose("chat", client, "Bearer [kimi]", frozenset({"x-mine"}))
    assert out.get("user-agent") == "KimiCLI/1.52.0"
    assert out.get_all("authorization") == ["Bearer [kimi]"]
    assert out.get("x-session-id") is None
    assert out.get("x-mine") == "1"
    assert out.get("host") == "api.kimi.com"
    assert mine.removed("chat", client, frozenset({"x-mine"})) == ["x-session-id"]


def test_device_id_is_made_once_and_private(tmp_path):
    """A missing device id is made with mode 0600 in the client's own place, and found again."""
    first = load("kimi-cli", {}, tmp_path)
    path = tmp_path / ".kimi" / "device_id"
    assert path.read_text() == first.device_id
    assert len(first.device_id) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["device_id"]
    assert load("kimi-cli", {}, tmp_path).device_id == first.device_id
    assert len(load("kimi-code", {}, tmp_path).device_id) == 36


def test_device_id_of_the_client_is_shared_and_never_overwritten(tmp_path):
    """The id that kimi-cli made is used as it is, wherever KIMI_SHARE_DIR puts it."""
    path = tmp_path / "share" / "device_id"
    path.parent.mkdir()
    path.write_text("0123456789abcdef0123456789abcdef\n")
    before = path.read_bytes()
    found = load("kimi-cli", {"KIMI_SHARE_DIR": str(path.parent)}, tmp_path)
    assert found.device_id == "0123456789abcdef0123456789abcdef"
    assert path.read_bytes() == before


def test_empty_or_unwritable_device_id_gives_a_stable_one(tmp_path):
    """Where no id can be read or made, one derived from the machine stands in, the same each time."""
    empty = tmp_path / "a" / "device_id"
    empty.parent.mkdir()
    empty.touch()
    one = load("kimi-cli", {"KIMI_SHARE_DIR": str(empty.parent)}, tmp_path)
    blocked = tmp_path / "file"
    blocked.touch()
    two = load("kimi-cli", {"KIMI_SHARE_DIR": str(blocked / "sub")}, tmp_path)
    assert one.device_id == two.device_id
    assert len(one.device_id) == 32
    assert empty.read_bytes() == b""
    assert len(load("kimi-code", {"KIMI_CODE_HOME": str(blocked / "sub")}, tmp_path).device_id) == 36


def test_a_device_id_made_meanwhile_wins(tmp_path, monkeypatch):
    """Two programs that make the id at once end with the same one."""
    path = tmp_path / ".kimi" / "device_id"
    real = device._create

    def raced(target, content):
        target.parent.mkdir(parents=True)
        target.write_text("f" * 32)
        real(target, content)

    monkeypatch.setattr(device, "_create", raced)
    assert load("kimi-cli", {}, tmp_path).device_id == "f" * 32
    assert [entry.name for entry in path.parent.iterdir()] == ["device_id"]


def test_own_identity_has_no_device_id(tmp_path):
    """The identity `own` makes no file."""
    assert device_id_path("own", {}, tmp_path) is None
    assert load("own", {}, tmp_path).device_id == ""
    assert list(tmp_path.iterdir()) == []


def test_version_of_an_uninstalled_checkout(monkeypatch):
    """A checkout that was never installed still has a version to name."""

    def missing(_name):
        raise module.PackageNotFoundError

    monkeypatch.setattr(module, "version", missing)
    assert build("own", LINUX, "").headers("chat").get("user-agent") == "kimi-mitm/0"
