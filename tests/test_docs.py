"""README, AGENTS and CHANGELOG say what the code does: their tables are compared with it."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from kimi_core.cli import blocks
from kimi_core.cli.main import main
from kimi_core.errors import KimiMitmError
from kimi_core.kimi import body, identity
from kimi_core.kimi.constants import LOCAL_PREFIX, REGIONS
from kimi_core.kimi.models import Catalog
from kimi_core.kimi.verdict import Reason
from kimi_core.settings import Settings, choices

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
AGENTS = (ROOT / "AGENTS.md").read_text()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = sorted((ROOT / "kimi_core").rglob("*.py"))


def table(text, name):
    """Return the rows of the table between the marks of *name*, each a list of cells, without head and rule."""
    body = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.DOTALL)
    assert body, f"there is no table {name}"
    lines = [line for line in body[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def names_in(cell):
    """Return what stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def fenced(language):
    """Return the README's code blocks of that language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def tracked(pattern):
    """Return the files of the repository that match."""
    command = ["git", "ls-files", pattern]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def modules_in_use():
    """Return the modules of the project that the addon and the command line load, asked in a process of its own."""
    code = (
        "import sys, kimi_core.proxy.addon, kimi_core.cli.main; print(*(m for m in sys.modules if 'kimi_core.' in m))"
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
    return {kind for kind in kinds if kind.__name__ in made}


def shown(value):
    """Return how a default is written in the table."""
    if isinstance(value, bool):
        return str(value).lower()
    return "empty" if value in ("", []) else str(value)


def test_options_table_is_that_of_the_settings():
    """Every option stands in the README with its default, its choices and its help, in the code's order."""
    expected = []
    for name, field in Settings.model_fields.items():
        values = choices(name)
        text = f"{field.description} ({', '.join(values)})" if values else field.description
        expected.append([f"`{name}`", f"`{shown(field.get_default(call_default_factory=True))}`", text])
    assert table(README, "options") == expected


def test_repairs_table_is_that_of_the_code():
    """Every repair stands in the README under the name that the flow shows, with what it means."""
    assert table(README, "repairs") == [[f"`{name}`", meaning] for name, meaning in body.REPAIRS.items()]


def test_every_error_code_has_a_cause_and_a_cure():
    """The troubleshooting table has one row for each code that the program can give, and no other."""
    rows = table(README, "codes")
    listed = [code for row in rows for code in names_in(row[0])]
    assert sorted(listed) == sorted({kind.code for kind in all_errors()})
    assert all(len(row) == 3 and row[1] and row[2] for row in rows)


def test_every_reason_has_a_meaning_and_a_cure():
    """The table of reasons has one row for each reason that a failed answer can be given, and no other."""
    rows = table(README, "reasons")
    assert sorted(reason for row in rows for reason in names_in(row[0])) == sorted(str(reason) for reason in Reason)
    assert all(len(row) == 3 and row[1] and row[2] for row in rows)


def test_commands_are_those_of_the_command_line():
    """Every command of `kimi-mitm` stands in the README, and no other."""
    assert isinstance(main, click.Group)
    said = set(re.findall(r"\| `kimi-mitm (\w+)", README))
    assert said == set(main.commands)


def test_commands_are_those_of_the_addon():
    """The README lists the commands that the addon adds to mitmproxy."""
    declared = set()
    for path in MODULES:
        declared |= set(re.findall(r'@command\.command\("([^"]+)"\)', path.read_text()))
    assert declared
    assert declared == set(re.findall(r"`(kimi\.[a-z]+)`", README))


def test_opencode_block_is_the_one_that_login_prints():
    """The README's opencode block is what the program prints without a plan, at the proxy's own address."""
    place = blocks.Place("http://127.0.0.1:8080", REGIONS["cn"].base, Path("ca.pem"))
    expected = blocks.opencode(blocks.offered(Catalog()), place)
    (provider,) = expected["provider"].values()
    provider["options"]["baseURL"] = place.local_base
    assert json.loads(fenced("json")[0]) == expected


def test_python_example_is_python():
    """The Python example compiles."""
    for code in fenced("python"):
        compile(code, "README.md", "exec")


def test_addresses_are_those_of_the_code():
    """Every address on the proxy's own port is one that it serves, and Kimi's own are the ones in use."""
    local = set(re.findall(r"http://127\.0\.0\.1:8080(/[\w/]*)", README))
    assert {path for path in local if path != "/health"} <= {
        LOCAL_PREFIX.rstrip("/"),
        f"{LOCAL_PREFIX}v1",
        f"{LOCAL_PREFIX}v1/chat/completions",
    }
    assert REGIONS["cn"].base in README
    assert all(f"`{site.host}`" in README for site in REGIONS.values())


def test_make_targets_that_are_named_exist():
    """Every `make x` that a text names is a target of the Makefile, and `make help` shows it."""
    described = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
    phony = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split())
    assert described == phony
    for text in (README, AGENTS):
        assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) <= described


def test_versions_are_those_of_the_code_and_of_the_recordings():
    """The client versions that the texts name are the pinned and the recorded ones."""
    recorded = dict(path.stem.rsplit("-", 1) for path in (ROOT / "tests" / "recordings").glob("*.jsonl"))
    assert recorded["kimi-cli"] == identity.KIMI_CLI_VERSION
    assert recorded["kimi-code"] == identity.KIMI_CODE_VERSION
    assert f"opencode {recorded['opencode']}" in README
    assert f"kimi-cli {identity.KIMI_CLI_VERSION}" in CHANGELOG
    assert f"Kimi Code {identity.KIMI_CODE_VERSION}" in CHANGELOG


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
            lines.add(f"{folder}{name}" if indent else name)
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


def _text_of(path):
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("text", [README, AGENTS, CHANGELOG], ids=["README", "AGENTS", "CHANGELOG"])
def test_links_to_files_lead_somewhere(text):
    """Every relative link leads to a file of the repository."""
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target
