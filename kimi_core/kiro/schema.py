"""Tool schemas as Kiro takes them (kiro.md §3.5).

1. Local references are put in place of themselves, and the definitions go. A reference that leads back to itself, and
   every one beyond MAX_NODES, becomes a schema that says the type and no more.
2. Keywords that Kiro's converters trip over go. Only where a keyword stands: a property may be named ``$schema``,
   ``not`` or ``pattern`` and stays, and what stands in ``enum`` or ``default`` is data.
3. The root is an object without oneOf, anyOf and allOf: their branches become one, with every property of each.

`clean` never drops a property.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kimi_core.errors import BadRequest
from kimi_core.wire.pointer import resolve

type Schema = dict[str, Any]

MAX_NODES = 10_000  # schemas within a schema, after which references stay short: they can double at each level

# what says nothing about a value: their loss is no loss
_TRIMMINGS = frozenset({"$schema", "$id", "id", "$comment", "$anchor", "$dynamicAnchor", "$vocabulary"})
_DEFINITIONS = frozenset({"$defs", "definitions"})
_UNWANTED = frozenset(
    {
        "$ref",
        "$dynamicRef",
        "$recursiveRef",
        "additionalProperties",
        "additionalItems",
        "propertyNames",
        "patternProperties",
        "if",
        "then",
        "else",
        "not",
        "unevaluatedProperties",
        "unevaluatedItems",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
    }
)
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SINGLES = ("items", "contains", "contentSchema")
_HOLDERS = frozenset({"properties", *_LISTS, *_SINGLES})
_ALTERNATIVES = ("anyOf", "oneOf")
_COMBINATORS = ("allOf", *_ALTERNATIVES)
_DATA = frozenset({"default", "const"})  # keywords whose null means null
_SHORT = ("title", "type", "description")  # what is left of a schema that leads back to itself


class Cleaner:
    """Cleans one tool's schema; *path* is where it stands in the request. `dropped` counts what was taken away."""

    def __init__(self, path: str) -> None:
        self.dropped = 0
        self._path = path
        self._root: Schema = {}
        self._nodes = 0

    def clean(self, schema: Schema) -> Schema:
        """Return *schema*, which is left as it was, as Kiro takes it. Raises BadRequest with the path at fault."""
        self._root = schema
        root = self._flat(self._schema(schema, self._path, frozenset()))
        kind = root.get("type", "object")
        if kind != "object" and not (isinstance(kind, list) and "object" in kind):
            raise BadRequest("The parameters of a function are an object.", f"{self._path}.type")
        rest = {key: value for key, value in root.items() if key not in ("type", "properties")}
        return {"type": "object", "properties": root.get("properties", {}), **rest}

    # --- one schema --------------------------------------------------------------------------------------------------

    def _schema(self, schema: Any, path: str, above: frozenset[str]) -> Schema:
        """Return the schema at *path* cleaned; *above* are the references that it stands for."""
        if isinstance(schema, bool):
            self.dropped += not schema
            return {}
        if not isinstance(schema, dict):
            raise BadRequest("A schema is an object.", path)
        self._nodes += 1
        target = self._target(schema) if "$ref" in schema else None
        cleaned = self._members(schema, path, above)
        if target is None:
            return cleaned
        reference, found = target
        if reference in above or self._nodes > MAX_NODES:
            self.dropped += 1
            return {**_short(found), **cleaned}
        return _both(self._schema(found, path, above | {reference}), cleaned)

    def _target(self, schema: Schema) -> tuple[str, Schema] | None:
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            return None
        found = resolve(self._root, reference) if reference == "#" or reference.startswith("#/") else None
        if not isinstance(found, dict):
            self.dropped += 1  # an anchor, another document, or nothing
            return None
        return reference, found

    def _members(self, schema: Schema, path: str, above: frozenset[str]) -> Schema:
        out: Schema = {}
        for key, value in schema.items():
            if key in _TRIMMINGS or key in _DEFINITIONS or (value is None and key not in _DATA):
                continue
            if key in _UNWANTED:
                self.dropped += key != "$ref" and not (key == "additionalProperties" and isinstance(value, bool))
            elif key == "const":
                out.setdefault("enum", [value])
            elif key == "required":
                self._required(out, value)
            elif key in _HOLDERS:
                self._member(out, key, value, f"{path}.{key}", above)
            else:
                out[key] = value
        return out

    def _required(self, out: Schema, value: Any) -> None:
        names = [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
        if names:
            out["required"] = names
        self.dropped += not isinstance(value, list) or len(names) < len(value)

    def _member(self, out: Schema, key: str, value: Any, path: str, above: frozenset[str]) -> None:
        """Put a keyword that holds schemas into *out*, with these cleaned."""
        if key == "properties":
            if not isinstance(value, dict):
                raise BadRequest("properties is an object.", path)
            out[key] = {name: self._schema(child, f"{path}.{name}", above) for name, child in value.items()}
        elif key in _LISTS and isinstance(value, list):
            if value:
                out[key] = [self._schema(child, f"{path}[{place}]", above) for place, child in enumerate(value)]
        elif key in _SINGLES:
            out[key] = self._schema(value, path, above)
        else:
            raise BadRequest(f"{key} is a list.", path)

    # --- the root ----------------------------------------------------------------------------------------------------

    def _flat(self, schema: Schema) -> Schema:
        """Return a cleaned *schema* with the branches of its combinators in it."""
        if schema.keys().isdisjoint(_COMBINATORS):
            return schema
        out = {key: value for key, value in schema.items() if key not in _COMBINATORS}
        for branch in schema.get("allOf", ()):
            self.dropped += 1
            out = _both(out, self._flat(branch))
        for key in _ALTERNATIVES:
            branches = [self._flat(branch) for branch in schema.get(key, ())]
            self.dropped += len(branches)
            if branches:
                out = _both(out, _either(branches))
        return out


def clean(schema: Schema, path: str) -> tuple[Schema, int]:
    """Return *schema* as Kiro takes it, and how many keywords that said something were dropped or folded."""
    cleaner = Cleaner(path)
    return cleaner.clean(schema), cleaner.dropped


def _both(first: Schema, second: Schema) -> Schema:
    """Return a schema for what is valid by both; where they name one keyword, *second* counts."""
    merged = {**first, **second}
    if "properties" in first and "properties" in second:
        merged["properties"] = _union((first["properties"], second["properties"]), "allOf")
    if "required" in first and "required" in second:
        merged["required"] = list(dict.fromkeys([*first["required"], *second["required"]]))
    return merged


def _either(branches: list[Schema]) -> Schema:
    """Return an object schema with the properties of all *branches*; required is what each of them requires."""
    objects = [branch for branch in branches if _may_be_object(branch)]
    out: Schema = {"properties": _union((branch.get("properties", {}) for branch in objects), "anyOf")}
    required = [branch.get("required", []) for branch in objects]
    common = [name for name in required[0] if all(name in names for names in required)] if required else []
    return {**out, "required": common} if common else out


def _may_be_object(schema: Schema) -> bool:
    kind = schema.get("type", "object")
    return kind == "object" or (isinstance(kind, list) and "object" in kind) or "properties" in schema


def _union(maps: Iterable[Mapping[str, Schema]], combinator: str) -> dict[str, Schema]:
    """Return the properties of all *maps*; different schemas of one name stand side by side in *combinator*."""
    found: dict[str, list[Schema]] = {}
    for properties in maps:
        for name, schema in properties.items():
            known = found.setdefault(name, [])
            if schema not in known:
                known.append(schema)
    return {name: known[0] if len(known) == 1 else {combinator: known} for name, known in found.items()}


def _short(schema: Schema) -> Schema:
    short = {key: schema[key] for key in _SHORT if schema.get(key) is not None}
    return {"type": "object", **short} if isinstance(schema.get("properties"), dict) else short
