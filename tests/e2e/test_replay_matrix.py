"""A request that fails before its answer is sent again, once, over every pair of protocols, with real sockets."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import httpx
import pytest

from tests.e2e import faults
from tests.e2e.harness import ADDON, Proxy, World, wait_until
from tests.servers.script import Break, Gate, Script, chat_script
from tests.servers.serve import Fault

BIG = 5 * 1024 * 1024
CROWD = 50
SETTLE_SECONDS = 10.0
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Rig:
    """One proxy before one fake that speaks one protocol only, and the means to refuse its connections."""

    world: World
    proxy: Proxy
    refusals: Path
    closed_port: int
    upstream: str

    def refuse_next(self, connects: int) -> None:
        self.refusals.write_text(f"{connects} {self.closed_port}")

    @contextmanager
    def client(self, protocol: str) -> Iterator[httpx.Client]:
        """Yield a client that speaks *protocol* and still lets the proxy speak the fake's own."""
        # mitmproxy takes the client's first offer, and offers all of them upstream
        offers = {"h1": ["http/1.1", "h2"], "h2": ["h2", "http/1.1"]}[protocol]
        with self.proxy.client(*offers) as client:
            yield client

    def flows(self, marker: str, since: int) -> list:
        flows = self.proxy.flows(since)
        return [flow for flow in flows if marker.encode() in (flow.request.raw_content or b"")]


@pytest.fixture(scope="module", params=[("http/1.1",), ("h2",)], ids=["upstream-h1", "upstream-h2"])
def rig(request, background, ca, confdir, tmp_path_factory):
    """Run a proxy before a fake of one protocol, without any upstream proxy between them."""
    folder = tmp_path_factory.mktemp("rig")
    refusals = folder / "refusals"
    with World(background, ca, folder, alpn=request.param) as world, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets this port
        rig_proxy = Proxy(
            world,
            folder / "proxy",
            confdir,
            named=False,
            scripts=(ADDON, Path(faults.__file__)),
            environ={faults.VARIABLE: str(refusals)},
        )
        made = Rig(world, rig_proxy, refusals, closed.getsockname()[1], "h2" if request.param == ("h2",) else "h1")
        made.refuse_next(0)
        rig_proxy.login()
        with rig_proxy:
            yield made


@pytest.fixture(autouse=True)
def _calm(rig):
    """Begin each test without left-over faults."""
    rig.world.reset()
    rig.refuse_next(0)
    rig.proxy.login()


def question(marker: str, size: int = 0) -> bytes:
    """Return a chat request of at least *size* bytes that holds *marker*."""
    content = marker + "x" * size
    return json.dumps(
        {"model": "kimi-for-coding", "stream": True, "messages": [{"role": "user", "content": content}]}
    ).encode()


def marker() -> str:
    """Return a text by which one request is found among the flows."""
    return f"marker-{next(_numbers)}-"


