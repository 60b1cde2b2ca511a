"""Modules that are put off: there when they are used, missed at once where they are not installed."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kimi_core import later

UNUSED = "wave"  # a module of the standard library that nothing here loads
LOADED = f"""
import json, sys
from kimi_core import later
put_off = later.module({UNUSED!r})
seen = [{UNUSED!r} in sys.modules]
{{how}}
print(json.dumps([*seen, {UNUSED!r} in sys.modules]))
"""


@pytest.mark.parametrize("how", ["put_off.WAVE_FORMAT_PCM", "later.load()"])
def test_it_is_loaded_when_something_of_it_is_used_or_when_all_are(how):
    """Putting a module off loads nothing; a name of it, or the word to load all, does."""
    done = subprocess.run([sys.executable, "-c", LOADED.format(how=how)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [False, True]


def test_its_names_are_the_modules_own():
    """What is asked of it is what the module has now; a name that it lacks is an AttributeError."""
    assert later.module("json").loads is json.loads
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = later.module("json").nothing_like_this


def test_what_is_not_installed_is_missed_at_once():
    """A module that is not there is named when it is put off, not when a request comes to need it."""
    with pytest.raises(ModuleNotFoundError) as caught:
        later.module("kimi_mitm_has_no_such_module")
    assert caught.value.name == "kimi_mitm_has_no_such_module"


def test_a_module_that_puts_off_another_has_that_loaded_too(monkeypatch):
    """Loading all goes on until nothing is put off any more."""
    loaded = []

    def load(name):
        loaded.append(name)
        if name == "csv":
            later.module("wave")

    monkeypatch.setattr(later, "_expected", {})
    monkeypatch.setattr(later, "import_module", load)
    later.module("csv")
    later.load()
    assert loaded == ["csv", "wave"]


def test_what_is_not_installed_is_missed_at_the_start():
    """No library is first asked for by what is put off: whatever is missing is told when the addon is loaded."""
    code = """
import json, sys
import mitmproxy.tools.dump, kimi_core.proxy.addon
from kimi_core import later
known = {*sys.modules, *later._expected}
later.load()
print(json.dumps([sorted({name.partition(".")[0] for name in names}) for names in (known, sys.modules)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    known, loaded = map(set, json.loads(done.stdout))
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"\W", line.replace("-", "_"))[0] for line in project["dependencies"]}
    assert {"httpx", "rich"} <= loaded
    assert (loaded - known) & needed <= {"rich"}  # which httpx asks for, and does without
