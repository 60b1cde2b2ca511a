"""What is fuzzed: each target with the input that it begins from, and what must hold whatever comes."""

import io
import json
import random
import re
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from kimi_core.errors import BadRequest, KimiMitmError, StoreDamaged, UpstreamError
from kimi_core.exchange import Story
from kimi_core.headers import Headers
from kimi_core.kimi import answer as kimi_answer
from kimi_core.kimi import models as kimi_models
from kimi_core.kimi import usage as kimi_usage
from kimi_core.kimi.body import BodyOptions, rewrite
from kimi_core.kimi.logins import StoredLogin
from kimi_core.kimi.memory import ReasoningMemory
from kimi_core.kimi.verdict import classify
from kimi_core.kiro import catalog, ide_store, kiro_cli_store, opencode_store
from kimi_core.kiro.accounts import Accounts, Registry
from kimi_core.kiro.answer import AnswerOptions
from kimi_core.kiro.catalog import FALLBACK
from kimi_core.kiro.converter import ChatStream, collect
from kimi_core.kiro.opening import Opening
from kimi_core.kiro.request import RequestOptions, translate
from kimi_core.kiro.stores import Surroundings, Unreadable
from kimi_core.store import Document
from kimi_core.view import answer, eventstream, request
from kimi_core.view.text import FOOT, PAGE
from kimi_core.wire import codings, sse
from kimi_core.wire.chat_chunks import ChunkWriter, Completion
from kimi_core.wire.eventstream import Decoder
from tests.fuzz.mutation import BINARY_TOKENS, JSON_TOKENS, SSE_TOKENS
from tests.kiro.kiro_frames import END, INITIAL, call, exception, text, thought
from tests.servers.kiro_validator import Rules, violations

RECORDINGS = Path(__file__).resolve().parent.parent / "recordings"
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
HEAD = {"completion_id": "chatcmpl-1", "model": "m", "created": 1}
LIMIT = 1 << 18  # bytes


@dataclass(frozen=True, slots=True)
class Target:
    """`check` raises where something that must hold does not; `seeds` and `tokens` are what input is made of."""

    check: Callable[[bytes], object]
    seeds: Callable[[], Sequence[bytes]]
    tokens: Sequence[bytes]


def _pieces(data: bytes) -> list[bytes]:
    """Cut *data* at places that depend on it alone."""
    chance = random.Random(len(data))
    edges = sorted(chance.randrange(len(data) + 1) for _ in range(4))
    return [data[start:end] for start, end in pairwise([0, *edges, len(data)])]


# --- answers ----------------------------------------------------------------------------------------------------------


def _frames(pieces: Sequence[bytes]) -> tuple[list[object], str]:
    decoder, found = Decoder(), []
    try:
        for piece in pieces:
            found += decoder.feed(piece)
        decoder.finish()
    except KimiMitmError as error:
        return found, error.code
    return found, ""


def event_stream(data: bytes) -> None:
    """Frames, or an error of ours; the same however the bytes were cut."""
    assert _frames(_pieces(data)) == _frames([data])


def _well_formed(stream: bytes) -> None:
    for one in sse.events(stream):
        if one.data != "[DONE]":
            assert isinstance(json.loads(one.data), dict)


def kiro_answer(data: bytes) -> None:
    """A stream of JSON objects, and a whole answer, of whatever came; the same however it was cut."""
    outs = []
    for pieces in ([data], _pieces(data)):
        stream = ChatStream(ChunkWriter(**HEAD, usage=True), AnswerOptions(), Story("kiro"), None)
        outs.append(b"".join([*map(stream.feed, pieces), stream.finish()]))
    assert _deltas(outs[0]) == _deltas(outs[1])
    for out in outs:
        _well_formed(out)
    Opening().look(data, ended=True)
    with suppress(KimiMitmError):
        collect(data, Completion(**HEAD), AnswerOptions(), Story("kiro"))


def _deltas(stream: bytes) -> str:
    found = [json.loads(one.data) for one in sse.events(stream) if one.data != "[DONE]"]
    choices = [choice["delta"] for chunk in found for choice in chunk.get("choices", ())]
    return "".join(delta.get("content") or "" for delta in choices)


def sse_editor(data: bytes) -> None:
    """What is not edited leaves as it came; a chat that is watched never raises, however it is cut."""
    editor = sse.Editor(lambda _: None)
    assert b"".join([*map(editor.feed, _pieces(data)), editor.finish()]) == data
    for make in (lambda: kimi_answer.ChatStream(Story("kimi"), ReasoningMemory()), _messages_stream):
        outs = []
        for pieces in ([data], _pieces(data)):
            stream = make()
            outs.append(b"".join([*map(stream.feed, pieces), stream.finish()]))
        assert outs[0] == outs[1]
    whole = kimi_answer.JsonAnswer(Story("kimi"), ReasoningMemory())
    whole.feed(data)
    whole.finish()
    classify(429, data)


