"""README, Kiro's page, AGENTS and CHANGELOG say what the code does: their tables are compared with it."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from unittest.mock import Mock

import click
import pytest

from kimi_core import detached
from kimi_core.cli.main import main
from kimi_core.errors import KimiMitmError
from kimi_core.kimi import body, identity
from kimi_core.kimi.constants import LOCAL_PREFIX, REGIONS
from kimi_core.kimi.verdict import Reason
from kimi_core.kiro import accounts, fields, models, request, verdict
from kimi_core.kiro import identity as kiro_identity
from kimi_core.kiro.constants import DEFAULT_REGION, Endpoints
from kimi_core.kiro.constants import LOCAL_PREFIX as KIRO_PREFIX
from kimi_core.proxy import key
from kimi_core.proxy.commands import KimiCommands, KiroCommands
from kimi_core.proxy.status import PATHS as PAGE_PATHS
from kimi_core.settings import Settings, choices

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
KIMI = (ROOT / "docs" / "kimi.md").read_text()
KIRO = (ROOT / "docs" / "kiro.md").read_text()
OPTIONS = (ROOT / "docs" / "options.md").read_text()
TROUBLE = (ROOT / "docs" / "troubleshooting.md").read_text()
AGENTS = (ROOT / "AGENTS.md").read_text()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = sorted((ROOT / "kimi_core").rglob("*.py"))
PAGES = (README, KIMI, KIRO, OPTIONS)
KIRO_ALONE = ("kimi_core.kiro.", "kimi_core.wire.eventstream")  # whose errors only Kiro's page has to explain
VARIABLE = re.compile(r"\b(?:DEBUG_)?(?:KIMI|KIRO|KIROCLI)_[A-Z_]+\b")  # names of our own environment variables
NO_VARIABLES = {"KIRO_CLI"}  # an origin of requests


def table(text, name):
    """Return the rows of the table between the marks of *name*, each a list of cells, without head and rule."""
    body = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.DOTALL)
    assert body, f"there is no table {name}"
    lines = [line for line in body[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def names_in(cell):
    """Return what stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def fenced(language, page=README):
    """Return a page's code blocks of that language."""
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def tracked(pattern):
    """Return the files of the repository that match."""
    command = ["git", "ls-files", pattern]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def modules_in_use():
    """Return the modules of the project that the addon and the command line load, asked in a process of its own."""
    code = (
        "import sys, kimi_core.proxy.addon; from kimi_core.cli.main import main; [*main.commands.values()]; "
        "from kimi_core import later; later.load(); "
        "print(*(m for m in sys.modules if 'kimi_core.' in m))"
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()


def all_errors():
    """Return every error class that the program has in use and that some line of it makes."""
    modules = [importlib.import_module(name) for name in modules_in_use()]
    kinds = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, KimiMitmError)
    }
    made = {
        getattr(node.func, "attr", "") or getattr(node.func, "id", "")
        for module in modules
        for node in ast.walk(ast.parse(Path(module.__file__).read_text()))
        if isinstance(node, ast.Call)
    }
    return {kind for kind in kinds if kind.__name__ in made} | set(verdict.ERRORS.values())


def kiro_alone(kind):
    """Tell whether only Kiro can be the cause of an error of that kind."""
    return kind.__module__.startswith(KIRO_ALONE)


def codes_in(page):
    """Return the codes that a page's table explains; each has a cause and a cure."""
    rows = table(page, "codes")
    assert all(len(row) == 3 and row[1] and row[2] for row in rows)
    return sorted(code for row in rows for code in names_in(row[0]))


def variables_in_use():
    """Return the names of our own environment variables that some line of the program holds."""
    return {
        node.value
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and VARIABLE.fullmatch(node.value)
    } - NO_VARIABLES


def shown(value):
    """Return how a value is written in the table."""
    if isinstance(value, bool):
        return str(value).lower()
    return "empty" if value in ("", []) else str(value)


def test_options_table_is_that_of_the_settings():
    """Every option stands on its page with its default, its choices and its help, in the code's order."""
    expected = []
    for name, field in Settings.model_fields.items():
        values = choices(name)
        text = f"{field.description} ({', '.join(map(shown, values))})" if values else field.description
        expected.append([f"`{name}`", f"`{shown(field.get_default(call_default_factory=True))}`", text])
    assert table(OPTIONS, "options") == expected


@pytest.mark.parametrize(("page", "repairs"), [(KIMI, body.REPAIRS), (KIRO, request.REPAIRS)], ids=["kimi", "kiro"])
def test_repairs_table_is_that_of_the_code(page, repairs):
    """Every repair stands in its provider's page under the name that the flow shows, with what it means."""
    assert table(page, "repairs") == [[f"`{name}`", meaning] for name, meaning in repairs.items()]


