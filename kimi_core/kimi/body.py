"""Rewrite the body of a chat request into what the identity's client would have sent (kimi.md §3).

The steps run in the order of `STEPS`; each edits the decoded body in place, and whatever no step touches goes
out as it came in, digit for digit (wire/lossless.py). They apply to every model: all that stand behind
``/coding/`` are Kimi coding models, whatever alias or list entry a client uses.

Every change is counted under a name of `REPAIRS`, but for those that every request of a client that is no official
one needs (alias, cache key, thinking fields, include_usage): they are the purpose, not a repair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kimi_core.conversation import NATIVE, PARENT_HEADER, conversation_key
from kimi_core.errors import BadRequest
from kimi_core.headers import Headers
from kimi_core.kimi import thinking
from kimi_core.kimi.estimate import estimate
from kimi_core.kimi.history import RULES, Mender
from kimi_core.kimi.memory import ReasoningMemory
from kimi_core.kimi.models import Catalog, Model
from kimi_core.kimi.tools import mend_tools
from kimi_core.wire.lossless import Document

RESERVED_TOKENS = 1024  # kimi-cli leaves as many between the estimate of the prompt and the answer (kimi.md §3.4)

# what no official client sends and what has no meaning, or another one, upstream (kimi.md §8.3)
FOREIGN_FIELDS = {
    "temperature": "the server fixes it for these models",
    "store": "an option of OpenAI's own storage",
    "metadata": "a label for OpenAI's own storage, and may name the user",
    "user": "names the user",
    "safety_identifier": "names the user",
    "service_tier": "a price class of OpenAI's",
    "seed": "sampling is fixed by the server",
    "logprobs": "not offered",
    "top_logprobs": "not offered",
    "parallel_tool_calls": "not offered; the model decides",
}

REPAIRS = {
    "duplicate-key-dropped": "A key stood twice in the request; the last one counts.",
    "max-tokens-renamed": "max_tokens became max_completion_tokens.",
    "max-tokens-dropped": "max_tokens stood beside max_completion_tokens, or was null.",
    "max-tokens-clamped": "max_completion_tokens was lowered to what is left of the context.",
    "stream-options-dropped": "stream_options stood in a request that does not stream.",
    "camel-case-dropped": "promptCacheKey, reasoningEffort or topP is a leftover of a client's provider options.",
    "thinking-field-dropped": "reasoning, enable_thinking or a part of thinking was said in the dialect in use.",
    "effort-folded": "The effort is not one that the model takes; the next higher one was sent.",
    "effort-not-sent": "The dialect in use, or the model, knows no effort; thinking is on.",
    "thinking-kept-on": "The model cannot stop thinking; the lowest effort was sent for off.",
    "thinking-unsupported": "The model cannot think; no effort was sent.",
    "tool-choice-dropped": "tool_choice auto is what upstream does without it.",
    "cache-control-dropped": "cache_control belongs to another API.",
    "schema-repaired": "A tool schema had a reference, a missing type or a wrong one.",
    "builtin-tool": "A tool whose name begins with $ became a builtin_function.",
    "duplicate-tool-dropped": "The same tool stood twice in the list.",
    "empty-message-dropped": "An assistant message said nothing.",
    "empty-content-dropped": "Empty content stood beside tool calls or reasoning.",
    "empty-part-dropped": "A text part was empty.",
    "empty-tool-calls-dropped": "An empty list of tool calls.",
    "reasoning-renamed": "reasoning became reasoning_content.",
    "reasoning-recalled": "A tool-call turn lacked its reasoning; it was remembered from the answer.",
    "reasoning-made-up": "A tool-call turn lacked its reasoning and nobody knows it; a stand-in was sent.",
    "reasoning-empty-added": "An assistant message got an empty reasoning_content.",
    "reasoning-details-merged": "Streamed reasoning_details were joined and lost their index.",
    "tool-call-id-cleaned": "A tool-call id had characters or a length that upstream does not take.",
    "tool-result-relinked": "A tool result named no call; it was given to the only one without a result.",
    **{f"{name}-dropped".replace("_", "-"): f"{name} was left out: {why}." for name, why in FOREIGN_FIELDS.items()},
}
"""What each repair means, by its stable name."""

# field that goes -> name of the repair
_FOREIGN = {"topP": "camel-case-dropped", **{name: f"{name}-dropped".replace("_", "-") for name in FOREIGN_FIELDS}}


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A body to send. `facts` and `repairs` are for the flow's story and hold no text of the conversation.

    `conversation` names the conversation this request is part of, sub-agents apart: the scope of ReasoningMemory in
    which the answer's reasoning is to be remembered.
    """

    body: bytes = field(repr=False)
    facts: dict[str, Any]
    repairs: dict[str, int]
    conversation: str = ""


@dataclass(frozen=True, slots=True)
class BodyOptions:
    """How to rewrite: the user's settings, checked.

    `thinking` is plugin, kimi-cli or kimi-code; `identity` is kimi-cli, kimi-code or own; `salt` is a value of this
    installation for `conversation_key`; `clamp` lowers max_completion_tokens to what is left of the context.
    """

    thinking: str
    identity: str
    salt: str
    prefer_parent: bool
    clamp: bool


@dataclass(slots=True)
class _Request:
    """A body under way through the steps."""

    document: Document
    body: dict[str, Any]  # the decoded one of the document
    headers: Headers
    catalog: Catalog
    options: BodyOptions
    memory: ReasoningMemory
    original: Mapping[str, Any]
    conversation: str = ""
    model: Model | None = None
    thinking: thinking.Thinking | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    repairs: Counter[str] = field(default_factory=Counter)

    def drop(self, key: str, repair: str | None = None) -> None:
        """Remove a member if it is there; with *repair* a removal that took something away is counted."""
        if key in self.body:
            del self.body[key]
            if repair:
                self.repairs[repair] += 1


