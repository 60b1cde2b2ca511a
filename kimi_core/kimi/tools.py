"""Mend the tool list of a chat request (kimi.md §3.6)."""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from kimi_core.errors import BadRequest
from kimi_core.kimi import schema

KNOWN_GOOD = 2048  # schemas remembered as in order, 16 bytes each; a client sends the same 10-100 with every request


def mend_tools(tools: list[Any], touch: Callable[[object], None], repairs: Counter[str]) -> None:
    """Mend the list in place; *touch* is told every tool that changes.

    Raises BadRequest for a tool that is no object, and for two different tools of one name (upstream refuses both).
    """
    first: dict[str, dict[str, Any]] = {}
    kept: list[dict[str, Any]] = []
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise BadRequest("A tool is no object.", f"tools[{index}]")
        name = _name(tool)
        if name is not None and (earlier := first.setdefault(name, tool)) is not tool:
            if earlier != tool:
                raise BadRequest("Two different tools have the same name.", f"tools[{index}]")
        else:
            kept.append(tool)
    repairs["duplicate-tool-dropped"] += len(tools) - len(kept)
    tools[:] = kept
    for tool in kept:
        for repair in _mend(tool):
            touch(tool)
            repairs[repair] += 1


def _name(tool: dict[str, Any]) -> str | None:
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def _mend(tool: dict[str, Any]) -> Iterator[str]:
    """Mend *tool* and yield the name of each repair."""
    name = _name(tool)
    if name is not None and name.startswith("$"):
        builtin = {"type": "builtin_function", "function": {"name": name}}
        if tool != builtin:
            tool.clear()
            tool.update(builtin)
            yield "builtin-tool"
        return
    if "cache_control" in tool:
        del tool["cache_control"]
        yield "cache-control-dropped"
    function = tool.get("function")
    parameters = function.get("parameters") if isinstance(function, dict) else None
    if isinstance(parameters, dict) and (mended := _in_order.repair(parameters)) is not parameters:
        tool["function"]["parameters"] = mended
        yield "schema-repaired"


class _InOrder:
    """Remembers which schemas needed nothing: agents send the same tools with every request."""

    def __init__(self) -> None:
        self._digests: OrderedDict[bytes, None] = OrderedDict()

    def repair(self, parameters: schema.Schema) -> schema.Schema:
        digest = _digest(parameters)
        if digest in self._digests:
            return parameters
        mended = schema.repair(parameters)
        if mended is parameters and digest:
            self._digests[digest] = None
            if len(self._digests) > KNOWN_GOOD:
                self._digests.popitem(last=False)
        return mended


def _digest(parameters: schema.Schema) -> bytes | None:
    try:
        return hashlib.blake2b(to_json(parameters), digest_size=16).digest()
    except PydanticSerializationError:  # a lone surrogate
        return None


_in_order = _InOrder()
