import dataclasses
import re

import pytest

from kimi_core.kiro import identity
from kimi_core.kiro.identity import TABLES, Machine, Versions, build

LINUX = Machine("Linux", "6.8.0")
ID = "ab" * 32
RECORDED = Versions(cli="2.4.1", cli_sdk="1.3.16", cli_api="0.1.16551", cli_metrics="F")


def _headers(name="cli", operation="generate", versions=identity.PINNED, machine=LINUX, **call):
    return build(name, versions, ID, machine).headers(operation, invocation="fake-invocation", **call)


def test_kiro_cli_as_recorded():
    """With the versions of the recording, generation carries the recorded fields in their order, and nothing else."""
    assert list(_headers(versions=RECORDED, bearer="Bearer fake-access-1")) == [
        ("content-type", "application/x-amz-json-1.0"),
        ("x-amz-target", "AmazonCodeWhispererStreamingService.GenerateAssistantResponse"),
        (
            "user-agent",
            "aws-sdk-rust/1.3.16 ua/2.1 api/codewhispererstreaming/0.1.16551 os/linux lang/rust/1.92.0 "
            "md/appVersion-2.4.1 app/AmazonQ-For-CLI",
        ),
        (
            "x-amz-user-agent",
            "aws-sdk-rust/1.3.16 ua/2.1 api/codewhispererstreaming/0.1.16551 os/linux lang/rust/1.92.0 "
            "m/F app/AmazonQ-For-CLI",
        ),
        ("x-amzn-codewhisperer-optout", "false"),
        ("authorization", "Bearer fake-access-1"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip"),
        ("amz-sdk-request", "attempt=1; max=3"),
        ("amz-sdk-invocation-id", "fake-invocation"),
        ("connection", "close"),
    ]


def test_the_ide():
    """The IDE has no target, says its mode in a field, and names itself with version and machine id."""
    headers = _headers("ide", bearer="Bearer fake-access-1", attempt=2)
    assert headers.get("content-type") == "application/json"
    assert "x-amz-target" not in headers
    assert headers.get("x-amzn-kiro-agent-mode") == "vibe"
    assert headers.get("x-amzn-codewhisperer-optout") == "true"
    assert headers.get("x-amz-user-agent") == f"aws-sdk-js/1.0.34 KiroIDE-0.12.155-{ID}"
    assert headers.get("user-agent") == (
        "aws-sdk-js/1.0.34 ua/2.1 os/linux#6.8.0 lang/js md/nodejs#22.22.0 "
        f"api/codewhispererstreaming#1.0.34 m/E KiroIDE-0.12.155-{ID}"
    )
    assert headers.get("amz-sdk-request") == "attempt=2; max=3"


@pytest.mark.parametrize(
    ("name", "origin", "path"), [("cli", "KIRO_CLI", "/"), ("ide", "AI_EDITOR", "/generateAssistantResponse")]
)
def test_origin_and_path(name, origin, path):
    """Origin and path belong to the identity."""
    assert (build(name).origin, build(name).path) == (origin, path)


@pytest.mark.parametrize(
    ("operation", "target"),
    [
        ("models", "AmazonCodeWhispererService.ListAvailableModels"),
        ("usage", "AmazonCodeWhispererService.GetUsageLimits"),
        ("profiles", "AmazonCodeWhispererService.ListAvailableProfiles"),
    ],
)
def test_control_plane(operation, target):
    """Calls about the account name another API; kiro-cli by target, the IDE by path."""
    assert _headers("cli", operation).get("x-amz-target") == target
    assert "api/codewhispererruntime/" in _headers("cli", operation).get("user-agent")
    assert "api/codewhispererruntime#1.0.0 m/N,E" in _headers("ide", operation).get("user-agent")


@pytest.mark.parametrize(("name", "agent"), [("cli", "Kiro-CLI"), ("ide", f"KiroIDE-0.12.155-{ID}")])
def test_refresh(name, agent):
    """The login service gets a short name and no authorization."""
    headers = _headers(name, "refresh")
    assert headers.get("user-agent") == agent
    assert "authorization" not in headers


@pytest.mark.parametrize(
    ("system", "cli", "ide"),
    [
        ("Linux", "os/linux ", "os/linux#"),
        ("Darwin", "os/macos ", "os/darwin#"),
        ("Windows", "os/windows ", "os/win32#"),
        ("", "os/linux ", "os/linux#"),
    ],
)
def test_systems(system, cli, ide):
    """Each client names the system in its own words."""
    assert cli in _headers(machine=Machine(system, "1")).get("user-agent")
    assert ide in _headers("ide", machine=Machine(system, "1")).get("user-agent")


@pytest.mark.parametrize(
    ("auth_method", "operation", "field"),
    [
        ("api_key", "generate", "API_KEY"),
        ("api_key", "usage", "API_KEY"),
        ("api_key", "models", "API_KEY"),
        ("external_idp", "generate", "EXTERNAL_IDP"),
        ("external_idp", "models", None),
        ("desktop", "generate", None),
        ("idc", "generate", None),
    ],
)
@pytest.mark.parametrize("name", ["cli", "ide"])
def test_kinds_of_login(name, auth_method, operation, field):
    """API keys and tokens of a company's own login service are named as such."""
    assert _headers(name, operation, auth_method=auth_method).get("tokentype") == field


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Versions)])
def test_every_version_is_in_use(field):
    """Each version can be changed, and a change shows in some field."""
    changed = dataclasses.replace(identity.PINNED, **{field: "9.9.9-fake"})
    tables = [(name, operation) for name, table in TABLES.items() for operation in table]
    assert any("9.9.9-fake" in repr(list(_headers(name, op, changed))) for name, op in tables)


@pytest.mark.parametrize("bearer", [None, "Bearer x"])
@pytest.mark.parametrize(("name", "operation"), [(name, op) for name, table in TABLES.items() for op in table])
def test_fields_are_whole(name, operation, bearer):
    """No place in a table stays unfilled, names occur once, values are visible ASCII."""
    headers = build(name, identity.PINNED, "", Machine("Linux", "6.8 \r\n x")).headers(
        operation, invocation="i", bearer=bearer
    )
    names = [key.lower() for key, _ in headers]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[!-~]+( [!-~]+)*", value) and "<" not in value for _, value in headers)


def test_calls_of_one_identity_differ_in_what_is_the_calls_own():
    """However many calls an identity has made, each carries its own attempt, id and token."""
    who = build("cli", identity.PINNED, ID, LINUX)
    calls = [{"attempt": 2, "bearer": "Bearer a"}, {"attempt": 1}, {"attempt": 3, "auth_method": "api_key"}, {}]
    for call in calls * 2:
        for operation in TABLES["cli"]:
            assert who.headers(operation, invocation="fake-invocation", **call) == _headers("cli", operation, **call)


def test_this_machine():
    """Without facts given, those of this machine are taken."""
    assert build("ide", machine_id=ID).headers("generate", invocation="i").get("user-agent")


def test_facts_do_not_show():
    """The machine id does not stand in a repr."""
    assert ID not in repr(build("ide", machine_id=ID))


@pytest.mark.parametrize(
    ("cli", "ide", "expected"),
    [
        ("", "", identity.PINNED),
        ("9.9", "", dataclasses.replace(identity.PINNED, cli="9.9")),
        ("", "9.9", dataclasses.replace(identity.PINNED, ide="9.9")),
    ],
)
def test_versions_by_option(cli, ide, expected):
    """An option replaces the version of its client; an empty one leaves the pinned version."""
    assert Versions.chosen(cli, ide) == expected
