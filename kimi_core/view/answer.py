"""The page of a chat answer: what it says first, the raw events below.

Streamed and whole answers, in the OpenAI and the Anthropic dialect.
"""

from __future__ import annotations

from typing import Any

from kimi_core.view import anthropic_answer, events, openai_answer, text, turn
from kimi_core.view.events import Stream
from kimi_core.view.text import Page, count
from kimi_core.view.turn import Turn

RAW_FIRST = 150  # raw events shown from the beginning
RAW_LAST = 20  # and from the end, where finish reason and usage stand
RAW_CHARACTERS = 600  # of each
RAW_JSON = 60_000  # characters of an answer in one piece
RAW_PRETTY = 512 * 1024  # bytes of one that is shown indented; a longer one is shown as it came
RAW_HEX = 512  # bytes of what is no text
SAMPLE = 64 * 1024  # bytes of a stream that are looked at to tell what it is


def render(data: bytes, note: str = "") -> str:
    """Return the page for *data*; *note* is said at the top. Never raises."""
    page = Page()
    if events.looks_like(data):
        _stream(page, data, note)
    else:
        _object(page, data, note)
    return page.render()


def is_answer(data: bytes) -> bool:
    """Tell whether *data* is a chat answer in either dialect, streamed or not."""
    if events.looks_like(data):
        return any(map(_is_event, events.read(_whole_events(data)).values))
    try:
        value = text.read_json(data[:SAMPLE], partial=True)
    except text.Unreadable:
        return False
    return openai_answer.is_answer(value) or anthropic_answer.is_answer(value)


def _whole_events(data: bytes) -> bytes:
    """Return the beginning of a stream, ended where a line ends."""
    return data if len(data) <= SAMPLE else data[: data.rfind(b"\n", 0, SAMPLE) + 1]


def _is_event(value: Any) -> bool:
    return openai_answer.is_chunk(value) or anthropic_answer.is_event(value)


def _title(page: Page, kind: str, said: Turn, size: int, *notes: str) -> None:
    words = [f"Chat answer, {said.dialect}, {kind}", text.size(size), said.model, text.clip(said.id, 60)]
    page.add(" · ".join(word for word in words if word))
    _notes(page, *notes)


def _notes(page: Page, *notes: str) -> None:
    for note in filter(None, notes):
        page.prose(note)


def _stream(page: Page, data: bytes, note: str) -> None:
    stream = events.read(data)
    anthropic = any(map(anthropic_answer.is_event, stream.values[:SOME]))
    said = (anthropic_answer if anthropic else openai_answer).streamed(stream.values)
    said.ended = said.ended or stream.done
    _title(page, f"streamed, {count(stream.total, 'event')}", said, len(data), note)
    _notes(page, *(f"✗ {flaw}" for flaw in _flaws(stream, said)))
    turn.write(page, said)
    page.make_room(text.FOOT * 2)
    _raw(page, stream)


SOME = 50  # events that are looked at for the dialect


def _flaws(stream: Stream, said: Turn) -> list[str]:
    found = []
    if stream.damaged:
        examples = ", ".join(text.clip(raw[:200].decode(errors="replace"), 60) for raw in stream.examples)
        found.append(f"{count(stream.damaged, 'event')} cannot be read as JSON: {examples}")
    read = len(stream.raw) + len(stream.raw_end)
    if read < stream.total:
        found.append(f"{stream.total - read:,} of {stream.total:,} events were not read: the answer is too long")
    if stream.rest:
        found.append(f"the stream ends within a line: {text.clip(stream.rest[:200].decode(errors='replace'), 120)}")
    elif not said.ended:
        found.append("the stream ends without saying so: " + _END[said.dialect])
    return found


_END = {openai_answer.DIALECT: "no [DONE]", anthropic_answer.DIALECT: "no message_stop"}


def _raw(page: Page, stream: Stream) -> None:
    comments = count(stream.comments, "comment") if stream.comments else ""
    page.divider("Raw events", f"{stream.total:,}", comments)
    everything = [*enumerate(stream.raw), *enumerate(stream.raw_end, stream.total - len(stream.raw_end))]
    first, last = everything[:RAW_FIRST], everything[RAW_FIRST:][-RAW_LAST:]
    for place, raw in first:
        _event(page, place, raw)
    left_out = stream.total - len(first) - len(last)
    if left_out:
        page.add(f"\n… {count(left_out, 'event')} left out …\n")
    for place, raw in last:
        _event(page, place, raw)


def _event(page: Page, place: int, raw: bytes) -> None:
    page.add(f"{place:>5}  {text.clip(raw[: 4 * RAW_CHARACTERS].decode(errors='replace'), RAW_CHARACTERS)}")


def _object(page: Page, data: bytes, note: str) -> None:
    value, problem = text.read_most(data)
    if openai_answer.is_answer(value):
        said = openai_answer.whole(value)
    elif anthropic_answer.is_answer(value):
        said = anthropic_answer.whole(value)
    elif isinstance(value, dict) and "error" in value:
        said = Turn("error", errors=[value["error"]])
    else:
        page.add(f"No chat answer · {text.size(len(data))}")
        _notes(page, note, problem)
        _below(page, data, value)
        return
    _title(page, "in one piece", said, len(data), note, problem)
    turn.write(page, said)
    _below(page, data, value)


def _below(page: Page, data: bytes, value: Any) -> None:
    page.make_room(text.FOOT * 2)
    page.divider("Raw")
    if value is not None and len(data) <= RAW_PRETTY:
        page.prose(text.shorten(text.pretty(value), RAW_JSON))
    elif data[:RAW_JSON].count(0) or not data:
        page.add(text.hexed(data, RAW_HEX))
    else:
        page.prose(text.shorten(data.decode(errors="replace"), RAW_JSON))
