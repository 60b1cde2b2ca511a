"""The fake's nasty answers, through the converter: what a client sees of each."""

import json

import pytest

from kimi_core.exchange import Story
from kimi_core.kiro.answer import AnswerOptions
from kimi_core.kiro.converter import ChatStream
from kimi_core.kiro.opening import Opening
from kimi_core.wire.chat_chunks import ChunkWriter
from tests.servers.kiro_answers import NASTY

# name -> text, reasoning, calls (name and arguments), finish reason or error code
SEEN = {
    "bytes": ("one byte", "", [], "stop"),
    "one-chunk": ("many frames", "", [], "stop"),
    "odd-chunks": ("odd chunks", "", [], "stop"),
    "twins": ("hahaha", "", [], "stop"),
    "surrogates": ("\N{GRINNING FACE}", "", [], "stop"),
    "unknown-event": ("known", "", [], "stop"),
    "followup": ("answer", "", [], "stop"),
    "object-input": ("", "", [("ls", {"path": "."})], "tool_calls"),
    "object-pieces": ("", "", [("ls", {"path": ".", "all": True})], "tool_calls"),
    "two-calls": ("", "", [("ls", {"path": 1}), ("ls", {"path": 2})], "tool_calls"),
    "replayed-call": ("", "", [("ls", {"path": 1})], "tool_calls"),
    "missing-stop": ("", "", [("ls", {"path": 1})], "tool_calls"),
    "cut-call": ("", "", None, "kiro_tool_call_broken"),
    "no-completion": ("cut off", "", [], "kiro_answer_cut"),
    "cut-in-frame": ("half", "", [], "stream_truncated"),
    "reset": ("half", "", [], "kiro_answer_cut"),
    "crc": ("good", "", [], "stream_damaged"),
    "prelude-crc": ("good", "", [], "stream_damaged"),
    "length": ("good", "", [], "stream_truncated"),
    "exception-middle": ("half", "", [], "kiro_answer_failed"),
    "too-long-middle": ("half", "", [], "length"),
    "empty": ("", "", [], "stop"),
    "reasoning": ("thus", "I think", [], "stop"),
}
FAILED = {"exception-first", "exception-second", "error-frame", "json-200", "nothing", "html"}


def _bytes(name):
    return [step for step in NASTY[name].steps if isinstance(step, bytes)]


def _seen(out):
    text, reasoning, calls, end = "", "", {}, None
    for line in out.decode().splitlines():
        if not line.startswith("data: {"):
            continue
        chunk = json.loads(line.removeprefix("data: "))
        if "error" in chunk:
            end = chunk["error"]["code"]
            continue
        (choice,) = chunk["choices"]
        text += choice["delta"].get("content") or ""
        reasoning += choice["delta"].get("reasoning_content") or ""
        for call in choice["delta"].get("tool_calls", []):
            name, arguments = calls.get(call["index"], ("", ""))
            function = call["function"]
            calls[call["index"]] = name + (function.get("name") or ""), arguments + (function.get("arguments") or "")
        end = choice["finish_reason"] or end
    return text, reasoning, list(calls.values()), end


def test_every_nasty_answer_has_its_line():
    """None is forgotten here."""
    assert {*SEEN} | FAILED == {*NASTY}


@pytest.mark.parametrize("name", SEEN)
def test_what_a_client_sees(name):
    """Text, reasoning and calls come whole and once; a broken answer ends with an error."""
    assert Opening().look(b"".join(_bytes(name)), ended=True).fine
    writer = ChunkWriter(completion_id="fake", model="m", created=1, usage=False)
    stream = ChatStream(writer, AnswerOptions(), Story("kiro"), None)
    text, reasoning, calls, end = _seen(b"".join(stream.feed(piece) for piece in _bytes(name)) + stream.finish())
    expected = SEEN[name]
    assert (text, reasoning, end) == (expected[0], expected[1], expected[3])
    if expected[2] is None:
        with pytest.raises(json.JSONDecodeError):
            json.loads(calls[0][1])
    else:
        assert [(called, json.loads(arguments)) for called, arguments in calls] == expected[2]


@pytest.mark.parametrize("name", sorted(FAILED))
def test_what_is_a_failed_attempt(name):
    """Answers that break before anything was said can be tried again elsewhere."""
    found = Opening().look(b"".join(_bytes(name)), ended=True)
    assert found.fine is False
    assert found.failure is not None