def test_every_error_code_has_a_cause_and_a_cure():
    """Each code that the program can give stands in one table, and no other: Kiro's own in the page of Kiro."""
    kinds = all_errors()
    shared = {kind.code for kind in kinds if not kiro_alone(kind)}
    assert codes_in(TROUBLE) == sorted(shared)
    assert codes_in(KIRO) == sorted({kind.code for kind in kinds} - shared)


def test_every_kind_of_failure_of_kiro_is_explained():
    """Kiro's page has one row for each kind of failure: the code that clients get, what is done, and what it means."""
    rows = table(KIRO, "kinds")
    known = [[f"`{kind}`", f"`{verdict.ERRORS[kind].code}`", f"`{verdict.ACTIONS[kind]}`"] for kind in verdict.Kind]
    assert [row[:3] for row in rows] == known
    assert all(len(row) == 4 and row[3] for row in rows)
    actions = table(KIRO, "actions")
    assert [row[0] for row in actions] == [f"`{action}`" for action in verdict.Action]
    assert all(len(row) == 2 and row[1] for row in actions)


def test_refused_fields_are_those_of_the_code():
    """Kiro's page names every field of a request that is refused where it asks for anything."""
    assert f"| {', '.join(f'`{name}`' for name in fields.REFUSED)} | refused by name" in KIRO


def test_every_variable_of_the_environment_is_named():
    """Each environment variable of our own that the program reads stands in one of the pages, and no other."""
    named = {name for page in PAGES for name in VARIABLE.findall(page)}
    assert named == variables_in_use()


def test_every_file_is_named():
    """Each file that the program keeps beside the logins stands in the table of files."""
    listed = {name for row in table(OPTIONS, "files") for name in names_in(row[0])}
    assert {accounts.FILE, models.FILE, key.FILE} <= listed


def test_every_reason_has_a_meaning_and_a_cure():
    """The table of reasons has one row for each reason that a failed answer can be given, and no other."""
    rows = table(TROUBLE, "reasons")
    assert sorted(reason for row in rows for reason in names_in(row[0])) == sorted(str(reason) for reason in Reason)
    assert all(len(row) == 3 and row[1] and row[2] for row in rows)


def test_commands_are_those_of_the_command_line():
    """Every command of `kimi-mitm` stands in the README, and no other; the same is true of those of `accounts`."""
    assert isinstance(main, click.Group)
    rows = re.findall(r"^\| `kimi-mitm (\w+)[^`]*` \| (.*) \|$", README, re.MULTILINE)
    assert {name for name, _ in rows} == set(main.commands)
    (text,) = [text for name, text in rows if name == "accounts"]
    assert set(names_in(text)) == set(main.commands["accounts"].commands)
    for page in PAGES:
        assert set(re.findall(r"kimi-mitm accounts (\w+)", page)) <= set(names_in(text))


def test_every_command_takes_the_options_that_all_are_said_to_take():
    """What the README says of all commands is true of each."""
    leaves = [each for one in main.commands.values() for each in getattr(one, "commands", {"": one}).values()]
    said = set(names_in(re.search(r"^All take (.*?)\.", README, re.MULTILINE)[1]))
    assert said
    for leaf in leaves:
        names = {option for parameter in leaf.get_params(click.Context(leaf)) for option in parameter.opts}
        assert said <= names, leaf.name


def test_commands_are_those_of_the_addon():
    """The README lists the commands that the addon adds to mitmproxy."""
    loader = Mock()
    for kind in (KimiCommands, KiroCommands):
        kind(Mock(), Mock()).declare(loader)
    declared = {call.args[0] for call in loader.add_command.call_args_list}
    assert declared == set(re.findall(r"`(ki[mr][io]\.[a-z]+)`", README)) - {"kimi.com", "kimi.ai"}


@pytest.mark.parametrize("page", PAGES, ids=["README", "kimi", "kiro", "options"])
def test_examples_are_code(page):
    """Each Python example compiles, each JSON example parses."""
    for code in fenced("python", page):
        compile(code, "example.py", "exec")
    for text in fenced("json", page):
        json.loads(text)


@pytest.mark.parametrize("page", PAGES, ids=["README", "kimi", "kiro", "options"])
def test_addresses_are_those_of_the_code(page):
    """Every address on the proxy's own port is one that it serves."""
    local = set(re.findall(r"http://127\.0\.0\.1:8080(/[\w/]*)", page))
    served = {f"{prefix}{rest}" for prefix in (LOCAL_PREFIX, KIRO_PREFIX) for rest in ("v1", "v1/chat/completions")}
    assert local <= served | {LOCAL_PREFIX.rstrip("/"), f"{KIRO_PREFIX}v1/models", "/health", "/"} | PAGE_PATHS


