"""The status page in a real Chromium: before a real proxy with fakes of both services behind it."""

import os
import shutil
from threading import Thread

import httpx
import pytest
from playwright.sync_api import expect, sync_playwright

from kimi_core.page import words
from tests.e2e.harness import wait_until
from tests.servers.script import Gate, chat_script, error
from tests.servers.serve import Service

NO_BROWSER = "KIMI_MITM_NO_BROWSER"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
CHAT = {"model": "kimi-for-coding", "stream": True, "messages": [{"role": "user", "content": "[[say never shown]]"}]}
KIRO_CHAT = {**CHAT, "model": "claude-sonnet-4.6"}
BEGIN = 1_790_000_000  # seconds
LONG = "somebody-with-a-very-long-name@a-subdomain.of-a-very-long-organisation.example.com"
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser():
    """Run one Chromium for the module.

    KIMI_MITM_NO_BROWSER=1 skips what needs it; without Chromium and without that variable they fail.
    """
    if os.environ.get(NO_BROWSER) == "1":
        pytest.skip(f"{NO_BROWSER} is set")
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not program:
        pytest.fail(f"chromium is not on PATH: install it, or set {NO_BROWSER}=1 to leave these tests out.")
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=program, args=FLAGS) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(kiro):
    """Return a proxy that is logged in to Kimi and has three accounts of Kiro, two of them with odd names."""
    kiro.login()
    kiro.add(email=LONG, enabled=False)
    kiro.add(label=EVIL, state="suspended")
    return kiro


@pytest.fixture
def context(browser):
    """Return a window of its own, which must see no error and no violation of the page's policy."""
    with browser.new_context(viewport={"width": 1600, "height": 1000}) as made:
        faults = []
        made.on(
            "console", lambda message: faults.append(message.text) if message.type in {"error", "warning"} else None
        )
        made.on("weberror", lambda error: faults.append(str(error.error)))
        made.faults = faults
        yield made
        assert not faults


@pytest.fixture
def page(context, proxy):
    """Return the page, open and live."""
    tab = context.new_page()
    tab.goto(proxy.url)
    expect(tab.locator("#live")).to_have_text("Live")
    return tab


def chat(proxy, *, provider="kimi", agent="test-client/1.0", body=None, **headers):
    """Ask once; return the answer."""
    url = f"{proxy.url}/{provider}/v1/chat/completions"
    asked = body or (CHAT if provider == "kimi" else KIRO_CHAT)
    return httpx.post(url, json=asked, headers={"user-agent": agent, **headers}, timeout=20, trust_env=False)


def rows(tab, agent):
    """Return the exchanges of one client."""
    return tab.locator(".exchanges tbody tr", has_text=agent)


def test_it_shows_logins_plans_and_how_to_point_a_client_at_it(page, proxy):
    """Who is logged in, what is left of each plan, what is wrong with an account and what to do, lines for clients."""
    expect(page.get_by_role("heading", name="kimi.com")).to_be_visible()
    kimi = page.locator("article", has_text="kimi.com")
    expect(kimi).to_contain_text("logged in")
    expect(kimi).to_contain_text("60% left")  # asked for beside the first look, and shown by the script
    expect(kimi.get_by_role("meter").first).to_have_attribute("value", "0.6000")
    locked = page.locator("article", has_text="is locked by Kiro")
    expect(locked).to_contain_text(EVIL)
    expect(locked.locator("code")).to_contain_text("kimi-mitm accounts enable")
    expect(page.get_by_role("heading", name=LONG)).to_be_visible()
    page.get_by_text("OpenAI SDKs and whatever reads their variables").first.click()
    expect(page.locator("#block-kimi-openai")).to_contain_text(f"OPENAI_BASE_URL={proxy.local.replace('kiro', 'kimi')}")


