"""The mitmproxy that runs the addon: whether it is there, has what the addon needs, and is one that it knows.

mitmproxy may live in a Python of its own. So its interpreter is asked, not this one: the first line of the program
`mitmdump` names it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kimi_core.cli.checks import children
from kimi_core.cli.checks.check import Check, Finding, NothingToJudge, State, ok, problem, warning
from kimi_core.cli.checks.machine import Machine

PROGRAM = "mitmdump"
MINIMUM = (12, 2)  # pyproject.toml asks for it
SECONDS = 25.0  # importing mitmproxy and the addon takes two seconds, on a busy machine ten
NEEDED = (
    "brotli",
    "certifi",
    "filelock",
    "h11",
    "httpx",
    "jinja2",
    "platformdirs",
    "psutil",
    "pydantic",
    "zstandard",
)  # by the addon
ROOT = Path(__file__).resolve().parents[3]  # what `kimi_core` lies in
INSTALL = "README's Other ways to install; in a checkout: make run"
FIRST_BYTES = 1024
_SHEBANG = re.compile(rb"#!\s*(?:/usr/bin/env\s+)?(?P<path>[^\r\n]+)")
_SHELL = re.compile(rb"'''exec'\s+(?P<quote>[\"']?)(?P<path>.+?)(?P=quote)\s+\"\$0\"")  # for paths with spaces

# Prints what an interpreter has. Arguments: the folder of kimi_core, and the modules to look for.
SCRIPT = """
import importlib, importlib.util, json, sys
root, *names = sys.argv[1:]
told = {"python": list(sys.version_info[:3]), "missing": [n for n in names if importlib.util.find_spec(n) is None]}
try:
    told["version"] = importlib.import_module("mitmproxy.version").VERSION
except ImportError:
    told["version"] = None
if told["version"] and not told["missing"]:
    sys.path.append(root)
    try:
        importlib.import_module("kimi_core.proxy.addon")
        told["internals"] = importlib.import_module("kimi_core.proxy.internals").missing()
    except Exception as error:
        told["broken"] = getattr(error, "name", None) or type(error).__name__
