"""The lines a client needs to use Kiro through the proxy: opencode's provider block, shell variables, SDKs. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from kimi_core.blocks.place import (
    NPM_PACKAGE,
    OPENCODE_SCHEMA,
    Block,
    Place,
    curl,
    dump,
    key_notes,
    openai,
    opencode_key,
    shell,
)
from kimi_core.kiro import effort
from kimi_core.kiro.catalog import Catalog, ModelInfo
from kimi_core.kiro.models import modalities

PROVIDER_ID = "kiro"
PROVIDER_NAME = "Kiro"
BLOCK_NAMES = ("opencode", "opencode-v2", "shell", "openai", "curl")
AGENT = "kiro"
AGENT_MODELS = ("claude-opus-4.6", "claude-opus-4.7", "claude-sonnet-4.6")  # the first that the plan has
OFF = "off"  # first: opencode takes the first variant of a model for the title of a session, whatever was chosen
DEFAULT_OUTPUT = 64_000  # tokens: what nearly every model of the service lists (kiro.md §6.2)
_DOT = re.compile(r"(?<=\d)\.(?=\d)")


def blocks(catalog: Catalog, place: Place, output_limit: int | None = None) -> tuple[Block, ...]:
    """Return every block for the models of *catalog*; *output_limit* in tokens lowers what models list."""
    models = catalog.models
    other_way = f"With HTTPS_PROXY set as below: put {place.api_base} in place of {place.local_base}."
    notes = (*((other_way,) if place.local is None else ()), *key_notes(place))
    chosen = agent_model(models) or catalog.default
    return (
        Block(
            "opencode",
            "opencode: into ~/.config/opencode/opencode.json",
            dump(opencode(models, place, output_limit)),
            "json",
            notes,
        ),
        Block(
            "opencode-v2",
            "opencode 2: the same in its own syntax (it reads the block above as well)",
            dump(opencode_v2(models, place, output_limit)),
            "json",
            notes,
        ),
        shell(place, "Kiro"),
        openai(place, chosen),
        curl(place, chosen),
    )


def client_id(model_id: str) -> str:
    """Return the name under which opencode sees a model: Claude's versions with a dash, as its other providers have it.

    The proxy takes either; everything else that shows a model shows the service's own name.
    """
    return _DOT.sub("-", model_id) if model_id.startswith("claude-") else model_id


def agent_model(models: Iterable[ModelInfo]) -> str | None:
    """Return the model for the example of an agent, None where the plan has no such model."""
    have = {model.id for model in models}
    return next((wanted for wanted in AGENT_MODELS if wanted in have), None)


def opencode(models: tuple[ModelInfo, ...], place: Place, output_limit: int | None = None) -> dict[str, Any]:
    """Return the content of ``opencode.json`` for opencode 1, with an agent that uses a Kiro model."""
    provider = {
        "npm": NPM_PACKAGE,
        "name": PROVIDER_NAME,
        "options": {"baseURL": place.base(usual=True), "apiKey": opencode_key(place)},
        "models": {client_id(model.id): _model_v1(model, output_limit) for model in models},
    }
    content: dict[str, Any] = {"$schema": OPENCODE_SCHEMA, "provider": {PROVIDER_ID: provider}}
    if chosen := agent_model(models):
        content["agent"] = {AGENT: {"mode": "primary", "model": f"{PROVIDER_ID}/{client_id(chosen)}"}}
    return content


def opencode_v2(models: tuple[ModelInfo, ...], place: Place, output_limit: int | None = None) -> dict[str, Any]:
    """Return the content of ``opencode.json`` in the syntax of opencode 2."""
    provider = {
        "name": PROVIDER_NAME,
        "package": f"aisdk:{NPM_PACKAGE}",
        "settings": {"baseURL": place.base(usual=True), "apiKey": opencode_key(place)},
        "models": {client_id(model.id): _model_v2(model, output_limit) for model in models},
    }
    return {"$schema": OPENCODE_SCHEMA, "providers": {PROVIDER_ID: provider}}


def efforts(model: ModelInfo) -> tuple[str, ...]:
    """Return the levels to offer for *model*; none where it lists none."""
    levels = effort.levels(model.effort_schema)
    return (OFF, *(level for level in levels if level != effort.OFF)) if levels else ()


def _model_v1(model: ModelInfo, output_limit: int | None) -> dict[str, Any]:
    levels, takes = efforts(model), modalities(model)
    return {
        "name": model.name or model.id,
        # without both of these opencode takes images out of the conversation before anything is sent
        "attachment": len(takes) > 1,
        "modalities": {"input": takes, "output": ["text"]},
        "reasoning": bool(levels),
        "tool_call": True,
        **_limit(model, output_limit),
        # camelCase: the AI SDK drops reasoning_effort without a word
        **({"variants": {level: {"reasoningEffort": level} for level in levels}} if levels else {}),
    }


def _model_v2(model: ModelInfo, output_limit: int | None) -> dict[str, Any]:
    levels = efforts(model)
    variants = [{"id": level, "settings": {"reasoningEffort": level}} for level in levels]
    return {
        "name": model.name or model.id,
        "capabilities": {"tools": True, "input": modalities(model), "output": ["text"]},
        **_limit(model, output_limit),
        **({"variants": variants} if levels else {}),
    }


def _limit(model: ModelInfo, wanted: int | None) -> dict[str, Any]:
    """Return a limit where the context is known: opencode takes one whole or not at all."""
    if model.max_input is None:
        return {}
    listed = model.max_output or DEFAULT_OUTPUT
    return {"limit": {"context": model.max_input, "output": min(wanted, listed) if wanted else listed}}
