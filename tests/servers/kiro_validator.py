"""What Kiro accepts as a conversation, written from kiro.md §3.4–§3.7 alone: no code of the program's own is used.

`violations(body)` says in words what is wrong with a request body, each with the path of the part at fault; nothing
means that the service would take it. `check` gives the same with the answer that the service has for each.
Where sources disagree this validator takes the strict side, so that what passes here passes everywhere.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # tool names and tool use ids
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
ARN = re.compile(r"arn:aws[\w-]*:codewhisperer:[a-z0-9-]+:\d{12}:profile/[A-Za-z0-9]+")
ORIGINS = ("KIRO_CLI", "AI_EDITOR")
IMAGE_FORMATS = ("png", "jpeg", "gif", "webp")
MAX_IMAGES = 10  # per message
MAX_IMAGE = 10 * 1024 * 1024  # bytes, decoded
MAX_DESCRIPTION = 10_240
MAX_HISTORY = 10_000
MAX_CONTENT = 600_000  # characters of a user turn's text
MAX_RESULT = 800_000  # characters of one tool result
MAX_WEIGHT = 1_300_000  # of all text: 1 for an ASCII character, 8 for any other; images weigh nothing
MAX_CWD = 256
MAX_CONTEXT = 20
MAX_CHECKPOINTS = 4
ROOT_COMBINATORS = ("oneOf", "anyOf", "allOf")


class Answer(Enum):
    """The service's words for a fault: message and reason (kiro.md §3.7)."""

    FORM = ("Improperly formed request.", None)
    BODY = ("Improperly formed request.", "REQUEST_BODY_INVALID")
    SEQUENCE = ("Invalid message sequence", None)
    TOOL_USE = ("Invalid tool use format.", None)
    ORPHAN = ("unexpected tool_use_id found in tool_result blocks", None)
    LENGTH = ("Input is too long.", "CONTENT_LENGTH_EXCEEDS_THRESHOLD")
    IMAGE = ("The model you selected doesn't support the image content block.", "IMAGE_FORMAT_UNSUPPORTED")
    MODEL = ("Invalid model. Please select a different model to continue.", "INVALID_MODEL_ID")


@dataclass(frozen=True, slots=True)
class Violation:
    path: str
    what: str
    answer: Answer = Answer.FORM

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a catalog says of its models: those that take text only, and the schemas of their extra fields.

    `models` None: any model id passes. A model without a schema takes no extra fields at all.
    """

    models: frozenset[str] | None = None
    text_only: frozenset[str] = frozenset({"minimax-m2.5", "glm-5"})
    schemas: Mapping[str, Mapping[str, Any]] | None = field(default=None)

    @classmethod
    def of(cls, models: Sequence[Mapping[str, Any]]) -> "Rules":
        """Return the rules of a ListAvailableModels answer's `models`."""
        return cls(
            frozenset(model["modelId"] for model in models),
            frozenset(model["modelId"] for model in models if "IMAGE" not in model["supportedInputTypes"]),
            {model["modelId"]: model.get("additionalModelRequestFieldsSchema", _NOTHING) for model in models},
        )


_NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
ANY_MODEL = Rules()


def violations(body: Any, rules: Rules = ANY_MODEL) -> list[str]:
    """Return what is wrong with a request body as ``path: what`` sentences; empty where it is right."""
    return [str(violation) for violation in check(body, rules)]


def check(body: Any, rules: Rules = ANY_MODEL) -> list[Violation]:
    """Return every violation of *body* with the answer of the service, in the order of the document."""
    try:
        json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        return [Violation("$", f"cannot be sent as JSON: {error}", Answer.BODY)]
    return list(_body(body, rules))


def _body(body: Any, rules: Rules) -> Iterator[Violation]:
    wrong = list(_members(body, "$", {"conversationState": dict}, _TOP))
    state = body.get("conversationState") if isinstance(body, dict) else None
    if wrong or not isinstance(state, dict):
        yield from wrong
        return
    yield from _matches(body, "profileArn", "$", ARN)
    yield from _one_of(body, "agentMode", "$", ("vibe", "spec"))
    shape = list(_state(state))
    yield from shape
    if shape:
        return  # what follows compares turns, and takes their shapes for granted
    turns = [*state.get("history", []), state["currentMessage"]]
    yield from _sequence(turns)
    yield from _pairing(turns)
    yield from _known_tools(turns)
    yield from _origins(turns)
    yield from _checkpoints(turns)
    yield from _model(body, turns, rules)
    if (weight := _weight(state)) > MAX_WEIGHT:
        yield Violation("$", f"the text weighs {weight} of {MAX_WEIGHT}", Answer.LENGTH)


