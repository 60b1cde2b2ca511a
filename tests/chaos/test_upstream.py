"""A service that breaks off, breaks the rules, or says what nobody expects: the client gets all of it, or an error."""

import gzip
import json
import zlib

import brotli
import pytest
import zstandard

from tests.chaos.lab import GOOD, KINDS, PROVIDERS
from tests.chaos.raw import END, answer, chunk, head
from tests.servers.kiro_answers import INITIAL, METERING, PERCENT, text
from tests.servers.script import chat_events

STATUSES = range(200, 600)
BODILESS = {204, 304}
FAILURE = b'{"error": {"message": "fake words", "type": "fake"}}'
JSON = ("content-type", "application/json")
RARE = (201, 204, 205, 206, 300, 301, 302, 303, 304, 305, 307, 308, 400, 402, 404, 405, 407, 408, 409, 413, 414, 418)
RARE += (421, 422, 423, 425, 426, 428, 429, 431, 451, 499, 500, 501, 502, 503, 504, 505, 507, 511, 520, 529, 599)


def serve(lab, provider, *pieces, how=None, pause=0.0, times=3):
    """Have the next requests answered with these bytes over HTTP/1.1, and the connection broken off where *how*."""

    async def script(exchange):
        await exchange.send(*pieces, pause=pause)
        if how:
            await exchange.end(how)

    if provider == "kiro":
        lab.recover()
    server = lab.servers[provider, False]
    server.scripts.clear()
    server.scripts.extend([script] * times)


def asked(lab, provider, *pieces, way="local", **more):
    """Return what a client meets whose request is answered with these bytes."""
    serve(lab, provider, *pieces, **more)
    return lab.ask(provider, way)


# --- broken off ------------------------------------------------------------------------------------------------------