def test_hosts_are_those_of_the_code():
    """The services' own addresses are the ones in use."""
    assert REGIONS["cn"].base in README
    assert all(f"`{site.host}`" in KIMI for site in REGIONS.values())
    for page in (README, KIRO):
        assert f"{Endpoints().runtime(DEFAULT_REGION)}/v1" in page


def test_make_targets_that_are_named_exist():
    """Every `make x` that a text names is a target of the Makefile, and `make help` shows it."""
    described = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
    phony = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split())
    assert described == phony
    for text in (*PAGES, AGENTS):
        assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) <= described


def test_versions_are_those_of_the_code_and_of_the_recordings():
    """The client versions that the texts name are the pinned and the recorded ones."""
    recorded = dict(path.stem.rsplit("-", 1) for path in (ROOT / "tests" / "recordings").glob("*.jsonl"))
    assert recorded["kimi-cli"] == identity.KIMI_CLI_VERSION
    assert recorded["kimi-code"] == identity.KIMI_CODE_VERSION
    assert f"opencode {recorded['opencode']}" in README
    assert f"kimi-cli {identity.KIMI_CLI_VERSION}" in CHANGELOG
    assert f"Kimi Code {identity.KIMI_CODE_VERSION}" in CHANGELOG
    assert f"kiro-cli {kiro_identity.PINNED.cli}" in README
    assert f"kiro-cli {kiro_identity.PINNED.cli}" in CHANGELOG
    assert f"Kiro IDE {kiro_identity.PINNED.ide}" in CHANGELOG


def test_changelog_begins_with_the_version_of_the_project():
    """The newest version of the changelog is the project's."""
    assert re.findall(r"^## \[(\d[^\]]*)\]", CHANGELOG, re.MULTILINE)[0] == PROJECT["version"]


def test_map_names_every_module():
    """AGENTS' map has every module of the repository: a line of its own, or a word in the lines of its package."""
    tree = re.search(r"## Map\n+```\n(.*?)```", AGENTS, re.DOTALL)[1]
    lines, words, folder = set(), set(), ""
    for line in tree.splitlines():
        indent, name, text = re.match(r"( *)(\S+)(.*)", line).groups()
        if name.endswith(".py"):
            lines |= {f"{folder}{word}" if indent else word for word in (name, *re.findall(r"\w+\.py", text))}
            continue
        if name.endswith("/"):
            folder = f"kimi_core/{name}" if indent else name
        words |= {f"{folder}{word}.py" for word in re.findall(r"\w+", f"{name} {text}")}
    modules = {name for name in tracked("kimi_core/*.py") if not name.endswith("__init__.py")}
    assert modules - lines - words == set()
    assert {name for name in lines if name.startswith("kimi_core/")} - modules == set()


def test_each_invariant_names_a_test_that_exists():
    """Every test that AGENTS names as a guard is there."""
    guards = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", AGENTS)
    assert len(guards) >= 10
    missing = [f"{path}::{name}" for path, name in guards if f"def {name}(" not in _text_of(ROOT / path)]
    assert not missing


@pytest.mark.parametrize(
    ("page", "name", "least"),
    [
        ("security", "defences", 20),
        ("faults", "found-logins", 8),
        ("faults", "found-services", 10),
        ("faults", "found-clients", 4),
        ("faults", "found-program", 6),
    ],
)
def test_each_defence_names_a_test_that_exists(page, name, least):
    """Every line of the threat model, and of what was found, says what is done, and names tests that are there."""
    lines = table((ROOT / "docs" / f"{page}.md").read_text(), name)
    assert len(lines) >= least
    for line in lines:
        guards = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", line[-1])
        assert len(line) == 3
        assert guards, line[0]
        missing = [f"{path}::{name}" for path, name in guards if f"def {name}(" not in _text_of(ROOT / path)]
        assert not missing


def test_how_long_an_unstored_login_is_kept_is_said():
    """What cannot be written is kept for an hour and no longer, and the page promises no more."""
    lines = [line for line in table((ROOT / "docs" / "faults.md").read_text(), "found-logins") if "keeps it" in line[1]]
    assert [line[1].rpartition("until it can")[2] for line in lines] == [", for an hour at most."]
    assert detached.AFTERLIFE == 3600


def _text_of(path):
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("name", ["AGENTS.md", "CHANGELOG.md"])
def test_links_to_files_lead_somewhere(name):
    """Every relative link leads to a file of the repository, and to a heading that is there."""
    page = ROOT / name
    for target, heading in re.findall(r"\]\((?!\w+:)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        path = (page.parent / target) if target else page
        assert path.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}, heading