# --- shapes ----------------------------------------------------------------------------------------------------------

type Kinds = Mapping[str, type | tuple[type, ...]]

_TOP: Kinds = {"profileArn": str, "additionalModelRequestFields": dict, "agentMode": str}
_STATE: Kinds = {
    "conversationId": str,
    "workspaceId": str,
    "agentContinuationId": str,
    "agentTaskType": str,
    "customizationArn": str,
    "history": list,
}
_USER: Kinds = {
    "modelId": str,
    "images": list,
    "userIntent": str,
    "cachePoint": dict,
    "clientCacheConfig": dict,
    "userInputMessageContext": dict,
}
_CONTEXT: Kinds = {
    "envState": dict,
    "tools": list,
    "toolResults": list,
    "editorState": dict,
    "additionalContext": list,
}
_ASSISTANT: Kinds = {"messageId": str, "toolUses": list, "reasoningContent": dict, "cachePoint": dict}


def _members(value: Any, path: str, needed: Kinds, optional: Kinds | None = None) -> Iterator[Violation]:
    """Check that *value* is an object that has all of *needed*, nothing but these and *optional*, of their kinds."""
    if not isinstance(value, dict):
        yield Violation(path, "is no object", Answer.BODY)
        return
    known = {**needed, **(optional or {})}
    for name in needed:
        if name not in value:
            yield Violation(f"{path}.{name}", "is missing", Answer.BODY)
    for name, member in value.items():
        if name not in known:
            yield Violation(f"{path}.{name}", "is no member of this object", Answer.BODY)
        elif not isinstance(member, known[name]) or (isinstance(member, bool) and known[name] is not bool):
            yield Violation(f"{path}.{name}", f"has the wrong type {type(member).__name__}", Answer.BODY)


def _one_of(value: Mapping[str, Any], name: str, path: str, allowed: Sequence[str]) -> Iterator[Violation]:
    if name in value and value[name] not in allowed:
        yield Violation(f"{path}.{name}", f"{value[name]!r} is none of {', '.join(allowed)}", Answer.BODY)


def _matches(value: Mapping[str, Any], name: str, path: str, pattern: re.Pattern[str]) -> Iterator[Violation]:
    if name in value and not pattern.fullmatch(value[name]):
        yield Violation(f"{path}.{name}", f"{value[name]!r} does not match {pattern.pattern}")


def _state(state: dict[str, Any]) -> Iterator[Violation]:
    path = "conversationState"
    needed: Kinds = {"chatTriggerType": str, "currentMessage": dict}
    wrong = list(_members(state, path, needed, _STATE))
    if wrong:
        yield from wrong
        return
    if "conversationId" in state and not 1 <= len(state["conversationId"]) <= 128:
        yield Violation(f"{path}.conversationId", "has not 1 to 128 characters")
    yield from _matches(state, "workspaceId", path, UUID)
    yield from _matches(state, "agentContinuationId", path, UUID)
    yield from _one_of(state, "chatTriggerType", path, ("MANUAL", "DIAGNOSTIC", "INLINE_CHAT"))
    yield from _one_of(state, "agentTaskType", path, ("vibe", "spectask"))
    history = state.get("history", [])
    if len(history) > MAX_HISTORY:
        yield Violation(f"{path}.history", f"has more than {MAX_HISTORY} messages")
    for number, turn in enumerate(history):
        yield from _turn(turn, f"{path}.history[{number}]")
    current = f"{path}.currentMessage"
    yield from _members(state["currentMessage"], current, {"userInputMessage": dict})
    if isinstance(user := state["currentMessage"].get("userInputMessage"), dict):
        yield from _user(user, f"{current}.userInputMessage")


def _turn(turn: Any, path: str) -> Iterator[Violation]:
    kinds: Kinds = {"userInputMessage": dict, "assistantResponseMessage": dict}
    wrong = list(_members(turn, path, {}, kinds))
    if not wrong and len(turn) != 1:
        wrong.append(Violation(path, "is not exactly one of a user and an assistant message", Answer.BODY))
    if wrong:
        yield from wrong
        return
    ((role, message),) = turn.items()
    shape = _user if role == "userInputMessage" else _assistant
    yield from shape(message, f"{path}.{role}")


