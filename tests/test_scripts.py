import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kimi_core.kimi.identity import KIMI_CLI_VERSION, KIMI_CODE_VERSION

ROOT = Path(__file__).resolve().parent.parent


def load(name):
    """Import a script as a module."""
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


check = load("check_upstream")


def registries(kimi_cli=KIMI_CLI_VERSION, kimi_code=KIMI_CODE_VERSION, *, pip_works=True):
    """A runner that answers as pip and npm do; None = that client fails."""

    def run(command):
        if command[0] == "npm":
            if kimi_code is None:
                raise check.Unanswered("npm is not installed")
            return f'"{kimi_code}"\n'
        if kimi_cli is None or (not pip_works and command[0] != "uvx"):
            raise check.Unanswered("No module named pip")
        return f"kimi-cli ({kimi_cli})\nAvailable versions: {kimi_cli}, 1.0\n"

    return run


@pytest.mark.parametrize(
    ("answers", "code", "says"),
    [
        ({}, check.CURRENT, [f"kimi-cli: {KIMI_CLI_VERSION} is the newest", f"{KIMI_CODE_VERSION} is the newest"]),
        ({"kimi_cli": "99.0"}, check.NEWER, [f"kimi-cli: {KIMI_CLI_VERSION} is pinned, 99.0 is out"]),
        ({"kimi_code": "99.0.0"}, check.NEWER, ["99.0.0 is out"]),
        ({"kimi_cli": "0.9"}, check.CURRENT, []),
        ({"kimi_code": f"{KIMI_CODE_VERSION}-beta.1"}, check.CURRENT, []),
        ({"kimi_code": None}, check.UNKNOWN, ["could not be asked (npm is not installed)"]),
        ({"kimi_cli": None, "kimi_code": "99"}, check.NEWER, ["No module named pip; No module named pip", "99 is out"]),
        ({"pip_works": False}, check.CURRENT, []),
    ],
)
def test_check_upstream_compares_pins(answers, code, says, capsys):
    """A newer release is told and is exit 1; a registry that cannot be asked is exit 2 unless another is newer."""
    assert check.main(registries(**answers)) == code
    printed = capsys.readouterr().out
    assert all(part in printed for part in says)
    assert len(printed.splitlines()) == len(check.PINS)


@pytest.mark.parametrize("nonsense", ["", "null", "[]", '""', "ERROR: none"])
def test_check_upstream_without_a_version(nonsense, capsys):
    """An answer in another shape is no version, and is said to be none."""
    assert check.main(lambda command: nonsense) == check.UNKNOWN
    assert capsys.readouterr().out.count("the answer holds no version") == len(check.PINS)


@pytest.mark.parametrize(
    ("older", "newer"),
    [("1.9.0", "1.10.0"), ("2.1.0-beta.1", "2.1.0"), ("1.52.0rc1", "1.52.0"), ("1.52", "1.52.1"), ("2.1.0", "10.0")],
)
def test_versions_sort_by_value(older, newer):
    """Versions are compared as numbers, and a pre-release comes before its release."""
    assert check.order(older) < check.order(newer)


def test_runner_returns_what_is_printed():
    """A registry client's standard output is the answer."""
    assert check.run([sys.executable, "-c", "print('kimi-cli (1.0)')"]) == "kimi-cli (1.0)\n"


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["./no-such-client"], "./no-such-client is not installed"),
        ([sys.executable, "-c", "import sys; sys.exit('first\\n last line ')"], "last line"),
        ([sys.executable, "-c", "import sys; sys.exit(3)"], "ended with 3"),
    ],
)
def test_runner_says_why_it_failed(command, why):
    """A client that is missing or fails is told by its own last line."""
    with pytest.raises(check.Unanswered, match=why):
        check.run(command)


def test_runner_is_patient_but_not_for_ever(monkeypatch):
    """A client that hangs is given up."""
    monkeypatch.setattr(check, "PATIENCE", 0.05)
    with pytest.raises(check.Unanswered, match="no answer within"):
        check.run([sys.executable, "-c", "import time; time.sleep(30)"])


def script(*arguments, flags=(), cwd=None):
    """Run the login script in a Python of its own."""
    return subprocess.run(
        [sys.executable, *flags, str(ROOT / "scripts" / "login.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )


def test_login_script_is_the_login_command(tmp_path):
    """From any folder, `scripts/login.py` takes the options of `kimi-mitm login kimi`."""
    done = script("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "--no-browser" in done.stdout
    assert "--with-limit" in done.stdout


def test_login_script_says_what_is_missing(tmp_path):
    """Without the dependencies it names one and says how to get them, with no traceback."""
    done = script(flags=["-S", "-E"], cwd=tmp_path)  # -S: no site-packages
    assert done.returncode == 1
    assert "is missing from this Python" in done.stderr
    assert "make run" in done.stderr
    assert "Traceback" not in done.stderr


def test_login_script_needs_a_recent_python(monkeypatch, capsys):
    """An old Python is told which one is needed."""
    module = load("login")
    monkeypatch.setattr(module, "OLDEST", (99, 0))
    assert module.main([]) == 1
    assert "Python 99.0 or newer is needed" in capsys.readouterr().err


def test_login_script_says_what_is_wrong_with_an_option(monkeypatch, capsys):
    """An option that there is not is named, as by the command itself."""
    module = load("login")
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert module.main(["--nonsense"]) == 2
    assert "No such option '--nonsense'" in capsys.readouterr().err


def test_login_script_passes_the_exit_code_on(monkeypatch):
    """What the command ends with is what the script ends with."""
    module = load("login")
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert module.main(["--set", "kimi_nonsense=1", "--no-browser"]) == 2
