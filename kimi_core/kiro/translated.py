"""A chat request as it goes to Kiro, and what is to be known of it when its answer comes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json

from kimi_core.kiro.fields import ResponseFormat


@dataclass(slots=True)
class Translated:
    """A request to send, and what its answer has to be; not altered once it is made.

    `tool_aliases`: tool name on the wire -> the client's, where they differ. `stubs`: the client's names of tools that
    are there for the history's sake. `stop`, `max_tokens`: to be enforced on the answer, Kiro has no field for them.
    `ignored`: paths of fields that have no effect, fit for a header. `response_format` other than text: the answer is
    bare JSON. `thinking_tags`: the model was asked for tagged thoughts. `prompt_tokens`: an estimate. `weight`: what
    counts against the service's limit of size. `facts` and `repairs` are for the flow and hold no text of the
    conversation.
    """

    conversation: bytes = field(repr=False)
    model_id: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    tool_aliases: Mapping[str, str] = field(default_factory=dict)
    stubs: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    ignored: tuple[str, ...] = ()
    response_format: ResponseFormat = "text"
    thinking_tags: bool = False
    wants_stream: bool = False
    wants_usage: bool = False
    prompt_tokens: int = 0
    weight: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    repairs: dict[str, int] = field(default_factory=dict)

    def body(self, profile_arn: str | None = None) -> bytes:
        """Return the body to send for an account with this profile; without one the field is left out (§3.3)."""
        members = [b'{"conversationState":', self.conversation]
        if profile_arn:
            members += [b',"profileArn":', to_json(profile_arn)]
        if self.fields:
            members += [b',"additionalModelRequestFields":', to_json(self.fields)]
        return b"".join([*members, b"}"])