def _user(message: dict[str, Any], path: str) -> Iterator[Violation]:
    wrong = list(_members(message, path, {"content": str, "origin": str}, _USER))
    if wrong:
        yield from wrong
        return
    context = message.get("userInputMessageContext", {})
    yield from _one_of(message, "origin", path, ORIGINS)
    if message.get("modelId") == "":
        yield Violation(f"{path}.modelId", "is empty")
    if not message["content"] and not context.get("toolResults"):
        yield Violation(f"{path}.content", "is empty though there are no tool results")
    if len(message["content"]) > MAX_CONTENT:
        yield Violation(f"{path}.content", f"has more than {MAX_CONTENT} characters", Answer.LENGTH)
    yield from _cache_point(message, path)
    images = message.get("images", [])
    if len(images) > MAX_IMAGES:
        yield Violation(f"{path}.images", f"are more than {MAX_IMAGES}")
    for number, image in enumerate(images):
        yield from _image(image, f"{path}.images[{number}]")
    yield from _context(context, f"{path}.userInputMessageContext")


def _cache_point(message: Mapping[str, Any], path: str) -> Iterator[Violation]:
    if "cachePoint" in message and message["cachePoint"] != {"type": "default"}:
        yield Violation(f"{path}.cachePoint", 'is not {"type": "default"}', Answer.BODY)


def _image(image: Any, path: str) -> Iterator[Violation]:
    wrong = list(_members(image, path, {"format": str, "source": dict}))
    if not wrong:
        wrong = list(_members(image["source"], f"{path}.source", {"bytes": str}))
    if wrong:
        yield from wrong
        return
    yield from _one_of(image, "format", path, IMAGE_FORMATS)
    size = _decoded(image["source"]["bytes"])
    if not size or size > MAX_IMAGE:
        yield Violation(f"{path}.source.bytes", f"is no base64 of 1 to {MAX_IMAGE} bytes")


