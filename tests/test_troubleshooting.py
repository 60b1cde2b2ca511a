"""The page on troubleshooting has every check of the doctor and every text of an error that comes without a code."""

import ast
import importlib
import re
from pathlib import Path

from kimi_core.cli.checks.check import State
from kimi_core.cli.checks.table import CHECKS
from kimi_core.errors import BadRequest, KimiMitmError, Refused

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
README = (ROOT / "README.md").read_text()
HOLE = "…"
FEWEST_LETTERS = 9  # a text with fewer of its own is made of other texts, which are listed themselves
MOST_FREQUENT = 10  # symptoms that README itself explains
LOGGED = ("warning", "error")
# who answers clients, with a code that the tables of codes explain, or what was asked for
ANSWERS = (
    "kimi_core.wire.",
    "kimi_core.kimi.exchange",
    "kimi_core.kiro.converter",
    "kimi_core.kiro.exchange",
    "kimi_core.kiro.failures",
    "kimi_core.kiro.request",
    "kimi_core.kiro.toolcalls",
    "kimi_core.proxy.stream",
)
ASKED_FOR = ("kimi_core.proxy.commands", "kimi_core.kiro.debug")  # what these log is what the user wanted to see
WITH_A_CODE = (BadRequest, Refused)


def rows(name, page=PAGE):
    """Return the rows of the tables between the marks of *name*, each a list of cells, without heads and rules."""
    body = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", page, re.DOTALL)
    assert body, f"there is no table {name}"
    lines = [line for line in body[1].splitlines() if line.startswith("|")]
    rules = {number for number, line in enumerate(lines) if set(line) <= set("|-")}
    kept = [line for number, line in enumerate(lines) if not {number, number + 1} & rules]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in kept]


def in_backticks(cell):
    """Return what stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def template(node, module):
    """Return a text as people may meet it, with a hole for what differs; None where it is made elsewhere."""
    match node:
        case ast.Constant(value=str(text)):
            pass
        case ast.JoinedStr(values=values):
            text = "".join(str(one.value) if isinstance(one, ast.Constant) else HOLE for one in values)
        case ast.Name(id=name) if isinstance(getattr(module, name, None), str):
            text = getattr(module, name)
        case _:
            return None
    text = re.sub(r"%(?:\.\d+)?[sdgf]", HOLE, text).replace("`", "").replace(" | ", " or ")
    return re.sub(rf"{HOLE}{{2,}}", HOLE, " ".join(text.split()))


def shown_without_a_code(node, module):
    """Tell whether a call makes an error, or a line of the log, that a person reads as a sentence alone."""
    name = getattr(node.func, "attr", "") or getattr(node.func, "id", "")
    if isinstance(node.func, ast.Attribute) and name in LOGGED and getattr(node.func.value, "id", "") == "logger":
        return not module.__name__.startswith(ASKED_FOR)
    if name in {"OptionsError", "warn"}:
        return True
    kind = getattr(module, name, None)
    is_error = isinstance(kind, type) and issubclass(kind, KimiMitmError) and not issubclass(kind, WITH_A_CODE)
    return is_error and not module.__name__.startswith(ANSWERS)


def texts():
    """Return every such text of the program."""
    found = set()
    for path in sorted((ROOT / "kimi_core").rglob("*.py")):
        if "checks" in path.parts or path.name.startswith("__"):
            continue  # what the doctor finds names its own cure
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and shown_without_a_code(node, module):
                found.add(template(node.args[0], module))
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "client.error":
                found.add(template(node.value, module))
    return {text for text in found if text and len(re.findall(r"[A-Za-z]", text)) >= FEWEST_LETTERS}


def test_every_check_of_the_doctor_is_explained():
    """The page has one row for each check, in the order in which they are told: its id, and what it looks at."""
    assert [in_backticks(row[0]) for row in rows("checks")] == [[check.id] for check in CHECKS]
    assert all(len(row) == 3 and row[1] and row[2] for row in rows("checks"))
    assert all(f"`{state}`" in PAGE for state in State)


def test_every_text_of_an_error_has_a_cause_and_a_cure():
    """Each text that comes without a code stands in the page once, as it is but for what differs, and no other."""
    listed = [text for row in rows("messages") for text in in_backticks(row[0])]
    assert sorted(listed) == sorted(texts())
    assert all(len(row) == 3 and row[1] and row[2] for row in rows("messages"))


def test_readme_has_the_most_frequent_symptoms():
    """README explains a few symptoms itself, each with cause and cure, and leads to the page for the others."""
    frequent = rows("symptoms", README)
    assert len(frequent) == MOST_FREQUENT
    assert all(len(row) == 3 and row[1] and row[2] for row in frequent)
    assert "(docs/troubleshooting.md)" in README
    assert "kimi-mitm doctor" in README
