import base64
import json
from dataclasses import replace

import pytest

from kimi_core.errors import StoreDamaged
from kimi_core.exchange import RequestHead
from kimi_core.headers import Headers
from kimi_core.kimi.provider import Kimi
from kimi_core.kimi.session import SessionStatus
from kimi_core.kimi.usage import Row, Usage
from kimi_core.kiro.provider import Kiro
from kimi_core.outbound import Outbound
from kimi_core.page import files
from kimi_core.proxy import status
from kimi_core.proxy.journal import Arrival, End, Recorder
from kimi_core.proxy.status import ASK_EVERY, StatusPage
from kimi_core.settings import Settings
from kimi_core.tokens import OAuthToken
from tests.kiro.pool_accounts import NOW
from tests.kiro.service_stand_ins import World, social

ADDRESS = ("127.0.0.1", 8080)
TOKEN = OAuthToken("fake-access-1", "fake-refresh-1", NOW + 800, 900)


def head(path="/", method="GET", peer="127.0.0.1", headers=()):
    """Return a request to the proxy's own port."""
    return RequestHead(method, "http", "127.0.0.1", 8080, path, Headers(headers), peer)


class Stage:
    """A page over a real Kimi and a real Kiro, whose questions to the services are counted instead of asked."""

    def __init__(self, folder, *accounts, kiro=True, key="", logged_in=True, **settings):
        self.folder = folder
        self.asked = []
        self.world = World(folder, *accounts)
        self.world.service.want_usage = lambda account: self.asked.append(account.id)
        chosen = Settings(**settings)
        self.kimi = Kimi(chosen, Outbound(), folder, environ={}, clock=lambda: self.world.now)
        if logged_in:
            self.kimi.home.session.save(TOKEN)
        self.kimi.home.want_usage = lambda: self.asked.append("kimi")
        self.recorder = Recorder(lambda: self.world.now)
        self.page = StatusPage(
            self.kimi,
            Kiro(self.world.service) if kiro else None,
            self.recorder,
            version="1.2.3",
            settings=chosen,
            key=key,
            confdir=folder / "confdir",
            folder=folder,
            started_at=NOW,
            clock=lambda: self.world.now,
        )

    def get(self, path="/", **fields):
        """Return the reply to a request."""
        return self.page.answer(head(path, **fields), ADDRESS)

    def json(self):
        """Return the page's record as scripts get it."""
        return json.loads(self.get("/status.json").body)


def basic(text):
    """Return the field in which a browser sends what its user has typed."""
    return ("authorization", f"Basic {base64.b64encode(text.encode()).decode()}")