def test_it_follows_what_happens_without_being_loaded_again(page, proxy):
    """A new exchange appears while it runs, and then with its numbers; what failed says why."""
    gate = Gate()
    proxy.world.kimi.queue(chat_script("never shown", gate=gate))
    page.evaluate("document.body.dataset.mark = 'same page'")
    asking = Thread(target=chat, args=(proxy,), kwargs={"agent": "slow-client/2.0"})
    asking.start()
    row = rows(page, "slow-client/2.0")
    expect(row).to_contain_text("running")
    gate.open(20)
    asking.join()
    expect(row).to_contain_text("200")
    expect(row).to_contain_text("kimi-for-coding")
    expect(row).to_contain_text("900")
    proxy.world.kimi.queue(error(429))
    chat(proxy, agent="unlucky-client/1.0")
    chat(proxy, provider="kiro", agent="kiro-client/1.0", body=KIRO_CHAT | {"reasoning_effort": "high"})
    page.evaluate("refresh()")
    expect(rows(page, "unlucky-client/1.0")).to_contain_text("429 overload")
    expect(rows(page, "kiro-client/1.0")).to_contain_text("claude-sonnet-4.6")
    expect(rows(page, "kiro-client/1.0")).to_contain_text("high")
    expect(page.locator(".totals")).to_contain_text("Kiro")
    assert page.evaluate("document.body.dataset.mark") == "same page"
    assert "never shown" not in page.content()


def test_it_works_without_javascript(browser, proxy):
    """The same page stands there, with a link to load it again and without buttons that do nothing."""
    chat(proxy, agent="before-client/1.0")
    with browser.new_context(java_script_enabled=False, viewport={"width": 400, "height": 800}) as context:
        tab = context.new_page()
        tab.goto(proxy.url)
        expect(tab.get_by_role("link", name="Reload now")).to_be_visible()
        expect(rows(tab, "before-client/1.0").first).to_be_visible()
        expect(tab.get_by_role("button").first).to_be_hidden()
        assert tab.locator("noscript meta[http-equiv=refresh]").count() == 1


def test_commands_and_blocks_can_be_copied(context, page):
    """A button copies exactly what stands beside it; where that is not allowed it selects it."""
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    command = page.locator("article", has_text="is locked by Kiro").locator(".command")
    command.get_by_role("button").click()
    expect(command.get_by_role("button")).to_have_text("Copied")
    text = command.locator("code").inner_text()
    assert text.startswith("kimi-mitm accounts enable ")
    assert page.evaluate("navigator.clipboard.readText()") == text
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.get_by_text("curl: one question").first.click()
    button = page.get_by_role("button", name="Copy: curl: one question").first
    button.click()
    expect(button).to_have_text("Press Ctrl+C")
    assert "curl" in page.evaluate("document.getSelection().toString()")


def test_it_asks_only_while_it_is_looked_at_and_backs_off(browser, proxy):
    """Hidden it rests; without an answer it says so and asks less and less; then it goes on."""
    with browser.new_context() as context:
        tab = context.new_page()
        tab.clock.install(time=BEGIN)
        asked = []
        tab.on("request", lambda request: asked.append(request.url) if "/status.html" in request.url else None)
        tab.goto(proxy.url)
        live = tab.locator("#live")
        expect(live).to_have_text("Live")
        tab.clock.pause_at(BEGIN + 3600)  # from here on time passes only as it is told to
        wait_until(lambda: tab.evaluate("!asking") and len(asked) == 2, "the next question")
        tab.evaluate("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
        tab.clock.run_for(3_100)
        before = len(asked)
        tab.clock.run_for(300_000)
        assert len(asked) == before
        tab.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
        wait_until(lambda: tab.evaluate("!asking") and len(asked) == before + 1, "a question and its answer")
        expect(live).to_have_text("Live")
        context.set_offline(True)
        tab.clock.run_for(3_100)
        expect(live).to_contain_text("does not answer")
        before = len(asked)
        tab.clock.run_for(5_000)
        assert len(asked) == before
        tab.clock.run_for(1_200)
        wait_until(lambda: tab.evaluate("1") and len(asked) == before + 1, "the second try")
        context.set_offline(False)
        tab.evaluate("window.dispatchEvent(new Event('online'))")
        expect(live).to_have_text("Live")


def test_what_is_selected_or_focused_stays(page, proxy):
    """A part in which the user has selected text waits; a button that has the focus keeps it."""
    chat(proxy, agent="selected-client/1.0")
    page.evaluate("refresh()")
    cell = rows(page, "selected-client/1.0").first.locator(".client")
    expect(cell).to_be_visible()
    cell.evaluate("cell => getSelection().selectAllChildren(cell)")
    chat(proxy, agent="later-client/1.0")
    button = page.locator("article .command button").first
    button.focus()
    page.evaluate("refresh()")
    assert page.evaluate("getSelection().toString()") == "selected-client/1.0"
    page.evaluate("getSelection().removeAllRanges(); refresh()")
    expect(rows(page, "later-client/1.0")).to_have_count(1)
    proxy.add(email="new@example.com", enabled=False)
    page.evaluate("refresh()")
    expect(page.get_by_role("heading", name="new@example.com")).to_be_visible()
    assert page.evaluate("document.activeElement.className") == "copy"


def test_nothing_sticks_out(page, proxy):
    """At every width, by day and by night, with long names and unfolded blocks, the page never scrolls sideways."""
    chat(proxy, agent="x" * 300, body=CHAT | {"model": "an-organisation/" + "very-long-" * 20})
    page.evaluate("refresh()")
    expect(rows(page, "xxxxxxxx").first).to_be_visible()
    for summary in page.locator("summary").all()[:3]:
        summary.click()
    for width in (400, 700, 1100, 1600):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    brightness = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness[scheme] = sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(",")))
    assert brightness["dark"] < 150
    assert brightness["light"] > 600


