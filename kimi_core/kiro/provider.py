"""Kiro behind the proxy: which requests are its own, and how one is opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kimi_core import later
from kimi_core.errors import BadRequest, KimiMitmError, StoreError
from kimi_core.exchange import JSON, Exchange, Reply, RequestHead, Route, reply_for
from kimi_core.headers import Headers
from kimi_core.kiro import health, models
from kimi_core.kiro.accounts import Account
from kimi_core.kiro.constants import LOCAL_PREFIX
from kimi_core.kiro.service import Service
from kimi_core.routing import below

if TYPE_CHECKING:
    from kimi_core.kiro import exchange, resent
else:
    exchange = later.module("kimi_core.kiro.exchange")
    resent = later.module("kimi_core.kiro.resent")

VERSION = "v1/"
LIST_WAIT = 10.0  # seconds that a client's question for models waits for a list that was never fetched


class NotServed(BadRequest):
    """Kiro has nothing like this endpoint."""

    code = "kiro_not_served"
    status = 404
    hint = "Served here: POST chat/completions, GET models."


class ModelNotListed(BadRequest):
    """The model asked for by name is in no account's list."""

    code = "model_not_found"
    status = 404
    hint = "`kimi-mitm models kiro` lists those there are."


class Kiro:
    """The provider; see `kimi_core.exchange.Provider`."""

    name = "kiro"
    prefix = LOCAL_PREFIX

    def __init__(self, service: Service) -> None:
        self.service = service
        self._origins = {
            (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)): parts.scheme
            for parts in map(urlsplit, service.endpoints.served())
        }

    def origins(self) -> list[tuple[str, int]]:
        """Return host and port of every place that answers API calls."""
        return list(self._origins)

    def private_hosts(self) -> frozenset[str]:
        """Return the hosts of the login services."""
        endpoints = self.service.endpoints
        logins = {urlsplit(url).hostname or "" for url in endpoints.logins()}
        return frozenset(logins - {host for host, _ in self._origins})

    def route(self, head: RequestHead, *, local: bool) -> Route | None:
        """Tell whether this request is for Kiro in the OpenAI dialect.

        On Kiro's own hosts only what lies below ``/v1/`` is: the native traffic of its clients passes untouched.
        """
        if local:
            rest = below(head.path, self.prefix + VERSION)
            host, port = next(iter(self._origins))
        else:
            host, port = head.host.lower(), head.port
            clear = next(((h, p) for h, p in self._origins if h == host and head.scheme == "http"), None)
            host, port = clear or (host, port)
            rest = below(head.path, "/" + VERSION) if (host, port) in self._origins else None
            if rest is None and (host, port) in self._origins and resent.is_resent(head):
                scheme = self._origins[host, port]
                return Route(self.name, "resent", "openai", scheme, host, port, head.path)
        if rest is None:
            return None
        return Route(
            provider=self.name,
            operation=_operation(head.method, rest.partition("?")[0]),
            dialect="openai",
            scheme=self._origins[host, port],
            host=host,
            port=port,
            path=f"/{VERSION}{rest}",
            local=local,
        )

    async def open(self, head: RequestHead, route: Route) -> Exchange | Reply:
        """Begin a chat, or answer what needs no account's attempt."""
        if route.operation == "chat":
            return exchange.KiroExchange(self.service, head, route)
        if route.operation == "resent":
            return resent.ResentExchange(self.service, head, route)
        if route.operation == "other":
            return reply_for(
                NotServed(f"There is no {head.method} {route.path.partition('?')[0][:80]} at Kiro."), "openai"
            )
        try:
            return await self._models(route.path.partition("?")[0].removeprefix(f"/{VERSION}models").strip("/"))
        except (KimiMitmError, StoreError) as error:
            return reply_for(error, "openai")

    def health(self) -> dict[str, Any]:
        """Return how many accounts there are and how many could serve now."""
        try:
            stored = self.service.accounts()
        except StoreError as error:
            return {"login": "damaged", "problem": error.code}
        now = self.service.clock()
        usable = [account for account in stored.accounts if health.obstacle(account, now) is None]
        return {
            "login": "ok" if usable else "none",
            "accounts": len(stored.accounts),
            "usable": len(usable),
            "strategy": self.service.settings.kiro_strategy or stored.strategy,
        }

    def start(self) -> str | None:
        """Look for logins to take over and for the active account's models; return the command where nobody is in."""
        imports = self.service.want_import()
        active = self._active()
        if active is None:
            return None if imports else "kimi-mitm login kiro"
        self.service.want_models(active.id)
        return None

    async def keep_fresh(self, busy: Callable[[], bool]) -> None:
        """Refresh the accounts that have requests open by a timer; runs until cancelled."""
        await self.service.tokens.keep_fresh(lambda: frozenset(self.service.in_flight) if busy() else frozenset())

    def close(self) -> None:
        """Cancel background work."""
        self.service.close()

    def _active(self) -> Account | None:
        try:
            stored = self.service.accounts()
        except StoreError:
            return None
        now = self.service.clock()
        usable = [account for account in stored.accounts if health.obstacle(account, now) is None]
        return next((a for a in usable if a.id == stored.active_account_id), usable[0] if usable else None)

    async def _models(self, wanted: str) -> Reply:
        """Return the list, or one item of it; a list that was never fetched is waited for a moment."""
        active = self._active()
        if active is not None and self.service.catalogs.known(active.id) is None:
            await self.service.settled_models(active.id, LIST_WAIT)
        elif active is not None:
            self.service.want_models(active.id)
        catalog = self.service.catalog()
        content = models.item(catalog, wanted) if wanted else models.listing(catalog)
        if content is None:
            raise ModelNotListed(f"No model {wanted[:80]!r} is listed.", "model")
        return Reply(200, Headers([("content-type", JSON)]), json.dumps(content).encode())


def _operation(method: str, path: str) -> str:
    if (method, path) == ("POST", "chat/completions"):
        return "chat"
    if method == "GET" and (path == "models" or path.startswith("models/")):
        return "models"
    return "other"
