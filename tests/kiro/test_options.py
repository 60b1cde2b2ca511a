import pytest

from kimi_core.errors import ConfigError
from kimi_core.settings import parse


@pytest.mark.parametrize("version", ["", "2.14.2", "0.12.155", "3.0-beta_1"])
@pytest.mark.parametrize("name", ["kiro_cli_version", "kiro_ide_version"])
def test_versions(name, version):
    """A version is digits and dots, or nothing."""
    assert getattr(parse({name: version}), name) == version


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kiro_cli_version", "2.14 x"),
        ("kiro_ide_version", "latest\r\nx: y"),
        ("kiro_ide_version", "2.14.2\n"),
        ("kiro_identity", "own"),
        ("kiro_strategy", "random"),
        ("kiro_concurrency", -1),
        ("kiro_deadline", 0),
        ("kiro_first_byte_timeout", -1),
        ("kiro_idle_timeout", -1),
        ("kiro_reasoning", "fake"),
        ("openai_hosts", ["https://api.openai.com"]),
        ("openai_hosts", ["api.openai.com/v1"]),
        ("openai_hosts", ["-x.test"]),
        ("openai_hosts", [""]),
    ],
)
def test_what_makes_no_sense(name, value):
    """An option that makes no sense is named in the error."""
    with pytest.raises(ConfigError, match=name):
        parse({name: value})


def test_hosts_are_lower_case():
    """Host names have no case."""
    assert parse({"openai_hosts": ["API.OpenAI.com", "localhost"]}).openai_hosts == ["api.openai.com", "localhost"]
