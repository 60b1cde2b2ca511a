"""Translate an OpenAI chat request into Kiro's GenerateAssistantResponse (kiro.md §3.4–§3.7, §4.1, §5).

Nothing is lost without a word: what Kiro cannot express is a BadRequest that names the field, or, where the answer is
the same kind of answer without it (temperature, seed), a name in `Translated.ignored`. Nothing is trimmed.

The system text goes into a turn of its own, answered by ``OK.``, as the official client does it: the user's own words
stay as they are, whatever comes first in the history, and every conversation with the same instructions begins with
the same turns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from kimi_core.errors import BadRequest
from kimi_core.kiro import effort, fields, history, openai_in, tools
from kimi_core.kiro.catalog import ModelInfo, normalise
from kimi_core.kiro.failures import ContextExceeded
from kimi_core.kiro.history import Conversation, Recall, nothing_recalled
from kimi_core.kiro.openai_in import Received
from kimi_core.kiro.tools import ToolSet
from kimi_core.kiro.toolsets import ToolSets
from kimi_core.kiro.translated import Translated
from kimi_core.kiro.turns import AssistantTurn, Turn, UserTurn, written
from kimi_core.kiro.usage_tokens import ASCII_TOKENS, OTHER_TOKENS
from kimi_core.wire.lossless import dump

_BEYOND_ASCII = bytes(range(0x80, 0x100))
_NO_BEGINNINGS = bytes(range(0xC0))  # bytes that begin no character of two bytes or more (UTF-8)

MIB = 1024 * 1024
MILLION = 1_000_000
ACKNOWLEDGEMENT = "OK."
MAX_HISTORY = 10_000  # turns (official client)
OTHER_WEIGHT = 8  # what a character beyond ASCII weighs against the service's limit of 1.28 to 1.36 million (§3.5)

REPAIRS = {
    "duplicate-tool-dropped": "The same tool stood twice in the list.",
    "empty-message-dropped": "A message said nothing.",
    "late-system-as-user": "A system message stood among the turns; it became text of the user, in its place.",
    "max-tokens-clamped": "The limit of tokens was brought into the range that the model takes.",
    "effort-folded": "The effort is not one that the model takes; the next lower one was sent.",
    "missing-result-added": "A tool call had no result; one was added that says so.",
    "orphan-result-as-text": "A tool result answered no call of the turn before; it became text of the user.",
    "schema-keyword-dropped": "A keyword of a tool schema is one that Kiro refuses.",
    "second-result-joined": "A tool call had two results; they became one.",
    "surrogate-replaced": "Half a character, which cannot be sent, became U+FFFD.",
    "tool-description-moved": "A tool description is too long for its field; it stands in the system text.",
    "tool-name-aliased": "A tool name is not one that Kiro takes; another goes out, and the answer has the client's.",
    "tool-stub-added": "The history calls a tool that is not in the list; a stand-in was added.",
    "turn-added": "A turn of the user was added, since Kiro wants one first and last.",
}
"""What each repair means, by its stable name."""


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """The user's settings.

    `reasoning`: native = by the model's own fields, tags = by tags where it has none, off = never ask.
    `forced_tools`: what becomes of a tool_choice that forces a call: refuse it, or prompt = ask for it in words.
    `max_weight`: the heaviest text that is sent, 0 = leave it to the service, whose limit varies by model and date.
    """

    reasoning: effort.Mode = "native"
    forced_tools: tools.Forced = "refuse"
    max_weight: int = 0


def read(body: bytes) -> Received:
    """Return the request in *body*, checked in its form. Raises BadRequest."""
    return openai_in.read(body)


def translate(
    body: bytes | Received,
    *,
    model: ModelInfo | None,
    identity_origin: str,
    conversation_id: str,
    options: RequestOptions | None = None,
    recall: Recall = nothing_recalled,
    toolsets: ToolSets | None = None,
) -> Translated:
    """Return what to send for the chat request *body*, as it came or read already.

    *model* is what the catalog knows of the model asked for, None where it knows nothing; then the name goes out as
    `catalog.normalise` gives it. *identity_origin* is KIRO_CLI or AI_EDITOR. *conversation_id* is the same in every
    request of a conversation, 1 to 128 characters. *recall* knows what the model thought in earlier turns,
    *toolsets* what tools of earlier requests became.

    Raises BadRequest, whose `param` is the path of the field at fault, and ContextExceeded. Linear in the body.
    """
    try:
        received = openai_in.read(body) if isinstance(body, bytes) else body
        translation = _Translation(received, model, options or RequestOptions(), recall, toolsets)
        return translation.run(identity_origin, conversation_id)
    except RecursionError as error:
        raise BadRequest("The request body is nested too deeply.") from error


class _Translation:
    """One request under way."""

    def __init__(
        self,
        received: Received,
        model: ModelInfo | None,
        options: RequestOptions,
        recall: Recall,
        toolsets: ToolSets | None,
    ) -> None:
        self._request, self._values, self._mended = received
        self._model = model
        self._options = options
        self._recall = recall
        self._toolsets = toolsets
        self._ignored: dict[str, None] = {}
        self._repairs: defaultdict[str, int] = defaultdict(int)
        self._facts: dict[str, Any] = {}

    def run(self, origin: str, conversation_id: str) -> Translated:
        request, model = self._request, self._model
        self._ignored.update(dict.fromkeys(fields.unused(request)))
        self._repairs["surrogate-replaced"] += self._mended
        stop = fields.stop_words(request.stop)
        response_format, hint = fields.response_format(request.response_format)
        model_id = self._facts["model"] = model.id if model else normalise(request.model)
        thinking = self._effort()
        native, local = self._limit()
        conversation = history.build(request.messages, images=model is None or model.takes_images, recall=self._recall)
        names = [tool.function.name for tool in request.tools or ()]
        choice = tools.choice(request.tool_choice, names, self._options.forced_tools)
        toolset = self._tools(conversation.called(), choice.allowed)
        conversation.system += [*toolset.sections, *filter(None, (hint, thinking.tags))]
        if choice.forced:
            current = conversation.turns[-1]
            assert isinstance(current, UserTurn)
            current.texts.append(choice.sentence(toolset.names))
            self._ignore("tool_choice")
        state = self._state(conversation, toolset, origin, model_id, conversation_id)
        document = _write(state)
        weight, tokens = self._size(document, conversation)
        self._learn(conversation, toolset)
        return Translated(
            conversation=document,
            model_id=model_id,
            fields={**thinking.fields, **({"max_tokens": native} if native else {})},
            tool_aliases=toolset.names.aliases,
            stubs=toolset.stubs,
            stop=stop,
            max_tokens=local,
            ignored=fields.listed(self._ignored),
            response_format=response_format,
            thinking_tags=thinking.tags is not None,
            wants_stream=bool(request.stream),
            wants_usage=bool(request.stream and request.stream_options and request.stream_options.include_usage),
            prompt_tokens=tokens,
            weight=weight,
            facts=self._facts,
            repairs={name: count for name, count in self._repairs.items() if count},
        )

    # --- fields ------------------------------------------------------------------------------------------------------

    def _ignore(self, name: str) -> None:
        self._ignored[name] = None

    def _effort(self) -> effort.Effort:
        asked = effort.asked(self._request.model_extra or {})
        found = effort.resolve(asked, self._model.effort_schema if self._model else None, self._options.reasoning)
        if found.ignored:
            self._ignore(asked.path)
        self._repairs["effort-folded"] += found.folded
        if found.level is not None:
            self._facts["effort"] = found.level
        return found

    def _limit(self) -> tuple[int | None, int | None]:
        """Return the limit of tokens for the model's own field, and the one to enforce here."""
        asked = self._request.max_completion_tokens or self._request.max_tokens
        if asked is None:
            return None, None
        bounds = fields.max_tokens_bounds(self._model)
        if bounds is None:
            beyond = self._model is not None and self._model.max_output is not None and asked >= self._model.max_output
            return None, None if beyond else asked
        low, high = bounds
        native = max(low, min(asked, high))
        self._repairs["max-tokens-clamped"] += native != asked
        return native, asked if asked < native else None

    def _tools(self, called: Iterable[str], allowed: frozenset[str] | None) -> ToolSet:
        offered = self._request.tools or ()
        if self._toolsets is None:
            return tools.build(offered, called, allowed)
        return self._toolsets.build(self._values.get("tools"), offered, called, allowed)

    # --- the document ------------------------------------------------------------------------------------------------

    def _state(
        self, conversation: Conversation, toolset: ToolSet, origin: str, model_id: str, conversation_id: str
    ) -> dict[str, Any]:
        turns = _with_system(conversation)
        if len(turns) > MAX_HISTORY:
            raise ContextExceeded(
                f"The conversation has more than {MAX_HISTORY} turns and exceeds the maximum context length."
            )
        *past, current = [written(turn, toolset.names, origin) for turn in turns]
        message = current["userInputMessage"]
        message["modelId"] = model_id
        if toolset.specs:
            message.setdefault("userInputMessageContext", {})["tools"] = toolset.specs
        return {
            "conversationId": conversation_id,
            "chatTriggerType": "MANUAL",
            "agentTaskType": "vibe",
            "history": past,
            "currentMessage": current,
        }

    def _size(self, document: bytes, conversation: Conversation) -> tuple[int, int]:
        """Return what the text of *document* weighs, and about how many tokens it is; images are not counted."""
        images = sum(
            len(image["source"]["bytes"])
            for turn in conversation.turns
            if isinstance(turn, UserTurn)
            for image in turn.images
        )
        plain, other = len(document), 0
        if not document.isascii():
            plain = len(document.translate(None, _BEYOND_ASCII))
            other = len(document.translate(None, _NO_BEGINNINGS))
        plain -= images
        self._facts["bytes"] = len(document)
        weight, limit = plain + OTHER_WEIGHT * other, self._options.max_weight
        if limit and weight > limit:
            raise ContextExceeded(
                # no exact numbers: a client may take the 500 in one for a status, and ask again
                f"The prompt is too long: its {len(document) / MIB:.2f} MiB weigh {weight / MILLION:.2f} million and "
                f"exceed the maximum context length of {limit / MILLION:.2f} million (kiro_max_weight)."
            )
        return weight, round(plain * ASCII_TOKENS + other * OTHER_TOKENS)

    def _learn(self, conversation: Conversation, toolset: ToolSet) -> None:
        """Take over what turns and tools have to tell."""
        for repairs in (conversation.repairs, toolset.repairs):
            for name, count in repairs.items():
                self._repairs[name] += count
        for name in toolset.ignored:
            self._ignore(name)
        if conversation.reasoning_dropped:
            self._ignore("messages[].reasoning_content")
        self._facts["turns"] = len(conversation.turns)
        if len(toolset.specs) > tools.MANY_TOOLS:
            self._facts["many tools"] = len(toolset.specs)


def _with_system(conversation: Conversation) -> list[Turn]:
    """Return the turns with the system text before them."""
    turns, system = conversation.turns, conversation.system
    if not system:
        return turns
    first = turns[0]
    if isinstance(first, UserTurn) and first.says_nothing and len(turns) == 1:
        return [UserTurn(system)]
    answer: list[Turn] = [AssistantTurn([ACKNOWLEDGEMENT])] if isinstance(first, UserTurn) else []
    return [UserTurn(system), *answer, *turns]


def _write(state: dict[str, Any]) -> bytes:
    try:
        return to_json(state)
    except PydanticSerializationError:  # deeper than the fast writer goes
        return dump(state).encode()
