"""What `--help` says reads as one voice: sentences that end, first lines that fit, the same word for the same thing."""

import re

import click
import pytest

from kimi_core.cli.main import main
from kimi_core.proxy.options import NAMES
from kimi_core.settings import Settings

FITS = 62  # characters of a first sentence that click shows whole in a list of commands, at 80 columns
FOREIGN = re.compile(
    r"\b(?:whatever this says|pinned|gets a 400|import(?:ed)?|refresh(?:ed)?|creds?|config file)\b", re.IGNORECASE
)


def commands(group=main, path=()):
    """Yield the path and the command of each command, and of each command below it."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


EVERY = {" ".join(path): command for path, command in commands()}


@pytest.mark.parametrize("name", EVERY)
def test_a_command_says_in_one_line_what_it_does(name):
    """The list of commands has a whole sentence for each."""
    first = (EVERY[name].help or "").strip().partition("\n\n")[0].replace("\n", " ")
    assert first.endswith(".")
    assert len(first.partition(". ")[0]) <= FITS


@pytest.mark.parametrize("name", EVERY)
def test_options_are_explained_in_sentences(name):
    """Each option of a command has a help text that begins with a capital or a name, and ends with a full stop."""
    for option in EVERY[name].params:
        if isinstance(option, click.Option) and not option.hidden:
            assert option.help, option.name
            assert option.help.endswith("."), option.name


@pytest.mark.parametrize("name", EVERY)
def test_the_same_word_for_the_same_thing(name):
    """Logins are renewed and taken over; nothing is said in words of the code."""
    texts = [EVERY[name].help or "", *(getattr(option, "help", None) or "" for option in EVERY[name].params)]
    for text in texts:
        assert not FOREIGN.search(re.sub(r"`[^`]*`", "", text)), text


def test_options_of_the_addon_are_in_the_same_voice():
    """Each option of the addon is explained in sentences of the same words."""
    for name in NAMES:
        text = Settings.model_fields[name].description
        assert text.endswith(".")
        assert text[0].isupper()
        assert not FOREIGN.search(re.sub(r"`[^`]*`", "", text)), name
