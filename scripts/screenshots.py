#!/usr/bin/env python3
"""Make the pictures in docs/screenshots: ``make screenshots``.

Starts fakes of both services and a real mitmweb with the addon, lets clients talk, and photographs what a user sees
with a headless Chromium (``$CHROMIUM``, else the one on PATH). Nothing leaves this machine, and all that is shown is
made up. ``SHOTS`` lists the pictures.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, cast

import httpx
import trustme
from mitmproxy.certs import CertStore
from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from playwright.sync_api import Page as Tab

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.e2e.harness import WEB_PASSWORD  # noqa: E402 - the checkout has to be on the path first
from tests.e2e.kiro_harness import KiroProxy, KiroWorld  # noqa: E402 - the checkout has to be on the path first
from tests.servers import kiro_answers, script  # noqa: E402
from tests.servers.serve import Background  # noqa: E402

FOLDER = ROOT / "docs" / "screenshots"
WIDE, NARROW = 1600, 400  # px
HEIGHT = 1000  # px; a full page is as long as it is
COLOURS = 256  # of a picture's palette, as many as PNG allows
KEY_BITS = 2048
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DAY = 86400.0
OVERLOADED, LOGGED_OUT = 4, 6  # the exchanges before which the fake Kimi refuses
LONG = 600.0  # seconds: longer than the whole run
PAUSE = 0.12  # seconds between two pieces of an answer: enough for the times on the page to differ
QUESTION = {"role": "user", "content": "Why does the test of the parser fail?"}
THOUGHTS = ("The traceback points at `parse_header`. ", "It splits at the first colon, and an IPv6 address has more. ")
SENTENCES = (
    "The parser takes everything after the first colon for the port.",
    "An IPv6 address has colons of its own, so the port comes out as text.",
    "I will look at the function, and then split at the last colon instead.",
    "The other callers pass host names only, so they stay as they are.",
)
CALLS = (("read_file", '{"path": "src/parser.py", "lines": [40, 72]}'),)
AGENTS = {
    "opencode": "opencode/1.18.33 ai-sdk/provider-utils/3.0.9",
    "claude": "claude-cli/2.0.14 (external, cli)",
    "python": "OpenAI/Python 3.1.0",
    "curl": "curl/8.14.1",
    "browser": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
}


@dataclass(frozen=True)
class Stage:
    """What the pictures are taken of: one proxy with traffic, its page, and a browser."""

    proxy: Any
    browser: Browser


@dataclass(frozen=True)
class Shot:
    """One picture: what is opened at which width, by day or by night, and what is done before it is taken."""

    name: str
    url: Callable[[Stage], str]
    width: int = WIDE
    dark: bool = False
    full: bool = True
    prepare: Callable[[Tab, Stage], None] | None = None


def _page(stage: Stage) -> str:
    return f"{stage.proxy.url}/"


def _mitmweb(stage: Stage) -> str:
    return f"http://127.0.0.1:{stage.proxy.web_port}/?token={WEB_PASSWORD}"


def _answer_of(path: str, view: str | None = None) -> Callable[[Tab, Stage], None]:
    """Return what opens the answer of the last good chat below *path* in mitmweb, in *view* where one is named."""

    def open_it(tab: Tab, _stage: Stage) -> None:
        tab.locator("tr", has_text=path).filter(has_text="200").filter(has_not_text="...").last.click()
        tab.get_by_text("Response", exact=True).first.click()
        tab.get_by_text("Chat answer", exact=True).wait_for()
        if view:
            tab.get_by_text("View:").first.click()
            tab.get_by_text(view.lower(), exact=True).click()
            tab.get_by_text(view, exact=True).wait_for()
        tab.wait_for_load_state("networkidle")

    return open_it


SHOTS: Sequence[Shot] = (
    Shot("status-light", _page),
    Shot("status-dark", _page, dark=True),
    Shot("status-narrow-light", _page, width=NARROW, full=False),
    Shot("status-narrow-dark", _page, width=NARROW, full=False, dark=True),
    Shot("mitmweb-answer", _mitmweb, full=False, prepare=_answer_of("api.kimi.com")),
    Shot("mitmweb-event-stream", _mitmweb, full=False, prepare=_answer_of("kiro.dev", "Kiro wire")),
)

# --- the stage --------------------------------------------------------------------------------------------------------


@contextmanager
def stage(*, accounts: bool = True, traffic: bool = True) -> Iterator[Stage]:
    """Yield a proxy between clients and fakes, and a browser."""
    with tempfile.TemporaryDirectory() as name, Background() as background, sync_playwright() as playwright:
        folder = Path(name)
        ca = trustme.CA()
        confdir = folder / "confdir"
        CertStore.create_store(confdir, "mitmproxy", KEY_BITS)
        with (
            KiroWorld(background, ca, folder) as world,
            KiroProxy(world, folder / "proxy", confdir, tool="mitmweb", faults_expected=True) as proxy,
        ):
            if accounts:
                _log_in(proxy)
            if traffic:
                _talk(proxy)
            browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
            with browser:
                yield Stage(proxy, browser)


def chromium() -> str:
    """Return the Chromium to use. Raises SystemExit where there is none."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        raise SystemExit("There is no chromium on PATH: install it, or set CHROMIUM to where it is.")
    return found


