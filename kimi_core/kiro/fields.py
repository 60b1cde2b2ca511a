"""The fields of a chat request that stand beside its messages and tools: what they mean to Kiro (kiro.md §4.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from kimi_core.errors import BadRequest
from kimi_core.kiro import openai_in
from kimi_core.kiro.catalog import ModelInfo
from kimi_core.kiro.openai_in import ChatRequest
from kimi_core.wire.lossless import dump

MAX_IGNORED = 32  # names of fields that are listed; they go into a response header
MAX_IGNORED_NAME = 64  # characters of one of them
MOST_TOKENS = 10**9  # where a model with a field for the limit names no greatest one

JSON_HINT = "Answer with one JSON object and nothing else: no text before or after it, and no code fence around it."

type ResponseFormat = Literal["text", "json_object", "json_schema"]

REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "n": ((None, 1), "Kiro gives one answer; n is 1."),
    "logprobs": ((None, False), "Kiro gives no log probabilities."),
    "top_logprobs": ((None, 0), "Kiro gives no log probabilities."),
    "service_tier": ((None, "auto", "default"), "Kiro has no service tiers."),
    "modalities": ((None, [], ["text"]), "Kiro answers in text only."),
    "audio": ((None,), "Kiro answers in text only."),
    "web_search_options": ((None,), "Kiro searches the web for no client."),
    "functions": ((None, []), "functions is the old form; send tools."),
    "function_call": ((None, "auto", "none"), "function_call is the old form; send tool_choice."),
}
"""Field -> the values that ask for nothing, and what is said to all others."""

# fields that have an effect: on the thinking (effort.asked) and on the id of the conversation (given by the caller)
_USED = frozenset(
    {"reasoning_effort", "reasoning", "reasoningEffort", "thinking", "enable_thinking"}
    | {"user", "metadata", "prompt_cache_key", "promptCacheKey"}
)
_MEMBERS = {
    "reasoning": {"effort", "enabled"},
    "thinking": {"type", "effort"},
}  # of fields in use, those that are looked at
_FORMS = {"thinking": dict, "enable_thinking": bool}  # of fields in use, what is understood
_PENALTIES = frozenset({"presence_penalty", "frequency_penalty"})  # of 0 they ask for nothing; a temperature of 0 does
_unsafe = re.compile(r"[^A-Za-z0-9_.\[\]-]")


def unused(request: ChatRequest) -> Iterator[str]:
    """Yield the paths of the fields that have no effect. Raises BadRequest for one that Kiro has nothing for."""
    yield from _beside(request.model_extra or {})
    if request.parallel_tool_calls is False:
        yield "parallel_tool_calls"
    messages, tools = request.messages, request.tools or ()
    parts = [part for message in messages if isinstance(message.content, list) for part in message.content]
    images = [part.image_url for part in parts if isinstance(part, openai_in.ImagePart)]
    said = [message for message in messages if isinstance(message, openai_in.AssistantMessage)]
    for place, things in (
        ("stream_options", [request.stream_options] if request.stream_options else []),
        ("tools[]", tools),
        ("tools[].function", [tool.function for tool in tools]),
        ("messages[]", messages),
        ("messages[].content[]", parts),
        ("messages[].content[].image_url", [url for url in images if isinstance(url, openai_in.ImageUrl)]),
        ("messages[].tool_calls[]", [call for message in said for call in message.tool_calls or ()]),
    ):
        for thing in things:
            if extra := thing.__pydantic_extra__:  # `model_extra`, without a call for each of thousands
                yield from (f"{place}.{name}" for name, value in extra.items() if not _harmless(name, value))


def _beside(extra: Mapping[str, Any]) -> Iterator[str]:
    for name, value in extra.items():
        if name in REFUSED:
            harmless, sentence = REFUSED[name]
            if value not in harmless:
                raise BadRequest(sentence, name)
        elif name not in _USED and not _harmless(name, value):
            yield name
        elif name in _MEMBERS and isinstance(value, dict):
            yield from (f"{name}.{key}" for key in value if key not in _MEMBERS[name])
        elif name in _FORMS and not (isinstance(value, _FORMS[name]) or _harmless(name, value)):
            yield name


def _harmless(name: str, value: Any) -> bool:
    """Tell whether *value* asks for nothing: null, false, auto, or no penalty."""
    return value is None or value is False or value == "auto" or (name in _PENALTIES and value == 0)


def listed(names: Iterable[str]) -> tuple[str, ...]:
    """Return *names*, each once, as they may stand in a header: their number and their length are bounded."""
    safe = list(dict.fromkeys(_unsafe.sub("?", name)[:MAX_IGNORED_NAME] for name in names))
    more = len(safe) - MAX_IGNORED
    return (*safe[:MAX_IGNORED], f"and-{more}-more") if more > 0 else tuple(safe)


def stop_words(value: Any) -> tuple[str, ...]:
    """Return the stop sequences of ``stop``. Raises BadRequest."""
    words = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise BadRequest("stop is a string or a list of strings.", "stop")
    return tuple(filter(None, words))


def response_format(value: Any) -> tuple[ResponseFormat, str | None]:
    """Return the kind of answer that is wanted, and the words that ask for it. Raises BadRequest."""
    match value:
        case None | {"type": "text"}:
            return "text", None
        case {"type": "json_object"}:
            return "json_object", JSON_HINT
        case {"type": "json_schema", "json_schema": {"schema": dict(schema), **rest}}:
            if rest.get("strict"):
                raise BadRequest(
                    "Kiro cannot be held to a schema. Send strict false to have it asked for in words, or use a tool.",
                    "response_format.json_schema.strict",
                )
            if not openai_in.is_finite(schema):
                raise BadRequest("A number is too large.", "response_format.json_schema.schema")
            return "json_schema", f"{JSON_HINT} It has to be valid by this JSON schema:\n{dump(schema)}"
        case {"type": "json_schema"}:
            raise BadRequest("The schema is missing.", "response_format.json_schema.schema")
    raise BadRequest("response_format is text, json_object or json_schema.", "response_format")


def max_tokens_bounds(model: ModelInfo | None) -> tuple[int, int] | None:
    """Return the least and the most that the model's own max_tokens takes, None where it has none."""
    schema = model.effort_schema if model else None
    properties = schema.get("properties") if schema else None
    found = properties.get("max_tokens") if isinstance(properties, Mapping) else None
    if not isinstance(found, Mapping):
        return None
    low, high = _bound(found, "minimum", 1), _bound(found, "maximum", MOST_TOKENS)
    return (low, high) if low is not None and high is not None and low <= high else None


def _bound(schema: Mapping[str, Any], name: str, otherwise: int) -> int | None:
    """Return a bound of *schema*, *otherwise* where it has none, and None for what is no number of tokens."""
    found = schema.get(name, otherwise)
    usual = isinstance(found, int | float) and not isinstance(found, bool) and 1 <= found <= MOST_TOKENS
    return int(found) if usual else None