@pytest.fixture
def stage(tmp_path):
    """Return a page with one login at Kimi and one account at Kiro."""
    return Stage(tmp_path, social("a"))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/?x=1", "text/html; charset=utf-8"),
        ("/status.html", "text/html; charset=utf-8"),
        ("/status.json", "application/json"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
    ],
)
def test_every_part_has_its_type_and_the_same_strict_policy(stage, path, kind, method):
    """Page, parts and files are never stored, framed, or read as something else than what they are."""
    reply = stage.get(path, method=method)
    assert reply.status == 200
    assert reply.headers.get("content-type") == kind
    assert reply.headers.get("cache-control") == "no-store"
    assert reply.headers.get("x-content-type-options") == "nosniff"
    assert reply.headers.get("referrer-policy") == "no-referrer"
    assert reply.headers.get("cross-origin-resource-policy") == "same-origin"
    assert reply.headers.get("cross-origin-opener-policy") == "same-origin"
    policy = dict(part.split(" ", 1) for part in reply.headers.get("content-security-policy").split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert set(policy.values()) == {"'none'", "'self'"}


@pytest.mark.parametrize(
    ("path", "method"), [("/", "POST"), ("/health", "GET"), ("/kimi/v1/models", "GET"), ("//", "GET")]
)
def test_everything_else_is_not_the_pages(stage, path, method):
    """Other paths and methods are left to whoever answers them."""
    assert stage.get(path, method=method) is None


def test_it_shows_what_is_known(stage):
    """The record has login, account, totals and exchanges; the page says the same."""
    stage.recorder.answered(Arrival(NOW - 1, "curl/8.14.1", "kimi", "chat"), End(401, reason="not_logged_in"))
    data = stage.json()
    kimi, kiro = data["providers"]
    assert (data["version"], data["listening"], data["started_at"]) == ("1.2.3", "127.0.0.1:8080", NOW)
    assert kimi["logins"][0]["token"] == {"issued_at": NOW - 100, "expires_at": NOW + 800, "renews": True}
    assert kiro["logins"][0]["name"] == "label a"
    assert data["journal"]["ended"][0]["reason"] == "not_logged_in"
    html = stage.get().body.decode()
    for said in ("kimi.com", "label a", "curl/8.14.1", "401 not logged in", "http://127.0.0.1:8080/kiro/v1"):
        assert said in html
    assert stage.get("/status.html").body.decode() in html


def test_no_secret_is_on_the_page(tmp_path):
    """Tokens, keys and secrets of registrations are in nothing that is served."""
    rich = social("a", client_secret="fake-client-secret-1", user_id="fake-user", last_error="rate_limited")
    stage = Stage(tmp_path, rich, key="fake-key", kimi_client_key="fake-key")
    stage.recorder.answered(Arrival(NOW, "x", "kimi", "chat"), End(200))
    shown = b"".join(
        stage.get(path, headers=[basic(":fake-key")]).body for path in ("/", "/status.html", "/status.json")
    )
    for secret in (
        TOKEN.access_token,
        TOKEN.refresh_token,
        rich.access_token,
        rich.refresh_token,
        "fake-client-secret-1",
        "fake-key",
    ):
        assert secret.encode() not in shown
    assert b"fake-user" not in shown
    assert b"KIMI_MITM_KEY" in shown


def test_the_key_that_the_proxy_made_is_named_by_its_file(tmp_path):
    """The lines for clients say where the key is, not what it is."""
    stage = Stage(tmp_path, key="km-fake", kimi_client_key="auto")
    assert "client-key.json" in stage.get(headers=[basic(":km-fake")]).body.decode()


def test_without_kiro(tmp_path):
    """Where Kiro is switched off the page has Kimi alone."""
    assert [each["name"] for each in Stage(tmp_path, kiro=False).json()["providers"]] == ["kimi"]


def test_a_damaged_document_is_told(tmp_path, stage):
    """The page stands although the accounts cannot be read."""

    def damaged():
        raise StoreDamaged("The accounts are damaged.")

    stage.world.service.accounts = damaged
    assert "The accounts are damaged." in stage.json()["providers"][1]["problem"]
    assert stage.get().status == 200


def test_an_ipv6_listener_is_written_in_brackets(stage):
    """The address can be put into a URL as it stands."""
    assert json.loads(stage.page.answer(head("/status.json"), ("::1", 8080)).body)["listening"] == "[::1]:8080"


def test_what_the_script_has_already_is_not_sent_again(stage):
    """The entity tag stays while nothing but time passes, and changes with the next exchange."""
    first = stage.get("/status.html")
    tag = first.headers.get("etag")
    assert first.headers.get("x-kimi-mitm-version") == "1.2.3"
    stage.world.now += 2
    again = stage.get("/status.html", headers=[("if-none-match", tag)])
    assert (again.status, again.body, again.headers.get("etag")) == (304, b"", tag)
    assert again.headers.get("content-security-policy") == files.CONTENT_SECURITY_POLICY
    stage.recorder.answered(Arrival(NOW, "curl", "kimi", "chat"), End(200))
    assert stage.get("/status.html", headers=[("if-none-match", tag)]).status == 200


# --- asking for usage -------------------------------------------------------------------------------------------------


def test_services_are_asked_at_most_once_in_five_minutes(stage):
    """However often the page is looked at, and whether the answer comes or not."""
    for _ in range(50):
        stage.get("/status.html")
        stage.world.now += ASK_EVERY / 50
    assert stage.asked == ["kimi", "a"]
    stage.get("/status.html")
    assert stage.asked == ["kimi", "a"] * 2


def test_what_is_known_and_fresh_is_not_asked_for(stage):
    """An answer that a request brought is as good as one that the page asked for."""
    stage.kimi.home.usage = Usage((Row("Weekly limit", 40, 100),), None, None, NOW - ASK_EVERY + 10)
    stage.get()
    assert stage.asked == ["a"]
    stage.world.now += 20
    stage.get()
    assert stage.asked == ["a", "kimi"]


def test_a_clock_that_was_set_back_does_not_stop_the_asking(stage):
    """A moment in the future is no reason to wait for it."""
    stage.get()
    stage.world.now -= 10 * ASK_EVERY
    stage.get()
    assert stage.asked == ["kimi", "a"] * 2


def test_only_logins_that_can_answer_are_asked(tmp_path):
    """Nobody is asked on behalf of an account that is locked, logged out or switched off."""
    accounts = [
        social("ready"), social("locked", state="suspended"), social("out", state="needs_login"),
        social("off", enabled=False), social("pausing", cooldown_until=int((NOW + 60) * 1000)),
    ]  # fmt: skip
    stage = Stage(tmp_path, *accounts, logged_in=False)
    stage.get()
    assert stage.asked == ["ready", "pausing"]


def test_a_rejected_login_is_not_asked(tmp_path, stage):
    """A login that the service turned down is left alone."""
    stage.kimi.home.session.status = lambda: SessionStatus("kimi.com", tmp_path, "dead", NOW)
    stage.get()
    assert stage.asked == ["a"]


# --- who may see it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")],
        [("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")],
        [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")],
    ],
)
def test_programs_typed_addresses_own_scripts_and_links_are_served(stage, headers):
    """A link from anywhere opens the page for its reader; nothing else of another site's can see it."""
    assert stage.get(headers=headers).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        [("origin", "https://example.net")],
        [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")],
        [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
        [("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")],
    ],
)
@pytest.mark.parametrize("path", ["/", "/status.json", "/page.js"])
def test_other_sites_are_refused(stage, path, headers):
    """Scripts, pictures and frames of another site get nothing."""
    reply = stage.get(path, headers=headers)
    assert reply.status == 403
    assert json.loads(reply.body)["error"]["code"] == "from_browser"


