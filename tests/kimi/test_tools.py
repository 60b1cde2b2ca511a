import copy
from collections import Counter

import pytest

from kimi_core.errors import BadRequest
from kimi_core.kimi import tools as module
from kimi_core.kimi.tools import mend_tools


def tool(name="a", parameters=None, **more):
    """Return a function tool."""
    function = {"name": name, "description": "d"}
    if parameters is not None:
        function["parameters"] = parameters
    return {"type": "function", "function": function, **more}


def mend(tools):
    """Return the mended list, the repairs and the tools that were told to have changed."""
    touched = []
    repairs = Counter()
    mend_tools(tools, touched.append, repairs)
    return tools, {name: count for name, count in repairs.items() if count}, touched


ORDER = {"type": "object", "properties": {"x": {"type": "string"}}}
ODD = {"type": "object", "properties": {"x": {}}}


@pytest.mark.parametrize(
    "tools",
    [
        [],
        [tool("a", ORDER), tool("b", ORDER), tool("c")],
        [{"type": "builtin_function", "function": {"name": "$web_search"}}],
        [{"type": "odd"}, {"type": "function", "function": "odd"}, tool(7), tool(7)],
        [tool("a", {"properties": {"\ud800": {"type": "string"}}})],
    ],
)
def test_a_list_in_order_stays(tools):
    """The second time as well, when its schemas are known to be good."""
    before = copy.deepcopy(tools)
    for _ in range(2):
        assert mend(tools) == (before, {}, [])


def test_a_schema_is_repaired_in_place():
    """Every time, and told."""
    for _ in range(2):
        tools, repairs, touched = mend([tool("a", copy.deepcopy(ODD))])
        assert tools == [tool("a", ORDER)]
        assert repairs == {"schema-repaired": 1}
        assert touched == tools


def test_a_name_with_a_dollar_is_a_builtin_function():
    """It has no description and no parameters on the wire."""
    tools, repairs, _ = mend([tool("$web_search", ORDER)])
    assert tools == [{"type": "builtin_function", "function": {"name": "$web_search"}}]
    assert repairs == {"builtin-tool": 1}


def test_cache_marks_are_dropped():
    """They belong to another API."""
    tools, repairs, touched = mend([tool("a", cache_control={})])
    assert (tools, repairs, touched) == ([tool("a")], {"cache-control-dropped": 1}, [tool("a")])


def test_the_same_tool_twice_is_sent_once():
    """Upstream refuses a name that comes twice."""
    assert mend([tool("a"), tool("b"), tool("a")])[:2] == ([tool("a"), tool("b")], {"duplicate-tool-dropped": 1})


@pytest.mark.parametrize(
    ("tools", "param"),
    [([tool("a"), tool("a", ORDER)], "tools[1]"), (["odd"], "tools[0]"), ([tool(), None], "tools[1]")],
)
def test_what_cannot_be_mended_is_refused_by_place(tools, param):
    """Which of two different tools of one name is meant, nobody knows."""
    with pytest.raises(BadRequest) as caught:
        mend(tools)
    assert caught.value.param == param


def test_the_memory_of_good_schemas_is_bounded(monkeypatch):
    """The oldest is forgotten, which costs time and nothing else."""
    monkeypatch.setattr(module, "KNOWN_GOOD", 1)
    monkeypatch.setattr(module, "_in_order", module._InOrder())
    for name in ("x", "y", "x"):
        assert mend([tool("a", {"properties": {name: {"type": "string"}}})])[1] == {}
    assert len(module._in_order._digests) == 1
