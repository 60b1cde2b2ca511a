"""The OpenAI Python SDK with a Kiro whose answers are cut, damaged, silent, or fast: it gets all of it, or an error."""

import json
import time

import httpx2
import openai
import pytest

from tests.e2e.kiro_sdk import ADD, called, make, say, told
from tests.kiro.kiro_frames import INITIAL, METERING, PERCENT, text
from tests.servers.kiro_answers import END_TURN, NASTY, stream
from tests.servers.script import Break, Gate, Pace


@pytest.fixture(params=["h2", "local"])
def client(request, kiro):
    """Return an SDK client on its way: HTTP/2 through the proxy, HTTP/1.1 to the base URL (and see `client_h1`)."""
    with make(kiro, request.param) as made:
        yield made


@pytest.fixture
def client_h1(kiro):
    """Return an SDK client over HTTP/1.1 through the proxy, where the way makes no difference."""
    with make(kiro, "h1") as made:
        yield made


@pytest.fixture
def plain(kiro):
    """Return an SDK client of the plain base URL."""
    with make(kiro, "local") as made:
        yield made


@pytest.fixture(autouse=True)
def _healthy(kiro):
    """Give the proxy one account that nothing has happened to yet."""
    kiro.accounts(1)


STREAMED = pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])


def ask(client, name, streamed):
    """Return text, calls and finish reason of a nasty answer."""
    arguments = say(f"[[nasty {name}]]", tools=[ADD])
    if streamed:
        parts = list(client.chat.completions.create(**arguments, stream=True))
        return *told(parts), called(parts)
    (choice,) = client.chat.completions.create(**arguments).choices
    calls = [(c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls or ()]
    return choice.message.content or "", choice.finish_reason, calls


@STREAMED
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bytes", "one byte"),
        ("one-chunk", "many frames"),
        ("odd-chunks", "odd chunks"),
        ("twins", "hahaha"),
        ("surrogates", "\N{GRINNING FACE}"),
        ("unknown-event", "known"),
        ("followup", "answer"),
        ("reasoning", "thus"),
        ("empty", ""),
    ],
)
def test_text_arrives_however_it_is_sent(client_h1, name, content, streamed):
    """Chunks, frames and characters may be cut anywhere, and strangers among the events are passed over."""
    assert ask(client_h1, name, streamed) == (content, "stop", [])


@STREAMED
@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("object-input", [{"path": "."}]),
        ("object-pieces", [{"path": ".", "all": True}]),
        ("two-calls", [{"path": 1}, {"path": 2}]),
        ("replayed-call", [{"path": 1}]),
        ("missing-stop", [{"path": 1}]),
    ],
)
def test_tool_calls_are_whole_however_they_are_sent(client_h1, name, calls, streamed):
    """Objects for strings, pieces, repeats, no stop: the client gets each call once, as JSON."""
    assert ask(client_h1, name, streamed) == ("", "tool_calls", [("ls", arguments) for arguments in calls])


BROKEN = ["cut-call", "no-completion", "cut-in-frame", "crc", "prelude-crc", "length", "exception-middle"]


@pytest.mark.parametrize("name", BROKEN)
def test_a_stream_that_breaks_does_not_look_finished(kiro_world, client_h1, name):
    """After what was good comes an error that the SDK raises, never a finish reason, and nothing is sent again."""
    parts = []
    answer = client_h1.chat.completions.create(**say(f"[[nasty {name}]]", tools=[ADD], stream=True))
    with pytest.raises((openai.APIError, httpx2.TransportError)):
        parts.extend(answer)
    assert not [part for part in parts if part.choices and part.choices[0].finish_reason]
    assert len(kiro_world.kiro.of("generate")) == 1


def test_a_lost_connection_does_not_look_finished(kiro_world, client):
    """What had come is there, then comes an error, and nothing is sent again."""
    gate = Gate()
    kiro_world.kiro.queue(stream(INITIAL, text("half"), gate, Break.RESET))
    answer = client.chat.completions.create(**say("x", stream=True))
    parts = [next(answer), next(answer)]
    gate.open()  # not before: a reset overtakes what is still on its way
    with pytest.raises((openai.APIError, httpx2.TransportError)):
        parts.extend(answer)
    assert told(parts) == ("half", None)
    assert len(kiro_world.kiro.of("generate")) == 1


@pytest.mark.parametrize("name", ["cut-call", "no-completion", "crc", "exception-middle"])
def test_a_whole_answer_that_breaks_is_an_error(plain, name):
    """``stream: false`` gets an error status where no try is left, never half of an answer."""
    with pytest.raises(openai.APIStatusError) as caught:
        plain.chat.completions.create(**say(f"[[nasty {name}]]", tools=[ADD]))
    assert caught.value.status_code >= 500