def arrange(rig: Rig, fault: str) -> None:
    """Make the next attempt fail in one way."""
    if fault == "401":
        rig.world.kimi.oauth.reject_access()
    elif fault == "reset":
        rig.world.kimi.queue(Script(before=[Break.RESET]))
    else:
        rig.refuse_next(1)


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("leaves", [False, True], ids=["stays", "leaves"])
@pytest.mark.parametrize("size", [0, BIG], ids=["small", "5MB"])
@pytest.mark.parametrize("protocol", ["h1", "h2"])
@pytest.mark.parametrize("fault", ["401", "refused", "reset"])
def test_a_failed_attempt_is_made_good(rig, fault, protocol, size, leaves):
    """The client meets one streamed answer; the service the same bytes again; the flow file both attempts.

    A client that leaves in the middle of the second answer is seen to leave by the service.
    """
    kimi, mark, gate, since = rig.world.kimi, marker(), Gate(), rig.proxy.flow_bytes()
    before = kimi.oauth.refreshes
    arrange(rig, fault)
    kimi.queue(chat_script("one", "two", gate=gate))
    seen_events = []
    with (
        rig.client(protocol) as client,
        client.stream("POST", "chat/completions", content=question(mark, size), headers=JSON) as answer,
    ):
        assert answer.status_code == 200
        assert answer.http_version == {"h1": "HTTP/1.1", "h2": "HTTP/2"}[protocol]
        for line in filter(None, answer.iter_lines()):
            seen_events.append(line)
            if leaves:
                break
            gate.open()
    attempts = kimi.of("chat")
    if leaves:
        kimi.wait_for_disconnect(attempts[-1])
    else:
        assert "one" in seen_events[1]
        assert "two" in seen_events[2]
        assert seen_events[-1] == "data: [DONE]"
    assert len(attempts) == (1 if fault == "refused" else 2)
    assert len({attempt.sha256 for attempt in attempts}) == 1
    assert all(attempt.complete and len(attempt.body) >= size for attempt in attempts)
    assert {attempt.http for attempt in attempts} == {{"h1": "1.1", "h2": "2"}[rig.upstream]}
    assert kimi.oauth.refreshes - before == (1 if fault == "401" else 0)
    flows = wait_until(
        lambda: len(found := rig.flows(mark, since)) >= 2 and found, "both attempts in the file", SETTLE_SECONDS
    )
    first, second = flows
    assert first.request.content == second.request.content
    assert (first.response.status_code == 401) if fault == "401" else first.error
    assert second.response.status_code == 200


@pytest.mark.parametrize("protocol", ["h1", "h2"])
def test_a_client_that_leaves_during_the_refresh_causes_no_second_request(rig, protocol):
    """The refresh is finished and kept, but nothing is sent for nobody."""
    kimi, mark, since = rig.world.kimi, marker(), rig.proxy.flow_bytes()
    kimi.oauth.reject_access()
    rig.world.background.run(lambda: setattr(kimi.oauth, "gate", asyncio.Event()))
    before = kimi.oauth.refreshes
    with rig.client(protocol) as client, pytest.raises(httpx.ReadTimeout):
        client.post("chat/completions", content=question(mark), headers=JSON, timeout=2.0)
    assert kimi.oauth.holding.is_set()
    rig.world.background.run(kimi.oauth.gate.set)
    kimi.oauth.gate = None
    wait_until(lambda: kimi.oauth.in_flight == 0, "the end of the refresh")
    wait_until(lambda: rig.flows(mark, since), "the flow")
    with rig.client(protocol) as client:
        assert client.post("chat/completions", content=question(marker()), headers=JSON).status_code == 200
    assert kimi.oauth.refreshes == before + 1
    assert len(kimi.of("chat")) == 2, "the one that got the 401, and the one of the next client"


def test_a_crowd_of_rejected_requests_causes_one_refresh(rig):
    """Fifty requests meet the 401 at once; they share one refresh and are all answered."""
    kimi = rig.world.kimi
    kimi.oauth.reject_access()
    rig.world.background.run(lambda: setattr(kimi.oauth, "gate", asyncio.Event()))
    before = kimi.oauth.refreshes

    async def crowd() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=CROWD)
        async with (
            httpx.AsyncClient(
                proxy=rig.proxy.url, verify=rig.proxy.trust(), trust_env=False, timeout=60, limits=limits
            ) as client,
            asyncio.TaskGroup() as group,
        ):
            url = f"{rig.proxy.base}/chat/completions"
            tasks = [
                group.create_task(client.post(url, content=question(f"[[say hello {n}]]"), headers=JSON))
                for n in range(CROWD)
            ]
            await asyncio.to_thread(kimi.wait, lambda: len(kimi.of("chat")) == CROWD, "every request of the crowd", 40)
            rig.world.background.run(kimi.oauth.gate.set)
        return [task.result() for task in tasks]

    try:
        answers = asyncio.run(crowd())
    finally:
        rig.world.background.run(kimi.oauth.gate.set)
        kimi.oauth.gate = None
    assert [answer.status_code for answer in answers] == [200] * CROWD
    assert all("[DONE]" in answer.text for answer in answers)
    assert kimi.oauth.refreshes == before + 1
    assert len(kimi.of("chat")) == 2 * CROWD


