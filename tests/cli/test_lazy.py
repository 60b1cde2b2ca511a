"""Commands are loaded when they are called: the list of them tells the same as they do, and costs nothing."""

import json
import subprocess
import sys

import click
import pytest
from click.shell_completion import ShellComplete

from kimi_core.cli.main import COMMANDS, main

HEAVY = ("pydantic", "httpx", "rich", "mitmproxy", "asyncio")
LOADED = """
import json, sys
from click.testing import CliRunner
from kimi_core.cli.main import main
result = CliRunner().invoke(main, sys.argv[1:])
print(json.dumps([result.exit_code, sorted(sys.modules)]))
"""


def loaded(*words):
    """Return the modules that a call of the program loads, in a process of its own."""
    command = [sys.executable, "-c", LOADED, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stdout)
    assert code == 0
    return modules


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_what_the_command_says(name):
    """The sentence in the list is the first one of the command's own help, whole."""
    assert COMMANDS[name][1].removesuffix(".") == main.commands[name].get_short_help_str(200).removesuffix(".")


def test_help_lists_every_command():
    """Each command stands in the help with its sentence, each once."""
    text = main.get_help(click.Context(main))
    for name, (_, sentence) in COMMANDS.items():
        assert text.count(f"\n  {name} ") == 1
        assert sentence in text


@pytest.mark.parametrize("words", [("--version",), ("--help",)])
def test_what_needs_no_command_loads_none(words):
    """Version and help are there at once: nothing heavy is loaded for them."""
    assert not set(HEAVY) & set(loaded(*words))


@pytest.mark.parametrize("name", ["run", "start", "logs", "status", "login"])
def test_a_command_does_not_load_mitmproxy(name):
    """What users call all day leaves mitmproxy, which takes longer than everything else, unloaded."""
    assert "mitmproxy" not in loaded(name, "--help")


def test_commands_and_options_are_completed():
    """A shell gets the names that begin as typed, each with its sentence, and the options of the program itself."""
    shell = ShellComplete(main, {}, "kimi-mitm", "_KIMI_MITM_COMPLETE")
    found = {item.value: item.help for item in shell.get_completions([], "log")}
    assert found == {name: COMMANDS[name][1] for name in ("login", "logout", "logs")}
    assert [item.value for item in shell.get_completions([], "--v")] == ["--version"]


def test_a_command_that_does_not_exist():
    """A name with a slip gets an error that has the names that are close."""
    with pytest.raises(click.UsageError) as caught:
        main.resolve_command(click.Context(main), ["statsu"])
    assert "statsu" in caught.value.format_message()
    assert len(main.commands) == len(COMMANDS)
    assert "statsu" not in main.commands
