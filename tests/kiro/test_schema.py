import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.errors import BadRequest
from kimi_core.kiro import schema as module
from kimi_core.kiro.schema import clean
from tests.servers.kiro_validator import _schema

TEXT = {"type": "string"}
COUNT = {"type": "integer"}
EMPTY = {"type": "object", "properties": {}}


def obj(**properties):
    """Return an object schema."""
    return {"type": "object", "properties": properties}


def inside(schema):
    """Return what becomes of *schema* as that of a property, and how much was dropped."""
    cleaned, dropped = clean(obj(x=schema), "p")
    return cleaned["properties"]["x"], dropped


@pytest.mark.parametrize(
    "schema",
    [
        obj(path=TEXT),
        {**obj(a=TEXT), "required": ["a"], "description": "d", "title": "t"},
        obj(a={"type": "array", "items": obj(b={"enum": ["x", 1, None], "default": None})}),
        obj(a={"anyOf": [TEXT, {"type": "null"}]}, b={"type": ["string", "null"], "pattern": "^a", "format": "uri"}),
        obj(a={"type": "array", "prefixItems": [TEXT, COUNT], "contains": TEXT, "minItems": 1}),
    ],
)
def test_a_schema_in_order_stays(schema):
    """Nothing is dropped, nothing counted, and the client's own is not touched."""
    before = copy.deepcopy(schema)
    assert clean(schema, "p") == (before, 0)
    assert schema == before


@pytest.mark.parametrize(
    "schema", [{}, {"type": "object"}, {"properties": None}, {"type": ["object", "null"]}, {"type": None}]
)
def test_the_root_is_an_object(schema):
    """With properties, be they none."""
    assert clean(schema, "p") == (EMPTY, 0)


@pytest.mark.parametrize(
    ("keyword", "value", "counted"),
    [
        ("$schema", "s", 0),
        ("$id", "s", 0),
        ("$comment", "s", 0),
        ("$defs", {"a": {}}, 0),
        ("definitions", {"a": {}}, 0),
        ("additionalProperties", False, 0),
        ("additionalProperties", True, 0),
        ("additionalProperties", TEXT, 1),
        ("propertyNames", TEXT, 1),
        ("patternProperties", {"a": TEXT}, 1),
        ("if", TEXT, 1),
        ("then", TEXT, 1),
        ("else", TEXT, 1),
        ("not", TEXT, 1),
        ("unevaluatedProperties", False, 1),
        ("unevaluatedItems", False, 1),
        ("dependentRequired", {}, 1),
        ("dependentSchemas", {}, 1),
        ("dependencies", {}, 1),
        ("$ref", "other.json", 1),
        ("$ref", "#anchor", 1),
        ("$ref", "#/nowhere", 1),
        ("$ref", "#/type/x", 1),
        ("$ref", 3, 0),
        ("required", None, 0),
        ("required", [], 0),
        ("required", True, 1),
        ("required", [3], 1),
        ("properties", None, 0),
        ("description", None, 0),
        ("anyOf", [], 0),
        ("items", None, 0),
    ],
)
def test_keywords_that_kiro_refuses_are_dropped(keyword, value, counted):
    """At the root and below; what said nothing is not counted."""
    assert inside({"type": "object", keyword: value}) == ({"type": "object"}, counted)
    assert clean({**EMPTY, keyword: value}, "p") == (EMPTY, counted)


def test_properties_of_these_names_stay():
    """They are no keywords; nor is what stands in data."""
    words = [
        "$schema",
        "not",
        "required",
        "properties",
        "$ref",
        "$defs",
        "if",
        "const",
        "additionalProperties",
        "items",
    ]
    schema = obj(**dict.fromkeys(words, TEXT))
    assert clean(schema, "p") == (schema, 0)
    data = {"default": {"$schema": 1, "not": None}, "enum": [{"$ref": "#"}], "examples": [{"required": None}]}
    assert inside(data) == (data, 0)


def test_const_is_an_enum_of_one():
    """Which every converter knows; null is a value."""
    assert inside({"const": "a"}) == ({"enum": ["a"]}, 0)
    assert inside({"const": None}) == ({"enum": [None]}, 0)
    assert inside({"enum": ["a", "b"], "const": "a"}) == ({"enum": ["a", "b"]}, 0)


@pytest.mark.parametrize(("schema", "counted"), [(True, 0), (False, 1)])
def test_schemas_that_are_a_word(schema, counted):
    """Become one that says nothing; the property stays."""
    assert inside(schema) == ({}, counted)
    assert inside({"items": schema}) == ({"items": {}}, counted)


def test_what_is_required_is_names():
    """Others go."""
    assert inside({"required": ["a", 3, "b"]}) == ({"required": ["a", "b"]}, 1)


def test_references_are_put_in_place():
    """With what stands beside them, wherever they point, one behind the other."""
    schema = {
        **obj(
            a={"$ref": "#/$defs/A", "description": "mine"}, b={"$ref": "#/properties/c/items/0"}, c={"items": [COUNT]}
        ),
        "$defs": {"A": {"$ref": "#/definitions/B~1b%20"}},
        "definitions": {"B/b ": {"type": "string", "description": "its"}},
    }
    expected = obj(a={"type": "string", "description": "mine"}, b=COUNT, c={"items": [COUNT]})
    assert clean(schema, "p") == (expected, 0)


def test_both_sides_of_a_reference_keep_their_properties():
    """And what they require."""
    schema = {
        **obj(a={"$ref": "#/$defs/A", "properties": {"y": TEXT, "z": COUNT}, "required": ["z", "x"]}),
        "$defs": {"A": {**obj(x=TEXT, y=COUNT), "required": ["x"]}},
    }
    expected = {**obj(x=TEXT, y={"allOf": [COUNT, TEXT]}, z=COUNT), "required": ["x", "z"]}
    assert clean(schema, "p")[0]["properties"]["a"] == expected