def _decoded(text: str) -> int:
    """Return how many bytes *text* holds as base64; 0 where it is none."""
    try:
        return len(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return 0


def _context(context: dict[str, Any], path: str) -> Iterator[Violation]:
    wrong = list(_members(context, path, {}, _CONTEXT))
    if wrong:
        yield from wrong
        return
    env: Kinds = {"operatingSystem": str, "currentWorkingDirectory": str}
    yield from _members(context.get("envState", {}), f"{path}.envState", {}, env)
    if len(str(context.get("envState", {}).get("currentWorkingDirectory", ""))) > MAX_CWD:
        yield Violation(f"{path}.envState.currentWorkingDirectory", f"has more than {MAX_CWD} characters")
    if len(context.get("additionalContext", [])) > MAX_CONTEXT:
        yield Violation(f"{path}.additionalContext", f"has more than {MAX_CONTEXT} entries")
    names: set[str] = set()
    for number, tool in enumerate(context.get("tools", [])):
        yield from _tool(tool, f"{path}.tools[{number}]", names)
    for number, result in enumerate(context.get("toolResults", [])):
        yield from _result(result, f"{path}.toolResults[{number}]")


def _tool(tool: Any, path: str, names: set[str]) -> Iterator[Violation]:
    if isinstance(tool, dict) and set(tool) == {"cachePoint"}:
        yield from _cache_point(tool, path)
        return
    wrong = list(_members(tool, path, {"toolSpecification": dict}))
    path = f"{path}.toolSpecification"
    kinds: Kinds = {"name": str, "description": str, "inputSchema": dict}
    spec = None if wrong else tool["toolSpecification"]
    wrong = wrong or list(_members(spec, path, kinds))
    wrong = wrong or list(_members(spec["inputSchema"], f"{path}.inputSchema", {"json": dict}))
    if wrong:
        yield from wrong
        return
    yield from _matches(spec, "name", path, NAME)
    if spec["name"] in names:
        yield Violation(f"{path}.name", f"{spec['name']!r} is there twice")
    names.add(spec["name"])
    if not 1 <= len(spec["description"]) <= MAX_DESCRIPTION or not spec["description"].strip():
        yield Violation(f"{path}.description", f"has not 1 to {MAX_DESCRIPTION} characters")
    schema = spec["inputSchema"]["json"]
    if schema.get("type") != "object":
        yield Violation(f"{path}.inputSchema.json.type", "is not object")
    for name in ROOT_COMBINATORS:
        if name in schema:
            yield Violation(f"{path}.inputSchema.json.{name}", "stands at the root")
    yield from _schema(schema, f"{path}.inputSchema.json")


_SCHEMA_MAPS = ("properties", "$defs", "definitions")
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMA_ONES = ("items", "additionalProperties", "not")


def _schema(schema: Any, path: str) -> Iterator[Violation]:
    """Check the keywords of a schema and of the schemas within; names of properties are no keywords."""
    if not isinstance(schema, dict):
        return
    if "$schema" in schema:
        yield Violation(f"{path}.$schema", "is not taken")
    if "required" in schema and not (isinstance(schema["required"], list) and schema["required"]):
        yield Violation(f"{path}.required", "is no list of names")
    for name in _SCHEMA_MAPS:
        if name in schema and not isinstance(schema[name], dict):
            yield Violation(f"{path}.{name}", "is no object")
        for key, value in schema[name].items() if isinstance(schema.get(name), dict) else ():
            yield from _schema(value, f"{path}.{name}.{key}")
    for name in _SCHEMA_LISTS:
        for number, value in enumerate(schema[name] if isinstance(schema.get(name), list) else ()):
            yield from _schema(value, f"{path}.{name}[{number}]")
    for name in _SCHEMA_ONES:
        yield from _schema(schema.get(name), f"{path}.{name}")


def _result(result: Any, path: str) -> Iterator[Violation]:
    wrong = list(_members(result, path, {"toolUseId": str, "content": list, "status": str}))
    if wrong:
        yield from wrong
        return
    yield from _matches(result, "toolUseId", path, NAME)
    yield from _one_of(result, "status", path, ("success", "error"))
    for number, item in enumerate(result["content"]):
        kinds: Kinds = {"text": str, "json": (dict, list)}
        yield from _members(item, f"{path}.content[{number}]", {}, kinds)
        if not isinstance(item, dict) or len(item) != 1:
            yield Violation(f"{path}.content[{number}]", "is not exactly one of text and json", Answer.BODY)
    if sum(_characters(item) for item in result["content"]) > MAX_RESULT:
        yield Violation(f"{path}.content", f"has more than {MAX_RESULT} characters", Answer.LENGTH)


def _assistant(message: dict[str, Any], path: str) -> Iterator[Violation]:
    wrong = list(_members(message, path, {"content": str}, _ASSISTANT))
    if wrong:
        yield from wrong
        return
    if not message["content"] and not message.get("toolUses"):
        yield Violation(f"{path}.content", "is empty though there are no tool uses")
    yield from _cache_point(message, path)
    for number, use in enumerate(message.get("toolUses", [])):
        where = f"{path}.toolUses[{number}]"
        shape = list(_members(use, where, {"toolUseId": str, "name": str, "input": dict}))
        yield from shape
        if not shape:
            yield from _matches(use, "toolUseId", where, NAME)
            yield from _matches(use, "name", where, NAME)
    if "reasoningContent" in message:
        yield from _reasoning(message["reasoningContent"], f"{path}.reasoningContent")


def _reasoning(reasoning: dict[str, Any], path: str) -> Iterator[Violation]:
    kinds: Kinds = {"reasoningText": dict, "redactedContent": str}
    wrong = list(_members(reasoning, path, {}, kinds))
    if not wrong and len(reasoning) != 1:
        wrong.append(Violation(path, "is not exactly one of reasoningText and redactedContent", Answer.BODY))
    yield from wrong
    if not wrong and "reasoningText" in reasoning:
        yield from _members(reasoning["reasoningText"], f"{path}.reasoningText", {"text": str}, {"signature": str})
    elif not wrong and not _decoded(reasoning["redactedContent"]):
        yield Violation(f"{path}.redactedContent", "is no base64")


# --- turns -----------------------------------------------------------------------------------------------------------


def _role(turn: Mapping[str, Any]) -> str:
    return "user" if "userInputMessage" in turn else "assistant"


def _path(number: int, turns: Sequence[Any]) -> str:
    return f"conversationState.{'currentMessage' if number == len(turns) - 1 else f'history[{number}]'}"


def _sequence(turns: Sequence[Any]) -> Iterator[Violation]:
    """Turns begin with the user and alternate; as currentMessage is the user's, history ends with the assistant."""
    for number, turn in enumerate(turns):
        wanted = "assistant" if number % 2 else "user"
        if _role(turn) != wanted:
            yield Violation(
                _path(number, turns), f"is a turn of the {_role(turn)}, not of the {wanted}", Answer.SEQUENCE
            )
            return


def _uses(turn: Mapping[str, Any]) -> list[dict[str, Any]]:
    return turn.get("assistantResponseMessage", {}).get("toolUses", [])


def _in_context(turn: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return turn.get("userInputMessage", {}).get("userInputMessageContext", {}).get(name, [])


def _pairing(turns: Sequence[Any]) -> Iterator[Violation]:
    """Every tool use has its result in the next turn, in the same order, and no result stands alone."""
    seen: set[str] = set()
    open_uses: list[str] = []
    for number, turn in enumerate(turns):
        results = [result["toolUseId"] for result in _in_context(turn, "toolResults")]
        for orphan in (result for result in results if result not in open_uses):
            yield Violation(_path(number, turns), f"tool result {orphan!r} answers no tool use", Answer.ORPHAN)
        if len(set(results)) != len(results):
            yield Violation(_path(number, turns), "a tool use has two results", Answer.TOOL_USE)
        for missing in (use for use in open_uses if use not in results):
            yield Violation(_path(number, turns), f"tool use {missing!r} has no result", Answer.TOOL_USE)
        if sorted(results) == sorted(open_uses) and results != open_uses:
            yield Violation(_path(number, turns), "tool results stand in another order than tool uses", Answer.TOOL_USE)
        open_uses = [use["toolUseId"] for use in _uses(turn)]
        for use in open_uses:
            if use in seen:
                yield Violation(_path(number, turns), f"tool use id {use!r} is there twice", Answer.TOOL_USE)
            seen.add(use)


def _known_tools(turns: Sequence[Any]) -> Iterator[Violation]:
    known = {tool["toolSpecification"]["name"] for tool in _in_context(turns[-1], "tools") if "cachePoint" not in tool}
    for number, turn in enumerate(turns):
        for name in dict.fromkeys(use["name"] for use in _uses(turn)):
            if name not in known:
                yield Violation(_path(number, turns), f"tool {name!r} is not among the current tools")


def _origins(turns: Sequence[Any]) -> Iterator[Violation]:
    origins = {turn["userInputMessage"]["origin"] for turn in turns if _role(turn) == "user"}
    if len(origins) > 1:
        yield Violation("conversationState", f"has several origins: {', '.join(sorted(origins))}")


def _checkpoints(turns: Sequence[Any]) -> Iterator[Violation]:
    messages = [message for turn in turns for message in turn.values()]
    tools = [tool for turn in turns for tool in _in_context(turn, "tools")]
    if sum("cachePoint" in part for part in [*messages, *tools]) > MAX_CHECKPOINTS:
        yield Violation("conversationState", f"has more than {MAX_CHECKPOINTS} cache points")


def _model(body: Mapping[str, Any], turns: Sequence[Any], rules: Rules) -> Iterator[Violation]:
    model = turns[-1]["userInputMessage"].get("modelId", "auto")
    path = "conversationState.currentMessage.userInputMessage.modelId"
    if rules.models is not None and model not in rules.models:
        yield Violation(path, f"{model!r} is not in the catalog", Answer.MODEL)
        return
    if model in rules.text_only and any(turn.get("userInputMessage", {}).get("images") for turn in turns):
        yield Violation(path, f"{model!r} takes no images", Answer.IMAGE)
    fields = body.get("additionalModelRequestFields", {})
    if rules.schemas is not None:
        yield from _fits(fields, rules.schemas[model], "$.additionalModelRequestFields")


_JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


def _fits(value: Any, schema: Mapping[str, Any], path: str) -> Iterator[Violation]:
    """Check *value* against the few keywords that the catalog's schemas use."""
    kind = _JSON_TYPES.get(schema.get("type", ""), object)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind not in {bool, object}):
        yield Violation(path, f"is no {schema['type']}")
        return
    if "enum" in schema and value not in schema["enum"]:
        yield Violation(path, f"{value!r} is none of {schema['enum']}")
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield Violation(path, f"{value} is out of range")
    if not isinstance(value, dict):
        return
    for name in schema.get("required", []):
        if name not in value:
            yield Violation(f"{path}.{name}", "is missing")
    for name, member in value.items():
        if name in schema.get("properties", {}):
            yield from _fits(member, schema["properties"][name], f"{path}.{name}")
        elif schema.get("additionalProperties") is False:
            yield Violation(f"{path}.{name}", "is not taken by this model")


# --- size ------------------------------------------------------------------------------------------------------------


def _characters(value: Any) -> int:
    return len(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _weight(value: Any, name: str = "") -> int:
    """Return the weight of all strings in *value*; what images hold is not counted."""
    if name == "images":
        return 0
    if isinstance(value, dict):
        return sum(len(key) + _weight(member, key) for key, member in value.items())
    if isinstance(value, list):
        return sum(_weight(member) for member in value)
    if isinstance(value, str):
        return len(value) if value.isascii() else sum(1 if char < "\x80" else 8 for char in value)
    return len(json.dumps(value))
