"""The same over HTTP/2, where a stream and a connection may each break in ways of their own (RFC 9113)."""

from contextlib import nullcontext

import pytest

from tests.chaos.lab import GOOD, KINDS, PROVIDERS

CODES = {"kimi": (*range(14), 0xFFFFFFFF), "kiro": (0, 2, 8)}
HEADERS, DATA, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = 1, 0, 3, 4, 5, 6, 7, 8, 9
END_STREAM = 0x1


@pytest.fixture(autouse=True)
def _h2(lab):
    """Have both services speak HTTP/2."""
    for provider in PROVIDERS:
        lab.lead(provider, lab.servers[provider, True])


def served(lab, provider, script, *, way="h1", times=3):
    """Return what a client meets whose request is answered by *script*."""
    if provider == "kiro":
        lab.recover()
    server = lab.servers[provider, True]
    server.scripts.clear()
    server.scripts.extend([script] * times)
    return lab.ask(provider, way)


async def begin(stream, provider, stage):
    """Send as much of a good answer as *stage* says."""
    if stage == "before the head":
        return
    await stream.head(("content-type", KINDS[provider]))
    half = len(GOOD[provider]) // 2
    if stage == "in the body":
        await stream.data(GOOD[provider][:half])
    elif stage == "before the end":
        await stream.data(GOOD[provider])


STAGES = ("before the head", "after the head", "in the body", "before the end")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_reset_stream_is_whole_or_an_error(lab, provider, stage):
    """Whatever code it has, NO_ERROR among them: an answer without its end is none."""
    for number, code in enumerate(CODES[provider]):

        async def script(stream, code=code):
            await begin(stream, provider, stage)
            await stream.reset(code)

        outcome = served(lab, provider, script, way=("h1", "h2")[number % 2])
        assert outcome.honest, (code, outcome)
        if outcome.complete:
            assert outcome.text == "good", (code, outcome)
        assert stage != "in the body" or not outcome.complete, (code, outcome)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_connection_that_goes_away_is_whole_or_an_error(lab, provider, stage):
    """GOAWAY with every code, saying that this stream was taken or that it was not; then the connection ends."""
    for number, code in enumerate(CODES[provider]):

        async def script(stream, code=code, last=number % 2):
            await begin(stream, provider, stage)
            await stream.frame(GOAWAY, 0, 0, (stream.number * last).to_bytes(4) + code.to_bytes(4) + b"fake")
            await stream.end("close")

        outcome = served(lab, provider, script, way=("h1", "h2")[number % 2])
        assert outcome.honest, (code, outcome)
        assert stage != "in the body" or not outcome.complete, (code, outcome)


