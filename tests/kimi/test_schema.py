import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.kimi.schema import MAX_SIZE, repair


def obj(**properties):
    """Return an object schema with these properties."""
    return {"type": "object", "properties": properties}


TREE = obj(root={"$ref": "#/$defs/Node"})
TREE["$defs"] = {"Node": obj(kids={"type": "array", "items": {"$ref": "#/$defs/Node"}}, name={"$ref": "#/$defs/Name"})}
TREE["$defs"]["Name"] = {"type": "string"}
TREE_REPAIRED = copy.deepcopy(TREE)
TREE_REPAIRED["$defs"]["Node"]["properties"]["name"] = {"type": "string"}

IN_ORDER = [
    {},
    {"type": "object"},
    obj(),
    obj(a={"type": "string", "enum": ["x", None]}),
    obj(a={"type": ["string", "null"], "enum": ["x", None]}),
    obj(a={"type": "number", "enum": [1, 2.5]}),
    obj(a={"type": "integer", "enum": [1.0]}),
    obj(a={"anyOf": [{"type": "string"}, {"description": "anything"}]}),
    obj(a={"type": "object", "additionalProperties": True}),
    obj(a={"type": "object", "additionalProperties": {}}),
    obj(a={"type": "object", "not": {"properties": {"b": {}}}, "if": {"properties": {"b": {}}}}),
    obj(a={"$ref": "https://example.com/schema"}, b={"$ref": "#name"}, c={"$ref": "#/nowhere/at/all"}),
    obj(a={"$ref": "#"}),
    obj(a=False, b="no schema", c=None),
    {"properties": {"a": {"type": "string"}}},
    {"type": "array", "enum": [1]},
]

REPAIRS = [
    # every nested property gets a type
    (obj(a={}), obj(a={"type": "string"})),
    (obj(a=True), obj(a={"type": "string"})),
    (obj(a={"type": None}), obj(a={"type": "string"})),
    (obj(a={"type": []}), obj(a={"type": "string"})),
    (obj(a={"description": "x"}), obj(a={"type": "string", "description": "x"})),
    (obj(a={"enum": [1, 2]}), obj(a={"type": "integer", "enum": [1, 2]})),
    (obj(a={"enum": [1, 2.5]}), obj(a={"type": "number", "enum": [1, 2.5]})),
    (obj(a={"enum": [True]}), obj(a={"type": "boolean", "enum": [True]})),
    (obj(a={"enum": ["x", None]}), obj(a={"type": ["string", "null"], "enum": ["x", None]})),
    (obj(a={"const": {}}), obj(a={"type": "object", "const": {}})),
    (obj(a={"const": []}), obj(a={"type": "array", "const": []})),
    (obj(a={"enum": "odd"}), obj(a={"type": "string", "enum": "odd"})),
    (obj(a={"required": ["b"]}), obj(a={"type": "object", "required": ["b"]})),
    (obj(a={"minItems": 1}), obj(a={"type": "array", "minItems": 1})),
    (obj(a={"pattern": "x"}), obj(a={"type": "string", "pattern": "x"})),
    (obj(a={"minimum": 1}), obj(a={"type": "number", "minimum": 1})),
    (obj(a={"type": "array", "items": {}}), obj(a={"type": "array", "items": {"type": "string"}})),
    (obj(a={"type": "array", "items": [{}]}), obj(a={"type": "array", "items": [{"type": "string"}]})),
    (obj(a={"type": "array", "prefixItems": [True]}), obj(a={"type": "array", "prefixItems": [{"type": "string"}]})),
    ({"patternProperties": {"^x": {}}}, {"patternProperties": {"^x": {"type": "string"}}}),
    (obj(a=obj(b=obj(c={}))), obj(a=obj(b=obj(c={"type": "string"})))),
    (
        obj(a={"anyOf": [{"const": "x"}, {"type": "null"}]}),
        obj(a={"anyOf": [{"type": "string", "const": "x"}, {"type": "null"}]}),
    ),
    # a property may be named like a keyword
    (obj(properties={}, **{"$ref": {}}), obj(properties={"type": "string"}, **{"$ref": {"type": "string"}})),
    # a type that none of the values has
    (obj(a={"type": "string", "enum": [1, 2]}), obj(a={"type": "integer", "enum": [1, 2]})),
    (obj(a={"type": "integer", "enum": [True, False]}), obj(a={"type": "boolean", "enum": [True, False]})),
    (obj(a={"type": ["null"], "const": 1.5}), obj(a={"type": "number", "const": 1.5})),
    # local references
    (
        {**obj(a={"$ref": "#/$defs/A", "description": "mine"}), "$defs": {"A": {"type": "string", "description": "A"}}},
        obj(a={"type": "string", "description": "mine"}),
    ),
    (
        {**obj(a={"$ref": "#/definitions/A"}), "definitions": {"A": {"$ref": "#/definitions/B"}, "B": {"enum": [1]}}},
        obj(a={"type": "integer", "enum": [1]}),
    ),
    ({"$ref": "#/$defs/A", "$defs": {"A": obj(b={})}}, obj(b={"type": "string"})),
    (obj(a={"type": "string"}, b={"$ref": "#/properties/a"}), obj(a={"type": "string"}, b={"type": "string"})),
    (
        {**obj(a={"$ref": "#/$defs/odd~1name~0%20x"}), "$defs": {"odd/name~ x": {"type": "null"}}},
        obj(a={"type": "null"}),
    ),
    (
        {**obj(a={"$ref": "#/anyOf/1"}, b={"$ref": "#/anyOf/7"}), "anyOf": [{}, {"type": "null"}]},
        {**obj(a={"type": "null"}, b={"$ref": "#/anyOf/7"}), "anyOf": [{}, {"type": "null"}]},
    ),
    ({**obj(), "$defs": {"A": {}}}, obj()),
    # what leads back to itself stays, the rest goes in
    (TREE, TREE_REPAIRED),
]


