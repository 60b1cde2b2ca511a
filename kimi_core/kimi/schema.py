"""Tool schemas as upstream takes them ("moonshot flavored json schema", kimi.md §3.6).

Three repairs, each leaving alone what needs none, so that a schema in order is the same object afterwards:

1. Local references are put in place of themselves and `$defs`/`definitions` that nothing refers to any more are
   removed. A reference that leads back to itself stays, with its bucket; so does every reference where the whole
   would grow past MAX_SIZE.
2. A `type` that no value of its own `enum`/`const` has is replaced by the one they have.
3. Every schema of a property, and of the items of an array, that has no `type` gets one: from `enum`/`const`, else
   from its structure keywords, else ``string``. Schemas that speak through anyOf, $ref and the like, and the root,
   are left alone; branches of anyOf and the like get a type only where something in them says which.

`repair` is idempotent and never drops a property.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from kimi_core.wire.pointer import resolve

type Schema = dict[str, Any]

MAX_SIZE = 1_000_000  # members, elements and characters after inlining; references can double the size at each level
BUCKETS = ("$defs", "definitions")

# where schemas stand within a schema (JSON Schema 2020-12, and draft 7's definitions, items and dependencies)
_MAPS = ("properties", "patternProperties", "dependentSchemas", *BUCKETS)
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SINGLES = (
    "items",
    "additionalItems",
    "additionalProperties",
    "contains",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
)
_TYPED = ("properties", "patternProperties", "prefixItems", "items")  # every schema here needs a type
_CONDITIONS = ("not", "if")  # what is added here would turn the meaning round
_SPEAKS_OTHERWISE = frozenset({"anyOf", "oneOf", "allOf", "not", "if", "then", "else", "$ref", "$dynamicRef"})

_STRUCTURE = {
    "object": frozenset(
        [
            "properties",
            "required",
            "additionalProperties",
            "patternProperties",
            "minProperties",
            "maxProperties",
            "propertyNames",
        ]
    ),
    "array": frozenset(["items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"]),
    "string": frozenset(["minLength", "maxLength", "pattern", "format", "contentEncoding"]),
    "number": frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]),
}


_TYPES: tuple[tuple[type, str], ...] = (
    (type(None), "null"),
    (bool, "boolean"),  # before int, which it is one of
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
)


class _TooLarge(Exception):
    """Inlining would make the schema larger than MAX_SIZE."""


def repair(schema: Schema) -> Schema:
    """Return *schema* as upstream takes it; the same object where nothing has to be done."""
    return _map_children(_inline(schema), _fill)


# --- walking -------------------------------------------------------------------------------------------------------


def _map_children(schema: Schema, change: Callable[[Any, str], Any]) -> Schema:
    """Return *schema* with ``change(child, keyword)`` in place of each child; the same object where none changed."""
    new = {key: _map_member(key, value, change) for key, value in schema.items()}
    return new if any(new[key] is not schema[key] for key in schema) else schema


def _map_member(keyword: str, value: Any, change: Callable[[Any, str], Any]) -> Any:
    if isinstance(value, dict) and keyword in _MAPS:
        changed: Any = {key: change(child, keyword) for key, child in value.items()}
        return changed if any(changed[key] is not value[key] for key in value) else value
    if isinstance(value, list) and keyword in _LISTS:
        changed = [change(child, keyword) for child in value]
        return changed if any(a is not b for a, b in zip(changed, value, strict=True)) else value
    if isinstance(value, dict) and keyword in _SINGLES:
        return change(value, keyword)
    return value


# --- references ----------------------------------------------------------------------------------------------------


def _inline(root: Schema) -> Schema:
    if not any(bucket in root for bucket in BUCKETS) and next(_references(root), None) is None:
        return root
    try:
        schema = _Inliner(root).schema(root, "")
    except _TooLarge:
        return root
    assert isinstance(schema, dict)
    left = tuple(_references(schema))
    unused = {bucket for bucket in BUCKETS if bucket in schema and not any(_points_into(r, bucket) for r in left)}
    return {key: value for key, value in schema.items() if key not in unused} if unused else schema


def _points_into(reference: str, bucket: str) -> bool:
    return reference in {"#", f"#/{bucket}"} or reference.startswith(f"#/{bucket}/")


def _references(value: Any) -> Iterator[str]:
    """Yield every local reference below *value*, wherever it stands: one too many only keeps something."""
    stack = [value]
    while stack:
        match stack.pop():
            case dict() as node:
                if isinstance(reference := node.get("$ref"), str) and reference.startswith("#"):
                    yield reference
                stack.extend(node.values())
            case list() as nodes:
                stack.extend(nodes)


class _Inliner:
    """Puts the targets of references in their places."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._size = 0
        self._endless: dict[str, bool] = {}

    def schema(self, schema: Any, _keyword: str) -> Any:
        if not isinstance(schema, dict):
            return schema
        self._size += sum(len(value) if isinstance(value, str | list) else 1 for value in schema.values())
        if self._size > MAX_SIZE:
            raise _TooLarge
        reference = schema.get("$ref")
        if isinstance(reference, str) and (target := self._target(reference)) is not None:
            beside = {key: value for key, value in schema.items() if key != "$ref"}
            return self.schema({**target, **beside}, "")
        return _map_children(schema, self.schema)

    def _target(self, reference: str) -> Schema | None:
        """Return the schema to put in place of *reference*, None where it has to stay."""
        if reference != "#" and not reference.startswith("#/"):
            return None  # an anchor, or another document
        target = resolve(self._root, reference)
        if target is True:
            return {}  # says nothing, so its place takes what stands beside the reference
        return target if isinstance(target, dict) and not self._leads_back(reference) else None

    def _leads_back(self, reference: str) -> bool:
        if reference not in self._endless:
            seen: set[str] = set()
            open_ = [reference]
            while open_:
                found = set(_references(resolve(self._root, open_.pop()))) - seen
                seen |= found
                open_.extend(found)
            self._endless[reference] = reference in seen
        return self._endless[reference]


