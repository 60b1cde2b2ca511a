"""The Kiro page says what the code does: its tables, commands and blocks are compared with it."""

import json
import re
from pathlib import Path

import click
import pytest

from kimi_core.blocks.kiro import BLOCK_NAMES, opencode
from kimi_core.blocks.place import Place
from kimi_core.cli.accounts import STRATEGIES, accounts
from kimi_core.cli.accounts_sync import KINDS
from kimi_core.cli.main import main
from kimi_core.cli.providers import PROVIDERS
from kimi_core.kiro.accounts import FILE
from kimi_core.kiro.callback import PORTS
from kimi_core.kiro.catalog import FALLBACK
from kimi_core.kiro.condition import CONDITIONS
from kimi_core.kiro.constants import Endpoints
from kimi_core.kiro.models import FILE as MODELS_FILE
from kimi_core.settings import Settings
from tests.test_docs import names_in, table

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "kiro.md").read_text()


def test_every_state_is_explained():
    """Each state of an account stands in the page with its meaning and what to do."""
    rows = table(PAGE, "states")
    assert [(names_in(row[0])[0], row[1]) for row in rows] == [
        (state.value, found.meaning) for state, found in CONDITIONS.items()
    ]
    assert all(row[2] for row in rows)
    for row, found in zip(rows, CONDITIONS.values(), strict=True):
        (command,) = re.findall(r"kimi-mitm [a-z ]+[a-z]", found.advice) or [""]
        assert command in row[2]


def test_every_source_is_explained():
    """Each place that `sync --from` takes stands in the page."""
    assert sorted(names_in(row[0])[0] for row in table(PAGE, "sources")) == sorted(KINDS)


def test_every_strategy_is_explained():
    """Each strategy has its row."""
    assert {name for name in STRATEGIES if f"\n| `{name}` |" in PAGE} == set(STRATEGIES)


def test_every_command_of_accounts_is_listed():
    """The table of commands has each one, and every command that the page names exists."""
    listed = set(re.findall(r"\n\| `kimi-mitm accounts ([a-z]+)", PAGE))
    assert listed == set(accounts.commands)
    named = set(re.findall(r"(?:`|^)kimi-mitm ([a-z]+)(?: ([a-z]+))?", PAGE, re.MULTILINE))
    assert len(named) >= len(listed)
    for command, word in named:
        assert command in main.commands, command
        group = main.commands[command]
        if isinstance(group, click.Group) and word:
            assert word in group.commands, word


def test_every_option_that_is_named_exists():
    """Options of commands and of the addon are those of the code."""
    known = {
        option
        for command in [*main.commands.values(), *accounts.commands.values()]
        for parameter in command.params
        for option in parameter.opts
    }
    assert set(re.findall(r"`[^`]*?(--[a-z][a-z-]*)", PAGE)) - known == set()
    codes = {code for row in table(PAGE, "codes") for code in names_in(row[0])}
    assert set(re.findall(r"\bkiro_[a-z_]+", PAGE)) <= set(Settings.model_fields) | codes


def test_the_opencode_block_is_the_one_that_is_printed():
    """The short block is the printed one with a single model."""
    (text,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    place = Place("http://127.0.0.1:8080", "", Path("ca.pem"), provider="kiro")
    (model,) = [model for model in FALLBACK.models if model.id == "claude-opus-4.6"]
    assert json.loads(text) == opencode((model,), place)


@pytest.mark.parametrize("word", [*BLOCK_NAMES, FILE, MODELS_FILE, *map(str, PORTS)])
def test_names_are_those_of_the_code(word):
    """Blocks, files and ports are called what they are."""
    assert word in PAGE


def test_addresses_are_those_of_the_code():
    """The base URLs are the local endpoint's and that of Kiro's own host."""
    assert f"`{Endpoints().runtime('us-east-1')}/v1`" in PAGE
    assert set(re.findall(r"http://127\.0\.0\.1:8080(/[\w/]*)", PAGE)) == {"/kiro/v1", "/kiro/v1/chat/completions"}
    assert "kiro" in PROVIDERS


def test_links_lead_somewhere():
    """Files that are linked exist, and so do headings."""
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
    headings = {
        re.sub(r"[^a-z0-9 ]", "", line.lower()).replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= headings