def test_a_graceful_goaway_lets_the_answer_end(lab):
    """The service says that it will take no more; what is under way goes on, and the next request is served."""

    async def script(stream):
        await begin(stream, "kimi", "in the body")
        await stream.frame(GOAWAY, 0, 0, stream.number.to_bytes(4) + bytes(4))
        await stream.data(GOOD["kimi"][len(GOOD["kimi"]) // 2 :], end=True, pause=0.05)
        await stream.end("close")

    with lab.client("h2", "kimi") as client:
        lab.servers["kimi", True].scripts.append(script)
        outcomes = [lab.ask_with(client, "kimi") for _ in range(3)]
    assert all(outcome.honest for outcome in outcomes), outcomes
    assert outcomes[-1].complete


ILLEGAL = {
    "data without a head": lambda n: (DATA, END_STREAM, n, b"data"),
    "data on stream 0": lambda _: (DATA, 0, 0, b"data"),
    "data on an idle stream": lambda n: (DATA, 0, n + 100, b"data"),
    "a head that is no HPACK": lambda n: (HEADERS, 0x4, n, b"\xff" * 40),
    "a head in parts, and no end": lambda n: (HEADERS, 0, n, b""),
    "a continuation of nothing": lambda n: (CONTINUATION, 0x4, n, b""),
    "settings of a wrong length": lambda _: (SETTINGS, 0, 0, b"12345"),
    "a pushed answer": lambda n: (PUSH, 0x4, n, b"\x00\x00\x00\x02\x88"),
    "a window of nothing": lambda n: (WINDOW, 0, n, bytes(4)),
    "a window beyond bounds": lambda _: (WINDOW, 0, 0, b"\x7f\xff\xff\xff"),
    "a ping of a wrong length": lambda _: (PING, 0, 0, b"123"),
    "a frame beyond the limit": lambda n: (DATA, 0, n, b"x" * 70_000),
    "an unknown frame": lambda n: (0x7F, 0, n, b"fake"),
}


@pytest.mark.parametrize("name", ILLEGAL)
def test_frames_against_the_rules(lab, name):
    """The answer after them is read where the rules allow it, else the client gets an error."""
    endless = name == "a head in parts, and no end"
    for provider in PROVIDERS:

        async def script(stream, provider=provider):
            await stream.frame(*ILLEGAL[name](stream.number))
            if endless:
                return
            await stream.head(("content-type", KINDS[provider]))
            await stream.data(GOOD[provider], end=True)

        with lab.impatient() if endless else nullcontext():
            outcome = served(lab, provider, script)
        assert outcome.honest, (provider, outcome)
        if outcome.complete:
            assert outcome.text == "good", outcome


@pytest.mark.parametrize(
    "fields",
    [
        [("content-length", "3")],
        [("content-length", "99999")],
        [("transfer-encoding", "chunked")],
        [("connection", "close")],
        [("Content-Type", "text/event-stream")],
        [(":status", "200")],
        [("x-fake", "a\r\nb: c")],
    ],
)
@pytest.mark.parametrize("way", ["h1", "h2"])
def test_fields_against_the_rules(lab, way, fields):
    """Lengths that are not true, fields of HTTP/1.1, a line break within a value: nothing is smuggled to the client."""

    async def script(stream):
        await stream.head(("content-type", KINDS["kimi"]), *fields)
        await stream.data(GOOD["kimi"], end=True)

    outcome = served(lab, "kimi", script, way=way)
    assert outcome.honest, outcome
    if outcome.complete:
        assert outcome.text == "good"
        assert "b" not in outcome.headers


def test_trailers_and_interim_answers_pass(lab):
    """Early hints come before the answer, trailers after it."""

    async def script(stream):
        await stream.head(("link", "</fake>"), status=103)
        await stream.head(("content-type", KINDS["kimi"]))
        await stream.data(GOOD["kimi"])
        stream.wire.send_headers(stream.number, [("x-trailer", "fake")], end_stream=True)
        await stream.flush()

    for way in ("h1", "h2"):
        outcome = served(lab, "kimi", script, way=way)
        assert outcome.honest, outcome
        assert outcome.complete, outcome


def test_a_flood_of_small_frames_holds_up_nobody(lab):
    """Pings, settings and empty pieces by the thousand are taken, and the answer comes."""

    async def script(stream):
        await stream.head(("content-type", KINDS["kimi"]))
        for _ in range(1000):
            stream.wire.ping(b"fakefake")
            stream.wire.send_data(stream.number, b"")
        await stream.flush()
        await stream.data(GOOD["kimi"], end=True)

    outcome = served(lab, "kimi", script)
    assert outcome.honest, outcome


@pytest.mark.parametrize("provider", PROVIDERS)
def test_single_bytes_are_whole(lab, provider):
    """Each byte in a frame of its own."""

    async def script(stream):
        await stream.head(("content-type", KINDS[provider]))
        for byte in GOOD[provider]:
            await stream.data(bytes([byte]))
        await stream.data(b"", end=True)

    outcome = served(lab, provider, script, way="h2")
    assert outcome.complete, outcome
    assert outcome.text == "good"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_head_without_an_end_is_given_up_by_its_size(lab, provider):
    """Continuations without the last one, however patient one is: they are not kept until time is up."""
    before = lab.memory()

    async def script(stream):
        await stream.frame(HEADERS, 0, stream.number, b"")
        while True:
            await stream.frame(CONTINUATION, 0, stream.number, b"x" * 16384)

    outcome = served(lab, provider, script)
    assert outcome.honest, outcome
    assert not outcome.complete
    assert lab.memory() - before < 32 * 1024
