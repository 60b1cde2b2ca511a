"""What the program depends on is what it says."""

import importlib.util
import json
from pathlib import Path

import pytest
from packaging.requirements import Requirement

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "audit.py"
spec = importlib.util.spec_from_file_location("audit", SCRIPT)
audit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(audit)

WANTED = [Requirement("httpx>=0.28"), Requirement("ruamel.yaml>=0.18")]
OWNERS = {"httpx": ["httpx"], "ruamel": ["ruamel.yaml"], "click": ["click"], "kimi_core": ["kimi-mitm"]}


def test_the_dependencies_are_as_declared():
    """What is installed meets the bounds; each import is declared, and each declaration imported."""
    assert audit.problems() == []


@pytest.mark.parametrize(
    ("installed", "found"),
    [
        ({"httpx": "0.28.1", "ruamel-yaml": "0.18"}, []),
        ({"httpx": "0.27", "ruamel-yaml": "0.18"}, ["httpx>=0.28 is asked for, 0.27 is installed."]),
        ({"httpx": "1.0"}, ["ruamel.yaml>=0.18 is asked for, nothing is installed."]),
    ],
)
def test_a_version_below_its_bound_is_named(installed, found):
    """So is one that is not there."""
    assert audit.unsatisfied(WANTED, installed) == found


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ({"json", "httpx", "ruamel", "kimi_core"}, []),
        ({"httpx", "ruamel", "click"}, ["click is imported, and not declared."]),
        ({"httpx"}, ["ruamel-yaml is declared, and imported by nothing."]),
    ],
)
def test_imports_and_declarations_are_compared(names, found):
    """Both ways."""
    assert audit.mismatched(WANTED, names, OWNERS) == found


@pytest.mark.parametrize(
    ("report", "found"),
    [
        (
            json.dumps(
                {"dependencies": [{"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": ""}]}
            ),
            [],
        ),
        (json.dumps({"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "X-1"}]}]}), ["a 1: X-1"]),
        ("", None),
        ("Traceback", None),
        ("[]", None),
    ],
)
def test_a_report_is_read_or_is_none(report, found):
    """Where the database was not reached there is no report, and nobody claims that there were no holes."""
    assert audit.holes(report) == found


@pytest.mark.parametrize(
    ("known", "code", "said"), [(None, 0, "not asked"), ([], 0, "none"), (["a 1: X-1"], 1, "a 1: X-1")]
)
def test_what_is_told(monkeypatch, capsys, known, code, said):
    """A hole is a fault, a database out of reach is told."""
    monkeypatch.setattr(audit, "ask", lambda: known)
    monkeypatch.setattr(audit, "problems", list)
    assert audit.main() == code
    assert said in capsys.readouterr().out