# --- types ---------------------------------------------------------------------------------------------------------


def _fill(schema: Any, keyword: str) -> Any:
    if schema is True and keyword in _TYPED:
        return {"type": "string"}
    if not isinstance(schema, dict) or keyword in _CONDITIONS:
        return schema
    schema = _map_children(schema, _fill)
    declared = _declared(schema)
    values = _values(schema)
    if declared:
        fits = not values or any(_type_of(value) in declared or _is_number(value, declared) for value in values)
        return schema if fits else {**schema, "type": _common(values)}
    if _SPEAKS_OTHERWISE & schema.keys():
        return schema
    inferred = _common(values) if values else _structural(schema)
    if inferred is None and keyword in _TYPED:
        inferred = "string"
    if inferred is None:
        return schema
    return {"type": inferred, **{key: value for key, value in schema.items() if key != "type"}}


def _declared(schema: Schema) -> tuple[str, ...]:
    match schema.get("type"):
        case str(name) if name:
            return (name,)
        case list(names):
            return tuple(name for name in names if isinstance(name, str) and name)
        case _:
            return ()


def _values(schema: Schema) -> list[Any]:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else []


def _type_of(value: Any) -> str:
    return next(name for kind, name in _TYPES if isinstance(value, kind))


def _is_number(value: Any, declared: tuple[str, ...]) -> bool:
    """Tell whether *value* fits by arithmetic: an integer is a number, and 1.0 is an integer (JSON Schema §6.1.1)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return "number" in declared or ("integer" in declared and value == value // 1)


def _common(values: list[Any]) -> str | list[str]:
    """Return the type that all *values* have, or the list of them."""
    names = list(dict.fromkeys(map(_type_of, values)))
    if set(names) == {"integer", "number"}:
        return "number"
    return names[0] if len(names) == 1 else names


def _structural(schema: Schema) -> str | None:
    return next((name for name, keywords in _STRUCTURE.items() if keywords & schema.keys()), None)
