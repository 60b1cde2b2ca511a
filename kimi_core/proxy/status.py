"""The status page on the proxy's own port: who may see it, what it shows now, and the replies that carry it.

What is shown is what is known: no request waits for a service here. What is left of a plan is asked for beside, at most
once in `ASK_EVERY` however many pages are open. Requests for the page are not listed, printed or saved with the flows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_core import later
from kimi_core.blocks.place import Key, Place
from kimi_core.errors import Refused, StoreError
from kimi_core.exchange import JSON, Reply, RequestHead, reply_for
from kimi_core.headers import Headers
from kimi_core.kimi.provider import Kimi
from kimi_core.kiro.condition import SERVING, State, condition
from kimi_core.kiro.provider import Kiro
from kimi_core.page import files
from kimi_core.proxy import guard
from kimi_core.proxy.journal import Recorder
from kimi_core.proxy.key import AUTO, key_path
from kimi_core.proxy.passing import RefusedControl
from kimi_core.settings import Settings

if TYPE_CHECKING:
    from kimi_core.page import kimi as kimi_page
    from kimi_core.page import kiro as kiro_page
    from kimi_core.page import rendering, state
else:
    kimi_page = later.module("kimi_core.page.kimi")
    kiro_page = later.module("kimi_core.page.kiro")
    rendering = later.module("kimi_core.page.rendering")
    state = later.module("kimi_core.page.state")

ASK_EVERY = 300.0  # seconds for which what is left of a plan counts as known, and between two tries to learn it
ASKED = SERVING | {State.cooling, State.quota}  # accounts that can answer what is left of them
HTML = "text/html; charset=utf-8"
PATHS = frozenset({"/", "/status.html", "/status.json", *(f"/{name}" for name in files.ASSETS)})
METHODS = frozenset({"GET", "HEAD"})
SECURITY = (
    ("content-security-policy", files.CONTENT_SECURITY_POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cache-control", "no-store"),
)
CA_NAME = "mitmproxy-ca-cert.pem"


class PageControl(RefusedControl):
    """For a request of the status page: it was answered here, and goes into no list of flows."""


class StatusPage:
    """Answers for the page; *kiro* is None where Kiro is switched off."""

    def __init__(
        self,
        kimi: Kimi,
        kiro: Kiro | None,
        recorder: Recorder,
        *,
        version: str,
        settings: Settings,
        key: str,
        confdir: Path,
        folder: Path,
        started_at: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._kimi = kimi
        self._kiro = kiro
        self._recorder = recorder
        self._version = version
        self._settings = settings
        self._key = key
        self._ca = confdir.expanduser() / CA_NAME
        self._folder = folder
        self._started_at = started_at
        self._clock = clock
        self._asked: dict[str, float] = {}

    def answer(self, head: RequestHead, address: tuple[str, int]) -> Reply | None:
        """Return the reply where *head* asks for the page or a part of it, else None.

        *address* is where the proxy listens, as this connection met it.
        """
        path = head.path.partition("?")[0]
        if path not in PATHS or head.method not in METHODS:
            return None
        try:
            guard.check_page(head, self._key)
        except Refused as error:
            asks = isinstance(error, guard.KeyMissing)
            return reply_for(
                error, "openai", Headers([("www-authenticate", 'Basic realm="kimi-mitm"')] if asks else [])
            )
        name = path.removeprefix("/")
        if name in files.ASSETS:
            return _reply(files.asset(name), files.ASSETS[name])
        page = self.page(address)
        return _reply(rendering.html(page).encode(), HTML) if path == "/" else self._part(path, page, head.headers)

    def _part(self, path: str, page: state.Page, asked: Headers) -> Reply:
        """Return what the script asks for, or 304 where it has that already (RFC 9110 §13.1.2)."""
        tag = f'"{rendering.version(page)}"'
        extra = (("etag", tag), ("x-kimi-mitm-version", self._version))
        if asked.get("if-none-match") == tag:
            return Reply(304, Headers([*SECURITY, *extra]), b"")
        if path == "/status.html":
            return _reply(rendering.fragment(page).encode(), HTML, *extra)
        return _reply(json.dumps(page.to_json()).encode(), JSON, *extra)

    def page(self, address: tuple[str, int]) -> state.Page:
        """Return all that is known now, and have what is old asked for beside."""
        host, port = address
        listening = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        now = self._clock()
        providers = [self._of_kimi(now, f"http://{listening}")]
        if self._kiro is not None:
            providers.append(self._of_kiro(self._kiro, now, f"http://{listening}"))
        return state.Page(
            version=self._version,
            now=now,
            started_at=self._started_at,
            listening=listening,
            providers=tuple(providers),
            journal=self._recorder.journal(),
        )

    def _of_kimi(self, now: float, proxy_url: str) -> state.Provider:
        home = self._kimi.home
        statuses = [served.account.session.status() for served in self._kimi.served]
        old = home.usage is None or now - home.usage.fetched_at >= ASK_EVERY
        if old and statuses[0].state in {"ok", "expired"} and self._may_ask("kimi", now):
            home.want_usage()
        place = self._place(proxy_url, home.site.base, "kimi")
        return kimi_page.provider(statuses, home.usage, home.cache.catalog, place)

    def _of_kiro(self, kiro: Kiro, now: float, proxy_url: str) -> state.Provider:
        service = kiro.service
        try:
            stored, catalog = service.accounts(), service.catalog()
        except StoreError as error:
            return kiro_page.damaged(error.sentence)
        for account in stored.accounts:
            if condition(account, now).state in ASKED and self._may_ask(account.id, now):
                service.want_usage(account)
        strategy = self._settings.kiro_strategy or stored.strategy
        place = self._place(proxy_url, f"{service.endpoints.served()[0]}/v1", "kiro")
        return kiro_page.provider(stored, now, strategy, catalog, place)

    def _may_ask(self, whom: str, now: float) -> bool:
        """Tell whether it is time to ask again, and take note that it is done: a failed question counts as well."""
        if 0 <= now - self._asked.get(whom, -ASK_EVERY) < ASK_EVERY:
            return False
        self._asked[whom] = now
        return True

    def _place(self, proxy_url: str, api_base: str, provider: str) -> Place:
        option = self._settings.kimi_client_key
        return Place(
            proxy_url=proxy_url,
            api_base=api_base,
            ca=self._ca,
            key=Key.MADE if option == AUTO else Key.CHOSEN if option else Key.NONE,
            key_file=key_path(self._folder) if option == AUTO else None,
            provider=provider,
            local=True,
        )


def _reply(body: bytes, media_type: str, *extra: tuple[str, str]) -> Reply:
    return Reply(200, Headers([("content-type", media_type), *SECURITY, *extra]), body)