@pytest.mark.parametrize("schema", IN_ORDER, ids=str)
def test_a_schema_in_order_is_the_same_object(schema):
    """Nothing to do means nothing is copied, so its bytes stay."""
    before = copy.deepcopy(schema)
    assert repair(schema) is schema
    assert schema == before


@pytest.mark.parametrize(("schema", "expected"), REPAIRS, ids=[str(schema)[:60] for schema, _ in REPAIRS])
def test_an_odd_schema_is_repaired_and_stays_so(schema, expected):
    """The corpus of odd schemas, each with what upstream gets; the original is not touched."""
    before = copy.deepcopy(schema)
    got = repair(schema)
    assert got == expected
    assert repair(got) is got
    assert schema == before


def test_references_that_double_at_each_level_stay():
    """Forty definitions of two references each would be 2**40 schemas."""
    defs = {f"d{n}": obj(a={"$ref": f"#/$defs/d{n + 1}"}, b={"$ref": f"#/$defs/d{n + 1}"}) for n in range(40)}
    defs["d40"] = {"description": "x" * (MAX_SIZE // 1000)}
    schema = {**obj(a={"$ref": "#/$defs/d0"}), "$defs": defs}
    got = repair(schema)
    assert got["properties"]["a"] == {"$ref": "#/$defs/d0"}
    assert repair(got) is got


names = st.sampled_from(["a", "b", "type", "$ref", "properties"])
json_values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3)
references = st.sampled_from(["#", "#/$defs/A", "#/$defs/B", "#/properties/a", "#/$defs/none", "other.json"])
keywords = {
    "type": st.sampled_from(["string", "object", "array", "integer", ["string", "null"], None, "odd"]),
    "enum": st.lists(json_values, max_size=3),
    "const": json_values,
    "description": st.text(max_size=3),
    "minimum": st.integers(),
    "$ref": references,
}


def nested(inner):
    """Return schemas that hold *inner* schemas."""
    maps = st.dictionaries(names, inner, max_size=3)
    more = {
        "properties": maps,
        "patternProperties": maps,
        "items": inner | st.lists(inner, max_size=2),
        "anyOf": st.lists(inner, max_size=2),
        "additionalProperties": inner | st.booleans(),
        "not": inner,
        "$defs": st.fixed_dictionaries({}, optional={"A": inner, "B": inner}),
    }
    return st.fixed_dictionaries({}, optional={**keywords, **more})


leaves = st.fixed_dictionaries({}, optional=keywords) | st.booleans()
schemas = nested(st.recursive(leaves, nested, max_leaves=6))


def properties(schema):
    """Yield every property schema that is reached through properties and items alone."""
    for child in schema.get("properties", {}).values():
        yield child
        if isinstance(child, dict):
            yield from properties(child)


def test_a_reference_to_true_is_nothing():
    """What refers to a schema that allows everything is as if it did not refer."""
    schema = {"properties": {"a": True, "b": {"type": "string", "$ref": "#/properties/a"}}}
    assert repair(schema) == {"properties": {"a": {"type": "string"}, "b": {"type": "string"}}}


@settings(max_examples=50, deadline=None)
@given(schema=schemas)
def test_any_schema_comes_out_typed_whole_and_finished(schema):
    """Repair is idempotent, leaves the original alone, drops no property and leaves none without a type."""
    before = copy.deepcopy(schema)
    got = repair(schema)
    assert schema == before
    assert repair(got) == got
    assert set(schema.get("properties", {})) <= set(got.get("properties", {}))
    for child in properties(got):
        speaks = {"type", "$ref", "anyOf", "not"}
        assert child is False or speaks & child.keys()
