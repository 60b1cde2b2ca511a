"""Streams as odd as they come: what the service sends is what the client gets, byte for byte, but for usage."""

import gzip
import json

import httpx
import pytest

from tests.servers.script import SSE, USAGE, Gate, Script, as_json, chat_events, event

CHAT = {"model": "kimi-for-coding", "stream": True, "messages": [{"role": "user", "content": "a question"}]}
LINE = 10 * 1024 * 1024
CRLF = b"\r\n\r\n"
PLAIN = b"".join(event({"choices": [{"index": 0, "delta": {"content": text}}]}) for text in ("ä€😀", "b"))


def ask(proxy, way, script, operation="chat/completions", **more):
    """Have *script* played for one request that takes *way*."""
    proxy.world.kimi.queue(script)
    client = proxy.local_client() if way == "local" else proxy.client(way)
    with client as opened:
        return opened.post(operation, json=CHAT, **more)


@pytest.mark.parametrize("way", ["http/1.1", "h2", "local"])
@pytest.mark.parametrize(
    "pieces",
    [
        [PLAIN],
        [PLAIN[n : n + 1] for n in range(len(PLAIN))],
        [PLAIN.replace(b"\n\n", CRLF), event("[DONE]", end=CRLF)],
        [b": a comment\n\n", PLAIN, b"event: ping\ndata: {}\n\n", b"id: 1\nretry: 5\n\n"],
        [PLAIN.rstrip(b"\n")],
        [b"data: not JSON\n\n", b"data: [1, 2]\n\n", b'data: {"choices": null}\n\n'],
        [b""],
    ],
    ids=["no DONE", "byte by byte", "CRLF", "comments and fields", "no last line end", "no chunks at all", "empty"],
)
def test_bytes_pass_as_they_are(proxy, way, pieces):
    """Line ends, comments, split characters, a missing end: nothing is mended, nothing is lost."""
    answer = ask(proxy, way, Script(pieces))
    assert answer.status_code == 200
    assert answer.content == b"".join(pieces)


@pytest.mark.parametrize("way", ["http/1.1", "h2", "local"])
def test_a_line_of_ten_megabytes_passes(proxy, way):
    """No buffer on the way is too small for it."""
    line = event({"choices": [{"index": 0, "delta": {"content": "x" * LINE}}]})
    answer = ask(proxy, way, Script([line[n : n + 65536] for n in range(0, len(line), 65536)]))
    assert answer.content == line


def test_only_the_chunk_with_usage_is_changed(proxy):
    """Its usage is copied to the top level; every other event keeps its bytes."""
    events = chat_events("one", "two")
    got = ask(proxy, "http/1.1", Script(events)).content
    sent, came = b"".join(events).split(b"\n\n"), got.split(b"\n\n")
    assert len(sent) == len(came)
    (changed,) = [n for n, (a, b) in enumerate(zip(sent, came, strict=True)) if a != b]
    chunk = json.loads(came[changed].removeprefix(b"data: "))
    assert chunk["usage"] == USAGE | {"prompt_tokens_details": {"cached_tokens": USAGE["cached_tokens"]}}
    assert chunk["choices"][0]["usage"] == USAGE


def test_a_compressed_stream_is_read_and_passed_on_in_the_clear(proxy):
    """A service that compresses although nobody asked for it does not blind the proxy."""
    body = gzip.compress(b"".join(chat_events("one")))
    headers = [("content-type", SSE), ("content-encoding", "gzip")]
    answer = ask(proxy, "http/1.1", Script([body[:20], body[20:]], headers=headers))
    assert '"content": "one"' in answer.text
    assert '"prompt_tokens_details"' in answer.text


@pytest.mark.parametrize("way", ["http/1.1", "h2", "local"])
def test_a_client_that_leaves_cancels_the_service(world, proxy, way):
    """The service sees it leave; nothing is generated for nobody."""
    world.kimi.queue(Script([PLAIN, Gate()]))
    with (
        proxy.local_client() if way == "local" else proxy.client(way) as client,
        client.stream("POST", "chat/completions", json=CHAT) as answer,
    ):
        next(answer.iter_bytes())
    world.kimi.wait_for_disconnect(world.kimi.of("chat")[0])


@pytest.fixture(scope="module")
def impatient(start_module_proxy):
    """Return a proxy that waits a second for a byte."""
    return start_module_proxy(options=["kimi_first_byte_timeout=1", "kimi_idle_timeout=1"])


@pytest.mark.parametrize("way", ["http/1.1", "h2", "local"])
def test_a_service_that_does_not_answer_in_time_is_a_504(world, impatient, way):
    """No head within the limit: JSON that says so, and the service is let go."""
    answer = ask(impatient, way, Script(before=[Gate()]))
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "kimi_silent"
    world.kimi.wait_for_disconnect(world.kimi.of("chat")[0])


@pytest.mark.parametrize("way", ["http/1.1", "h2", "local"])
def test_an_answer_that_falls_silent_ends_with_an_error_event(world, impatient, way):
    """What came is kept, then an error event in the client's dialect."""
    answer = ask(impatient, way, Script([PLAIN, Gate()]))
    assert answer.content.startswith(PLAIN)
    last = json.loads(answer.content.removeprefix(PLAIN).split(b"data: ", 1)[1].split(b"\n")[0])
    assert last["error"]["code"] == "kimi_silent"
    world.kimi.wait_for_disconnect(world.kimi.of("chat")[0])


@pytest.mark.parametrize("path", ["usages", "search", "fetch", "files", "something/new?x=1"])
@pytest.mark.parametrize("way", ["http/1.1", "local"])
def test_every_endpoint_gets_login_and_identity(world, proxy, way, path):
    """Bodies other than chat's are left alone."""
    method = "GET" if path == "usages" else "POST"
    content = None if method == "GET" else b'{"text_query":"q",  "limit":5}'
    with proxy.local_client() if way == "local" else proxy.client() as client:
        answer = client.request(method, path, content=content, headers={"X-Title": "mine"})
    assert answer.status_code == 200
    (seen,) = [seen for seen in world.kimi.requests if seen.target.startswith(f"/coding/v1/{path}")]
    assert world.kimi.oauth.valid(seen.bearer)
    assert seen.body == (content or b"")
    assert seen.header("x-title") is None


def test_a_model_that_the_plan_does_not_have_is_asked_for_all_the_same(world, proxy):
    """An unknown model id is the service's to refuse."""
    world.kimi.queue(as_json({"choices": []}))
    with proxy.client() as client:
        client.post("chat/completions", json=CHAT | {"model": "kimi-next"})
    assert world.kimi.of("chat")[0].json["model"] == "kimi-next"


def test_the_other_region_uses_its_own_login(world, proxy):
    """A request to api.kimi.ai without a login there is refused here, and never gets the token of kimi.com."""
    with proxy.client() as client:
        answer = client.post("https://api.kimi.ai/coding/v1/chat/completions", json=CHAT)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "not_logged_in"
    assert not world.kimi.of("chat")


def test_keep_alive_survives_every_kind_of_answer(world, proxy):
    """One client connection serves a stream, an error, a healed 401 and another stream."""
    ports = set()
    with proxy.client() as client:
        for script in (None, as_json({"error": {"message": "busy", "type": "x"}}, 500), "401", None):
            if script == "401":
                world.kimi.oauth.reject_access()
            elif script:
                world.kimi.queue(script)
            answer = client.post("chat/completions", json=CHAT)
            assert isinstance(answer, httpx.Response)
            ports.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
    assert len(ports) == 1
