"""Every page says what the code does: its commands can be typed, its blocks are the printed ones, its links lead."""

import contextlib
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from mitmproxy.options import Options
from mitmproxy.tools import cmdline
from ruamel.yaml import YAML

from kimi_core.blocks import kimi
from kimi_core.blocks.place import Place, dump
from kimi_core.cli.configuration import load
from kimi_core.cli.main import main
from kimi_core.kimi.constants import LOCAL_PREFIX, REGIONS
from kimi_core.kimi.models import Catalog
from kimi_core.kiro.constants import DEFAULT_REGION, Endpoints
from kimi_core.kiro.constants import LOCAL_PREFIX as KIRO_PREFIX
from kimi_core.settings import Settings
from tests.test_docs import fenced

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
PLACE = Place("http://127.0.0.1:8080", REGIONS["cn"].base, Path("ca.pem"), local=False)
NAME = re.compile(r"(?:\.venv/bin/)?kimi-mitm (?=[a-z-])")
IN_CONTAINER = re.compile(r"^docker exec (?:-it )?kimi-mitm ")
OPTION = re.compile(r"--[a-z][a-z-]+")
FOREIGN = {"--user", "--name", "--network", "--stop-timeout", "--now", "--format"}  # of other programs


def text_of(page):
    """Return a page."""
    return (ROOT / page).read_text()


def commands(page):
    """Return every command line of ours that a page shows, in blocks and in sentences."""
    text = text_of(page)
    lines = [line for block in fenced("sh", text) for line in block.splitlines()]
    lines += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines = [re.sub(r" [>#|].*", "", IN_CONTAINER.sub("", line.strip())) for line in lines]
    return sorted({line for line in lines if NAME.match(line)})


def understood(line):
    """Let the command line's own parser read *line* as far as it goes without running it."""
    words = shlex.split(re.sub(r" \[.*?\]", "", NAME.sub("", line, count=1)))
    command, context = main, click.Context(main)
    while isinstance(command, click.Group) and words:
        name, command, words = command.resolve_command(context, words)
        context = click.Context(command, info_name=name, parent=context)
    if words:  # "kimi-mitm login" in a sentence is about the command, not about one call of it
        command.make_context(command.name, words)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_can_be_typed(page):
    """Command, subcommand, arguments and options are those of the code."""
    for line in commands(page):
        try:
            with contextlib.suppress(click.exceptions.Exit):  # --help ends with it
                understood(line)
        except click.ClickException as error:
            pytest.fail(f"{line}: {error.format_message()}")


def test_commands_are_found():
    """The check before has something to check: in blocks, in sentences, behind `docker exec`."""
    assert {"kimi-mitm run -- opencode", "kimi-mitm config env"} <= set(commands("docs/opencode.md"))
    assert "kimi-mitm login kimi" in commands("docs/headless.md")


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_every_option_in_a_sentence_exists(page):
    """`--words` without their command are options of some command of ours, or of mitmproxy's."""
    parsers = [make(Options()) for make in (cmdline.mitmdump, cmdline.mitmweb)]
    known = {option for parser in parsers for option in parser._option_string_actions}
    left = list(main.commands.values())
    while left:
        command = left.pop()
        left += getattr(command, "commands", {}).values()
        known |= {option for parameter in command.params for option in parameter.opts}
    named = {found for code in re.findall(r"`(-[^`\n]+)`", text_of(page)) for found in OPTION.findall(code)}
    assert named - known - FOREIGN == set()


@pytest.mark.parametrize("page", PAGES)
def test_names_of_options_are_those_of_the_addon(page):
    """Whatever begins like one of our options in a setting is one."""
    set_here = re.findall(r"--set (k[a-z_]+)=", text_of(page))
    for block in fenced("yaml", text_of(page)):
        set_here += [name for name in YAML(typ="safe").load(block) if name.startswith(("kimi_", "kiro_"))]
    assert set(set_here) <= set(Settings.model_fields)


