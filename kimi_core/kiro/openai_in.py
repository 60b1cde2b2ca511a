"""A chat request as a client of the OpenAI dialect sends it, read and checked.

`read` takes the bytes and gives a `ChatRequest`, with what it was read from; what is wrong with it is a BadRequest
whose `param` is the path of the field at fault (``messages[3].tool_calls[0].function.arguments``). Members that the
models below do not know are kept apart (`model_extra`): whoever translates them, or leaves them out, says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PositiveInt, Strict, StrictBool, Tag, ValidationError
from pydantic_core import ErrorDetails, from_json

from kimi_core.errors import BadRequest
from kimi_core.wire.lossless import Document

ROLES = ("system", "developer", "user", "assistant", "tool")
PARTS = ("text", "refusal", "image_url")

_BAD_ROLE, _BAD_PART, _BAD_CONTENT = "bad_role", "bad_part", "bad_content"
_SENTENCES = {
    _BAD_ROLE: f"The role of a message is one of {', '.join(ROLES)}.",
    _BAD_PART: f"Kiro takes content parts of the types {', '.join(PARTS)}; this one is none of them.",
    _BAD_CONTENT: "The content of a message is a string or a list of parts.",
    "missing": "A field is missing here.",
}
_WITHIN = {_BAD_ROLE: ".role", _BAD_PART: ".type"}  # the member at fault, where the loc of the error ends above it


def _tag(value: str) -> Tag:
    return Tag(f"<{value}>")  # in the loc of an error this cannot be taken for a key


def _kind_of(key: str, known: Sequence[str]) -> Any:
    def kind(value: Any) -> str | None:
        found = value.get(key) if isinstance(value, dict) else None
        return f"<{found}>" if found in known else None

    return kind


def _shape(value: Any) -> str | None:
    return "<string>" if isinstance(value, str) else "<list>" if isinstance(value, list) else None


class _Part(BaseModel):
    """Something of a request; members that are not named here are kept in `model_extra`."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)


class TextPart(_Part):
    """Text of a message."""

    type: Literal["text"]
    text: str


class RefusalPart(_Part):
    """What the assistant said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


class ImageUrl(_Part):
    """Where an image is."""

    url: str


class ImagePart(_Part):
    """An image; some clients give its address without the object around it."""

    type: Literal["image_url"]
    image_url: Annotated[
        Annotated[str, _tag("string")] | Annotated[ImageUrl, _tag("object")],
        Discriminator(lambda value: "<string>" if isinstance(value, str) else "<object>"),
    ]


type Part = Annotated[
    Annotated[TextPart, _tag("text")]
    | Annotated[RefusalPart, _tag("refusal")]
    | Annotated[ImagePart, _tag("image_url")],
    Discriminator(_kind_of("type", PARTS), custom_error_type=_BAD_PART, custom_error_message=_SENTENCES[_BAD_PART]),
]
type Content = Annotated[
    Annotated[str, _tag("string")] | Annotated[list[Part], _tag("list")],
    Discriminator(_shape, custom_error_type=_BAD_CONTENT, custom_error_message=_SENTENCES[_BAD_CONTENT]),
]


class SystemMessage(_Part):
    """What the operator says."""

    role: Literal["system", "developer"]
    content: Content


class UserMessage(_Part):
    """What the user says."""

    role: Literal["user"]
    content: Content


class FunctionCall(_Part):
    """Name and arguments of a call; `arguments` is JSON text."""

    name: str
    arguments: str


class ToolCall(_Part):
    """A call that the assistant made."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class AssistantMessage(_Part):
    """What the assistant said and called. `prefix` and `partial` ask for a continuation of this very message."""

    role: Literal["assistant"]
    content: Content | None = None
    tool_calls: list[ToolCall] | None = None
    refusal: str | None = None
    audio: Any = None
    function_call: Any = None
    prefix: bool | None = None
    partial: bool | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None


class ToolMessage(_Part):
    """The result of a call. `is_error` is no field of OpenAI's, but some clients send it."""

    role: Literal["tool"]
    tool_call_id: str
    content: Content
    name: str | None = None
    is_error: bool | None = None


type Message = Annotated[
    Annotated[SystemMessage, _tag("system")]
    | Annotated[SystemMessage, _tag("developer")]
    | Annotated[UserMessage, _tag("user")]
    | Annotated[AssistantMessage, _tag("assistant")]
    | Annotated[ToolMessage, _tag("tool")],
    Discriminator(_kind_of("role", ROLES), custom_error_type=_BAD_ROLE, custom_error_message=_SENTENCES[_BAD_ROLE]),
]


class FunctionSpec(_Part):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Part):
    """A tool; Kiro knows functions alone."""

    type: Literal["function"] = "function"
    function: FunctionSpec


class StreamOptions(_Part):
    """What a stream should hold."""

    include_usage: bool | None = None


type _Count = Annotated[PositiveInt, Strict()]


class ChatRequest(_Part):
    """The whole request."""

    model: Annotated[str, Field(min_length=1)]
    messages: Annotated[list[Message], Field(min_length=1)]
    tools: list[Tool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: StrictBool | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    stop: Any = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    response_format: Any = None


class Received(NamedTuple):
    """A request as it came: `values` is the decoded body, for those who look for more than the models hold.

    `mended`: lone surrogates were replaced by U+FFFD.
    """

    request: ChatRequest
    values: dict[str, Any]
    mended: bool = False


def read(body: bytes) -> Received:
    """Return the request in *body*. Raises BadRequest, with the path of the field at fault where there is one."""
    values, mended = _decode(body)
    try:
        request = ChatRequest.model_validate(values)
    except ValidationError as error:
        raise _explained(error.errors(include_url=False, include_context=False)[0]) from None
    return Received(request, values, mended)


def _decode(body: bytes) -> tuple[dict[str, Any], bool]:
    try:
        values = from_json(body, allow_inf_nan=False)
    except ValueError:
        values = Document(body).values  # the patient reader; what it does not take it explains
        clean = well_formed(values)
        return clean, clean != values
    if not isinstance(values, dict):
        raise BadRequest("The request body is JSON, but not an object.")
    return values, False


def well_formed(value: Any) -> Any:
    """Return *value* with lone surrogates replaced by U+FFFD: half a character cannot be sent as UTF-8."""
    match value:
        case str():
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        case dict():
            return {well_formed(key): well_formed(item) for key, item in value.items()}
        case list():
            return [well_formed(item) for item in value]
        case _:
            return value


def is_finite(value: Any) -> bool:
    """Tell whether every number in *value* can be written as JSON."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, float) and not math.isfinite(item):
            return False
    return True


def _explained(error: ErrorDetails) -> BadRequest:
    """Return the first thing that pydantic found as a sentence and a path."""
    kind, place = error["type"], path(step for step in error["loc"] if not _is_tag(step))
    if kind in _WITHIN and not isinstance(error["input"], dict):
        return BadRequest("An object is wanted here.", place)
    return BadRequest(_SENTENCES.get(kind) or error["msg"].rstrip(".") + ".", place + _WITHIN.get(kind, ""))


def _is_tag(step: object) -> bool:
    return isinstance(step, str) and step.startswith("<")


def path(steps: Iterable[int | str]) -> str:
    """Return the path of a field as clients write it: ``messages[3].content[0].text``."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")
