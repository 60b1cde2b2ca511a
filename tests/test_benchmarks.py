"""The parts of the benchmarks that need no process: what they read, what they compute, what they write."""

import json
import re
import sys
import xml.etree.ElementTree as ET
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as bench
from benchmarks import _report, _table
from benchmarks._plot import Line, chart, ticks
from benchmarks.curve import exponent
from benchmarks.instructions import total
from benchmarks.startup import by_package, parse_imports

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "benchmarks.md").read_text()
FOLDER = ROOT / "benchmarks"


@pytest.mark.parametrize("power", [0.5, 1.0, 1.7, 2.0])
def test_the_exponent_of_a_power_is_found(power):
    """A row of points on a·x^b gives b."""
    assert exponent([(x, 3.5 * x**power) for x in (100, 200, 400, 1000, 2000)]) == pytest.approx(power)


@given(st.floats(0.001, 1e9))
def test_ticks_hold_all_and_are_few(top):
    """The ticks of an axis begin at 0, are equally far apart, reach to the top and not much beyond."""
    found = ticks(top)
    assert found[0] == 0
    assert found[-1] >= top * (1 - 1e-9)
    assert found[-1] - top <= found[1] * (1 + 1e-9)
    assert 2 <= len(found) <= 8


def test_a_chart_is_one_svg_with_every_line():
    """The picture parses, names each line and both axes, has a point for each value, and stays within its frame."""
    lines = [Line("one & two", [(1, 2.0), (10, 20.0)]), Line("three", [(1, 1.0), (5, 5.0), (10, 9.0)])]
    root = ET.fromstring(chart("cost <of> it", "messages", "ms", lines))
    space = {"s": "http://www.w3.org/2000/svg"}
    texts = {text.text for text in root.iterfind(".//s:text", space)}
    assert {"one & two", "three", "messages", "ms", "cost <of> it"} <= texts
    circles = root.findall(".//s:circle", space)
    assert len(circles) == 5
    _, _, wide, high = map(float, root.get("viewBox").split())
    assert all(0 <= float(each.get("cx")) <= wide and 0 <= float(each.get("cy")) <= high for each in circles)
    assert "prefers-color-scheme: dark" in root.find("s:style", space).text


def test_imports_are_read_and_added_up():
    """Lines of -X importtime give ms per module, and those ms per package; our own packages are told apart."""
    text = """import time: self [us] | cumulative | imported package
import time:      1500 |       1500 |   pydantic.fields
import time:       500 |       2000 | pydantic
import time:       250 |        250 |     kimi_core.kiro.pool
import time:       750 |        750 |     kimi_core.kimi.body
"""
    found = parse_imports(text)
    assert found == {"pydantic.fields": 1.5, "pydantic": 0.5, "kimi_core.kiro.pool": 0.25, "kimi_core.kimi.body": 0.75}
    assert by_package(found) == {"pydantic": 2.0, "kimi_core.kiro": 0.25, "kimi_core.kimi": 0.75}


def test_instructions_are_read_from_a_dump():
    """What callgrind writes at its end is the number; a file without it counts nothing."""
    assert total("events: Ir\nsummary: 12\n\ntotals: 120\n") == 120
    assert total("events: Ir\n") == 0


def test_a_table_prints_and_keeps_its_rows(capsys):
    """A row appears at once, and stands in the Markdown; a missed target is marked in both."""
    table = _table.Table("Costs", ["", "plain", "target"])
    table.begin()
    table.add("request", "1 ms", "≤ 2 ms")
    table.add("frame", "3 ms", "≤ 2 ms", missed=True)
    table.note("That was all.")
    printed = capsys.readouterr().out
    assert re.search(r"^frame +3 ms +≤ 2 ms MISSED$", printed, re.MULTILINE)
    assert table.markdown().splitlines() == [
        "### Costs",
        "",
        "|  | plain | target |",
        "| --- | ---: | ---: |",
        "| request | 1 ms | ≤ 2 ms |",
        "| frame | 3 ms | ≤ 2 ms MISSED |",
        "",
        "That was all.",
    ]


def test_what_was_found_survives_a_benchmark_that_fails(tmp_path, monkeypatch):
    """Each result is kept as it comes, and comes back as it was."""
    file = tmp_path / "found.json"
    first, picture = (
        _table.Table("One", ["", "a"], [["x", "1"]], ["A note."]),
        _table.Picture("a.svg", "what", "<svg/>"),
    )

    def measure():
        yield first
        yield picture
        raise RuntimeError

    monkeypatch.setattr(sys, "argv", ["one.py", "--json", str(file)])
    monkeypatch.setattr(_table.signal, "signal", lambda *_: None)
    with pytest.raises(RuntimeError):
        _table.publish(measure)
    assert _table.read(file) == [first, picture]
    assert len(json.loads(file.read_text())) == 2


def test_the_report_replaces_what_was_generated_and_nothing_else(tmp_path):
    """Writing twice leaves one set of results, with the pictures beside, and the words around as they were."""
    page = tmp_path / "benchmarks.md"
    page.write_text(PAGE)
    found = [_table.Table("One", ["", "a"], [["x", "1"]]), _table.Picture("a.svg", "what", "<svg/>")]
    _report.write(found, date(2026, 1, 2), tmp_path)
    once = page.read_text()
    _report.write(found, date(2026, 1, 3), tmp_path)
    twice = page.read_text()
    assert twice == once.replace("2026-01-02", "2026-01-03")
    assert "![what](a.svg)" in once
    assert (tmp_path / "a.svg").read_text() == "<svg/>"
    for text in (once, twice):
        assert text.partition(_report.BEGIN)[0] == PAGE.partition(_report.BEGIN)[0]
        assert text.partition(_report.END)[2] == PAGE.partition(_report.END)[2]


@pytest.mark.parametrize("page", ["", _report.BEGIN, f"{_report.END}{_report.BEGIN}", _report.BEGIN * 2 + _report.END])
def test_a_page_without_its_place_is_left_alone(page):
    """Without both marks, once and in order, nothing is replaced."""
    with pytest.raises(ValueError, match="no place"):
        _report.replaced(page, "text")


def test_the_machine_is_described_without_saying_whose_it_is():
    """Neither the host's name nor a path stands in the description."""
    text = "\n".join(_report.machine())
    assert _report.platform.node() not in text
    assert not re.search(r"(?<!\w)/\w", text)
    assert "mitmproxy" in text


def test_every_benchmark_is_run():
    """`make bench` leaves out no file of the folder."""
    files = {path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_")}
    assert files == {*bench.REPORTED, *bench.PRINTED}


def test_one_that_fails_is_named_in_the_report(tmp_path, monkeypatch):
    """A benchmark that ended without a result leaves a sentence in its place; one that kept something leaves that."""
    monkeypatch.setattr(bench, "run", lambda name, file: 1)
    code, (table,) = bench.found_by("proxy", tmp_path / "none.json")
    assert code == 1
    assert "Left out" in table.markdown()
    kept = tmp_path / "some.json"
    kept.write_text(json.dumps([{"name": "a.svg", "alt": "what", "svg": "<svg/>"}]))
    assert bench.found_by("curve", kept) == (1, [_table.Picture("a.svg", "what", "<svg/>")])