@pytest.mark.parametrize(
    ("key", "headers", "expected"),
    [
        ("", [], 401),
        ("", [("authorization", "Bearer ")], 401),
        ("fake-key", [], 401),
        ("fake-key", [("authorization", "Bearer wrong")], 401),
        ("fake-key", [basic("me:wrong")], 401),
        ("fake-key", [("authorization", "Basic ???")], 401),
        ("fake-key", [("authorization", "Basic /w==")], 401),
        ("fake-key", [("authorization", "Bearer fake-key")], 200),
        ("fake-key", [("x-kimi-mitm-key", "fake-key")], 200),
        ("fake-key", [basic("anybody:fake-key")], 200),
    ],
)
@pytest.mark.parametrize("peer", ["10.0.0.9", "127.0.0.1"])
def test_where_there_is_a_client_key_it_is_asked_for(tmp_path, peer, key, headers, expected):
    """The page is for this machine; where there is a key, for whoever shows it, in a browser as a password."""
    reply = Stage(tmp_path, key=key).get(peer=peer, headers=headers)
    expected = expected if key or peer == "10.0.0.9" else 200
    assert reply.status == expected
    asks = reply.headers.get("www-authenticate")
    assert (asks == 'Basic realm="kimi-mitm"') == (expected == 401)


def test_the_paths_are_no_providers(stage):
    """No provider serves what the page serves."""
    for path in status.PATHS:
        for provider in (stage.kimi, Kiro(stage.world.service)):
            assert provider.route(replace(head(path)), local=True) is None


def test_looking_writes_nothing(tmp_path, stage):
    """A look at the page changes no file of the logins."""
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    stage.get()
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