def test_the_configuration_of_a_server_is_accepted(tmp_path):
    """The file on the headless page is one that both programs read."""
    (text,) = fenced("yaml", text_of("docs/headless.md"))
    (tmp_path / "config.yaml").write_text(text)
    found = load(tmp_path)
    assert (found.host, found.settings.kimi_client_key) == ("10.0.0.5", "auto")
    assert [str(network) for network in found.settings.networks()] == ["10.0.0.0/24"]


@pytest.mark.parametrize("page", PAGES)
def test_ports_have_the_same_number_on_both_sides(page):
    """Every tunnel and every published port leads to 127.0.0.1, from the number to the same number."""
    text = text_of(page)
    for here, there in re.findall(r"-L (\d+):127\.0\.0\.1:(\d+)", text):
        assert here == there
    for published in re.findall(r"(?:^|\s|`)-p (\S*:\S*)", text):
        assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1`?", published)


@pytest.mark.parametrize("page", PAGES)
def test_addresses_are_those_of_the_code(page):
    """Every address on the proxy's own port is one that it serves, every base URL of a service its own."""
    text = text_of(page)
    local = set(re.findall(r"http://(?:127\.0\.0\.1|10\.0\.0\.5):\d+(/[\w/]*)", text))
    bases = {f"{prefix}{rest}" for prefix in (LOCAL_PREFIX, KIRO_PREFIX) for rest in ("v1", "v1/chat/completions")}
    assert local <= bases | {LOCAL_PREFIX.rstrip("/"), f"{KIRO_PREFIX}v1/models", "/health", "/"}
    remote = set(re.findall(r"https://(?:api\.kimi|runtime\.)[\w./-]*/v1\b", text))
    assert remote <= {site.base for site in REGIONS.values()} | {f"{Endpoints().runtime(DEFAULT_REGION)}/v1"}


@pytest.mark.parametrize(
    ("page", "name", "expected"),
    [
        ("docs/opencode.md", "kimi", dump(kimi.opencode(kimi.offered(Catalog()), PLACE))),
        ("docs/claude-code.md", "claude-code", None),
        ("docs/sdks.md", "openai", None),
    ],
)
def test_blocks_are_those_that_are_printed(page, name, expected):
    """A marked block is the program's own, without a plan."""
    if expected is None:
        (expected,) = [block.text for block in kimi.blocks(Catalog(), PLACE) if block.name == name]
    shown = re.search(rf"<!-- block {name} -->\n```\w+\n(.*?)\n```", text_of(page), re.DOTALL)[1]
    if name == "openai":
        assert shown == expected
    else:
        assert json.loads(shown) == json.loads(expected)


def test_versions_are_those_that_are_tested():
    """The pages name the version of Claude Code that the end-to-end tests install."""
    wanted = json.loads((ROOT / "tests" / "e2e" / "claude" / "package.json").read_text())["dependencies"]
    version = wanted["@anthropic-ai/claude-code"].lstrip("~")
    for page in ("README.md", "docs/claude-code.md"):
        assert f"Claude Code {version}" in text_of(page)


@pytest.mark.parametrize("page", PAGES)
def test_examples_are_code(page):
    """Python compiles, JSON parses, JavaScript is what node reads as a module."""
    for code in fenced("python", text_of(page)):
        compile(code, page, "exec")
    for code in fenced("json", text_of(page)):
        json.loads(code)
    node = shutil.which("node")
    for code in fenced("js", text_of(page)) if node else []:
        words = [node, "--check", "--input-type=module", "-"]
        done = subprocess.run(words, input=code, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    """Every relative link leads to a file of the repository, and to a heading that is there."""
    source = ROOT / page
    for target, heading in re.findall(r"\]\((?!\w+:)([^)#]*)(?:#([^)]*))?\)", source.read_text()):
        path = (source.parent / target) if target else source
        assert path.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}, heading
