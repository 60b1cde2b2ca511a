"""How much the model thinks: what a client asked for, and how each dialect says it (kimi.md §3.3).

What is asked for is one level, from whichever of the known fields says something first: ``off``, ``on``, ``auto``
(say nothing, the server decides), an effort, or nothing at all. What goes out, with E = the efforts the model lists::

    asked         plugin                          kimi-cli        kimi-code
    ------------  ------------------------------  --------------  ---------------------------------
    nothing       enabled                         enabled         enabled, default effort, keep all
    on            enabled                         enabled         enabled, default effort, keep all
    auto          neither field                   neither field   neither field
    off           disabled                        disabled        disabled
    an effort     enabled + reasoning_effort      enabled         enabled, effort, keep all
                  folded into E, or into                          folded into E, or
                  low medium high                                 no effort where E is empty

A level is folded upwards to the next one in the set, and to the highest where there is none above: with low, high
and max listed, medium becomes high (the server folds the same way) and xhigh becomes max; where nothing is listed
xhigh and max become high. A model that always thinks gets its lowest effort for ``off``; one that cannot think gets
no thinking field, or ``disabled`` in kimi-code's dialect and where ``off`` was asked. kimi-cli 1.52 and Kimi Code 2.1
both have thinking on unless told otherwise, so "nothing" is not silence (recorded).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kimi_core.errors import BadRequest
from kimi_core.headers import Headers
from kimi_core.kimi.models import Model

EFFORT_HEADER = "x-opencode-kimi-reasoning-effort"
TYPE_HEADER = "x-opencode-kimi-thinking-type"

OFF, ON, AUTO = "off", "on", "auto"
_ASKED_IN = frozenset(
    {"reasoning_effort", "reasoningEffort", "reasoning", "thinking", "enable_thinking", EFFORT_HEADER, TYPE_HEADER}
)  # members of the body, and header fields; most requests have none of them
SCALE = ("minimal", "low", "medium", "high", "xhigh", "max")
UNLISTED = ("low", "medium", "high")  # what the subscription takes of a model that lists no efforts
WORDS = {
    "off": OFF,
    "none": OFF,
    "false": OFF,
    "disabled": OFF,
    "on": ON,
    "true": ON,
    "enabled": ON,
    "adaptive": ON,
    "auto": AUTO,
}
KEEP_OFF = ("0", "false", "no", "off", "none", "null")  # Kimi Code's words for "do not keep"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the client asked for. `level` None: nothing; `keep` None: nothing, "": not to keep."""

    level: str | None = None
    keep: str | None = None


@dataclass(frozen=True, slots=True)
class Thinking:
    """What goes out: the two fields (None: left out), in a word `effort`, and what had to be changed for it."""

    thinking: dict[str, str] | None
    reasoning_effort: str | None
    effort: str
    repairs: tuple[str, ...] = ()

    @property
    def disabled(self) -> bool:
        """Thinking is switched off."""
        return self.thinking is not None and self.thinking["type"] == "disabled"

    @property
    def keeps_all(self) -> bool:
        """Every assistant message must carry its reasoning, be it empty."""
        return self.thinking is not None and self.thinking.get("keep") == "all"


def wanted(body: Mapping[str, Any], headers: Headers, model: Model | None) -> Wanted:
    """Return what a request asks for. Raises BadRequest for a level that nobody knows, naming the field."""
    if _ASKED_IN.isdisjoint(body) and _ASKED_IN.isdisjoint(headers.first):
        return Wanted()
    listed = model.efforts if model else ()
    keep = _keep(body.get("thinking"))
    for field, value in _signals(body, headers):
        if value is not None and (level := _level(value, field, listed)):
            return Wanted(level, keep)
    return Wanted(None, keep)


def _signals(body: Mapping[str, Any], headers: Headers) -> Iterator[tuple[str, object]]:
    yield "reasoning_effort", body.get("reasoning_effort")
    yield "reasoningEffort", body.get("reasoningEffort")
    reasoning = body.get("reasoning")
    if isinstance(reasoning, Mapping):
        yield "reasoning.effort", reasoning.get("effort")
        yield "reasoning.enabled", reasoning.get("enabled")
    yield from _thinking_signals(body.get("thinking"))
    yield "enable_thinking", body.get("enable_thinking")
    known = headers.first
    yield EFFORT_HEADER, known.get(EFFORT_HEADER)
    yield TYPE_HEADER, known.get(TYPE_HEADER)