def _messages_stream() -> kimi_answer.MessagesStream:
    return kimi_answer.MessagesStream(Story("kimi"))


def content_codings(data: bytes) -> None:
    """Any bytes in any coding give bounded bytes."""
    for name in ("gzip", "deflate", "br", "zstd"):
        assert len(codings.decode(data, name, LIMIT)) <= max(len(data), LIMIT + 5 * codings.PIECE)
        decoder = codings.decoder_for(name)
        with suppress(codings.TooMuch, *codings.DAMAGED):
            for piece in _pieces(data):
                decoder.feed(piece)


# --- requests ---------------------------------------------------------------------------------------------------------


def kimi_request(data: bytes) -> None:
    """A refusal that names the field, or one JSON object."""
    for mode, clamp in (("kimi-cli", True), ("plugin", False)):
        options = BodyOptions(mode, "kimi-cli", "fake-salt", prefer_parent=True, clamp=clamp)
        try:
            out = rewrite(data, Headers(), catalog=kimi_models.Catalog(), options=options, memory=ReasoningMemory())
        except BadRequest:
            continue
        assert isinstance(json.loads(out.body, parse_int=str), dict)  # numbers of any length stay as they are


def kiro_request(data: bytes) -> None:
    """A refusal, or a body in which the service's own rules find no fault."""
    try:
        made = translate(
            data,
            model=FALLBACK.find("claude-sonnet-4.6"),
            identity_origin="KIRO_CLI",
            conversation_id="5f0c0000-0000-4000-8000-000000000000",
            options=RequestOptions(),
        )
    except KimiMitmError:
        return
    assert violations(json.loads(made.body()), Rules()) == []


# --- stores and answers of the services -------------------------------------------------------------------------------


def _asked(ask: Callable[[], object], refusal: type[Exception]) -> None:
    """Call *ask*, which may refuse, with a message that has no secret in it."""
    problem = ""
    try:
        ask()
    except refusal as error:
        problem = str(error)
    assert "fake-" not in problem


def store(data: bytes) -> None:
    """What is stored is read, or named as damaged; nothing of it is in the message."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("kimi-kimi.com.json", "kiro-accounts.json"):
            (folder / file).write_bytes(data)
        asked = (Document(folder / "kimi-kimi.com.json").read, StoredLogin(folder, "kimi.com").token)
        for ask in (*asked, Registry(folder).load):
            _asked(ask, StoreDamaged)


def other_stores(data: bytes) -> None:
    """A database, or a file, of another program is read or named as unreadable; its content is in no message."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "data.sqlite3")
        path.write_bytes(data)
        around = Surroundings({}, Path(name), "linux")
        for ask in (
            lambda: kiro_cli_store.read(path),
            lambda: opencode_store.read_database(path),
            lambda: opencode_store.read(path),
            lambda: ide_store.read(path, around),
        ):
            _asked(ask, Unreadable)


