"""The models of Kiro: what each can do, and what a client's name for one means (kiro.md §6).

A list of the service is read tolerantly: what is missing or odd is None, an item without an id is left out. Until the
first list has come there is FALLBACK, the one of the day FALLBACK_DATE.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kimi_core.errors import UpstreamError
from kimi_core.plain import line, plain

DEFAULT_MODEL = "auto"
TEXT, IMAGE = "TEXT", "IMAGE"  # input types, in the service's spelling
FALLBACK_DATE = "2026-05-24"
_NONSENSE = 1e12  # beyond it no number of a list means anything, be it of tokens or credits
MAX_MODELS = 1000  # of a list over all its pages; the service has a few dozen


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model; None = the service does not say.

    `max_input` and `max_output` are tokens. `inputs` holds TEXT, IMAGE; empty = not said. `effort_schema` is the JSON
    schema of the additionalModelRequestFields that the model takes. `rate` is credits per request, relative to 1.
    `cache_minimum`: tokens of the smallest piece that is cached, 0 = the model caches nothing.
    """

    id: str
    name: str | None = None
    max_input: int | None = None
    max_output: int | None = None
    inputs: frozenset[str] = frozenset()
    effort_schema: Mapping[str, Any] | None = field(default=None, hash=False)
    rate: float | None = None
    description: str | None = None
    cache_minimum: int | None = None

    @property
    def takes_images(self) -> bool:
        """False only where the service says so."""
        return not self.inputs or IMAGE in self.inputs

    def to_json(self) -> dict[str, Any]:
        """Return the item in the service's own shape; `parse` reads it back."""
        limits = {"maxInputTokens": self.max_input, "maxOutputTokens": self.max_output}
        caching = {
            "supportsPromptCaching": bool(self.cache_minimum),
            "minimumTokensPerCacheCheckpoint": self.cache_minimum,
        }
        fields = {
            "modelName": self.name,
            "description": self.description,
            "rateMultiplier": self.rate,
            "supportedInputTypes": sorted(self.inputs, reverse=True) or None,
            "tokenLimits": {name: value for name, value in limits.items() if value is not None} or None,
            "promptCaching": caching if self.cache_minimum is not None else None,
            "additionalModelRequestFieldsSchema": self.effort_schema,
        }
        return {"modelId": self.id, **{name: value for name, value in fields.items() if value is not None}}


@dataclass(frozen=True, slots=True)
class Catalog:
    """Models in the service's order; `fetched_at` in unix seconds, None = never: the fallback list.

    `by_id` has the same models by their ids; where two have one id, the first.
    """

    models: tuple[ModelInfo, ...] = ()
    default: str = DEFAULT_MODEL
    fetched_at: float | None = None
    by_id: Mapping[str, ModelInfo] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_id", {model.id: model for model in reversed(self.models)})

    def find(self, model_id: str) -> ModelInfo | None:
        """Return the model of exactly this id."""
        return self.by_id.get(model_id)

    def resolve(self, wanted: str) -> tuple[str, ModelInfo | None]:
        """Return the id to send for a client's name of a model, and what is known of it.

        An id of the list is sent as it is, any other name by `normalise`; one that nobody knows passes.
        """
        bare = _unprefixed(wanted)
        model = self.find(bare) or self.find(normalise(wanted))
        return (model.id if model else normalise(wanted)), model

    def joined(self, other: Catalog) -> Catalog:
        """Return this list with the models of *other* behind its own: the next page, or another account's."""
        more = tuple(model for model in other.models if model.id not in self.by_id)
        return replace(self, models=(self.models + more)[:MAX_MODELS])

    def to_json(self) -> dict[str, Any]:
        """Return the list in the service's own shape."""
        return {"defaultModel": {"modelId": self.default}, "models": [model.to_json() for model in self.models]}


# --- names -----------------------------------------------------------------------------------------------------------

_PREFIX = re.compile(r"kiro/+", re.IGNORECASE)
_INTERNAL = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")  # CLAUDE_SONNET_4_20250514_V1_0
_ENDINGS = re.compile(r"(\[[^\]]*\]|-latest|-\d{8})$")
_ALIASES = {"auto-kiro": "auto"}
_FAMILIES = ("auto", "claude-", "deepseek-", "glm-", "gpt-", "kimi-", "minimax-", "qwen")
_VERSION_LAST = re.compile(r"claude-([a-z]+)-(\d{1,2})-(\d{1,2})")
_VERSION_FIRST = re.compile(r"claude-(\d{1,2})(?:[.-](\d{1,2}))?-([a-z]+)(?:-.*)?")


def normalise(model_id: str) -> str:
    """Return the id that Kiro has for a client's name of a model (kiro.md §6.1); idempotent.

    ``kiro/claude-sonnet-4-5-20250929[1m]`` is ``claude-sonnet-4.5``. A name of no known family passes unchanged but for
    the prefix ``kiro/``.
    """
    bare = _unprefixed(model_id)
    if _INTERNAL.fullmatch(bare):
        return bare
    name = bare.lower().removeprefix("kiro-")
    while (shorter := _ENDINGS.sub("", name)) != name:
        name = shorter
    name = _ALIASES.get(name, name)
    if not name.startswith(_FAMILIES):
        return bare
    if found := _VERSION_LAST.fullmatch(name):
        return f"claude-{found[1]}-{found[2]}.{found[3]}"
    if found := _VERSION_FIRST.fullmatch(name):
        return f"claude-{found[3]}-{found[1]}" + (f".{found[2]}" if found[2] else "")
    return name


def _unprefixed(model_id: str) -> str:
    bare = model_id.strip()
    while (found := _PREFIX.match(bare)) and found.end() < len(bare):
        bare = bare[found.end() :]
    return bare


