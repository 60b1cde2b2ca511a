"""The stage of the pictures in docs/screenshots: fakes of both services, a real mitmweb between them and clients.

Clients of several kinds ask, and the services answer well, badly and not at all. Nothing leaves this machine, and all
that is shown is made up.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import trustme
from mitmproxy.certs import CertStore
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.e2e.harness import WEB_PASSWORD  # noqa: E402 - the checkout has to be on the path first
from tests.e2e.kiro_harness import KiroProxy, KiroWorld  # noqa: E402
from tests.servers import kiro_answers, script  # noqa: E402
from tests.servers.serve import Background  # noqa: E402

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

    @property
    def page(self) -> str:
        """The address of the status page."""
        return f"{self.proxy.url}/"

    @property
    def mitmweb(self) -> str:
        """The address of mitmweb."""
        return f"http://127.0.0.1:{self.proxy.web_port}/?token={WEB_PASSWORD}"


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
