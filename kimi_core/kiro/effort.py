"""How much a model is to think: what clients say, and the fields that a model's schema has for it (kiro.md §5).

Native fields go by the model's own schema, which takes nothing else: a wrong key is a 400. Where there is no schema,
tags in the system text ask for tagged thoughts, but only where the user chose that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kimi_core.errors import BadRequest

LEVELS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")  # upwards
OFF = "none"
ON = ""  # think, as much as the model likes
_SPELLINGS = {
    "off": OFF,
    "disabled": OFF,
    "false": OFF,
    "on": ON,
    "enabled": ON,
    "extra-high": "xhigh",
    "maximum": "max",
}
_SILENT = frozenset({"", "auto", "default"})  # the same as to say nothing

_EFFORT_FIELDS = (("output_config", "effort"), ("reasoning", "effort"))  # Claude from 4.6 on, GPT-5.6
TAG_LENGTHS = {
    ON: 16_000,
    "minimal": 1024,
    "low": 4000,
    "medium": 10_000,
    "high": 16_000,
    "xhigh": 20_000,
    "max": 24_576,
}
"""Tokens of thought that the tags name for each level; 1024 to 24576 is what other programs send."""

_NAMES = frozenset({"reasoning", "reasoning_effort", "reasoningEffort", "thinking", "enable_thinking"})

type Mode = Literal["native", "tags", "off"]
type Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """`level`: one of LEVELS, ON, or a word of the model's own; None = nothing asked. `path`: where it stands."""

    level: str | None = None
    path: str = "reasoning_effort"


_NOTHING = Asked()


@dataclass(frozen=True, slots=True)
class Effort:
    """What to send: members of additionalModelRequestFields, or tags for the system text.

    `level` is the one that goes out, for the flow. `folded`: it is not the one asked for. `ignored`: there was no way.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    tags: str | None = None
    level: str | None = None
    folded: bool = False
    ignored: bool = False


def asked(body: Mapping[str, Any]) -> Asked:
    """Return what a request asks for in any of the dialects; the first that says something counts.

    ``reasoning_effort``, ``reasoning.effort``, ``reasoningEffort``, ``thinking.effort``, then the switches
    ``thinking.type``, ``reasoning.enabled``, ``enable_thinking``. Raises BadRequest.
    """
    if body.keys().isdisjoint(_NAMES):
        return _NOTHING
    nested = body.get("reasoning")
    thinking = body.get("thinking")
    thinking = thinking if isinstance(thinking, Mapping) else {}
    within = nested if isinstance(nested, Mapping) else {}
    spoken = (
        (body.get("reasoning_effort"), "reasoning_effort"),
        (within.get("effort"), "reasoning.effort"),
        (None if within is nested else nested, "reasoning"),
        (body.get("reasoningEffort"), "reasoningEffort"),
        (thinking.get("effort"), "thinking.effort"),
    )
    for value, path in spoken:
        if value is None:
            continue
        if not isinstance(value, str):
            raise BadRequest("An effort is a word.", path)
        word = value.strip().lower()
        if word not in _SILENT:
            return Asked(_SPELLINGS.get(word, word), path)
    switch = {"disabled": OFF, "enabled": ON, "adaptive": ON}
    if isinstance(kind := thinking.get("type"), str) and kind in switch:
        return Asked(switch[kind], "thinking")
    for enabled, path in (
        (within.get("enabled"), "reasoning.enabled"),
        (body.get("enable_thinking"), "enable_thinking"),
    ):
        if isinstance(enabled, bool):
            return Asked(ON if enabled else OFF, path)
    return _NOTHING


def levels(schema: Schema | None) -> tuple[str, ...]:
    """Return the levels that a model takes, upwards as it lists them."""
    return _effort_field(schema)[1]


def resolve(wanted: Asked, schema: Schema | None, mode: Mode) -> Effort:
    """Return what to send to a model of *schema* for *wanted*. Raises BadRequest for a word that nobody knows."""
    level = wanted.level
    if level is None:
        return Effort()
    place, offered = _effort_field(schema)
    if level not in (*LEVELS, ON, *offered):
        known = ", ".join(offered or LEVELS)
        raise BadRequest(f"{level[:40]!r} is no effort; there are {known}.", wanted.path)
    if mode == "off":
        return Effort(ignored=level != OFF)
    if schema is not None and (place or _choices(schema, "thinking", "type")):
        return _native(level, schema, place, offered)
    if mode == "tags" and level != OFF:
        return Effort(tags=_tags(level), level=level or "on")
    return Effort(ignored=level != OFF)  # a model that is not asked to think is not thinking


def _native(level: str, schema: Schema, place: tuple[str, str] | None, offered: tuple[str, ...]) -> Effort:
    if level == OFF:
        return _switched_off(schema, place, offered)
    fields: dict[str, Any] = {}
    sent = _nearest(level, offered) if level != ON else None
    if place and sent:
        fields[place[0]] = {place[1]: sent}
    thinking = _choose(schema, type="adaptive", display="summarized")
    if "type" in thinking:
        fields["thinking"] = thinking
    said = sent or ("on" if fields else None)
    return Effort(fields, level=said, folded=level not in (ON, sent), ignored=not fields)


def _switched_off(schema: Schema, place: tuple[str, str] | None, offered: tuple[str, ...]) -> Effort:
    if "disabled" in _choices(schema, "thinking", "type"):
        return Effort({"thinking": {"type": "disabled"}}, level=OFF)
    if place and OFF in offered:
        return Effort({place[0]: {place[1]: OFF}}, level=OFF)
    return Effort(ignored=True)


def _nearest(level: str, offered: tuple[str, ...]) -> str | None:
    """Return *level*, else the next lower one that is offered, else the lowest; None where there is none.

    Rather less than was asked for than more: what a level costs doubles from one to the next.
    """
    if level in offered:
        return level
    ranked = [name for name in LEVELS if name in offered and name != OFF]
    lower = [name for name in ranked if LEVELS.index(name) < LEVELS.index(level)]
    return next(iter(lower[-1:] or ranked), None)


def _effort_field(schema: Schema | None) -> tuple[tuple[str, str] | None, tuple[str, ...]]:
    for place in _EFFORT_FIELDS:
        if schema is not None and (offered := _choices(schema, *place)):
            return place, offered
    return None, ()


def _choose(schema: Schema, **wanted: str) -> dict[str, str]:
    """Return those members of ``thinking`` that *schema* has with the wanted values."""
    return {name: value for name, value in wanted.items() if value in _choices(schema, "thinking", name)}


def _choices(schema: Schema, *path: str) -> tuple[str, ...]:
    """Return the enum of the property at *path*, empty where there is none."""
    node: Any = schema
    for name in path:
        properties = node.get("properties") if isinstance(node, Mapping) else None
        node = properties.get(name) if isinstance(properties, Mapping) else None
    values = node.get("enum") if isinstance(node, Mapping) else None
    return tuple(value for value in values if isinstance(value, str)) if isinstance(values, list) else ()


def _tags(level: str) -> str:
    return f"<thinking_mode>enabled</thinking_mode>\n<max_thinking_length>{TAG_LENGTHS[level]}</max_thinking_length>"
