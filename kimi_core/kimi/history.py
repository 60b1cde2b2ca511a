"""Mend the messages of a chat request where upstream would refuse them (kimi.md §3.5, §9 rows 6, 7 and 12).

Upstream's 400s and what is done about them::

    text content is empty                      empty content beside tool calls goes, empty parts go, an assistant
                                               message that says nothing at all goes
    reasoning_content is missing …             recalled by tool-call id, else the turn's own words, else a stand-in
    reasoning_details … streaming index        entries are merged per index and lose it
    tool_call_id  is not found                 a result that names no call is given to the only call without one
    ids of other providers                     cleaned to the characters and length the identity's client sends

Every decision depends on what stands before it alone (but for orphaned
results, which look at their own turn), so a message is mended the same way in every later turn and the cached
prefix stays.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

REASONING_UNKNOWN = "[reasoning unavailable]"  # what CLIProxyAPI sends, and upstream takes (kimi.md §3.5)
ID_LENGTH = 64
_HASH_LENGTH = 8
_DETAIL_TEXTS = ("summary", "text", "encrypted", "data")  # the fields that come in pieces

type Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rules:
    """What the identity's client does: `id_characters` is a regular expression class of what an id may hold.

    `empty_content` is what stands for the content of a turn that has reasoning only: a list, or None for no key.
    """

    id_characters: str
    empty_content: list[Any] | None


RULES = {
    "kimi-cli": Rules(r"A-Za-z0-9_:.-", []),
    "kimi-code": Rules(r"A-Za-z0-9_-", None),  # recorded: Bash_0 for Bash:0, and no content key
    "own": Rules(r"A-Za-z0-9_:.-", []),
}


@dataclass(slots=True)
class Mender:
    """One request's history under repair.

    `touch` is told every message that changes; `recall` gives what was thought before a call, by the id that the
    client knows. `thinks`: reasoning is wanted with tool calls; `keeps_all`: with every assistant message, be it
    empty. `repairs` is counted by name.
    """

    messages: list[Message]
    touch: Callable[[Message], None]
    rules: Rules
    recall: Callable[[str], str | None]
    repairs: Counter[str]
    thinks: bool
    keeps_all: bool
    _ids: CallIds = field(init=False)

    def __post_init__(self) -> None:
        self._ids = CallIds(self.rules.id_characters)

    def run(self) -> None:
        """Mend every message in place."""
        kept = [message for message in self.messages if not _says_nothing(message)]
        self.repairs["empty-message-dropped"] += len(self.messages) - len(kept)
        self.messages[:] = kept
        for index, message in enumerate(self.messages):
            self._parts(message)
            if message.get("role") == "assistant":
                self._assistant(index, message)
        for turn in turns(self.messages):
            self._link(turn)

    # --- content ---------------------------------------------------------------------------------------------------

    def _parts(self, message: Message) -> None:
        """Drop the empty text parts (one is left where there is nothing else) and the cache marks of other APIs."""
        self._drop(message, "cache_control", "cache-control-dropped")
        content = message.get("content")
        if not isinstance(content, list):
            return
        for part in content:
            if isinstance(part, dict) and part.pop("cache_control", part) is not part:
                self._mended(message, "cache-control-dropped")
        kept = [part for part in content if not (_is_text(part) and part.get("text") == "")] or content[:1]
        if len(kept) < len(content):
            self._mended(message, "empty-part-dropped", len(content) - len(kept))
            content[:] = kept

    def _assistant(self, index: int, message: Message) -> None:
        if not message.get("tool_calls"):
            self._drop(message, "tool_calls", "empty-tool-calls-dropped")
        calls = calls_of(message)
        if "content" in message and _blank(message["content"]):
            self._empty_content(message, None if calls else self.rules.empty_content)
        self._reasoning(message, calls)
        self._details(message)
        for at, call in enumerate(calls):
            self._call_id(message, call, f"\0call_{index}_{at}")  # a name that no client's id is

    def _empty_content(self, message: Message, wanted: list[Any] | None) -> None:
        if message["content"] == wanted is not None or message.get("partial"):
            return  # a partial message is a prefix for the answer and may be empty
        if wanted is None:
            del message["content"]
        else:
            message["content"] = list(wanted)
        self._mended(message, "empty-content-dropped")

    def _drop(self, message: Message, key: str, repair: str) -> None:
        if key in message:
            del message[key]
            self._mended(message, repair)

    def _mended(self, message: Message, repair: str, times: int = 1) -> None:
        """Count a change: every one goes through here."""
        self.touch(message)
        self.repairs[repair] += times

    # --- reasoning -------------------------------------------------------------------------------------------------

    def _reasoning(self, message: Message, calls: Sequence[Any]) -> None:
        if isinstance(message.get("reasoning_content"), str):
            return
        if isinstance(message.get("reasoning"), str):
            text, name = message.pop("reasoning"), "reasoning-renamed"
        elif self.thinks and calls:
            text, name = self._thought_before(message, calls)
        elif self.keeps_all:
            text, name = "", "reasoning-empty-added"
        else:
            return
        message["reasoning_content"] = text
        self._mended(message, name)

    def _thought_before(self, message: Message, calls: Sequence[Any]) -> tuple[str, str]:
        known = (self.recall(call["id"]) for call in calls if _has_id(call))
        found = next((text for text in known if text is not None), None)
        if found is not None:
            return found, "reasoning-recalled"
        return _detailed(message) or text_of(message.get("content")) or REASONING_UNKNOWN, "reasoning-made-up"

    def _details(self, message: Message) -> None:
        details = message.get("reasoning_details")
        if isinstance(details, list) and any(isinstance(entry, dict) and "index" in entry for entry in details):
            message["reasoning_details"] = merge_details(details)
            self._mended(message, "reasoning-details-merged")

    # --- tool calls ------------------------------------------------------------------------------------------------

    def _call_id(self, message: Message, call: Any, otherwise: str) -> None:
        if not isinstance(call, dict) or not (_has_id(call) or call.get("id") in (None, "")):
            return
        new = self._ids.clean(call.get("id") or otherwise)
        if new != call.get("id"):
            call["id"] = new
            self._mended(message, "tool-call-id-cleaned")

    def _link(self, turn: Turn) -> None:
        """Give every result of a turn the id of its call; the one orphan among them goes to the one open call."""
        orphans = []
        answered = set()
        for result in turn.results:
            named = result.get("tool_call_id") or result.get("call_id")
            new = self._ids.known(named) if isinstance(named, str) else None
            if new is None:
                orphans.append(result)
                continue
            answered.add(new)
            self._name(result, new, "tool-call-id-cleaned" if result.get("tool_call_id") else "tool-result-relinked")
        waiting = [call["id"] for call in turn.calls if _has_id(call) and call["id"] not in answered]
        if len(orphans) == len(waiting) == 1:
            self._name(orphans[0], waiting[0], "tool-result-relinked")

    def _name(self, result: Message, call_id: str, repair: str) -> None:
        if result.get("tool_call_id") != call_id:
            result["tool_call_id"] = call_id
            result.pop("call_id", None)
            self._mended(result, repair)


@dataclass(frozen=True, slots=True)
class Turn:
    """The tool calls of an assistant message and the tool results right behind it."""

    calls: list[Any]
    results: list[Message] = field(default_factory=list)


def turns(messages: Iterable[Message]) -> Iterator[Turn]:
    """Yield every turn of *messages*; results that follow no call belong to none."""
    turn: Turn | None = None
    for message in messages:
        if message.get("role") == "tool":
            if turn:
                turn.results.append(message)
            continue
        if turn:
            yield turn
        calls = calls_of(message)
        turn = Turn(calls) if calls else None
    if turn:
        yield turn


class CallIds:
    """Tool-call ids as upstream takes them; two ids never become one, and an id becomes the same every time.

    An id of allowed characters and length stays. Others have each foreign character replaced by ``_`` and are cut;
    a cut id, and one that another id has become already, ends in a hash of the original.
    """

    __slots__ = ("_foreign", "_new", "_taken")

    def __init__(self, characters: str) -> None:
        self._foreign = re.compile(f"[^{characters}]")
        self._new: dict[str, str] = {}
        self._taken: set[str] = set()

    def clean(self, call_id: str) -> str:
        """Return what *call_id* of a call becomes, and remember it."""
        if call_id not in self._new:
            new = self._foreign.sub("_", call_id)
            salt = 0
            while len(new) > ID_LENGTH or new in self._taken:
                digest = hashlib.sha256(f"{call_id}{salt or ''}".encode("utf-8", "surrogatepass")).hexdigest()
                new = f"{self._foreign.sub('_', call_id)[: ID_LENGTH - _HASH_LENGTH - 1]}_{digest[:_HASH_LENGTH]}"
                salt += 1
            self._new[call_id] = new
            self._taken.add(new)
        return self._new[call_id]

    def known(self, call_id: str) -> str | None:
        """Return what the id of an earlier call became, None where no call had it."""
        return self._new.get(call_id)


def merge_details(details: list[Any]) -> list[Any]:
    """Return streamed reasoning details with the pieces of each index joined and without `index`."""
    merged: dict[tuple[object, object], dict[str, Any]] = {}
    for place, entry in enumerate(details):
        if not (isinstance(entry, dict) and isinstance(entry.get("index"), int)):
            bare = {k: v for k, v in entry.items() if k != "index"} if isinstance(entry, dict) else entry
            merged[("", place)] = bare
            continue
        whole = merged.setdefault((entry.get("index"), str(entry.get("type"))), {})
        for key, value in entry.items():
            if key in _DETAIL_TEXTS and isinstance(value, str) and isinstance(whole.get(key), str):
                whole[key] += value
            elif key != "index":
                whole[key] = value
    return list(merged.values())


def calls_of(message: Message) -> list[Any]:
    """Return the tool calls of *message*; empty where it has none."""
    calls = message.get("tool_calls")
    return calls if message.get("role") == "assistant" and isinstance(calls, list) else []


def text_of(content: object) -> str:
    """Return the text of a message's content, a string or a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "".join(part["text"] for part in parts if _is_text(part) and isinstance(part.get("text"), str))


def _is_text(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") == "text"


def _has_id(call: object) -> bool:
    return isinstance(call, dict) and isinstance(call.get("id"), str) and call["id"] != ""


def _blank(content: object) -> bool:
    """Tell whether *content* holds nothing that upstream would see: no text but white space, and no other part."""
    match content:
        case str():
            return not content or content.isspace()
        case list():
            return all(_is_text(part) and _blank(part.get("text")) for part in content)
        case _:
            return content is None


def _detailed(message: Message) -> str:
    details = message.get("reasoning_details")
    entries = details if isinstance(details, list) else ()
    texts = (entry.get(key) for entry in entries if isinstance(entry, dict) for key in ("summary", "text"))
    return "".join(text for text in texts if isinstance(text, str))


def _says_nothing(message: Message) -> bool:
    """Tell whether this is an assistant message in which no field but its name says anything."""
    if message.get("role") != "assistant" or not _blank(message.get("content")):
        return False
    return not any(value for key, value in message.items() if key not in {"role", "name", "content"})