def test_a_root_that_is_a_reference():
    """As generators of schemas write it."""
    assert clean({"$ref": "#/$defs/A", "$defs": {"A": {**obj(x=TEXT), "required": ["x"]}}}, "p") == (
        {**obj(x=TEXT), "required": ["x"]},
        0,
    )


def test_a_reference_that_leads_back_is_cut():
    """Where it comes again, with the type and the words of its target."""
    tree = {"description": "A tree", **obj(children={"type": "array", "items": {"$ref": "#/$defs/T"}})}
    cleaned, dropped = clean({**obj(root={"$ref": "#/$defs/T"}), "$defs": {"T": tree}}, "p")
    short = {"type": "object", "description": "A tree"}
    assert cleaned["properties"]["root"] == {
        "description": "A tree",
        **obj(children={"type": "array", "items": short}),
    }
    assert dropped == 1
    assert clean(obj(x={"$ref": "#"}), "p") == (obj(x=obj(x={"type": "object"})), 1)
    assert clean(obj(x={"$ref": "#/properties/x"}), "p") == (obj(x={}), 1)


def test_references_that_double_at_each_level_end():
    """The schema stays of a size that can be sent."""
    levels = 40
    names = {f"L{n}": obj(a={"$ref": f"#/$defs/L{n + 1}"}, b={"$ref": f"#/$defs/L{n + 1}"}) for n in range(levels)}
    schema = {**obj(x={"$ref": "#/$defs/L0"}), "$defs": {**names, f"L{levels}": TEXT}}
    cleaned, dropped = clean(schema, "p")
    assert dropped > 0
    assert len(json.dumps(cleaned)) < 100 * module.MAX_NODES


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ({"allOf": [obj(a=TEXT), {**obj(b=COUNT), "required": ["b"]}]}, {**obj(a=TEXT, b=COUNT), "required": ["b"]}),
        ({"anyOf": [obj(a=TEXT), obj(b=COUNT)]}, obj(a=TEXT, b=COUNT)),
        ({"oneOf": [obj(a=TEXT), obj(a=TEXT)]}, obj(a=TEXT)),
        ({"oneOf": [obj(a=TEXT), obj(a=COUNT)]}, obj(a={"anyOf": [TEXT, COUNT]})),
        (
            {**obj(k=TEXT), "required": ["k"], "oneOf": [{"required": ["a", "b"]}, {"required": ["b"]}]},
            {**obj(k=TEXT), "required": ["k", "b"]},
        ),
        ({"anyOf": [obj(a=TEXT), {"type": "null"}]}, obj(a=TEXT)),
        ({"anyOf": [{"type": "string"}]}, EMPTY),
        ({"anyOf": [{"allOf": [obj(a=TEXT)]}, obj(b=TEXT)]}, obj(a=TEXT, b=TEXT)),
        ({"anyOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": obj(a=TEXT)}}, obj(a=TEXT)),
        ({"allOf": [{"description": "d", "$schema": "s"}]}, {**EMPTY, "description": "d"}),
    ],
)
def test_the_root_has_no_branches(root, expected):
    """They become one, with every property of each; required is what all of them ask for."""
    cleaned, dropped = clean(root, "p")
    assert cleaned == expected
    assert dropped > 0


@pytest.mark.parametrize(
    ("schema", "param"),
    [
        ({"type": "string"}, "p.type"),
        ({"type": ["null"]}, "p.type"),
        ({"properties": []}, "p.properties"),
        (obj(x="string"), "p.properties.x"),
        (obj(x={"items": 3}), "p.properties.x.items"),
        (obj(x={"anyOf": {}}), "p.properties.x.anyOf"),
        (obj(x={"anyOf": [TEXT, None]}), "p.properties.x.anyOf[1]"),
        (obj(x={"$ref": "#/$defs/A"}) | {"$defs": {"A": {"properties": 3}}}, "p.properties.x.properties"),
    ],
)
def test_what_is_no_schema_is_refused(schema, param):
    """By its place."""
    with pytest.raises(BadRequest) as caught:
        clean(schema, "p")
    assert caught.value.param == param


names = st.sampled_from(["a", "not", "$schema", "required", "properties", "$ref", "anyOf"])
trees = st.recursive(
    st.one_of(st.booleans(), st.just(TEXT), st.just({"$ref": "#"}), st.just({"$ref": "#/$defs/a"})),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(names, inner, max_size=3),
            "anyOf": st.lists(inner, max_size=2),
            "allOf": st.lists(inner, max_size=2),
            "items": inner,
            "not": inner,
            "additionalProperties": inner,
            "$schema": st.just("s"),
            "required": st.one_of(st.none(), st.lists(names)),
        },
    ),
    max_leaves=8,
)


@given(st.dictionaries(names, trees, max_size=3), trees)
def test_no_property_is_ever_dropped(properties, definition):
    """And what comes out is what Kiro takes; cleaned again it is the same."""
    cleaned, _ = clean({"properties": properties, "$defs": {"a": definition}}, "p")
    assert cleaned["type"] == "object"
    assert cleaned["properties"].keys() == properties.keys()
    assert list(_schema(cleaned, "p")) == []
    for name, child in properties.items():
        if isinstance(child, dict) and "properties" in child:
            assert child["properties"].keys() <= cleaned["properties"][name]["properties"].keys()
    assert clean(cleaned, "p") == (cleaned, 0)
