"""The turns of a Kiro conversation, and how they are written (kiro.md §3.4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kimi_core.kiro.images import Image
from kimi_core.kiro.tools import ToolNames

NOTHING = "."  # a turn of the user that has to be there and has nothing to say
BLANK_LINE = "\n\n"


@dataclass(slots=True)
class Result:
    """What came back from a call."""

    id: str
    texts: list[str]
    failed: bool = False


@dataclass(slots=True)
class UserTurn:
    """Texts, images and results of the user's side; `results` stand in the order of the calls once it is closed."""

    texts: list[str] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)

    @property
    def content(self) -> str:
        """The texts; empty only beside results."""
        return BLANK_LINE.join(self.texts) or ("" if self.results else NOTHING)

    @property
    def says_nothing(self) -> bool:
        """True where there is nothing that Kiro would see."""
        return not (self.texts or self.images or self.results)


@dataclass(frozen=True, slots=True)
class Use:
    """A call: `name` is the client's."""

    id: str
    name: str
    input: dict[str, Any]


@dataclass(slots=True)
class AssistantTurn:
    """Texts and calls of the assistant; `reasoning` is what the model thought before them, in the service's form."""

    texts: list[str] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    reasoning: dict[str, Any] | None = None

    @property
    def content(self) -> str:
        """The texts; empty only beside calls."""
        return BLANK_LINE.join(self.texts)

    @property
    def says_nothing(self) -> bool:
        """True where there is nothing that Kiro would see."""
        return not (self.texts or self.uses)


type Turn = UserTurn | AssistantTurn


def written(turn: Turn, names: ToolNames, origin: str) -> dict[str, Any]:
    """Return *turn* as it goes out."""
    if isinstance(turn, AssistantTurn):
        return {"assistantResponseMessage": _assistant(turn, names)}
    message: dict[str, Any] = {"content": turn.content, "origin": origin}
    if turn.images:
        message["images"] = turn.images
    if turn.results:
        message["userInputMessageContext"] = {
            "toolResults": [
                {
                    "toolUseId": result.id,
                    "status": "error" if result.failed else "success",
                    "content": [{"text": text} for text in result.texts],
                }
                for result in turn.results
            ]
        }
    return {"userInputMessage": message}


def _assistant(turn: AssistantTurn, names: ToolNames) -> dict[str, Any]:
    message: dict[str, Any] = {"content": turn.content}
    if turn.uses:
        message["toolUses"] = [
            {"toolUseId": use.id, "name": names.wire(use.name), "input": use.input} for use in turn.uses
        ]
    if turn.reasoning:
        message["reasoningContent"] = turn.reasoning
    return message
