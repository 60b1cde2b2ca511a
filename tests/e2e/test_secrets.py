"""No token, client key or device code in anything that mitmproxy shows, logs or saves, in any outcome."""

import asyncio
import contextlib
import json

import httpx
import pytest

from kimi_core.proxy.key import key_path
from tests.e2e.harness import FOREIGN, wait_until
from tests.servers.oauth import CLIENT_ID, DEVICE_PATH, TOKEN_PATH
from tests.servers.script import Break, Gate, Script, chat_script, error

CHAT = {"model": "kimi-for-coding", "stream": True, "messages": [{"role": "user", "content": "[[say hello]]"}]}


@pytest.fixture(scope="module")
def web(start_module_proxy):
    """Return a mitmweb that decrypts everything, asks for a client key, and keeps a HAR of all."""
    made = start_module_proxy(tool="mitmweb", options=["kimi_intercept_all=true", "kimi_client_key=auto"])
    made.key = json.loads(key_path(made.data).read_text())["key"]
    made.auth = {"Authorization": f"Bearer {made.key}"}
    made.more_secrets.add(made.key)
    return made


def flow_ids(web):
    """Return the ids of all flows on the page."""
    with web.web() as page:
        return [flow["id"] for flow in page.get("/flows").json()]


def everything(web, folder):
    """Return all that mitmweb gives away: list, bodies, views, events, options, exports, and the files."""
    pieces = [web.log_file.read_bytes(), web.flow_file.read_bytes()]
    with web.web() as page:
        flows = page.get("/flows").content
        pieces += [flows, page.get("/events").content, page.get("/options").content, page.get("/state").content]
        for flow in json.loads(flows):
            bodies = [
                name for name in ("request", "response") if (flow.get(name) or {}).get("contentLength") is not None
            ]
            for path in (f"{name}/{view}" for name in bodies for view in ("content.data", "content/auto.json")):
                pieces.append(page.get(f"/flows/{flow['id']}/{path}").content)
        pieces.append(page.get("/flows/dump").content)
    har = folder / "all.har"
    web.command_result("save.har", "@all", str(har))
    pieces.append(har.read_bytes())
    for flow_id in flow_ids(web):
        for kind in ("curl", "httpie", "raw"):
            with contextlib.suppress(AssertionError):  # a flow without an answer has no raw form
                pieces.append(web.command_result("export", kind, f"@{flow_id}").encode())
    return b"\n".join(pieces)


def clear(web):
    """Forget all flows."""
    with web.web() as page:
        page.post("/clear")
    web.flow_file.write_bytes(b"")


