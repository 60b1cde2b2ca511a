import asyncio
import ssl
from collections.abc import Iterator

import httpx
import pytest
import trustme

from tests.servers.kimi import FakeKimi
from tests.servers.script import Break, Gate, Script, chat_script
from tests.servers.serve import ALPN, HTTP1, Background, Fault, Service
from tests.servers.upstream import UpstreamProxy

BODY = {"model": "kimi-for-coding", "stream": True, "messages": [{"role": "user", "content": "[[say hello]]"}]}


@pytest.fixture(scope="module")
def background() -> Iterator[Background]:
    """Run a loop in a thread for the servers."""
    with Background() as running:
        yield running


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    """Return a CA for the fakes."""
    return trustme.CA()


@pytest.fixture
def trust(ca) -> ssl.SSLContext:
    """Return the trust of a client in that CA."""
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


@pytest.fixture(params=[("http/1.1",), ("h2",)], ids=["h1", "h2"])
def served(request, background, ca) -> Iterator[Service]:
    """Serve the fake behind TLS, over one protocol only."""
    with Service(background, FakeKimi(), ca=ca, alpn=request.param) as service:
        yield service


@pytest.fixture
def client(served, trust) -> Iterator[httpx.Client]:
    """Return a logged-in client of it."""
    token = served.app.oauth.login()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(
        base_url=f"{served.url}/coding/v1/", verify=trust, http2=True, headers=headers, trust_env=False
    ) as made:
        yield made


def test_speaks_the_chosen_protocol_and_records_what_came(served, client):
    """The answer comes over the protocol that was chosen; the request is kept with its body."""
    answer = client.post("chat/completions", json=BODY)
    assert answer.status_code == 200
    assert answer.text.endswith("data: [DONE]\n\n")
    seen = served.app.wait_for_request()
    assert seen.json == BODY
    assert seen.http == ("2" if answer.http_version == "HTTP/2" else "1.1")


def test_keeps_the_spelling_of_http1_header_names(background, ca, trust):
    """Over HTTP/1.1 the names are recorded as they were spelled."""
    with Service(background, FakeKimi(), ca=ca, alpn=HTTP1) as service:
        httpx.get(f"{service.url}/coding/v1/models", headers={"X-Odd-CASE": "1"}, verify=trust, trust_env=False)
        assert "X-Odd-CASE" in [name for name, _ in service.app.requests[0].headers]


def test_asks_for_a_good_token(served, client):
    """A token that is not good gets the real service's 401."""
    served.app.oauth.reject_access()
    answer = client.get("models")
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "invalid_authentication_error")


def test_a_gate_holds_each_event_back(served, client):
    """An event leaves only when its step is opened."""
    gate = Gate()
    served.app.queue(chat_script("one", "two", gate=gate))
    with client.stream("POST", "chat/completions", json=BODY) as answer:
        events = (line for line in answer.iter_lines() if line)
        assert "assistant" in next(events)
        gate.open()
        assert "one" in next(events)
        gate.open(3)
        assert list(events)[-1] == "data: [DONE]"


@pytest.mark.parametrize("how", list(Break))
@pytest.mark.parametrize("when", ["before", "within"])
def test_breaks_an_answer(served, client, how, when):
    """A break ends the connection before the head or in mid-stream, whatever the protocol."""
    served.app.queue(Script(before=[how]) if when == "before" else Script([b"data: 1\n\n", how]))
    with pytest.raises(httpx.TransportError):
        client.post("chat/completions", json=BODY)
    assert not served.app.of("chat")[0].finished


def test_notices_that_a_client_leaves(served, client):
    """A client that closes in mid-stream is seen to have left."""
    served.app.queue(chat_script("one", gate=Gate()))
    with client.stream("POST", "chat/completions", json=BODY) as answer:
        next(answer.iter_lines())
    client.close()  # httpx resets no HTTP/2 stream, only the connection's end tells
    served.app.wait_for_disconnect(served.app.of("chat")[0])


def test_refuses_resets_and_goes_stale(served, client):
    """A closed port refuses, a faulty one resets, and a stale connection dies when it is used again."""
    served.app.queue(Script([b"data: 1\n\n"], stale=True))
    assert client.post("chat/completions", json=BODY).status_code == 200
    with pytest.raises(httpx.TransportError):
        client.post("chat/completions", json=BODY)
    served.refuse()
    with pytest.raises(httpx.ConnectError):
        client.post("chat/completions", json=BODY)
    served.accept()
    served.relay.faults.append(Fault.RESET)
    with pytest.raises(httpx.TransportError):
        client.post("chat/completions", json=BODY)
    assert client.post("chat/completions", json=BODY).status_code == 200


def test_the_upstream_proxy_leads_real_names_to_the_fakes(background, ca, trust):
    """CONNECT to a real host name reaches the fake; without the credentials it gets a 407."""
    with Service(background, FakeKimi(), ca=ca, names=["api.kimi.com"], alpn=ALPN) as service:
        proxy = UpstreamProxy({"api.kimi.com:443": service.port}, auth="fake:pass")
        background.call(proxy.open())
        through = {"verify": trust, "trust_env": False}
        url = "https://api.kimi.com/coding/v1/models"
        with httpx.Client(proxy=f"http://fake:pass@127.0.0.1:{proxy.port}", **through) as client:
            assert client.get(url).status_code == 401
        with httpx.Client(proxy=f"http://127.0.0.1:{proxy.port}", **through) as client, pytest.raises(httpx.ProxyError):
            client.get(url)
        background.call(proxy.close())
    assert [connect.status for connect in proxy.connects] == [200, 407]


async def test_a_gate_may_be_opened_before_it_is_reached():
    """Steps count; it does not matter who comes first."""
    gate = Gate()
    gate.open(2)
    async with asyncio.timeout(5):
        await gate.step()
        await gate.step()
