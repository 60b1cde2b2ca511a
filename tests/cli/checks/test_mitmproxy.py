import ast
import os
import sys
import tomllib
import venv
from pathlib import Path

import mitmproxy
import pytest

from kimi_core.cli.checks.check import State
from kimi_core.cli.checks.mitmproxy import (
    MINIMUM,
    NEEDED,
    ROOT,
    Program,
    Programs,
    interpreter,
    judge_dependencies,
    judge_internals,
    judge_program,
    judge_version,
    numbers,
)

GOOD = Program(Path("/a/mitmdump"), Path("/a/python"), "12.2.3", (3, 13, 0))
OLD = Program(Path("/b/mitmdump"), Path("/b/python"), "11.1.3", (3, 12, 0))
LACKING = Program(Path("/c/mitmdump"), Path("/c/python"), "12.2.3", (3, 12, 0), missing=("httpx",))
BROKEN = Program(Path("/d/mitmdump"), Path("/d/python"), "12.2.3", (3, 12, 0), broken="ImportError")
ALONE = Program(Path("/e/mitmdump"), error="it names no Python")
EMPTY = Program(Path("/f/mitmdump"), Path("/f/python"))
CHANGED = Program(Path("/g/mitmdump"), Path("/g/python"), "14.0.0", (3, 13, 0), internals=("a.b", "c.d"))


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """Return the folder of programs of a Python that has nothing installed, not even pip."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    script = scripts / "mitmdump"
    script.write_text(f"#!{scripts / 'python'}\n")
    script.chmod(0o755)
    return scripts


def packages(scripts):
    """Return where that Python has what is installed."""
    return next((scripts.parent / "lib").glob("python*/site-packages"))


def test_the_mitmproxy_that_runs_these_tests(cli):
    """The one beside this program has everything, and is known."""
    found = cli.json("doctor", "--only", "mitmproxy")["checks"]
    assert [one["state"] for one in found] == ["ok"] * 4


def alone(cli, empty, monkeypatch):
    """Let the machine have no other mitmproxy than that of the empty Python."""
    monkeypatch.setattr(sys, "executable", str(empty / "python"))
    cli.environ["PATH"] = str(empty)


def test_a_python_that_has_no_mitmproxy(cli, find, empty, monkeypatch):
    """A mitmdump whose Python has lost mitmproxy cannot be used."""
    alone(cli, empty, monkeypatch)
    found = find(cli, "mitmproxy.program")
    assert found["state"] == "problem"
    assert str(empty / "mitmdump") in found["message"]
    assert find(cli, "mitmproxy.dependencies")["state"] == "skipped"


def test_a_python_that_lacks_what_the_addon_needs(cli, find, empty, monkeypatch):
    """A mitmproxy that is installed alone is told what the addon needs besides."""
    alone(cli, empty, monkeypatch)
    installed = packages(empty) / "mitmproxy"
    installed.symlink_to(Path(mitmproxy.__file__).parent)
    try:
        found = find(cli, "mitmproxy.dependencies")
    finally:
        installed.unlink()
    assert found["state"] == "problem"
    assert all(name in found["message"] for name in NEEDED)
    assert str(empty / "python") in found["fix"]


def test_a_mitmproxy_that_is_too_old(cli, find, empty, monkeypatch):
    """A version below the one that is asked for is a problem."""
    alone(cli, empty, monkeypatch)
    installed = packages(empty) / "mitmproxy"
    installed.mkdir()
    (installed / "__init__.py").touch()
    (installed / "version.py").write_text('VERSION = "11.1.3"\n')
    try:
        found = find(cli, "mitmproxy.version")
    finally:
        for path in (installed / "__init__.py", installed / "version.py"):
            path.unlink()
        for path in installed.glob("__pycache__/*"):
            path.unlink()
        for path in (*installed.glob("__pycache__"), installed):
            path.rmdir()
    assert found["state"] == "problem"
    assert "11.1.3" in found["message"]


def test_no_mitmproxy(cli, find, tmp_path, monkeypatch):
    """Without any mitmdump the installation is to be looked at."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    cli.environ["PATH"] = str(tmp_path)
    found = find(cli, "mitmproxy.program")
    assert found["state"] == "problem"
    assert "not installed" in found["message"]