def _log_in(proxy: Any) -> None:
    now = int(time.time() * 1000)
    proxy.login()
    proxy.world.kimi.usages = {
        "usage": {"limit": "100", "used": "40", "reset_in": 4.3 * DAY},
        "limits": [
            {
                "window": {"duration": 300, "timeUnit": "TIME_UNIT_MINUTE"},
                "detail": {"limit": "100", "used": "83", "reset_in": DAY / 9},
            }
        ],
        "parallel": {"limit": "20"},
    }

    def credits_(used: float, limit: float, plan: str) -> dict[str, Any]:
        return {"used": used, "limit": limit, "fetched_at": now, "plan": plan, "resets_at": now + int(9.2 * DAY * 1000)}

    active = proxy.add(
        email="mei@example.com",
        label="mei@example.com",
        request_count=1418,
        last_used=now,
        usage=credits_(386.2, 1000, "Kiro Pro"),
    )
    proxy.add(
        email="team@example.org", label="team@example.org", auth_method="builder", request_count=97,
        last_used=now - 240_000,
        usage=credits_(46.9, 50, "Kiro Free"), last_error="rate_limited", consecutive_failures=2,
        cooldown_until=now + 190_000, is_healthy=False,
    )  # fmt: skip
    proxy.registry.update(lambda stored: setattr(stored, "active_account_id", active.id))


def _talk(proxy: Any) -> None:
    """Have clients of several kinds ask, and the services answer well, badly and not at all."""
    for number, (agent, provider, effort) in enumerate(
        [
            ("curl", "kimi", None), ("opencode", "kimi", "high"), ("opencode", "kiro", "medium"),
            ("claude", "messages", None), ("opencode", "kimi", "high"), ("python", "kiro", None),
            ("opencode", "kiro", "high"), ("opencode", "kimi", "low"), ("claude", "messages", None),
            ("opencode", "kimi", "high"),
        ]
    ):  # fmt: skip
        if number == OVERLOADED:
            proxy.world.kimi.queue(script.error(429))
        if number == LOGGED_OUT:
            proxy.world.kimi.oauth.reject_access()
        _ask(proxy, agent, provider, effort, number)
    httpx.post(
        f"{proxy.url}/kimi/v1/chat/completions",
        json=_chat(None),
        headers={"origin": "https://example.net", "user-agent": AGENTS["browser"]},
    )
    _leave_one_running(proxy)


def _ask(proxy: Any, agent: str, provider: str, effort: str | None, number: int) -> None:
    headers = {"user-agent": AGENTS[agent]}
    words = [f"{sentence} " for sentence in SENTENCES[: number % len(SENTENCES) + 2]]
    gate = script.Gate()
    if provider == "kiro":
        frames = [kiro_answers.text(word) for word in words]
        proxy.world.kiro.queue(kiro_answers.paced(gate, *frames, kiro_answers.END_TURN, kiro_answers.ending()))
    elif provider == "kimi" and not proxy.world.kimi.scripts["chat"]:
        proxy.world.kimi.queue(script.chat_script(*words, gate=gate, reasoning=THOUGHTS, calls=CALLS))
    opener = Thread(target=_open, args=(gate, len(words) + len(THOUGHTS) + 3 * len(CALLS) + 3), daemon=True)
    opener.start()
    if provider == "messages":
        body = {
            "model": "kimi-for-coding",
            "max_tokens": 1000,
            "stream": True,
            "messages": [QUESTION],
        }
        httpx.post(f"{proxy.url}/kimi/v1/messages", json=body, headers=headers, timeout=20)
    else:
        model = "claude-sonnet-4.6" if provider == "kiro" else "kimi-for-coding"
        body = _chat(effort) | {"model": model}
        httpx.post(f"{proxy.url}/{provider}/v1/chat/completions", json=body, headers=headers, timeout=20)
    opener.join()


def _open(gate: Any, steps: int) -> None:
    for _ in range(steps):
        time.sleep(PAUSE)
        gate.open()


def _leave_one_running(proxy: Any) -> None:
    gate = script.Gate()
    proxy.world.kimi.queue(script.chat_script("Let me look at the tests first.", gate=gate))

    def ask() -> None:
        body = _chat("high")
        try:
            httpx.post(
                f"{proxy.url}/kimi/v1/chat/completions",
                json=body,
                headers={"user-agent": AGENTS["opencode"]},
                timeout=LONG,
            )
        except httpx.TransportError:
            return  # the proxy is stopped while it waits

    Thread(target=ask, daemon=True).start()
    proxy.world.kimi.wait_for_request("chat")


def _chat(effort: str | None) -> dict[str, Any]:
    asked = {"reasoning_effort": effort} if effort else {}
    return {"model": "kimi-for-coding", "stream": True, "messages": [QUESTION], **asked}


# --- the pictures -----------------------------------------------------------------------------------------------------


def take(shot: Shot, on: Stage) -> bytes:
    """Return the picture as PNG."""
    context = on.browser.new_context(
        viewport={"width": shot.width, "height": HEIGHT}, color_scheme="dark" if shot.dark else "light"
    )
    with context:
        tab = context.new_page()
        tab.goto(shot.url(on))
        tab.wait_for_load_state("networkidle")
        if shot.prepare:
            shot.prepare(tab, on)
        return small(tab.screenshot(full_page=shot.full))


def small(png: bytes) -> bytes:
    """Return *png* with its commonest colours for a palette: surfaces stay exact, edges of letters nearly so."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    found = cast("list[tuple[int, tuple[int, int, int]]]", picture.getcolors(picture.width * picture.height))
    commonest = [colour for _, colour in sorted(found, reverse=True)[:COLOURS]]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for colour in commonest for part in colour])
    out = io.BytesIO()
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def main() -> None:
    """Take every picture, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="pictures to take; all of them where none is named")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    wanted = parser.parse_args()
    wanted.folder.mkdir(parents=True, exist_ok=True)
    with stage() as on:
        for shot in SHOTS:
            if not wanted.names or shot.name in wanted.names:
                path = wanted.folder / f"{shot.name}.png"
                path.write_bytes(take(shot, on))
                print(f"{path.name}: {path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
