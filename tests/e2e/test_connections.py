"""Many requests on one connection, connections that are refused on the way, and the end of the process."""

import asyncio
import contextlib
import socket
import threading
import time

import httpx
import pytest

from tests.e2e.harness import STOP_SECONDS
from tests.servers.script import Gate, Script, chat_script

CHAT = {"model": "kimi-for-coding", "stream": True, "messages": [{"role": "user", "content": "[[say hello]]"}]}
STREAMS = 20
MIB = 1024 * 1024
READ = 65536


@pytest.mark.parametrize("rejected", [False, True], ids=["good token", "rejected token"])
def test_streams_of_one_http2_connection_do_not_wait_for_each_other(world, proxy, rejected):
    """Twenty answers are open at once on one connection; with a rejected token one refresh heals them all."""
    kimi = world.kimi
    gates = [Gate() for _ in range(STREAMS)]
    kimi.queue(*(chat_script(f"answer {n}", gate=gate) for n, gate in enumerate(gates)))
    before = kimi.oauth.refreshes
    if rejected:
        kimi.oauth.reject_access()

    async def all_at_once():
        async with (
            httpx.AsyncClient(
                proxy=proxy.url, verify=proxy.trust(["h2"]), http2=True, trust_env=False, timeout=30
            ) as client,
            asyncio.TaskGroup() as group,
        ):
            url = f"{proxy.base}/chat/completions"
            tasks = [group.create_task(client.post(url, json=CHAT)) for _ in range(STREAMS)]
            attempts = STREAMS * (2 if rejected else 1)
            await asyncio.to_thread(kimi.wait_for_request, "chat", attempts)
            for gate in reversed(gates):  # the last that was asked is answered first
                gate.open(3)
        return [task.result() for task in tasks]

    answers = asyncio.run(all_at_once())
    assert {answer.http_version for answer in answers} == {"HTTP/2"}
    assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers)
    assert len({answer.text for answer in answers}) == STREAMS
    assert kimi.oauth.refreshes - before == (1 if rejected else 0)


@pytest.mark.parametrize("refusals", [1, 2])
def test_an_upstream_proxy_that_fails_to_connect_is_tried_once_more(world, proxy, refusals):
    """A 502 to CONNECT is a lost connection like any other: one retry, then an error that says so."""
    world.upstream.refusals = refusals
    with proxy.client() as client:
        answer = client.post("chat/completions", json=CHAT)
    world.upstream.refusals = 0
    assert answer.status_code == (200 if refusals == 1 else 502)
    assert len(world.upstream.connects) == 2


def test_a_service_that_never_shakes_hands_is_given_up(start_proxy):
    """It takes the connection and says nothing: mitmproxy would wait for ever, and so would the client."""
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the system takes connections; nobody else does
        environ = {"KIMI_CODE_BASE_URL": f"https://localhost:{listener.getsockname()[1]}/coding/v1"}
        silent = start_proxy(named=False, options=["kimi_first_byte_timeout=1"], environ=environ)
        with silent.local_client() as client:
            answer = client.post(f"{silent.url}/kimi/v1/chat/completions", json=CHAT)
            assert answer.status_code == 502
            assert "cannot be reached" in answer.json()["error"]["message"]
            assert client.get(f"{silent.url}/health").status_code == 200


def test_a_tunnel_that_never_opens_is_given_up(start_proxy):
    """An upstream proxy that never answers CONNECT, or leads to a service that never shakes hands, ends as well."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        upstream = f"upstream:http://127.0.0.1:{listener.getsockname()[1]}"
        silent = start_proxy(mode=[upstream], options=["kimi_first_byte_timeout=1"])

        def open_tunnels():
            with contextlib.suppress(OSError):
                while True:
                    tunnel, _ = listener.accept()
                    tunnel.recv(READ)
                    tunnel.sendall(b"HTTP/1.1 200 Fake\r\n\r\n")
                    tunnels.append(tunnel)

        tunnels = []
        with silent.local_client() as client:
            for stage in ("no answer to CONNECT", "no handshake"):
                if stage == "no handshake":
                    threading.Thread(target=open_tunnels, daemon=True).start()
                answer = client.post(f"{silent.url}/kimi/v1/chat/completions", json=CHAT)
                assert answer.status_code == 502, stage
                assert "cannot be reached" in answer.json()["error"]["message"], stage
            assert client.get(f"{silent.url}/health").status_code == 200
        assert tunnels
        for tunnel in tunnels:
            tunnel.close()


def test_a_client_that_waits_for_100_continue_is_served(world, proxy):
    """A big body behind Expect: 100-continue arrives whole."""
    body = CHAT | {"messages": [{"role": "user", "content": "x" * MIB}]}
    with proxy.client() as client:
        answer = client.post("chat/completions", json=body, headers={"Expect": "100-continue"})
    assert answer.status_code == 200
    assert len(world.kimi.of("chat")[0].body) > MIB


@pytest.fixture(scope="module")
def strict(start_module_proxy):
    """Return a proxy that takes small bodies, and leaves keys of clients' own alone."""
    return start_module_proxy(options=["kimi_max_body=1", "kimi_keep_own_key=true"])


@pytest.mark.parametrize("way", ["http/1.1", "h2", "local"])
def test_a_body_beyond_the_limit_is_a_400_and_goes_nowhere(world, strict, way):
    """kimi_max_body holds for declared and for chunked bodies."""
    big = b'{"model": "' + b"x" * (2 * MIB) + b'"}'

    def chunks():
        yield from (big[n : n + 65536] for n in range(0, len(big), 65536))

    for content in (big, chunks()):
        with strict.local_client() if way == "local" else strict.client(way) as client:
            answer = client.post("chat/completions", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 400
        assert "kimi_max_body" in answer.json()["error"]["message"]
    assert not world.kimi.of("chat")


def test_a_clients_own_key_is_left_alone_where_the_user_wants_it(world, strict):
    """With kimi_keep_own_key a request that carries sk-… is the client's own business."""
    with strict.client() as client:
        answer = client.post("chat/completions", json=CHAT, headers={"Authorization": "Bearer sk-of-the-client"})
        assert answer.status_code == 401
        assert world.kimi.of("chat")[0].bearer == "sk-of-the-client"
        assert client.post("chat/completions", json=CHAT, headers={"Authorization": "Bearer x"}).status_code == 200
    assert b"sk-of-the-client" not in strict.flow_file.read_bytes()


def test_the_process_ends_in_good_order_in_the_middle_of_a_stream(world, start_proxy):
    """SIGTERM while an answer streams: it ends soon, and the service is let go."""
    proxy = start_proxy()
    world.kimi.queue(Script([b"data: {}\n\n", Gate()]))
    with proxy.client() as client, client.stream("POST", "chat/completions", json=CHAT) as answer:
        lines = answer.iter_lines()
        next(lines)
        began = time.monotonic()
        assert proxy.stop() == 0
        assert time.monotonic() - began < STOP_SECONDS
        with pytest.raises(httpx.TransportError):
            list(lines)
    world.kimi.wait_for_disconnect(world.kimi.of("chat")[0])
