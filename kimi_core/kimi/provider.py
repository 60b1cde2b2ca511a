"""The Kimi Code service behind the proxy: which requests are its own, and how one is opened."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kimi_core import later
from kimi_core.errors import KimiMitmError
from kimi_core.exchange import Attempt, Exchange, Limits, Reply, RequestHead, Route, reply_for
from kimi_core.headers import Headers
from kimi_core.kimi import identity as identities
from kimi_core.kimi.account import Account
from kimi_core.kimi.constants import LABEL, LOCAL_PREFIX, OWN_KEY_LABEL, Site, sites
from kimi_core.kimi.memory import ReasoningMemory
from kimi_core.outbound import Outbound
from kimi_core.routing import authority, below
from kimi_core.settings import Settings

if TYPE_CHECKING:
    from kimi_core.kimi import body as rewriting
    from kimi_core.kimi import exchange as exchanges
else:
    rewriting = later.module("kimi_core.kimi.body")
    exchanges = later.module("kimi_core.kimi.exchange")

MIB = 1024 * 1024
LOCAL_VERSION = "v1/"  # of the endpoint on the proxy's own port

# path below /coding/v1/ -> what the endpoint is called here; every other path is "other": auth and identity only
OPERATIONS = {
    ("POST", "chat/completions"): "chat",
    ("POST", "messages"): "messages",
    ("POST", "messages/count_tokens"): "messages",
    ("GET", "models"): "models",
    ("GET", "usages"): "usages",
    ("POST", "search"): "search",
    ("POST", "fetch"): "fetch",
    ("POST", "files"): "files",
}


@dataclass(frozen=True, slots=True)
class Served:
    """A site, the folder of it that is served (``/coding/``), and the login used there."""

    site: Site
    folder: str
    account: Account

    @property
    def version(self) -> str:
        """Path of the API version below `folder`: ``v1/``, or "" for a base without a path."""
        last = self.site.path.removeprefix(self.folder)
        return f"{last}/" if last else ""


def served_folder(site: Site) -> str:
    """Return the folder that holds the API version: ``/coding/`` for ``/coding/v1``."""
    return site.path.rpartition("/")[0] + "/"


class Kimi:
    """The provider; see `kimi_core.exchange.Provider`."""

    name = "kimi"
    prefix = LOCAL_PREFIX

    def __init__(
        self,
        settings: Settings,
        outbound: Outbound,
        folder: Path,
        *,
        environ: Mapping[str, str] = os.environ,
        memory: ReasoningMemory | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.identity = identities.load(settings.kimi_identity, environ)
        self.memory = ReasoningMemory() if memory is None else memory
        self._clock = clock
        self.served = tuple(
            Served(site, served_folder(site), Account(site, self.identity, outbound, folder, clock=clock))
            for site in sites(settings.kimi_region, environ)
        )

    @property
    def home(self) -> Account:
        """The login of the region in use."""
        return self.served[0].account

    def origins(self) -> list[tuple[str, int]]:
        """Return host and port of every site that is served."""
        return [(served.site.host, served.site.port) for served in self.served]

    def route(self, head: RequestHead, *, local: bool) -> Route | None:
        """Tell whether this request is for Kimi, and which endpoint it wants.

        A *local* request names the provider by its path, any other one by exactly its host and port.
        """
        served, rest = self._local(head) if local else self._direct(head)
        if served is None or rest is None:
            return None
        site = served.site
        endpoint = rest.partition("?")[0].removeprefix(served.version)
        operation = OPERATIONS.get((head.method, endpoint), "other")
        return Route(
            provider=self.name,
            operation=operation,
            dialect="anthropic" if endpoint.startswith("messages") else "openai",
            scheme=site.scheme,
            host=site.host,
            port=site.port,
            path=served.folder + rest,
            local=local,
        )

    async def open(self, head: RequestHead, route: Route) -> Exchange | Reply:
        """Begin an exchange; the token is fetched, and refreshed ahead of time, here."""
        account = self._account(route)
        own = self._own_key(head.headers)
        token = None
        if not own:
            try:
                token = await account.token()
            except KimiMitmError as error:
                return reply_for(error, route.dialect)
            account.want_models()
        attempt = Attempt(
            method=head.method,
            scheme=route.scheme,
            host=route.host,
            port=route.port,
            path=route.path,
            headers=self._headers(head, route, own),
            secrets={"authorization": f"Bearer {token.access_token}"} if token else own,
            label=account.site.slot,
        )
        exchange = exchanges.KimiExchange(
            account,
            route,
            attempt,
            token,
            memory=self.memory,
            options=self._body_options,
            limits=self._limits,
            max_body=self.settings.kimi_max_body * MIB,
            client=head.headers,
            clock=self._clock,
        )
        if not own:
            exchange.story.removed += self.identity.removed(route.operation, head.headers, self._kept)
        return exchange

    def private_hosts(self) -> frozenset[str]:
        """Return the hosts of the login service, in every region."""
        return frozenset(urlsplit(served.site.oauth).hostname or "" for served in self.served) - {
            served.site.host for served in self.served
        }

    def health(self) -> dict[str, Any]:
        """Return the state of each login: no network, no secrets."""
        status = self.home.session.status()
        return {"site": status.slot, "login": status.state, "expires_at": status.expires_at}

    def start(self) -> str | None:
        """Ask for the models where there is a login; return the command to run where there is none."""
        if self.home.session.status().state != "ok":
            return "kimi-mitm login kimi"
        self.home.want_models()
        return None

    async def keep_fresh(self, busy: Callable[[], bool]) -> None:
        """Refresh the login in use by a timer while *busy*; runs until cancelled."""
        await self.home.session.keep_fresh(busy)

    def close(self) -> None:
        """Cancel background work."""
        for served in self.served:
            served.account.close()

    def _local(self, head: RequestHead) -> tuple[Served, str | None]:
        """Return the site in use and the path there: what is ``v1/`` here is whatever version its base ends in."""
        served, rest = self.served[0], below(head.path, self.prefix)
        if rest is not None and rest.startswith(LOCAL_VERSION):
            rest = served.version + rest.removeprefix(LOCAL_VERSION)
        return served, rest

    def _direct(self, head: RequestHead) -> tuple[Served | None, str | None]:
        for served in self.served:
            site = served.site
            if head.host.lower() == site.host and (head.port == site.port or self._in_the_clear(head, site)):
                return served, below(head.path, served.folder)
        return None, None

    @staticmethod
    def _in_the_clear(head: RequestHead, site: Site) -> bool:
        """Tell whether this is meant for *site* but not encrypted; it is ours, so that it is refused, not sent on."""
        return head.scheme == "http" and site.scheme == "https"

    def _account(self, route: Route) -> Account:
        for served in self.served:
            if served.site.host == route.host and served.site.port == route.port:
                return served.account
        raise AssertionError("a route leads to a site that is served")

    def _headers(self, head: RequestHead, route: Route, own: Mapping[str, str]) -> Headers:
        host = ("Host", authority(route.scheme, route.host, route.port))
        if own:  # the client's own account: everything stays as it is, but for what the flow may show
            return head.headers.plus(host, *((name, OWN_KEY_LABEL) for name in own))
        return self.identity.compose(route.operation, head.headers, LABEL, self._kept).plus(host)

    @cached_property
    def _kept(self) -> frozenset[str]:
        return frozenset(name.lower() for name in self.settings.kimi_keep_headers)

    def _own_key(self, headers: Headers) -> dict[str, str]:
        """Return the fields that carry the client's own plan key, where the user wants it left alone."""
        if not self.settings.kimi_keep_own_key:
            return {}
        found = {name: headers.get(name) or "" for name in ("authorization", "x-api-key")}
        return {name: value for name, value in found.items() if value.removeprefix("Bearer ").startswith("sk-")}

    @cached_property
    def _limits(self) -> Limits:
        return Limits(self.settings.kimi_first_byte_timeout or None, self.settings.kimi_idle_timeout or None)

    @cached_property
    def _body_options(self) -> rewriting.BodyOptions:
        settings = self.settings
        return rewriting.BodyOptions(
            thinking=settings.kimi_thinking,
            identity=settings.kimi_identity,
            salt=self.identity.device_id or "kimi-mitm",
            prefer_parent=settings.kimi_parent_cache_key,
            clamp=settings.kimi_clamp_tokens,
        )
