"""No access or refresh token, client secret or API key of Kiro in anything that mitmproxy shows, logs or saves."""

import contextlib

import httpx
import pytest

from tests.e2e.harness import FOREIGN, wait_until
from tests.e2e.test_secrets import clear, everything, flow_ids
from tests.kiro.kiro_frames import INITIAL, text
from tests.servers.kiro_answers import NASTY, REFUSALS, stream
from tests.servers.script import Break, Gate, Script

MODEL = "claude-sonnet-4.5"
KEY = "ksk_fake_0123456789"
CHAT = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "[[say hello]]"}]}


@pytest.fixture(scope="module")
def web(start_kiro):
    """Return a mitmweb that decrypts everything and keeps a HAR of all, with previews of requests and answers on."""
    return start_kiro(
        tool="mitmweb",
        options=["kimi_intercept_all=true"],
        environ={"DEBUG_KIRO_PAYLOAD": "1", "DEBUG_KIRO_STREAM": "1"},
    )


@pytest.fixture(autouse=True)
def _accounts(web):
    """Give it one account of each kind that has secrets, and an API key, none of which has happened anything."""
    web.accounts(0)
    for kind in ("desktop", "builder"):
        web.add(kind)
    web.add_key(KEY)


def post(web, expect=200, **more):
    """Ask through the proxy and at the local endpoint."""
    for client in (web.client, web.local_client):
        with client() as http:
            answer = http.post("chat/completions", json=CHAT | more)
            assert answer.status_code == expect, answer.text


def succeed(web):
    """A good answer of each kind of account, streamed and whole, and the models."""
    for account in web.stored().accounts:
        web.registry.update(lambda stored, chosen=account: setattr(stored, "active_account_id", chosen.id))
        post(web)
        post(web, stream=False)
        with web.local_client() as http:
            assert http.get("models").status_code == 200


def fail_over(web):
    """Attempts that fail in several ways before one succeeds."""
    web.world.kiro.queue(REFUSALS["rate"].script(), NASTY["exception-first"])
    post(web)


def fail(web):
    """A fault of the request, and all accounts used up."""
    post(web, 400, messages=[{"role": "user", "content": "[[error too_long]]"}])
    web.world.kiro.queue(*(REFUSALS[name].script() for name in ("rate", "quota", "rate_plain")))
    post(web, 429)


def heal(web):
    """Tokens that are refused and renewed, and a login that has ended."""
    for family in web.world.aws.families:
        family.access.clear()
    for account in web.stored().accounts[:2]:
        web.registry.update(lambda stored, chosen=account: setattr(stored, "active_account_id", chosen.id))
        post(web)
    for family in web.world.aws.families:
        family.access.clear()
        family.revoked = True
    post(web)


def leave(web):
    """A client that leaves in mid-stream, and one that leaves before the answer."""
    kiro = web.world.kiro
    kiro.queue(stream(INITIAL, text("half"), Gate()), Script(before=[Gate()]))
    with web.client() as http, http.stream("POST", "chat/completions", json=CHAT) as answer:
        next(answer.iter_lines())
    kiro.wait_for_disconnect(kiro.of("generate")[0])
    with web.client() as http, pytest.raises(httpx.ReadTimeout):
        http.post("chat/completions", json=CHAT, timeout=0.5)
    kiro.wait_for_disconnect(kiro.of("generate")[1])


def be_killed(web):
    """A flow that is killed in mitmweb while its answer streams."""
    kiro = web.world.kiro
    known = set(flow_ids(web))
    kiro.queue(stream(INITIAL, text("half"), Gate()))
    with web.client() as http, http.stream("POST", "chat/completions", json=CHAT) as answer:
        next(answer.iter_lines())
        (new,) = wait_until(lambda: set(flow_ids(web)) - known, "the flow")
        with web.web() as page:
            page.post(f"/flows/{new}/kill")
        kiro.wait_for_disconnect(kiro.of("generate")[0])


def lose(web):
    """A service that breaks before and within its answer, and one whose stream is damaged."""
    gate = Gate()
    web.world.kiro.queue(
        Script(before=[Break.RESET]), stream(INITIAL, text("half"), gate, Break.RESET), NASTY["crc"], NASTY["json-200"]
    )
    gate.open()
    for _ in range(3):
        with web.client() as http, contextlib.suppress(httpx.TransportError):
            http.post("chat/completions", json=CHAT)


def log_in_through_the_proxy(web):
    """A refresh of kiro-cli's own that runs through the proxy: tokens are in its bodies."""
    tokens = web.world.aws.login("desktop")
    with web.client() as http:
        answer = http.post(
            "https://prod.us-east-1.auth.desktop.kiro.dev/refreshToken",
            json={"refreshToken": tokens["refreshToken"]},
        )
    assert answer.json()["accessToken"]


def command(web):
    """The commands of mitmproxy's console, and the background calls that they make."""
    for name in ("accounts", "usage", "models", "refresh"):
        web.command_result(f"kiro.{name}")
    web.world.kiro.wait_for_request("usage", 2)
    wait_until(lambda: "refreshed; good for" in web.log(), "the refreshes")


def replay(web):
    """A flow that is sent again from mitmweb."""
    post(web)
    kiro = web.world.kiro
    count = len(kiro.of("generate"))
    with web.web() as page:
        page.post(f"/flows/{flow_ids(web)[-1]}/replay")
    kiro.wait_for_request("generate", count + 1)


@pytest.mark.parametrize(
    "outcome",
    [succeed, fail_over, fail, heal, leave, be_killed, lose, log_in_through_the_proxy, command, replay],
    ids=lambda outcome: outcome.__name__,
)
def test_nothing_shows_a_secret(web, tmp_path, outcome):
    """Whatever became of a request, nothing that mitmweb shows or saves holds a credential."""
    outcome(web)
    try:
        found = web.secrets_in(everything(web, tmp_path))
    finally:
        clear(web)
    assert not found, f"{len(found)} secrets are shown"


def test_the_search_would_find_a_secret(web, tmp_path):
    """A token of a client that is not served is shown, so that finding none means something."""
    own = web.world.aws.login("desktop")
    with web.client() as http:
        http.get(f"https://{FOREIGN}/x", headers={"Authorization": f"Bearer {own['accessToken']}"})
    try:
        found = web.secrets_in(everything(web, tmp_path))
    finally:
        clear(web)
        web.shown.add(own["accessToken"])  # the log has it for good
    assert found == {own["accessToken"]}