# --- lists -----------------------------------------------------------------------------------------------------------


def parse(data: object, now: float | None) -> Catalog:
    """Return the catalog of a parsed ListAvailableModels answer; of two items with one id the first counts.

    Raises UpstreamError for anything without a single usable model, so that it never replaces a good list.
    """
    items = data.get("models") if isinstance(data, Mapping) else None
    if not isinstance(items, list):
        raise UpstreamError("The model list has an unknown shape.")
    found: dict[str, ModelInfo] = {}
    for item in items[:MAX_MODELS]:
        if isinstance(item, Mapping) and (model_id := _name(item.get("modelId"))):
            found.setdefault(model_id, _model(model_id, item))
    if not found:
        raise UpstreamError("The model list holds no model.")
    assert isinstance(data, Mapping)
    default = _name(_object(data.get("defaultModel")).get("modelId"))
    return Catalog(tuple(found.values()), default or next(iter(found)), now)


def next_token(data: object) -> str | None:
    """Return what asks for the next page of a list, None on its last page."""
    return _text(data.get("nextToken")) if isinstance(data, Mapping) else None


def _model(model_id: str, item: Mapping[str, Any]) -> ModelInfo:
    limits = _object(item.get("tokenLimits"))
    schema = item.get("additionalModelRequestFieldsSchema")
    return ModelInfo(
        id=model_id,
        name=_name(item.get("modelName")),
        max_input=_count(limits.get("maxInputTokens")),
        max_output=_count(limits.get("maxOutputTokens")),
        inputs=frozenset(_upper(item.get("supportedInputTypes"))),
        effort_schema=schema if isinstance(schema, Mapping) else None,
        rate=_number(item.get("rateMultiplier")),
        description=_text(item.get("description")),
        cache_minimum=_cache_minimum(item),
    )


def _cache_minimum(item: Mapping[str, Any]) -> int | None:
    caching = _object(item.get("promptCaching"))
    supported = caching.get("supportsPromptCaching", item.get("supportsPromptCache"))
    if not isinstance(supported, bool):
        return None
    return (_count(caching.get("minimumTokensPerCacheCheckpoint")) or 1) if supported else 0


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _upper(value: object) -> Iterable[str]:
    return (item.upper() for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _name(value: object) -> str | None:
    return line(value.strip()) or None if isinstance(value, str) else None


def _text(value: object) -> str | None:
    return plain(value.strip()) or None if isinstance(value, str) else None


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) < _NONSENSE else None  # neither infinite nor NaN, for which JSON has no words


def _count(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number > 0 else None


# --- the list of a day -----------------------------------------------------------------------------------------------


def _claude_schema(efforts: Iterable[str], max_tokens: int) -> dict[str, Any]:
    """Return the schema of the request fields of a Claude model from 4.6 on (kiro.md §5)."""

    def members(**properties: Any) -> dict[str, Any]:
        return {"type": "object", "properties": properties, "additionalProperties": False}

    def one_of(*values: str) -> dict[str, Any]:
        return {"type": "string", "enum": list(values)}

    return members(
        max_tokens={"type": "integer", "minimum": 1024, "maximum": max_tokens},
        output_config=members(effort=one_of(*efforts)),
        thinking=members(type=one_of("adaptive", "disabled"), display=one_of("summarized", "omitted")),
    )


_BOTH = frozenset({TEXT, IMAGE})
_ONLY_TEXT = frozenset({TEXT})
_OPUS_4_7 = _claude_schema(("low", "medium", "high", "xhigh", "max"), 128_000)
_CLAUDE_4_6 = _claude_schema(("low", "medium", "high", "max"), 64_000)

FALLBACK = Catalog(
    tuple(
        ModelInfo(model_id, name, max_input, max_output, inputs, schema, rate, cache_minimum=cache)
        for model_id, name, rate, max_input, max_output, inputs, cache, schema in (
            ("auto", "Auto", 1.0, 1_000_000, 64_000, _BOTH, 1024, None),
            ("claude-opus-4.7", "Claude Opus 4.7", 2.2, 1_000_000, 128_000, _BOTH, 4096, _OPUS_4_7),
            ("claude-opus-4.6", "Claude Opus 4.6", 2.2, 1_000_000, 64_000, _BOTH, 4096, _CLAUDE_4_6),
            ("claude-sonnet-4.6", "Claude Sonnet 4.6", 1.3, 1_000_000, 64_000, _BOTH, 1024, _CLAUDE_4_6),
            ("claude-opus-4.5", "Claude Opus 4.5", 2.2, 200_000, 64_000, _BOTH, 4096, None),
            ("claude-sonnet-4.5", "Claude Sonnet 4.5", 1.3, 200_000, 64_000, _BOTH, 1024, None),
            ("claude-sonnet-4", "Claude Sonnet 4", 1.3, 200_000, 64_000, _BOTH, 1024, None),
            ("claude-haiku-4.5", "Claude Haiku 4.5", 0.4, 200_000, 64_000, _BOTH, 4096, None),
            ("deepseek-3.2", "DeepSeek 3.2", 0.25, 164_000, 64_000, _BOTH, 0, None),
            ("minimax-m2.1", "MiniMax M2.1", 0.15, 196_000, 64_000, _BOTH, 0, None),
            ("minimax-m2.5", "MiniMax M2.5", 0.25, 196_000, None, _ONLY_TEXT, 0, None),
            ("glm-5", "GLM 5", 0.5, 200_000, None, _ONLY_TEXT, 0, None),
            ("qwen3-coder-next", "Qwen3 Coder Next", 0.05, 256_000, 64_000, _BOTH, 0, None),
        )
    )
)
"""The list as it was on FALLBACK_DATE (kiro.md §6.2)."""