def rewrite(
    body: bytes, headers: Headers, *, catalog: Catalog, options: BodyOptions, memory: ReasoningMemory
) -> Rewritten:
    """Return the body to send for *body*, a chat request as the client sent it with *headers*.

    Idempotent, but for effort ``auto``: it goes out as silence, and silence asks for the default.
    Raises BadRequest, naming the field where there is one, for what upstream could not take either.
    """
    document = Document(body)
    values = document.values
    request = _Request(document, values, headers, catalog, options, memory, original=dict(values))
    if document.duplicates:
        request.repairs["duplicate-key-dropped"] += document.duplicates
    try:
        for step in STEPS:
            step(request)
        out = document.render()
    except RecursionError as error:
        raise BadRequest("The request body is nested too deeply.") from error
    return Rewritten(out, request.facts, {k: n for k, n in request.repairs.items() if n}, request.conversation)


def _model(request: _Request) -> None:
    wanted = request.body.get("model")
    if not isinstance(wanted, str) or not wanted:
        raise BadRequest("model is missing, or is no name of a model.", "model")
    slug, request.model = request.catalog.resolve(wanted)
    request.body["model"] = slug
    request.facts["model"] = slug


def _messages(request: _Request) -> None:
    messages = request.body.get("messages")
    if not isinstance(messages, list):
        raise BadRequest("messages is missing, or is no list.", "messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise BadRequest("A message is no object.", f"messages[{index}]")


def _cache_key(request: _Request) -> None:
    options = request.options
    key = own = conversation_key(request.headers, request.original, salt=options.salt, prefer_parent=False)
    if options.prefer_parent and PARENT_HEADER in request.headers:
        key = conversation_key(request.headers, request.original, salt=options.salt, prefer_parent=True)
    request.conversation = own.value  # call ids begin anew in a sub-agent
    # kimi-cli sends a dashed UUID, Kimi Code session_<uuid> (recorded)
    prefix = "session_" if options.identity == "kimi-code" and key.layer != NATIVE else ""
    request.body["prompt_cache_key"] = prefix + key.value
    request.drop("promptCacheKey", "camel-case-dropped")
    request.facts["key"] = key.layer


def _thinking(request: _Request) -> None:
    asked = thinking.wanted(request.original, request.headers, request.model)
    out = request.thinking = thinking.resolve(asked, request.options.thinking, request.model)
    before = request.original.get("thinking")
    if before is not None and (not isinstance(before, dict) or before.keys() - {"type", "effort", "keep"}):
        request.repairs["thinking-field-dropped"] += 1
    for name, value in (("thinking", out.thinking), ("reasoning_effort", out.reasoning_effort)):
        if value is None:
            request.drop(name)
        else:
            request.body[name] = value
    request.drop("reasoningEffort", "camel-case-dropped")
    request.drop("reasoning", "thinking-field-dropped")
    request.drop("enable_thinking", "thinking-field-dropped")
    for repair in out.repairs:
        request.repairs[repair] += 1
    request.facts["effort"] = out.effort


def _token_cap(request: _Request) -> None:
    body = request.body
    if "max_tokens" in body:
        if body.get("max_tokens") is None or body.get("max_completion_tokens") is not None:
            request.drop("max_tokens", "max-tokens-dropped")
        else:
            request.document.rename("max_tokens", "max_completion_tokens")
            request.repairs["max-tokens-renamed"] += 1
    cap = body.get("max_completion_tokens")
    context = request.model.context_length if request.model else None
    if request.options.clamp and context and isinstance(cap, int) and not isinstance(cap, bool):
        left = max(1, context - estimate(body["messages"]) - RESERVED_TOKENS)
        if cap > left:
            body["max_completion_tokens"] = left
            request.repairs["max-tokens-clamped"] += 1


def _streaming(request: _Request) -> None:
    """Ask for usage where the answer streams; elsewhere stream_options is an error of OpenAI's API, so it goes."""
    if request.body.get("stream") is not True:
        request.drop("stream_options", "stream-options-dropped")
        return
    options = request.body.get("stream_options")
    if isinstance(options, dict):
        options["include_usage"] = True
    else:
        request.body["stream_options"] = {"include_usage": True}


def _tools(request: _Request) -> None:
    """Mend the tools; kimi-cli sends an empty list where there are none, Kimi Code nothing (recorded)."""
    body = request.body
    tools = body.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise BadRequest("tools is no list.", "tools")
    if tools:
        mend_tools(tools, request.document.touch, request.repairs)
    elif request.options.identity == "kimi-cli":
        request.body["tools"] = []
    elif tools is None or request.options.identity == "kimi-code":
        request.drop("tools")
    if body.get("tool_choice") in ("auto", None):
        request.drop("tool_choice", "tool-choice-dropped")


def _history(request: _Request) -> None:
    assert request.thinking is not None
    Mender(
        messages=request.body["messages"],
        touch=request.document.touch,
        rules=RULES[request.options.identity],
        recall=request.memory.scope(request.conversation).recall,
        repairs=request.repairs,
        thinks=not request.thinking.disabled,
        keeps_all=request.thinking.keeps_all,
    ).run()


def _foreign_fields(request: _Request) -> None:
    for name in [name for name in _FOREIGN if name in request.body]:
        request.drop(name, _FOREIGN[name])


STEPS: tuple[Callable[[_Request], None], ...] = (
    _model,  # before everything that depends on what the model can do
    _messages,
    _cache_key,
    _thinking,
    _tools,
    _history,  # wants to know whether the model thinks
    _token_cap,  # estimates the prompt as it goes out
    _streaming,
    _foreign_fields,  # last: the key is taken from some of them
)
