import json

from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.errors import BadRequest
from kimi_core.kiro.openai_in import read
from kimi_core.kiro.tools import build
from kimi_core.kiro.toolsets import ToolSets


def received(*tools):
    """Return the JSON of *tools* and what it is read as."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": list(tools)}
    found = read(json.dumps(body).encode())
    return found.values["tools"], found.request.tools


def function(name="ls", **parameters):
    """Return a tool as a client sends it."""
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", **parameters}}}


def content(toolset):
    """Return all that a tool set says."""
    names = (toolset.names.aliases, toolset.stubs, toolset.sections, toolset.ignored)
    return json.dumps(toolset.specs), names, {name: count for name, count in toolset.repairs.items() if count}


def outcome(make, *args):
    """Return all that a tool set says, or why there is none."""
    try:
        return content(make(*args))
    except BadRequest as error:
        return str(error), error.param


NAMES = st.sampled_from(["ls", "rm", "a tool", "ö"])
VALUES = st.sampled_from([1, 1.0, True, "1", None, [1], [True], {"x": 1}])
TOOLS = st.lists(
    st.builds(lambda name, value: function(name, title="t", default=value), NAMES, VALUES), max_size=3
) | st.lists(NAMES.map(function), max_size=4)
ASKED = st.tuples(TOOLS, st.lists(NAMES, max_size=3), st.none() | st.frozensets(NAMES, max_size=2))


@given(st.lists(ASKED, max_size=12), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_what_is_remembered_is_what_would_be_built(requests, keep):
    """Whatever was asked for before; what is refused is refused each time."""
    toolsets = ToolSets(keep=keep)
    for tools, called, allowed in requests * 2:
        raw, models = received(*tools)
        made = outcome(toolsets.build, raw, models, called, allowed)
        assert made == outcome(build, models, called, allowed)


def test_the_same_tools_are_translated_once():
    """For as long as they are among the last that were used."""
    toolsets = ToolSets(keep=2)
    first = toolsets.build(*received(function()), ["ls"])
    assert toolsets.build(*received(function()), ()) is first
    toolsets.build(*received(function("rm")), ())
    assert toolsets.build(*received(function()), ()) is first
    toolsets.build(*received(function("cp")), ())
    assert toolsets.build(*received(function()), ()) is first
    toolsets.build(*received(function("mv")), ())
    toolsets.build(*received(function("dd")), ())
    assert toolsets.build(*received(function()), ()) is not first


def test_long_lists_of_tools_are_not_kept():
    """Nor those that cannot be written down as JSON."""
    toolsets = ToolSets(longest=200)
    short, long = received(function()), received(function(description="d" * 200))
    assert toolsets.build(*short, ()) is toolsets.build(*short, ())
    assert toolsets.build(*long, ()) is not toolsets.build(*long, ())
    deep = {}
    for _ in range(400):
        deep = {"a": deep}
    assert content(toolsets.build([deep], short[1], ())) == content(build(short[1], (), None))


def test_what_becomes_long_is_not_kept():
    """Short tools whose references say everything twice, again and again; and names that a history calls."""
    toolsets = ToolSets(longest=4000)
    definitions = {"d0": {"type": "string"}}
    for number in range(12):
        twice = {"$ref": f"#/$defs/d{number}"}
        definitions[f"d{number + 1}"] = {"type": "object", "properties": {"a": twice, "b": twice}}
    doubled = received(function(properties={"x": {"$ref": "#/$defs/d12"}}, **{"$defs": definitions}))
    assert len(json.dumps(doubled[0])) < 4000
    assert toolsets.build(*doubled, ()) is not toolsets.build(*doubled, ())
    short = received(function())
    called = [f"called-{number}" for number in range(500)]
    assert toolsets.build(*short, called) is not toolsets.build(*short, called)
    assert toolsets.build(*short, called[:5]) is toolsets.build(*short, called[:5])
    assert len(toolsets._known) == 1
