import pytest


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("kimi_region: [", "no valid YAML"),
        ("- a list\n", "must hold options"),
        ("kimi_regoin: cn\n", "There is no option kimi_regoin"),
        ("kimi_region: mars\n", "kimi_region"),
        ("listen_port: far\n", "must be a port"),
    ],
)
def test_a_file_that_cannot_be_used(cli, find, text, word):
    """What is wrong with the configuration file is told, though no other command starts with it."""
    cli.configure(text)
    found = find(cli, "config.file")
    assert found["state"] == "problem"
    assert word in found["message"]
    assert str(cli.folder / "mitmproxy" / "config.yaml") in found["fix"]
    assert cli("status").exit_code == 2


def test_a_misspelt_option_is_recognised(cli, find):
    """The option that may be meant is named, the value that was given is not: it may be a secret."""
    cli.configure("kimi_client_kee: fake-key-1\n")
    found = find(cli, "config.file")
    assert "kimi_client_key may be meant" in found["fix"]
    assert "fake-key-1" not in str(found)


def test_a_file_that_is_well(cli, find):
    """A file with options that exist is well, and so is none."""
    assert find(cli, "config.file")["state"] == "ok"
    cli.configure("kimi_region: global\nshowhost: true\n")
    assert find(cli, "config.file")["state"] == "ok"


def test_a_wrong_option_on_the_command_line_is_still_refused(cli):
    """What the user asks of this command itself has to make sense."""
    assert cli("doctor", "--set", "kimi_nonsense=1").exit_code == 2
    cli.configure("kimi_region: [")
    assert cli("doctor", "--set", "kimi_nonsense=1").exit_code == 2


def test_scripts(cli, find, tmp_path):
    """A script that is not there is a problem, a relative path a warning."""
    there = tmp_path / "addon.py"
    there.touch()
    for text, state in (
        ("", "skipped"),
        ("scripts: []", "skipped"),
        (f"scripts: [{there}]", "ok"),
        ("scripts: [addons/kimi.py]", "warning"),
        (f"scripts: [{there}, {tmp_path}/gone.py]", "problem"),
        ("scripts: [", "skipped"),
    ):
        cli.configure(text)
        assert find(cli, "config.scripts")["state"] == state, text


@pytest.mark.parametrize("name", ["KIMI_CODE_BASE_URL", "KIMI_CODE_OAUTH_HOST", "KIRO_RUNTIME_URL"])
def test_variables_that_make_no_sense(cli, find, name):
    """An address that no login would be sent to is named."""
    assert find(cli, "config.variables")["state"] == "ok"
    cli.environ[name] = "http://far.example"
    found = find(cli, "config.variables")
    assert found["state"] == "problem"
    assert "far.example" in found["message"]