@pytest.mark.parametrize("name", ["no-completion", "crc", "reset"])
def test_a_whole_answer_that_breaks_is_asked_for_again(kiro_world, plain, name):
    """Of ``stream: false`` the client has seen nothing yet, so that there is another attempt."""
    kiro_world.kiro.queue(NASTY[name])
    answer = plain.chat.completions.create(**say("[[say served]]"))
    assert answer.choices[0].message.content == "served"
    assert len(kiro_world.kiro.of("generate")) == 2


@STREAMED
def test_an_answer_that_fills_the_window_ends_for_its_length(client_h1, streamed):
    """Too much context in mid-answer is the dialect's finish reason for that."""
    assert ask(client_h1, "too-long-middle", streamed) == ("half", "length", [])


@pytest.mark.parametrize(
    ("name", "tries", "streamed"),
    [
        ("exception-first", 1, True),
        ("exception-first", 1, False),
        ("exception-second", 1, True),
        ("exception-second", 1, False),
        ("json-200", 1, True),
        ("json-200", 1, False),
        ("error-frame", 2, True),
        ("html", 2, False),
        ("nothing", 2, True),
        ("nothing", 2, False),
    ],
)
def test_an_answer_that_never_begins_is_a_failed_attempt(kiro_world, kiro, plain, name, tries, streamed):
    """An exception before the first word is no answer: another account is asked, and the client sees that one only."""
    kiro.accounts(2)
    kiro_world.kiro.queue(*[NASTY[name]] * tries)
    got = plain.chat.completions.with_raw_response.create(**say("[[say served]]", stream=streamed))
    parsed = got.parse()
    assert (told(parsed)[0] if streamed else parsed.choices[0].message.content) == "served"
    askers = [kiro.who(seen) for seen in kiro_world.kiro.of("generate")]
    assert len(askers) == tries + 1
    assert len(set(askers)) == 2


@pytest.fixture(scope="module")
def impatient(start_kiro):
    """Return a proxy that waits a second for the first byte, and as long within an answer."""
    made = start_kiro(options=["kiro_first_byte_timeout=1", "kiro_idle_timeout=1"])
    made.add()
    return made


@pytest.mark.parametrize("way", ["h1", "local"])
def test_silence_within_an_answer_is_ended_with_an_error(kiro_world, impatient, way):
    """After the idle limit the client gets an error after what had come, and Kiro is left."""
    kiro_world.kiro.queue(stream(INITIAL, text("half"), Gate()))
    parts = []
    with make(impatient, way) as client:
        answer = client.chat.completions.create(**say("x", stream=True))
        with pytest.raises(openai.APIError):
            parts.extend(answer)
    assert told(parts) == ("half", None)
    kiro_world.kiro.wait_for_disconnect(kiro_world.kiro.of("generate")[0])


@pytest.mark.parametrize("way", ["h1", "local"])
def test_silence_before_an_answer_is_a_failed_attempt(kiro_world, impatient, way):
    """A service that takes a request and says nothing is left, and another account is asked."""
    impatient.accounts(2)
    kiro_world.kiro.queue(*[stream(INITIAL, Gate())] * 2)
    begun = time.monotonic()
    with make(impatient, way) as client:
        answer = client.chat.completions.create(**say("[[say served]]"))
    assert answer.choices[0].message.content == "served"
    assert time.monotonic() - begun < 8


RATE = 500  # frames a second
FRAMES = 2 * RATE
AT_A_TIME = RATE // 2


def test_five_hundred_frames_a_second_arrive_one_by_one(kiro_world, client):
    """Sent by the clock for two seconds, each frame is a chunk of its own, in order, and none is held for a later one.

    Every half second Kiro sends nothing more until the client has all there was.
    """
    pace, gate = Pace(1 / RATE), Gate()
    steps = [step for number in range(FRAMES) for step in (pace, text(f"{number} "))]
    for end in range(2 * FRAMES, 0, -2 * AT_A_TIME):
        steps.insert(end, gate)
    kiro_world.kiro.queue(stream(INITIAL, *steps, END_TURN, PERCENT, METERING))
    got = []
    for part in client.chat.completions.create(**say("count", stream=True)):
        if part.choices and (piece := part.choices[0].delta.content):
            got.append(piece)
            if len(got) % AT_A_TIME == 0:
                gate.open()
    assert got == [f"{number} " for number in range(FRAMES)]
    assert part.choices[0].finish_reason == "stop"