def stages(kind, good):
    """Return what of a good answer has been sent when it breaks off."""
    whole = head(kind)
    half = good[: len(good) // 2]
    known = head(kind, f"content-length: {len(good)}")
    return {
        "before the head": (),
        "in the status line": (b"HTTP/1.1 20",),
        "in the head": (whole[:40],),
        "after the head": (whole,),
        "in a chunk's size": (whole, chunk(half), b"1"),
        "in a chunk": (whole, chunk(half), b"100\r\n" + good[:10]),
        "in an event": (whole, chunk(half)),
        "between events": (whole, chunk(good[: good.index(b"\n\n") + 2] if kind == KINDS["kimi"] else half)),
        "before the last chunk": (whole, chunk(good)),
        "before the last byte": (whole, chunk(good), END[:-1]),
        "within a known length": (known, half),
        "before the last byte of a known length": (known, good[:-1]),
    }


@pytest.mark.parametrize(("how", "way"), [("reset", "local"), ("close", "h2"), ("cut", "h1"), ("reset", "h2")])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_answer_that_breaks_off_is_whole_or_an_error(lab, provider, how, way):
    """At every stage of an answer, whatever the client speaks."""
    for stage, pieces in stages(KINDS[provider], GOOD[provider]).items():
        outcome = asked(lab, provider, *pieces, how=how, way=way)
        assert outcome.honest, (stage, outcome)
        if outcome.complete:
            assert outcome.text == "good", (stage, outcome)


# --- statuses --------------------------------------------------------------------------------------------------------


def test_every_status_of_kimi_reaches_the_client_or_is_explained(lab):
    """From 200 to 599, with a body or without: none hangs, none costs the connection, none moves the login."""
    login = lab.proxy.session().status()
    rotations = lab.world.kimi.oauth.refreshes
    with lab.client("local", "kimi") as client:
        for status in STATUSES:
            if status == 401:
                continue
            body = b"" if status in BODILESS else FAILURE
            serve(lab, "kimi", answer(status, body, JSON, ("location", "https://elsewhere.example/")))
            outcome = lab.ask_with(client, "kimi")
            assert outcome.broken is None, (status, outcome)
            assert (outcome.status, outcome.body) == (status, body), (status, outcome)
    assert lab.proxy.session().status() == login
    assert lab.world.kimi.oauth.refreshes == rotations
    assert "elsewhere.example" not in str(lab.world.upstream.connects)


@pytest.mark.parametrize("length", ["none", "wrong"])
def test_statuses_that_have_no_body_end_with_their_head(lab, length):
    """204 and 304 are over at once, whatever they say of a length (RFC 9110 §15.3.5, §15.4.5)."""
    for status in BODILESS:
        line = f"HTTP/1.1 {status} Fake\r\n{'' if length == 'none' else 'content-length: 5\r\n'}\r\n".encode()
        outcome = asked(lab, "kimi", line, how="close" if length == "wrong" else None)
        assert (outcome.status, outcome.body) == (status, b"")


def test_every_status_of_kiro_becomes_an_error_of_a_chat_client(lab):
    """Whatever is not a 200 is an error with a message, and never the service's own words about another world."""
    with lab.client("local", "kiro") as client:
        for status in RARE:
            body = b"" if status in BODILESS else b"{}"
            serve(lab, "kiro", answer(status, body, JSON, ("location", "https://elsewhere.example/")))
            outcome = lab.ask_with(client, "kiro")
            assert outcome.honest, (status, outcome)
            assert not outcome.complete, (status, outcome)
            assert outcome.error, (status, outcome)
    assert "elsewhere.example" not in str(lab.world.upstream.connects)


@pytest.mark.parametrize("status", [100, 101, 102, 103, 104, 150, 199])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_comes_before_an_answer_does_not_replace_it(lab, provider, status):
    """After an interim answer (RFC 9110 §15.2) the final one is read, or its absence told."""
    early = f"HTTP/1.1 {status} Early\r\nlink: </fake>\r\n\r\n".encode()
    outcome = asked(lab, provider, early, head(KINDS[provider]), chunk(GOOD[provider]), END)
    assert outcome.honest, outcome
    assert outcome.status != status


# --- bytes against the rules -----------------------------------------------------------------------------------------

KIMI = chunk(GOOD["kimi"]) + END
SSE = KINDS["kimi"]
BROKEN = {
    "no HTTP": b"SSH-2.0-fake\r\n",
    "HTML": b"<html>Bad gateway</html>",
    "a status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n",
    "a field without a colon": b"HTTP/1.1 200 OK\r\nfake\r\n\r\n",
    "a name with a space": b"HTTP/1.1 200 OK\r\ncontent-length : 4\r\n\r\nfour",
    "two lengths": head(SSE, "content-length: 4", "content-length: 5") + b"fourfive",
    "a length of letters": head(SSE, "content-length: four") + b"four",
    "a length below zero": head(SSE, "content-length: -4") + b"four",
    "length and chunks": head(SSE, "content-length: 4", "transfer-encoding: chunked") + KIMI,
    "an unknown coding": head(SSE, "transfer-encoding: fake") + KIMI,
    "chunks twice": head(SSE, "transfer-encoding: chunked, chunked") + KIMI,
    "a chunk below zero": head(SSE) + b"-5\r\nhello\r\n" + END,
    "a chunk of letters": head(SSE) + b"zz\r\nhello\r\n" + END,
    "a chunk without its end": head(SSE) + b"5\r\nhelloworld\r\n" + END,
    "a chunk of a terabyte": head(SSE) + b"ffffffffff\r\nhello",
}


@pytest.mark.parametrize("name", BROKEN)
def test_bytes_against_the_rules_are_an_error(lab, name):
    """Nothing that a client could take for an answer is made of them."""
    for provider, way in (("kimi", "local"), ("kimi", "h2"), ("kiro", "local")):
        outcome = asked(lab, provider, BROKEN[name], way=way, how="close")
        assert outcome.honest, (provider, way, outcome)
        assert not outcome.complete or outcome.text == "good", (provider, way, outcome)


def test_duplicate_fields_and_folded_lines_do_no_harm(lab):
    """What is odd and still clear is served."""
    odd = head(SSE, "x-fake: 1", "x-fake: 2", "transfer-encoding: chunked", "connection: keep-alive, fake")
    outcome = asked(lab, "kimi", odd, chunk(GOOD["kimi"]), b"0\r\nx-trailer: fake\r\n\r\n")
    assert outcome.complete
    assert outcome.text == "good"


# --- slow ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_body_in_single_bytes_is_whole(lab, provider):
    """Each byte is a chunk of its own, and an event of the loop."""
    pieces = [chunk(bytes([byte])) for byte in GOOD[provider]]
    outcome = asked(lab, provider, head(KINDS[provider]), *pieces, END)
    assert outcome.complete
    assert outcome.text == "good"


def test_others_are_served_while_a_head_drips(lab):
    """A service that sends its head byte by byte is given up at the limit; nobody else waits for it."""
    drip = [bytes([byte]) for byte in head(SSE)]
    with lab.background_ask("kimi") as slow:
        serve(lab, "kimi", *drip, pause=0.5)
        with lab.impatient():
            slow.start()
            lab.wait_for_served("kimi")
        lab.servers["kimi", False].scripts.clear()
        lab.probe()
    assert slow.outcome.status == 504
    assert slow.outcome.error["code"] == "kimi_silent"


ENDLESS = {
    "head": (b"HTTP/1.1 200 OK\r\n", b"x-fake: " + b"x" * 8000 + b"\r\n"),
    "first line": (b"HTTP/1.1 200 ", b"x" * 8000),
    "chunk extension": (head(SSE) + b"5;", b"x" * 8000),
    "trailers": (head(SSE) + b"0\r\n", b"x-fake: " + b"x" * 8000 + b"\r\n"),
}


@pytest.mark.parametrize("what", ENDLESS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_never_ends_is_given_up_by_its_size(lab, provider, what):
    """However patient one is, it is not kept until time is up; its client hears of it."""
    begin, more = ENDLESS[what]
    before = lab.memory()

    async def script(exchange):
        await exchange.send(begin)
        while True:
            await exchange.send(more)

    lab.servers[provider, False].scripts.extend([script] * 3)
    outcome = lab.ask(provider)
    assert outcome.honest, outcome
    assert not outcome.complete
    assert lab.memory() - before < 32 * 1024


# --- codings and types -----------------------------------------------------------------------------------------------


def _zstd(data):
    return zstandard.ZstdCompressor().compress(data)


CODERS = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": _zstd,
}


@pytest.mark.parametrize("coding", CODERS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_compressed_answer_is_whole(lab, provider, coding):
    """In one piece, in single bytes, and as several members or frames one after the other."""
    good = GOOD[provider]
    coded = CODERS[coding](good)
    top = head(KINDS[provider], f"content-encoding: {coding}", "transfer-encoding: chunked")
    bodies = [[chunk(coded)], [chunk(bytes([byte])) for byte in coded]]
    if coding in {"gzip", "zstd"}:
        bodies.append([chunk(CODERS[coding](good[:99])), chunk(CODERS[coding](good[99:]))])
    for body in bodies:
        outcome = asked(lab, provider, top, *body, END)
        assert outcome.complete, outcome
        assert outcome.text == "good"


WORDS = [f"word {number * 7919 % 1009} " for number in range(300)]
LONG = {
    "kimi": b"".join(chat_events(*WORDS)),
    "kiro": b"".join((INITIAL, *(text(word) for word in WORDS), PERCENT, METERING)),
}


@pytest.mark.parametrize("coding", CODERS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_compressed_answer_that_is_cut_or_damaged_is_an_error(lab, provider, coding):
    """HTTP says that all is well, the coding that it is not: the client is told."""
    coded = CODERS[coding](LONG[provider])
    top = head(KINDS[provider], f"content-encoding: {coding}", "transfer-encoding: chunked")
    middle = len(coded) // 2
    damaged = coded[:middle] + bytes(255 - byte for byte in coded[middle : middle + 8]) + coded[middle + 8 :]
    for body in (coded[:middle], damaged, b"this is no such coding"):
        outcome = asked(lab, provider, top, chunk(body), END)
        assert outcome.honest, (body[:20], outcome)
        assert not outcome.complete, (body[:20], outcome)
    outcome = asked(lab, provider, top, chunk(coded[:-1]), END)
    assert outcome.honest
    assert not outcome.complete or outcome.text == "".join(WORDS), "what the last byte was for has come all the same"


@pytest.mark.parametrize("way", ["local", "h1", "h2"])
def test_a_compressed_object_that_is_cut_is_broken_off(lab, way):
    """In half a JSON object there is no room for an error: its client must not take it for whole."""
    coded = zlib.compress(json.dumps({"choices": WORDS}).encode())
    for framing, body in (("transfer-encoding: chunked", chunk(coded[:99]) + END), ("content-length: 99", coded[:99])):
        top = head("application/json", "content-encoding: deflate", framing)
        serve(lab, "kimi", top, body)
        outcome = lab.ask("kimi", way, stream=False)
        assert outcome.status == 200
        assert outcome.broken, outcome


@pytest.mark.parametrize("kind", ["text/html", "text/plain", "application/json", "application/octet-stream", "fake"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_answer_of_another_type_is_what_it_is(lab, provider, kind):
    """Kimi's reaches the client as it came; Kiro's is an error, for nobody can read it."""
    body = b"<html>a gateway says hello</html>"
    outcome = asked(lab, provider, answer(200, body, ("content-type", kind)))
    if provider == "kimi":
        assert (outcome.status, outcome.body, outcome.headers["content-type"]) == (200, body, kind)
    else:
        assert outcome.honest
        assert not outcome.complete


def test_a_line_of_ten_megabytes_from_kiro_is_an_error_at_once(lab):
    """No frame is that long: it is not waited for, nor kept."""
    size = 10 * 1024 * 1024
    outcome = asked(lab, "kiro", answer(200, b"x" * size, ("content-type", KINDS["kiro"])))
    assert outcome.honest
    assert not outcome.complete
