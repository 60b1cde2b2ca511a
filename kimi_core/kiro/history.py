"""The messages of a chat request as the turns of a Kiro conversation (kiro.md §3.6, §4.1).

What Kiro wants                             what is done where a history is otherwise
user and assistant alternate, user first    neighbours of one role are joined with a blank line between their texts; a
                                            turn of the user goes before an assistant that begins
every call has one result, in the next      a call without one gets a result that says so; results go into the order of
turn, in the order of the calls             the calls; a second result is put behind the first
no result without a call                    it becomes text of the user
ids of its own kind, each once              others become a hash, of the id and of how often it came before
plain turns are not empty                   messages that say nothing are left out
the last turn is the user's                 an assistant at the end is followed by a turn that asks to go on

Nothing that somebody said is left out, and what becomes of a message depends on what stands before it (and on the
results of its own turn), so that it is the same in every later request and the cached prefix stays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kimi_core.errors import BadRequest
from kimi_core.kiro.calls import CallIds, read_arguments
from kimi_core.kiro.images import MAX_IMAGES, Image, image
from kimi_core.kiro.openai_in import (
    AssistantMessage,
    Content,
    ImagePart,
    Message,
    RefusalPart,
    SystemMessage,
    TextPart,
    ToolMessage,
)
from kimi_core.kiro.turns import BLANK_LINE, NOTHING, AssistantTurn, Result, Turn, Use, UserTurn

GO_ON = "Continue."  # the turn of the user after an assistant at the end
NO_RESULT = "[No result of this tool call is known.]"

type Recall = Callable[[Sequence[str], str], dict[str, Any] | None]
"""Ids of the calls of an assistant's turn and its text -> its ``reasoningContent``, None where that is not known."""


def nothing_recalled(_ids: Sequence[str], _text: str) -> None:
    """Know of no reasoning."""


@dataclass(slots=True)
class Conversation:
    """Turns that alternate: the user's first and last. `system` is what was said before all of them."""

    system: list[str]
    turns: list[Turn]
    repairs: defaultdict[str, int]
    reasoning_dropped: bool = False

    def called(self) -> Iterator[str]:
        """Yield the name of every call, in order."""
        for turn in self.turns:
            if isinstance(turn, AssistantTurn):
                for use in turn.uses:
                    yield use.name


def build(messages: Sequence[Message], *, images: bool = True, recall: Recall = nothing_recalled) -> Conversation:
    """Return the conversation of *messages*. *images* False: the model takes none.

    Raises BadRequest with the path of what cannot be expressed.
    """
    return _Builder(images=images, recall=recall).build(messages)