def succeed(web):
    """A good answer, streamed; and one in the Anthropic dialect; and the local endpoint with x-api-key."""
    with web.client() as client:
        assert client.post("chat/completions", json=CHAT, headers=web.auth).status_code == 200
    with web.local_client() as client:
        body = {"model": "kimi-for-coding", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
        assert client.post("messages", json=body, headers={"x-api-key": web.key}).status_code == 200


def fail(web):
    """An error of the service, and a client with a wrong key."""
    web.world.kimi.queue(error(500))
    with web.client() as client:
        assert client.post("chat/completions", json=CHAT, headers=web.auth).status_code == 500
        assert client.post("chat/completions", json=CHAT, headers={"x-api-key": "wrong"}).status_code == 401


def be_refused(web):
    """A web page that has guessed the key."""
    with web.local_client() as client:
        headers = web.auth | {"Origin": "https://evil.example"}
        assert client.post("chat/completions", json=CHAT, headers=headers).status_code == 403


def heal(web):
    """A 401 that is healed, and one that is not."""
    kimi = web.world.kimi
    kimi.oauth.reject_access()
    with web.client() as client:
        assert client.post("chat/completions", json=CHAT, headers=web.auth).status_code == 200
        kimi.refuse = 2
        assert client.post("chat/completions", json=CHAT, headers=web.auth).status_code == 401


def leave(web):
    """A client that leaves in mid-stream, and one that leaves during a refresh."""
    kimi = web.world.kimi
    kimi.queue(chat_script("one", gate=Gate()))
    with web.client() as client, client.stream("POST", "chat/completions", json=CHAT, headers=web.auth) as answer:
        next(answer.iter_lines())
    kimi.wait_for_disconnect(kimi.of("chat")[0])
    kimi.oauth.reject_access()
    web.world.background.run(lambda: setattr(kimi.oauth, "gate", asyncio.Event()))
    with web.client() as client, pytest.raises(httpx.ReadTimeout):
        client.post("chat/completions", json=CHAT, headers=web.auth, timeout=2.0)
    web.world.background.run(kimi.oauth.gate.set)
    kimi.oauth.gate = None
    wait_until(lambda: kimi.oauth.in_flight == 0, "the end of the refresh")


def be_killed(web):
    """A flow that is killed in mitmweb while its answer streams."""
    kimi = web.world.kimi
    known = set(flow_ids(web))
    kimi.queue(chat_script("one", gate=Gate()))
    with web.client() as client, client.stream("POST", "chat/completions", json=CHAT, headers=web.auth) as answer:
        lines = answer.iter_lines()
        next(lines)
        (new,) = set(flow_ids(web)) - known
        with web.web() as page:
            page.post(f"/flows/{new}/kill")
    kimi.wait_for_disconnect(kimi.of("chat")[-1])


def lose(web):
    """A service that breaks before and within its answer, and one that is down."""
    kimi = web.world.kimi
    gate = Gate()
    kimi.queue(*[Script(before=[Break.RESET])] * 2, Script([b"data: {}\n\n", gate, Break.RESET]))
    with web.client() as client:
        assert client.post("chat/completions", json=CHAT, headers=web.auth).status_code == 502
        with (
            client.stream("POST", "chat/completions", json=CHAT, headers=web.auth) as answer,
            contextlib.suppress(httpx.TransportError),
        ):
            lines = answer.iter_lines()
            next(lines)
            gate.open()
            list(lines)
    web.world.service.refuse()
    web.world.service.drop()
    with web.client() as client:
        assert client.post("chat/completions", json=CHAT, headers=web.auth).status_code == 502
    web.world.service.accept()


def upload(web):
    """An upload, which is streamed past."""
    with web.client() as client:
        assert client.post("files", files={"file": ("a.mp4", b"v" * 100_000)}, headers=web.auth).status_code == 200


def log_in_through_the_proxy(web):
    """A client's own login and refresh that run through the proxy: codes and tokens are in their bodies."""
    with web.client() as client:
        auth = "https://auth.kimi.com"
        started = client.post(f"{auth}{DEVICE_PATH}", data={"client_id": CLIENT_ID}).json()
        grant = "urn:ietf:params:oauth:grant-type:device_code"
        poll = {"client_id": CLIENT_ID, "device_code": started["device_code"], "grant_type": grant}
        tokens = client.post(f"{auth}{TOKEN_PATH}", data=poll).json()
        again = {
            "client_id": CLIENT_ID,
            "grant_type": "refresh_token",
            "refresh_token": tokens["refresh_token"],
        }
        assert client.post(f"{auth}{TOKEN_PATH}", data=again).status_code == 200


def replay(web):
    """A flow that is sent again from mitmweb."""
    with web.client() as client:
        assert client.post("chat/completions", json=CHAT, headers=web.auth).status_code == 200
    kimi = web.world.kimi
    count = len(kimi.of("chat"))
    with web.web() as page:
        page.post(f"/flows/{flow_ids(web)[-1]}/replay")
    kimi.wait_for_request("chat", count + 1)
    assert kimi.oauth.valid(kimi.of("chat")[-1].bearer), "it is sealed again"


@pytest.mark.parametrize(
    "outcome", [succeed, fail, be_refused, heal, leave, be_killed, lose, upload, replay, log_in_through_the_proxy]
)
def test_nothing_shows_a_secret(web, tmp_path, outcome):
    """Whatever became of a request, nothing that mitmweb shows or saves holds a credential."""
    web.login()
    outcome(web)
    try:
        found = web.secrets_in(everything(web, tmp_path))
    finally:
        clear(web)
    assert not found, f"{len(found)} secrets are shown"


def test_the_search_would_find_a_secret(web, tmp_path):
    """A token of a client that is not served is shown, so that finding none means something."""
    token = web.world.kimi.oauth.login()["access_token"]
    with web.client() as client:
        client.get(f"https://{FOREIGN}/x", headers={"Authorization": f"Bearer {token}"})
    try:
        assert web.secrets_in(everything(web, tmp_path)) == {token}
    finally:
        clear(web)