@pytest.mark.parametrize("protocol", ["h1", "h2"])
def test_a_second_401_reaches_the_client(rig, protocol):
    """When the fresh token is refused as well, the client is told to log in again; there is no third try."""
    kimi = rig.world.kimi
    kimi.refuse = -1
    before = kimi.oauth.refreshes
    with rig.client(protocol) as client:
        answer = client.post("chat/completions", content=question(marker()), headers=JSON)
    assert answer.status_code == 401
    assert "log in again" in answer.json()["error"]["message"].lower()
    assert len(kimi.of("chat")) == 2
    assert kimi.oauth.refreshes == before + 1


def test_a_401_that_never_ends_is_cut_off(rig):
    """The rest of a held answer is waited for a few seconds only."""
    kimi = rig.world.kimi
    kimi.queue(Script([b'{"error": ', Gate()], status=401, headers=[("content-type", "application/json")]))
    with rig.client("h2") as client:
        answer = client.post("chat/completions", content=question("[[say hello]]"), headers=JSON)
    assert answer.status_code == 200
    assert "[DONE]" in answer.text


@pytest.mark.parametrize("protocol", ["h1", "h2"])
def test_a_kept_connection_that_has_died_costs_nothing(rig, protocol):
    """A request on a stale connection is sent again on a new one."""
    kimi = rig.world.kimi
    with rig.client(protocol) as client:
        kimi.queue(Script([b"data: [DONE]\n\n"], stale=True))
        for _ in range(2):
            assert client.post("chat/completions", content=question("[[say hello]]"), headers=JSON).status_code == 200
    first, second = kimi.of("chat")
    assert first.connection != second.connection


@pytest.mark.parametrize(
    "fault", [Break.CLOSE, Fault.CLOSE, Fault.RESET], ids=["closed", "closed early", "reset early"]
)
def test_other_ways_to_lose_a_connection(rig, fault):
    """Closed without an answer, or broken before TLS: sent again."""
    kimi = rig.world.kimi
    if isinstance(fault, Break):
        kimi.queue(Script(before=[fault]))
    else:
        rig.world.service.relay.faults.append(fault)
    with rig.client("h1") as client:
        answer = client.post("chat/completions", content=question("[[say hello]]"), headers=JSON)
    assert answer.status_code == 200


def test_a_connection_lost_twice_is_an_error(rig):
    """One retry only; then the client gets JSON that says that the service cannot be reached."""
    kimi = rig.world.kimi
    kimi.queue(*[Script(before=[Break.RESET])] * 2)
    with rig.client("h1") as client:
        answer = client.post("chat/completions", content=question(marker()), headers=JSON)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "kimi_unreachable"
    assert len(kimi.of("chat")) == 2


def test_nothing_is_sent_again_after_the_first_byte(rig):
    """A break in the middle of an answer reaches the client; the service sees one request."""
    kimi = rig.world.kimi
    gate = Gate()
    kimi.queue(Script([b"data: {}\n\n", gate, Break.RESET]))
    with (
        rig.client("h1") as client,
        client.stream("POST", "chat/completions", content=question(marker()), headers=JSON) as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines) == "data: {}"
        gate.open()  # not before: a reset overtakes what is still on its way
        with pytest.raises(httpx.TransportError):
            list(lines)
    assert len(kimi.of("chat")) == 1


def test_an_upload_is_streamed_past_and_not_sent_again(rig):
    """Files go through as they come; after a 401 the next one uses a fresh token."""
    kimi = rig.world.kimi
    kimi.oauth.reject_access()
    with rig.client("h1") as client:
        first = client.post("files", files={"file": ("upload.mp4", b"v" * BIG)}, data={"purpose": "video"})
        second = client.post("files", files={"file": ("upload.mp4", b"v" * BIG)}, data={"purpose": "video"})
    assert (first.status_code, second.status_code) == (401, 200)
    assert all(len(seen.body) > BIG for seen in kimi.of("files"))
    assert kimi.of("files")[1].body.count(b"v" * BIG) == 1