def test_an_interpreter_that_cannot_be_started(cli, find, tmp_path, monkeypatch):
    """A program whose Python is gone is named with what the system says."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    script = tmp_path / "mitmdump"
    script.write_text(f"#!{tmp_path}/gone/python3\n")
    script.chmod(0o755)
    cli.environ["PATH"] = str(tmp_path)
    assert find(cli, "mitmproxy.program")["state"] == "problem"


def test_a_ready_made_program(cli, find, tmp_path, monkeypatch):
    """The ready-made program of mitmproxy has no Python that could be asked, or that the addon could use."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    program = tmp_path / "mitmdump"
    program.write_bytes(b"\x7fELF")
    program.chmod(0o755)
    cli.environ["PATH"] = str(tmp_path)
    found = find(cli, "mitmproxy.program")
    assert found["state"] == "problem"
    assert "ready-made" in found["message"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("#!/opt/venv/bin/python3.13\nimport sys\n", "/opt/venv/bin/python3.13"),
        ("#! /opt/venv/bin/python\n", "/opt/venv/bin/python"),
        ("#!/usr/bin/env python3\n", "/found/python3"),
        ("#!/bin/sh\n'''exec' \"/my venv/bin/python\" \"$0\" \"$@\"\n' '''\n", "/my venv/bin/python"),
        ("#!/bin/sh\n'''exec' /long/venv/bin/python3 \"$0\" \"$@\"\n' '''\n", "/long/venv/bin/python3"),
        ("#!/bin/sh\necho hello\n", None),
        ("\x7fELF and so on", None),
        ("", None),
    ],
)
def test_the_interpreter_of_a_script(tmp_path, content, expected):
    """The first lines of a program name its Python, also where its path has spaces; a ready-made program names none."""
    script = tmp_path / "mitmdump"
    script.write_text(content, encoding="latin-1")
    assert interpreter(script, lambda name: f"/found/{name}") == (Path(expected) if expected else None)


def test_a_program_that_cannot_be_read(tmp_path):
    """What is gone names no Python, and neither does a name that is not on PATH."""
    assert interpreter(tmp_path / "mitmdump", lambda _: None) is None
    script = tmp_path / "other"
    script.write_text("#!/usr/bin/env python3\n")
    assert interpreter(script, lambda _: None) is None


def test_windows_launchers(tmp_path):
    """A launcher of Windows has its interpreter beside it."""
    launcher = tmp_path / "mitmdump.exe"
    launcher.write_bytes(b"MZ")
    assert interpreter(launcher, lambda _: None) is None
    (tmp_path / "python.exe").touch()
    assert interpreter(launcher, lambda _: None) == tmp_path / "python.exe"


@pytest.mark.parametrize(
    ("judge", "found", "state", "word"),
    [
        (judge_program, Programs(), State.problem, "not installed"),
        (judge_program, Programs(on_path=ALONE), State.problem, "names no Python"),
        (judge_program, Programs(on_path=EMPTY), State.problem, "has no mitmproxy"),
        (judge_program, Programs(on_path=ALONE, beside=GOOD), State.warning, "/a/mitmdump can"),
        (judge_program, Programs(on_path=GOOD, beside=GOOD), State.ok, "/a/mitmdump"),
        (judge_dependencies, Programs(on_path=LACKING), State.problem, "lacks httpx"),
        (judge_dependencies, Programs(on_path=BROKEN), State.problem, "ImportError"),
        (judge_dependencies, Programs(on_path=LACKING, beside=GOOD), State.warning, "use another one"),
        (judge_dependencies, Programs(beside=GOOD), State.ok, "everything"),
        (judge_version, Programs(on_path=OLD), State.problem, "11.1.3"),
        (judge_version, Programs(on_path=OLD, beside=GOOD), State.warning, "11.1.3"),
        (judge_version, Programs(on_path=GOOD), State.ok, "12.2.3"),
        (judge_internals, Programs(on_path=CHANGED), State.warning, "a.b, c.d"),
        (judge_internals, Programs(on_path=GOOD), State.ok, "all parts"),
    ],
)
def test_judgements(judge, found, state, word):
    """What is wrong with one program is a warning where the other, which is started by default, is well."""
    judged = judge(found)
    assert judged.state is state
    assert word in judged.message


@pytest.mark.parametrize(("text", "expected"), [("12.2.3", (12, 2, 3)), ("13.0.0.dev", (13, 0, 0)), ("12.2", (12, 2))])
def test_numbers_of_a_version(text, expected):
    """Versions are compared by their numbers."""
    assert numbers(text) == expected


def test_what_is_asked_for_is_what_the_project_asks_for():
    """Minimum and modules are those of pyproject.toml and of the addon's own imports."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"mitmproxy>={'.'.join(map(str, MINIMUM))}" in wanted
    used = set()
    for path in (ROOT / "kimi_core").rglob("*.py"):
        if "cli" not in path.parts:
            used |= {name.partition(".")[0] for name in _imports(path)}
    assert used - set(sys.stdlib_module_names) - {"kimi_core", "mitmproxy", "pydantic_core"} == set(NEEDED)


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
