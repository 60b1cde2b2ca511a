import hashlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.errors import BadRequest
from kimi_core.kiro import tools as module
from kimi_core.kiro.openai_in import read
from kimi_core.kiro.tools import MAX_DESCRIPTION, STUB_DESCRIPTION, Choice, ToolNames, build, choice

EMPTY = {"type": "object", "properties": {}}


def function(name="ls", description="d", **more):
    """Return a tool as a client sends it."""
    return {"type": "function", "function": {"name": name, "description": description, **more}}


def built(*tools, called=(), allowed=None):
    """Return the tool set of *tools*."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": list(tools)}
    return build(read(json.dumps(body).encode()).request.tools, called, allowed)


def specs(toolset):
    """Return name -> (description, schema)."""
    found = [spec["toolSpecification"] for spec in toolset.specs]
    return {spec["name"]: (spec["description"], spec["inputSchema"]["json"]) for spec in found}


def repairs(toolset):
    """Return the repairs that happened."""
    return {name: count for name, count in toolset.repairs.items() if count}


def test_a_tool():
    """Name, description, schema."""
    toolset = built(function(parameters={"type": "object", "properties": {"x": {"type": "string"}}}))
    assert specs(toolset) == {"ls": ("d", {"type": "object", "properties": {"x": {"type": "string"}}})}
    assert (repairs(toolset), toolset.sections, toolset.stubs, toolset.ignored) == ({}, (), (), ())


@pytest.mark.parametrize("more", [{}, {"parameters": None}, {"parameters": {}}])
@pytest.mark.parametrize("description", [None, "", " \n"])
def test_what_may_not_be_empty(description, more):
    """The name stands for a description, an object for the parameters."""
    assert specs(built(function("ls", description, **more))) == {"ls": ("ls", EMPTY)}


def test_schemas_are_cleaned_and_strict_is_told():
    """It cannot be had."""
    toolset = built(function(strict=True, parameters={"not": {}, "$schema": "s"}))
    assert specs(toolset)["ls"][1] == EMPTY
    assert repairs(toolset) == {"schema-keyword-dropped": 1}
    assert toolset.ignored == ("tools[].function.strict",)


def test_faults_have_their_path():
    """Down to the place in the schema."""
    with pytest.raises(BadRequest) as caught:
        built(function(), function("b", parameters={"properties": {"x": 3}}))
    assert caught.value.param == "tools[1].function.parameters.properties.x"


def test_numbers_beyond_all_bounds():
    """JSON can write what no double holds."""
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[{"function":{"name":"a","parameters":'
    body += b'{"properties":{"x":{"maximum":1e999}}}}}]}'
    with pytest.raises(BadRequest) as caught:
        build(read(body).request.tools, (), None)
    assert caught.value.param == "tools[0].function.parameters"


def test_long_descriptions_are_moved_whole():
    """The last that fits stays."""
    fits, long = "x" * MAX_DESCRIPTION, "y" * (MAX_DESCRIPTION + 1)
    toolset = built(function("a", fits), function("b c", long))
    alias = toolset.names.wire("b c")
    assert specs(toolset)["a"][0] == fits
    assert specs(toolset)[alias][0] == f'Described in full under "Tool {alias}" at the beginning of this conversation.'
    assert toolset.sections == (f"# Tool {alias}\n\n{long}",)
    assert repairs(toolset) == {"tool-description-moved": 1, "tool-name-aliased": 1}


def test_tools_of_the_history_get_a_stub():
    """Once each, behind the others; those that are there, or left out by choice, count as what they are."""
    toolset = built(function("a"), function("b"), called=["gone", "a", "gone", "b", "g o"], allowed=frozenset({"a"}))
    alias = toolset.names.wire("g o")
    assert toolset.stubs == ("gone", "b", "g o")
    assert list(specs(toolset)) == ["a", "gone", "b", alias]
    assert specs(toolset)["gone"] == specs(toolset)["b"] == (STUB_DESCRIPTION, EMPTY)
    assert toolset.names.aliases == {alias: "g o"}
    assert repairs(toolset) == {"tool-stub-added": 3, "tool-name-aliased": 1}


def test_the_same_tool_twice():
    """Counts once; two that differ are one too many."""
    assert repairs(built(function(), function())) == {"duplicate-tool-dropped": 1}
    with pytest.raises(BadRequest, match="same name") as caught:
        built(function(), function("b"), function(description="other"))
    assert caught.value.param == "tools[2].function.name"


def test_aliases_depend_on_the_name_alone():
    """So that they are the same in every turn, whatever else is in the list."""
    digest = hashlib.sha256(b"a.b/c").hexdigest()[:8]
    assert ToolNames(["a.b/c"]).wire("a.b/c") == f"a_b_c_{digest}"
    assert ToolNames(["x", "a-b", "é", "a.b/c"]).wire("a.b/c") == f"a_b_c_{digest}"
    long = "n" * 65
    assert ToolNames([long]).wire(long) == "n" * 55 + "_" + hashlib.sha256(long.encode()).hexdigest()[:8]


def test_an_alias_is_never_the_name_of_another():
    """Somebody may have called a tool just that, or the hashes may meet."""
    taken = ToolNames(["a b"]).wire("a b")
    names = ToolNames(["a b", taken])
    assert names.wire(taken) == taken
    assert names.wire("a b") != taken


def test_hashes_that_meet_are_told_apart(monkeypatch):
    """By one more."""
    monkeypatch.setattr(module, "_digest", lambda text: "0" if "\0" not in text else "1")
    names = ToolNames(["a b", "a.b"])
    assert names.aliases == {"a_b_0": "a b", "a_b_1": "a.b"}


@given(st.lists(st.one_of(st.text(st.characters(codec="utf-8"), max_size=4), st.sampled_from(["n" * 64, "n" * 65]))))
def test_names_go_there_and_back(client_names):
    """Legal on the wire, each its own, and the client gets its own back."""
    names = ToolNames(client_names)
    wire = {name: names.wire(name) for name in client_names}
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in wire.values())
    assert len(set(wire.values())) == len(wire)
    assert all(names.aliases.get(alias, alias) == name for name, alias in wire.items())
    assert all(alias != name for alias, name in names.aliases.items())


def allow(mode, *names):
    """Return a tool_choice of the newer form."""
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


ONE = {"type": "function", "function": {"name": "a"}}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, Choice()),
        ("auto", Choice()),
        ("none", Choice(frozenset())),
        (allow("auto", "a"), Choice(frozenset({"a"}))),
    ],
)
def test_choices_that_kiro_can_have(value, expected):
    """All, none, some."""
    assert choice(value, ["a", "b"], "refuse") == expected


@pytest.mark.parametrize(
    ("value", "expected", "sentence"),
    [
        ("required", Choice(forced=True), "Call at least one of the tools now."),
        (ONE, Choice(forced=True, name="a"), "Call the tool a now."),
        (allow("required", "a"), Choice(frozenset({"a"}), forced=True), "Call at least one of the tools now."),
    ],
)
def test_choices_that_kiro_can_only_be_asked_for(value, expected, sentence):
    """Are refused, or by the user's will put into words."""
    with pytest.raises(BadRequest, match="kiro_forced_tools") as caught:
        choice(value, ["a", "b"], "refuse")
    assert caught.value.param == "tool_choice"
    found = choice(value, ["a", "b"], "prompt")
    assert (found, found.sentence(ToolNames(["a"]))) == (expected, sentence)


@pytest.mark.parametrize(
    ("value", "names", "param"),
    [
        ("any", ["a"], "tool_choice"),
        (3, ["a"], "tool_choice"),
        ({"type": "custom", "custom": {"name": "a"}}, ["a"], "tool_choice"),
        ("required", [], "tool_choice"),
        (ONE, ["b"], "tool_choice.function.name"),
        (allow("auto", "c"), ["a"], "tool_choice.allowed_tools.tools"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [3]}},
            ["a"],
            "tool_choice.allowed_tools.tools",
        ),
        (allow("often", "a"), ["a"], "tool_choice"),
    ],
)
def test_choices_that_are_none(value, names, param):
    """Are refused by their path, whatever the option says."""
    with pytest.raises(BadRequest) as caught:
        choice(value, names, "prompt")
    assert caught.value.param == param