def service_answers(data: bytes) -> None:
    """Lists of models and usage are read, or refused as such; no text in them steers a terminal."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    for read in (lambda: kimi_models.parse(value, 0.0), lambda: catalog.parse(value, 0.0)):
        with suppress(UpstreamError):
            for model in read().models:
                assert not STEERING.search(model.id)
    with suppress(UpstreamError):
        for row in kimi_usage.parse(value, 0.0).rows:
            assert not STEERING.search(row.text(0.0) + row.label)


def views(data: bytes) -> None:
    """A page, bounded, that steers no terminal."""
    for render in (eventstream.render, answer.render, request.render):
        page = render(data)
        assert not STEERING.search(page)
        assert len(page) <= 4 * (PAGE + FOOT)


# --- what it begins from ----------------------------------------------------------------------------------------------


def _recorded() -> list[bytes]:
    rows = (json.loads(line) for path in sorted(RECORDINGS.glob("*.jsonl")) for line in path.read_text().splitlines())
    bodies = (json.dumps(row["json"]).encode() for row in rows if isinstance(row.get("json"), dict))
    return sorted((body for body in bodies if len(body) < 1 << 14), key=len)[-24:]


def _kiro_frames() -> list[bytes]:
    whole = INITIAL + thought(text="hm") + text("Hel") + text("lo") + call("t", "read", '{"pa', 'th":1}') + END
    return [whole, INITIAL + text("a"), INITIAL + exception("ThrottlingException", message="slow"), call("t", "x", "{")]


def _chat_stream() -> list[bytes]:
    deltas = ({"content": "Hi"}, {"reasoning_content": "hm"}, {"tool_calls": [{"index": 0, "id": "a", "function": {}}]})
    chunks = [{"id": "c", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": {"prompt_tokens": 9}}]})
    plain = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    kinds = ("message_start", "content_block_delta", "message_delta", "message_stop")
    blocks = b"".join(b'event: %b\ndata: {"type":"%b","index":0}\n\n' % (k.encode(), k.encode()) for k in kinds)
    return [plain, plain.replace(b"\n", b"\r\n"), blocks, json.dumps(chunks[-1]).encode(), b": ping\n\n" + plain]


def _documents() -> list[bytes]:
    token = {"access_token": "fake-a", "refresh_token": "fake-r", "expires_at": 1, "expires_in": 900, "scope": ""}
    account = {
        "id": "1",
        "label": "me",
        "access_token": "fake-a",
        "refresh_token": "fake-r",
        "expires_at": "2026-01-01",
    }
    accounts = Accounts.from_json({"accounts": [account], "forks": {"d": {"outcome": "forked", "at": 1}}}, "x")
    plugin = {"accounts": [account | {"expires_at": 1, "auth_method": "idc"}]}
    ide = {"accessToken": "fake-a", "refreshToken": "fake-r", "expiresAt": "2026-01-01T00:00:00Z", "clientIdHash": "ab"}
    return [json.dumps(each).encode() for each in (token, accounts.to_json(), plugin, ide)]


def _databases() -> list[bytes]:
    found = []
    row = json.dumps({"access_token": "fake-a", "refresh_token": "fake-r", "expires_at": "2026-01-01T00:00:00Z"})
    scripts = (
        "CREATE TABLE auth_kv (key TEXT, value TEXT); CREATE TABLE state (key TEXT, value BLOB);"
        f"INSERT INTO auth_kv VALUES ('kirocli:odic:token', '{row}'), ('kirocli:odic:device-registration', '{{}}');"
        "INSERT INTO state VALUES ('auth.idc.region', '\"eu-west-1\"');",
        "CREATE TABLE accounts (id TEXT, access_token TEXT, refresh_token TEXT, expires_at INT, used_count INT);"
        "INSERT INTO accounts VALUES ('1', 'fake-a', 'fake-r', 1, 2);",
    )
    for script in scripts:
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.execute("PRAGMA page_size = 512")
            connection.executescript(script)
            found.append(connection.serialize())
    return [*found, *_documents()]


def _lists() -> list[bytes]:
    kimi = {"data": [{"id": "k3", "display_name": "K3", "context_length": 262144, "think_efforts": {"support": True}}]}
    kiro = {
        "models": [{"modelId": "auto", "modelName": "Auto", "tokenLimits": {"maxInputTokens": 1}}],
        "nextToken": "n",
    }
    detail = {"used": "40", "limit": "100", "resetTime": "2026-01-01T00:00:00Z"}
    usage = {
        "usage": detail,
        "limits": [{"window": {"duration": 300, "timeUnit": "TIME_UNIT_MINUTE"}, "detail": detail}],
    }
    return [json.dumps(each).encode() for each in (kimi, kiro, usage)]


def _coded() -> list[bytes]:
    import gzip
    import zlib

    import brotli
    import zstandard

    data = io.BytesIO(b"data: {}\n\n" * 200).getvalue()
    return [gzip.compress(data), zlib.compress(data), brotli.compress(data), zstandard.compress(data)]


TARGETS = {
    "event_stream": Target(event_stream, _kiro_frames, BINARY_TOKENS),
    "kiro_answer": Target(kiro_answer, _kiro_frames, (*BINARY_TOKENS, *JSON_TOKENS)),
    "sse_editor": Target(sse_editor, _chat_stream, (*SSE_TOKENS, *JSON_TOKENS)),
    "content_codings": Target(content_codings, _coded, BINARY_TOKENS),
    "kimi_request": Target(kimi_request, _recorded, JSON_TOKENS),
    "kiro_request": Target(kiro_request, _recorded, JSON_TOKENS),
    "store": Target(store, _documents, JSON_TOKENS),
    "other_stores": Target(other_stores, _databases, (*BINARY_TOKENS, *JSON_TOKENS)),
    "service_answers": Target(service_answers, _lists, JSON_TOKENS),
    "views": Target(views, lambda: [*_kiro_frames(), *_chat_stream(), *_recorded()], (*SSE_TOKENS, *JSON_TOKENS)),
}
