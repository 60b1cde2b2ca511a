"""Chat answers in the OpenAI dialect, streamed or whole, as a `Turn`; whatever does not fit is passed over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kimi_core.view.text import MAX_ITEMS, items, members, word
from kimi_core.view.turn import Call, Choice, Turn, no_event

DIALECT = "OpenAI"
REASONING = ("reasoning_content", "reasoning")  # Kimi's and DeepSeek's name, and that of gateways
_TEXTS = {"content": "text", "refusal": "refusal"} | dict.fromkeys(REASONING, "reasoning")
_KNOWN_USAGE = {
    "prompt_tokens": "input",
    "cached_tokens": " of it cached",
    "completion_tokens": "output",
    "total_tokens": "total",
}
_DETAILS = {"prompt_tokens_details": "input", "completion_tokens_details": "output"}


def is_chunk(value: Any) -> bool:
    """Tell whether *value* is a chunk of a streamed answer."""
    return isinstance(value, dict) and value.get("object") == "chat.completion.chunk"


def is_answer(value: Any) -> bool:
    """Tell whether *value* is a whole answer."""
    if not isinstance(value, dict):
        return False
    choices = value.get("choices")
    return value.get("object") == "chat.completion" or (
        isinstance(choices, list) and bool(choices) and "message" in members(choices[0])
    )


def streamed(chunks: Iterable[Any]) -> Turn:
    """Return what the chunks of a stream say together."""
    turn = Turn(DIALECT)
    for chunk in chunks:
        if not isinstance(chunk, dict):
            no_event(turn, chunk)
            continue
        _head(turn, chunk)
        for given in items(chunk.get("choices")):
            if isinstance(given, dict):
                choice = turn.choice(given.get("index", 0))
                _message(choice, members(given.get("delta")))
                _finish(turn, choice, given)
    return turn


def whole(answer: dict[str, Any]) -> Turn:
    """Return what an answer in one piece says."""
    turn = Turn(DIALECT, ended=True)
    _head(turn, answer)
    for given in items(answer.get("choices"))[:MAX_ITEMS]:
        if isinstance(given, dict):
            choice = turn.choice(given.get("index", 0))
            _message(choice, members(given.get("message")))
            _finish(turn, choice, given)
    return turn


def _head(turn: Turn, chunk: dict[str, Any]) -> None:
    if not turn.model:
        turn.model = word(chunk.get("model"))
    if not turn.id:
        turn.id = word(chunk.get("id"))
    if chunk.get("usage"):
        turn.usage = usage(chunk["usage"])
    if chunk.get("error"):
        turn.errors.append(chunk["error"])


def _finish(turn: Turn, choice: Choice, given: dict[str, Any]) -> None:
    if given.get("finish_reason"):
        choice.finish = word(given["finish_reason"])
    if given.get("usage") and not turn.usage:  # where Kimi puts it
        turn.usage = usage(given["usage"])


def _message(choice: Choice, message: dict[str, Any]) -> None:
    for name, value in message.items():
        if value is None or name == "role":
            continue
        target = _TEXTS.get(name)
        if target and isinstance(value, str):
            pieces: list[str] = getattr(choice, target)
            pieces.append(value)
        elif name == "tool_calls" and isinstance(value, list):
            for place, call in enumerate(value):
                _call(choice, place, call)
        elif value not in ("", [], {}):
            choice.other.append({name: value})


def _call(choice: Choice, place: int, given: Any) -> None:
    if not isinstance(given, dict):
        choice.other.append({"tool_calls": given})
        return
    index = given.get("index")
    key = index if isinstance(index, int) else place
    call = choice.calls.setdefault(key, Call())
    function = members(given.get("function"))
    call.id = call.id or word(given.get("id"))
    call.name = call.name or word(function.get("name"))
    arguments = function.get("arguments")
    if arguments:
        call.pieces.append(arguments if isinstance(arguments, str) else word(arguments))


def usage(given: Any) -> dict[str, Any]:
    """Return the rows of a usage table: known counts first, details below their sum, the rest as it is called."""
    found = members(given)
    rows: dict[str, Any] = {}
    for name, label in _KNOWN_USAGE.items():
        if found.get(name) is not None:
            rows[label] = found[name]
        for details, parent in _DETAILS.items():
            if parent == label:
                rows |= {
                    f" of it {key.removesuffix('_tokens')}": value
                    for key, value in members(found.get(details)).items()
                    if value is not None
                }
    rows |= {name: value for name, value in found.items() if name not in _KNOWN_USAGE and name not in _DETAILS}
    return {word(label) if label[:1] != " " else f" {word(label[1:])}": value for label, value in rows.items()}
