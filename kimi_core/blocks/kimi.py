"""The lines a client needs to use Kimi through the proxy: opencode's block, shell variables, SDK settings. Pure.

There are two ways in. A client that honours HTTPS_PROXY keeps the service's own base URL, so that its configuration
stays right without the proxy too; it must trust mitmproxy's CA. A client that takes a base URL speaks plain http to
the proxy's own port instead and needs no CA.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kimi_core.blocks.place import (
    KEY_VARIABLE,
    NPM_PACKAGE,
    OPENCODE_SCHEMA,
    PLACEHOLDER_KEY,
    Block,
    Key,
    Place,
    curl,
    dump,
    exports,
    key_notes,
    openai,
    opencode_key,
    shell,
    shell_key,
)
from kimi_core.kimi.constants import MODEL_ALIAS
from kimi_core.kimi.models import Catalog, Model

# not the id that models.dev uses for Kimi: that one belongs to logins with a static API key
PROVIDER_ID = "kimi-for-coding-oauth"
PROVIDER_NAME = "Kimi for Coding"
# `off` is first: opencode takes the first variant of a model for the title of a session, whatever was chosen
EFFORTS = ("off", "auto", "low", "medium", "high")
# which model Claude Code uses: the main one, those behind its three aliases, and that of sub-agents; where one is not
# set it asks for a model of its own, and Kimi has none of those
CLAUDE_MODELS = (
    "ANTHROPIC_MODEL",
    "ANTHROPIC_DEFAULT_OPUS_MODEL",
    "ANTHROPIC_DEFAULT_SONNET_MODEL",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    "CLAUDE_CODE_SUBAGENT_MODEL",
)
_BASE_URL, _TOKEN = "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN"
# where discovery failed: what kimi-cli assumes of a model of this name (kimi.md §4)
_ALIAS_MODEL = Model(MODEL_ALIAS, PROVIDER_NAME, reasoning=True, image_in=True, video_in=True)


def blocks(catalog: Catalog, place: Place, output_limit: int | None = None) -> tuple[Block, ...]:
    """Return every block for the models of *catalog*; an empty one gives the alias with what is known of it.

    *output_limit* in tokens puts a ``limit`` into opencode's models whose context the service tells.
    """
    models = offered(catalog)
    other_way = f"Without HTTPS_PROXY: put {place.local_base} in place of {place.api_base}."
    by_proxy = "" if place.local else ", with HTTPS_PROXY set as below"
    notes = (*((other_way,) if place.local is None else ()), *key_notes(place))
    return (
        Block(
            "opencode",
            f"opencode: into ~/.config/opencode/opencode.json{by_proxy}",
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
        shell(place, "Kimi"),
        openai(place, MODEL_ALIAS),
        Block("anthropic", "Claude Code and the Anthropic SDKs", _anthropic(place), "bash", key_notes(place)),
        Block(
            "claude-code",
            "Claude Code: into ~/.claude/settings.json",
            dump({"env": claude_code(place)}),
            "json",
            _claude_notes(place),
            on_request=True,
        ),
        curl(place, MODEL_ALIAS),
    )


BLOCK_NAMES = ("opencode", "opencode-v2", "shell", "openai", "anthropic", "claude-code", "curl")


def offered(catalog: Catalog) -> tuple[Model, ...]:
    """Return the models to offer: the alias first, with what its slug can do, then every other one."""
    slug, found = catalog.resolve(MODEL_ALIAS)
    alias = _ALIAS_MODEL if found is None else _renamed(found)
    return (alias, *(model for model in catalog.models if model.id not in (slug, MODEL_ALIAS)))


def efforts(model: Model) -> tuple[str, ...]:
    """Return the levels to offer for *model*: the common ones, then what it lists beyond; () where it cannot think."""
    if model.reasoning is False or model.thinking_type == "no":
        return ()
    return tuple(dict.fromkeys((*EFFORTS, *model.efforts)))


def opencode(models: Iterable[Model], place: Place, output_limit: int | None = None) -> dict[str, Any]:
    """Return the content of ``opencode.json`` for opencode 1."""
    provider = {
        "npm": NPM_PACKAGE,
        "name": PROVIDER_NAME,
        "options": {"baseURL": place.base(usual=False), "apiKey": opencode_key(place)},
        "models": {model.id: _model_v1(model, output_limit) for model in models},
    }
    return {"$schema": OPENCODE_SCHEMA, "provider": {PROVIDER_ID: provider}}


def opencode_v2(models: Iterable[Model], place: Place, output_limit: int | None = None) -> dict[str, Any]:
    """Return the content of ``opencode.json`` in the syntax of opencode 2.

    It differs by `providers`, `package` with its loader's prefix, `settings`, `capabilities`, and variants as a list.
    """
    provider = {
        "name": PROVIDER_NAME,
        "package": f"aisdk:{NPM_PACKAGE}",
        "settings": {"baseURL": place.base(usual=False), "apiKey": opencode_key(place)},
        "models": {model.id: _model_v2(model, output_limit) for model in models},
    }
    return {"$schema": OPENCODE_SCHEMA, "providers": {PROVIDER_ID: provider}}


def inputs(model: Model) -> list[str]:
    """Return the kinds of input that *model* takes, in opencode's words."""
    return ["text", *(["image"] if model.image_in else []), *(["video"] if model.video_in else [])]