def _thinking_signals(thinking: object) -> Iterator[tuple[str, object]]:
    if not isinstance(thinking, Mapping):
        yield "thinking", thinking
        return
    # switched off is switched off, whatever effort stands beside it
    kind = thinking.get("type")
    if not (isinstance(kind, str) and WORDS.get(kind.strip().lower()) == OFF):
        yield "thinking.effort", thinking.get("effort")
    yield "thinking.type", kind
    budget = thinking.get("budget_tokens")
    if isinstance(budget, int | float):
        yield "thinking.budget_tokens", budget > 0


def _level(value: object, field: str, listed: tuple[str, ...]) -> str | None:
    if value == "":
        return None
    if isinstance(value, bool):
        return ON if value else OFF
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in WORDS:
        return WORDS[word]
    if word in SCALE or word in listed:
        return word
    known = ", ".join(dict.fromkeys((OFF, AUTO, *SCALE, *listed)))
    raise BadRequest(f"{field} is none of {known}.", field)


def _keep(thinking: object) -> str | None:
    if not isinstance(thinking, Mapping) or "keep" not in thinking:
        return None
    keep = thinking["keep"]
    return keep if isinstance(keep, str) and keep and keep.lower() not in KEEP_OFF else ""


def fold(level: str, listed: tuple[str, ...]) -> str:
    """Return the level of *listed* that stands for *level*: itself, the next above, else the highest."""
    if level in listed:
        return level
    order = sorted((x for x in listed if x in SCALE), key=SCALE.index)
    if level not in SCALE or not order:
        return listed[-1]
    return next((x for x in order if SCALE.index(x) >= SCALE.index(level)), order[-1])


def lowest(listed: tuple[str, ...]) -> str | None:
    """Return the lowest level of *listed*, None where it is empty."""
    return min(listed, key=lambda x: SCALE.index(x) if x in SCALE else len(SCALE), default=None)


def default(model: Model | None) -> str | None:
    """Return the effort that Kimi Code sends where none is asked for: the model's own, else the middle one."""
    if model is None or not model.efforts:
        return None
    return model.default_effort or model.efforts[len(model.efforts) // 2]


def resolve(asked: Wanted, mode: str, model: Model | None) -> Thinking:
    """Return what goes out in dialect *mode* (plugin, kimi-cli, kimi-code); total, and never touches the model."""
    level, repairs = asked.level, []
    if level == AUTO:
        return Thinking(None, None, AUTO)
    if _cannot_think(model):
        repairs = ["thinking-unsupported"] if level not in (None, OFF) else []
        silent = level != OFF and mode != "kimi-code"
        return Thinking(None if silent else {"type": "disabled"}, None, OFF, tuple(repairs))
    if level == OFF:
        if model is None or model.thinking_type != "only":
            return Thinking({"type": "disabled"}, None, OFF)
        repairs.append("thinking-kept-on")
        level = lowest(model.efforts) or ON
    effort = level if level not in (None, ON) else None
    return _DIALECTS[mode](effort, asked.keep, model, repairs)


def _cannot_think(model: Model | None) -> bool:
    if model is None:
        return False
    return model.thinking_type == "no" or (model.thinking_type is None and model.reasoning is False)


def _enabled(effort: str | None, keep: str | None) -> dict[str, str]:
    fields = {"type": "enabled", "effort": effort, "keep": keep}
    return {key: value for key, value in fields.items() if value}


def _plugin(effort: str | None, keep: str | None, model: Model | None, repairs: list[str]) -> Thinking:
    sent = fold(effort, (model.efforts if model else ()) or UNLISTED) if effort else None
    if sent != effort:
        repairs.append("effort-folded")
    return Thinking(_enabled(None, keep), sent, sent or ON, tuple(repairs))


def _kimi_cli(effort: str | None, keep: str | None, _model: Model | None, repairs: list[str]) -> Thinking:
    if effort:
        repairs.append("effort-not-sent")
    return Thinking(_enabled(None, keep), None, ON, tuple(repairs))


def _kimi_code(effort: str | None, keep: str | None, model: Model | None, repairs: list[str]) -> Thinking:
    listed = model.efforts if model else ()
    if not effort:
        sent = default(model)
    elif listed:
        sent = fold(effort, listed)
    else:
        sent = None
    if effort and sent != effort:
        repairs.append("effort-folded" if sent else "effort-not-sent")
    return Thinking(_enabled(sent, "all" if keep is None else keep), None, sent or ON, tuple(repairs))


_DIALECTS = {"plugin": _plugin, "kimi-cli": _kimi_cli, "kimi-code": _kimi_code}
