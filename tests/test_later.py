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


@pytest.fixture(scope="module")
def addon():
    """The modules that are there when the addon is loaded, those that it put off, and all that are there in the end."""
    code = """
import json, sys
import mitmproxy.tools.dump, kimi_core.proxy.addon
from kimi_core import later
found = [list(sys.modules), list(later._expected)]
later.load()
print(json.dumps([*found, list(sys.modules)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [set(names) for names in json.loads(done.stdout)]


def test_the_start_waits_for_nothing_that_only_requests_need(addon):
    """Neither the HTTP client nor translation, views or page are loaded with the addon, and all of them in the end."""
    first, _, last = addon
    late = {"httpx", "rich", "kimi_core.kimi.body", "kimi_core.kiro.request", "kimi_core.page.state"}
    late |= {"kimi_core.page.rendering", "kimi_core.view.answer"}
    assert not late & first
    assert late <= last


def test_no_missing_library_is_told_late(addon):
    """No library is first asked for by what is put off: whatever is missing is told when the addon is loaded."""
    first, put_off, last = addon
    known, loaded = ({name.partition(".")[0] for name in names} for names in (first | put_off, last))
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"\W", line.replace("-", "_"))[0] for line in project["dependencies"]}
    assert (loaded - known) & needed <= {"rich"}  # which httpx asks for, and does without