def _renamed(model: Model) -> Model:
    fields = {name: getattr(model, name) for name in Model.__slots__}
    return Model(**fields | {"id": MODEL_ALIAS})


def _model_v1(model: Model, output_limit: int | None) -> dict[str, Any]:
    takes = inputs(model)
    return {
        "name": model.display_name or model.id,
        # without both of these opencode takes images out of the conversation before anything is sent
        "attachment": len(takes) > 1,
        "modalities": {"input": takes, "output": ["text"]},
        "reasoning": bool(efforts(model)),
        "tool_call": model.tool_use is not False,
        **_limit(model, output_limit),
        # camelCase: the AI SDK drops reasoning_effort without a word
        **({"variants": {e: {"reasoningEffort": e} for e in levels}} if (levels := efforts(model)) else {}),
    }


def _model_v2(model: Model, output_limit: int | None) -> dict[str, Any]:
    return {
        "name": model.display_name or model.id,
        "capabilities": {"tools": model.tool_use is not False, "input": inputs(model), "output": ["text"]},
        **_limit(model, output_limit),
        **(
            {"variants": [{"id": e, "settings": {"reasoningEffort": e}} for e in levels]}
            if (levels := efforts(model))
            else {}
        ),
    }


def _limit(model: Model, output: int | None) -> dict[str, Any]:
    """Only the context is known from the service, and opencode takes a limit whole or not at all."""
    if output is None or model.context_length is None:
        return {}
    return {"limit": {"context": model.context_length, "output": output}}


def _anthropic(place: Place) -> str:
    return exports(
        place,
        (_BASE_URL, _anthropic_base(place)),
        (_TOKEN, shell_key(place)),
        ("ANTHROPIC_MODEL", MODEL_ALIAS),
    )


def claude_code(place: Place) -> dict[str, str]:
    """Return the variables for the section `env` of Claude Code's settings.

    Nothing there can refer to another variable: where the proxy asks for a key, it has to come from the shell.
    """
    token = {_TOKEN: PLACEHOLDER_KEY} if place.key is Key.NONE else {}
    return {_BASE_URL: _anthropic_base(place), **token, **dict.fromkeys(CLAUDE_MODELS, MODEL_ALIAS)}


def _claude_notes(place: Place) -> tuple[str, ...]:
    if place.key is Key.NONE:
        return ()
    return (*key_notes(place), f'Claude Code takes it from the shell: export {_TOKEN}="${KEY_VARIABLE}".')


def _anthropic_base(place: Place) -> str:
    return f"{place.proxy_url}/kimi"  # the SDK adds /v1/messages