class _Builder:
    """One request's messages on their way into turns; the last of `_turns` is open."""

    def __init__(self, *, images: bool, recall: Recall) -> None:
        self._images = images
        self._recall = recall
        self._system: list[str] = []
        self._turns: list[Turn] = []
        self._repairs: defaultdict[str, int] = defaultdict(int)
        self._ids = CallIds()
        self._open: dict[str, list[str]] = {}  # client's id -> ids of the last turn's calls that have no result yet
        self._results: dict[str, Result] = {}  # client's id -> its last result in this turn
        self._dropped = False

    def build(self, messages: Sequence[Message]) -> Conversation:
        leading = True
        for place, message in enumerate(messages):
            path = f"messages[{place}]"
            if isinstance(message, SystemMessage) and leading:
                self._system += self._text(message.content, f"{path}.content")
                continue
            leading = False
            self._take(message, path)
        self._end(messages[-1])
        return Conversation(self._system, self._turns, self._repairs, self._dropped)

    def _take(self, message: Message, path: str) -> None:
        match message:
            case AssistantMessage():
                self._assistant(message, path)
            case ToolMessage():
                self._tool(message, path)
            case _:
                self._user(message.content, path)
                self._repairs["late-system-as-user"] += isinstance(message, SystemMessage)

    def _end(self, last: Message) -> None:
        turn = self._turns[-1] if self._turns else None
        if isinstance(turn, UserTurn):
            self._close(turn)
            return
        current = UserTurn()
        self._turns.append(current)
        self._close(current)  # calls without a result get theirs
        if not current.results and turn is not None:
            current.texts.append(GO_ON if isinstance(last, AssistantMessage) else NOTHING)
            self._repairs["turn-added"] += 1

    # --- the user's side ---------------------------------------------------------------------------------------------

    def _side(self) -> UserTurn:
        """Return the open turn of the user."""
        if not (self._turns and isinstance(self._turns[-1], UserTurn)):
            self._turns.append(UserTurn())
        turn = self._turns[-1]
        assert isinstance(turn, UserTurn)
        return turn

    def _user(self, content: Content, path: str) -> None:
        texts, images = self._parts(content, f"{path}.content")
        if texts or images:
            turn = self._side()
            turn.texts += texts
            self._add_images(turn, images)
        else:
            self._repairs["empty-message-dropped"] += 1

    def _tool(self, message: ToolMessage, path: str) -> None:
        texts, images = self._parts(message.content, f"{path}.content")
        turn = self._side() if self._expected(message.tool_call_id) or texts or images else None
        if turn is None:
            self._repairs["empty-message-dropped"] += 1
            return
        self._add_images(turn, images)
        waiting = self._open.get(message.tool_call_id)
        if waiting:
            result = Result(waiting.pop(0), texts, failed=bool(message.is_error))
            self._results[message.tool_call_id] = result
            turn.results.append(result)
        elif known := self._results.get(message.tool_call_id):
            known.texts += texts
            known.failed = known.failed or bool(message.is_error)
            self._repairs["second-result-joined"] += 1
        else:
            turn.texts.append(BLANK_LINE.join([f"Result of the tool call {message.tool_call_id}:", *texts]))
            self._repairs["orphan-result-as-text"] += 1

    def _expected(self, call_id: str) -> bool:
        return bool(self._open.get(call_id)) or call_id in self._results

    def _add_images(self, turn: UserTurn, images: Iterable[tuple[Image, str]]) -> None:
        for found, path in images:
            if len(turn.images) == MAX_IMAGES:
                raise BadRequest(f"Kiro takes {MAX_IMAGES} images in a turn; this is one more.", path)
            turn.images.append(found)

    def _close(self, turn: UserTurn) -> None:
        """Bring the results of *turn* into the order of the calls, and add those that are missing."""
        before = self._turns[-2] if len(self._turns) > 1 else None
        uses = before.uses if isinstance(before, AssistantTurn) else []
        if uses:
            known = {result.id: result for result in turn.results}
            self._repairs["missing-result-added"] += sum(use.id not in known for use in uses)
            turn.results = [known.get(use.id) or Result(use.id, [NO_RESULT], failed=True) for use in uses]
        self._open.clear()
        self._results.clear()

    # --- the assistant's side ----------------------------------------------------------------------------------------

    def _assistant(self, message: AssistantMessage, path: str) -> None:
        self._refuse(message, path)
        texts = self._text(message.content, f"{path}.content") if message.content is not None else []
        texts += [message.refusal] if message.refusal and message.refusal.strip() else []
        calls = message.tool_calls or []
        if not (texts or calls):
            self._repairs["empty-message-dropped"] += 1
            self._dropped = self._dropped or _thinks(message)
            return
        turn = self._assistant_side()
        reasoning = self._recall([call.id for call in calls], BLANK_LINE.join(texts))
        if reasoning is not None and turn.says_nothing:
            turn.reasoning = reasoning
        else:
            self._dropped = self._dropped or _thinks(message)
        turn.texts += texts
        for number, call in enumerate(calls):
            wire = self._ids.new(call.id)
            arguments = read_arguments(call.function.arguments, f"{path}.tool_calls[{number}].function.arguments")
            turn.uses.append(Use(wire, call.function.name, arguments))
            self._open.setdefault(call.id, []).append(wire)

    def _assistant_side(self) -> AssistantTurn:
        """Return the open turn of the assistant."""
        last = self._turns[-1] if self._turns else None
        if isinstance(last, AssistantTurn):
            return last
        if isinstance(last, UserTurn):
            self._close(last)
        elif not self._system:
            self._turns.append(UserTurn([NOTHING]))
            self._repairs["turn-added"] += 1
        turn = AssistantTurn()
        self._turns.append(turn)
        return turn

    @staticmethod
    def _refuse(message: AssistantMessage, path: str) -> None:
        """Refuse what no Kiro turn can hold."""
        for name in ("prefix", "partial"):
            if getattr(message, name):
                raise BadRequest("Kiro cannot continue a message that was begun.", f"{path}.{name}")
        if message.audio is not None:
            raise BadRequest("Kiro takes no audio.", f"{path}.audio")
        if message.function_call is not None:
            raise BadRequest("function_call is the old form; send tool_calls.", f"{path}.function_call")

    # --- content -----------------------------------------------------------------------------------------------------

    def _text(self, content: Content, path: str) -> list[str]:
        """Return the texts of *content*, in which no image may stand."""
        texts, images = self._parts(content, path, images=False)
        assert not images
        return texts

    def _parts(self, content: Content, path: str, *, images: bool = True) -> tuple[list[str], list[tuple[Image, str]]]:
        """Return the texts of *content* that say something, and its images with their paths."""
        if isinstance(content, str):
            return ([content] if content.strip() else []), []
        texts: list[str] = []
        found: list[tuple[Image, str]] = []
        for number, part in enumerate(content):
            where = f"{path}[{number}]"
            match part:
                case TextPart():
                    texts.append(part.text)
                case RefusalPart():
                    texts.append(part.refusal)
                case _:
                    found.append((self._image(part, where, allowed=images), where))
        return [text for text in texts if text.strip()], found

    def _image(self, part: ImagePart, path: str, *, allowed: bool) -> Image:
        if not allowed:
            raise BadRequest("Kiro takes images from the user and from tools only.", path)
        if not self._images:
            raise BadRequest("The model takes no images. Choose one that does, or leave them out.", path)
        url, path = (
            (part.image_url, f"{path}.image_url")
            if isinstance(part.image_url, str)
            else (part.image_url.url, f"{path}.image_url.url")
        )
        return image(url, path)


def _thinks(message: AssistantMessage) -> bool:
    return bool(message.reasoning_content or message.reasoning or message.reasoning_details)