def test_times_are_said_as_the_server_says_them(page):
    """Script and server have the same words for a moment."""
    now = 1_790_000_000
    steps = (0, 1, 4, 5, 42, 59, 60, 61, 125, 599, 600, 661, 3599, 3600, 7265, 86_399, 86_400, 200_000, 40_000_000)
    for name in ("ago", "until", "age", "rest"):
        moments = [now + sign * step for step in steps for sign in (-1, 1)]
        said = page.evaluate("([name, now, all]) => all.map((at) => WORDS[name](at, now))", [name, now, moments])
        assert said == [getattr(words, name)(at, now) for at in moments]


def test_a_page_of_another_origin_cannot_read_it(browser, background, proxy):
    """Fetch, script, picture and frame fail there; a plain link opens the page for its reader."""

    async def elsewhere(scope, receive, send):
        if scope["type"] != "http":
            return
        await receive()
        html = f"<!doctype html><title>x</title><a href='{proxy.url}/'>status</a>".encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
        await send({"type": "http.response.body", "body": html})

    with Service(background, elsewhere) as other, browser.new_context() as context:
        tab = context.new_page()
        tab.goto(other.url)
        read = """async ([url, mode]) => {
            try { const answer = await fetch(url, { mode }); return [answer.type, await answer.text()]; }
            catch { return "failed"; }
        }"""
        for path in ("/", "/status.json", "/status.html"):
            for mode in ("cors", "no-cors"):
                answer = tab.evaluate(read, [proxy.url + path, mode])
                assert answer in ("failed", ["opaque", ""]), answer
        embed = """([tag, url]) => new Promise((done) => {
            const made = document.createElement(tag);
            made.onload = () => done("loaded"); made.onerror = () => done("failed");
            made.src = url; document.body.append(made);
        })"""
        assert tab.evaluate(embed, ["script", f"{proxy.url}/page.js"]) == "failed"
        assert tab.evaluate(embed, ["img", f"{proxy.url}/icon.svg"]) == "failed"
        tab.evaluate(embed, ["iframe", f"{proxy.url}/"])
        assert all("kimi.com" not in frame.content() for frame in tab.frames)
        tab.get_by_role("link", name="status").click()
        expect(tab.get_by_role("heading", name="kimi.com")).to_be_visible()
        assert tab.evaluate("window.opener") is None


def test_it_is_in_no_list_of_flows_and_holds_no_secret(page, proxy):
    """Its requests are not saved with the flows, and no credential is in anything it serves."""
    since = proxy.flow_bytes()
    page.reload()
    expect(page.locator("#live")).to_have_text("Live")
    shown = page.content() + page.evaluate("fetch('/status.json').then((answer) => answer.text())")
    chat(proxy)
    flows = wait_until(lambda: proxy.flows(since), "the flow of the chat")
    assert [flow.request.path.rpartition("/")[2] for flow in flows] == ["completions"]
    assert proxy.secrets_in(shown.encode()) == set()
    assert "/status.html" not in proxy.log()


def test_head_asks_for_the_head_alone(proxy):
    """HEAD answers like GET without the content."""
    answer = httpx.head(f"{proxy.url}/", trust_env=False)
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) > 1000
    assert answer.content == b""