print(json.dumps(told))
"""


@dataclass(frozen=True, slots=True)
class Program:
    """One mitmdump, and what its interpreter tells.

    `python` None: it names no interpreter. `version` None: mitmproxy is not in it. `broken` names what the addon
    cannot be loaded for, `internals` what of mitmproxy's own parts is missing or changed.
    """

    path: Path
    python: Path | None = None
    version: str | None = None
    python_version: tuple[int, ...] = ()
    missing: Sequence[str] = ()
    broken: str = ""
    internals: Sequence[str] = ()
    error: str = ""

    @property
    def complete(self) -> bool:
        """Whether the addon can be loaded in it."""
        return bool(self.version) and not (self.missing or self.broken or self.error)


@dataclass(frozen=True, slots=True)
class Programs:
    """The mitmdump of PATH, and the one beside this program, which `make run` and `kimi-mitm start` use."""

    on_path: Program | None = None
    beside: Program | None = None

    @property
    def all(self) -> list[Program]:
        """Both, each once."""
        found = [one for one in (self.beside, self.on_path) if one is not None]
        return found[:1] if len(found) > 1 and found[0].path == found[1].path else found


def programs(machine: Machine) -> Programs:
    """Ask both; once for all checks."""
    return machine.once("mitmproxy", lambda: _ask_both(machine))


def present(machine: Machine) -> Programs:
    """Return the programs. Raises NothingToJudge where there is none that could be asked."""
    found = programs(machine)
    if not any(one.version for one in found.all):
        raise NothingToJudge("There is no mitmproxy that could be asked: see mitmproxy.program.")
    return found


def _ask_both(machine: Machine) -> Programs:
    on_path = machine.which(PROGRAM)
    here = Path(sys.executable).with_name(PROGRAM)
    beside = next((path for path in (here, here.with_suffix(".exe")) if path.is_file()), None)
    asked = {path: _asked(path, machine) for path in {Path(on_path) if on_path else None, beside} if path}
    return Programs(asked.get(Path(on_path)) if on_path else None, asked.get(beside) if beside else None)


def _asked(path: Path, machine: Machine) -> Program:
    python = interpreter(path, machine.which)
    if python is None:
        return Program(path, error="it names no Python: it is mitmproxy's ready-made program, or something else")
    done = children.run([str(python), "-c", SCRIPT, str(ROOT), *NEEDED], machine.environ, seconds=SECONDS - 5)
    try:
        told = json.loads(done.out)
    except ValueError:
        return Program(path, python, error=done.error.strip().rpartition("\n")[2] or f"it ended with {done.code}")
    return Program(
        path,
        python,
        told["version"],
        tuple(told["python"]),
        tuple(told["missing"]),
        told.get("broken", ""),
        tuple(told.get("internals", ())),
    )


def interpreter(program: Path, which: Callable[[str], str | None]) -> Path | None:
    """Return the Python that runs the script *program*, None where it names none."""
    try:
        with program.open("rb") as file:
            first = file.read(FIRST_BYTES)
    except OSError:
        return None
    if program.suffix == ".exe":  # Windows' launchers stand beside the interpreter, or a folder below it
        places = (program.with_name("python.exe"), program.parent.with_name("python.exe"))
        return next((place for place in places if place.is_file()), None)
    found = _SHELL.search(first) or _SHEBANG.match(first)
    name = found["path"].decode(errors="replace").strip() if found else ""
    if "python" not in Path(name).name:
        return None
    path = name if name.startswith("/") else which(name)
    return Path(path) if path else None


# --- judgements -------------------------------------------------------------------------------------------------------


def judge_program(found: Programs) -> Finding:
    """Judge whether there is a mitmproxy that could run the addon."""
    if not found.all:
        return problem(
            "mitmproxy is not installed: there is no mitmdump on PATH, and none beside this program.", INSTALL
        )
    good = [one for one in found.all if one.version]
    if not good:
        one = found.all[0]
        return problem(f"{one.path} cannot be used: {one.error or 'its Python has no mitmproxy'}.", INSTALL)
    bad = [one for one in found.all if not one.version]
    if bad:
        return warning(
            f"{bad[0].path} cannot be used ({bad[0].error or 'its Python has no mitmproxy'}); {good[0].path} can.",
            f"Start the proxy with kimi-mitm start or make run, or {good[0].path} -s addons/kimi.py",
        )
    return ok(f"mitmproxy is there: {', '.join(str(one.path) for one in good)}.")


def judge_dependencies(found: Programs) -> Finding:
    """Judge whether the addon can be loaded."""
    lacking = [one for one in found.all if one.version and not one.complete]
    if not lacking:
        return ok("mitmproxy's Python has everything that the addon needs.")
    one = lacking[0]
    what = f"lacks {', '.join(one.missing)}" if one.missing else f"cannot load the addon ({one.broken})"
    told = f"The Python of {one.path} {what}."
    cure = f"{one.python} -m pip install kimi-mitm's folder, or {INSTALL}"
    if any(other.complete for other in found.all):
        return warning(f"{told} kimi-mitm start and make run use another one, which has it all.", cure)
    return problem(told, cure)


def judge_version(found: Programs) -> Finding:
    """Judge mitmproxy's version."""
    wanted = ".".join(map(str, MINIMUM))
    old = [one for one in found.all if one.version and numbers(one.version) < MINIMUM]
    if old:
        one = old[0]
        young = any(other.version and numbers(other.version) >= MINIMUM for other in found.all)
        told = f"{one.path} is mitmproxy {one.version}; the addon needs {wanted} or newer."
        return Finding(State.warning if young else State.problem, told, f"{one.python} -m pip install -U mitmproxy")
    return ok(f"mitmproxy {' and '.join(dict.fromkeys(one.version for one in found.all if one.version))}.")


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, for comparison: ``12.2.3`` and ``13.0.0.dev`` alike."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def judge_internals(found: Programs) -> Finding:
    """Judge whether requests can be sent again."""
    changed = [one for one in found.all if one.internals]
    if not changed:
        return ok("This mitmproxy has all parts that sending again needs.")
    one = changed[0]
    return warning(
        f"mitmproxy {one.version} lacks what sending again needs ({', '.join(one.internals[:3])}): "
        "a 401 is not healed, and no other account is tried.",
        "Use the version of mitmproxy that README names under Tested with.",
    )


CHECKS = (
    Check("mitmproxy.program", "mitmproxy", programs, judge_program, SECONDS),
    Check("mitmproxy.dependencies", "What the addon needs", present, judge_dependencies, SECONDS),
    Check("mitmproxy.version", "Version of mitmproxy", present, judge_version, SECONDS),
    Check("mitmproxy.internals", "Parts of mitmproxy that the addon uses", present, judge_internals, SECONDS),
)
