"""The addon: mitmproxy's hooks, each in a few lines, and what lives as long as the program.

One request: `requestheaders` asks who it belongs to, guards, and opens an exchange (the token is fetched here);
`request` has the body rewritten; `replay` sends it, holds failures and sends again; `responseheaders` lets the answer
stream; `response` or `error` writes the story into the flow.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mitmproxy import connection, ctx, http, tls
from mitmproxy.addonmanager import Loader
from mitmproxy.exceptions import AddonHalt, OptionsError
from mitmproxy.utils import asyncio_utils

from kimi_core.errors import ConfigError, Refused, StoreError
from kimi_core.exchange import Provider, Reply, RequestHead, Route, reply_for
from kimi_core.kimi.memory import ReasoningMemory
from kimi_core.kimi.provider import Kimi
from kimi_core.kiro.provider import Kiro
from kimi_core.kiro.service import Service
from kimi_core.proxy import (
    again,
    commands,
    guard,
    journal,
    local,
    native,
    options,
    record,
    replay,
    seal,
    sides,
    takeover,
    views,
)
from kimi_core.proxy.control import Client, ExchangeControl, RefusedControl, plain_body
from kimi_core.proxy.key import client_key
from kimi_core.proxy.status import PageControl, StatusPage
from kimi_core.settings import Settings
from kimi_core.store import data_dir

logger = logging.getLogger(__name__)

KIB = 1024
# options on which the providers depend; the others are read where they matter
REBUILD = frozenset(options.NAMES) | {
    "mode",
    "upstream_auth",
    "ssl_verify_upstream_trusted_ca",
    "ssl_verify_upstream_trusted_confdir",
}


@dataclass
class Shared:
    """What outlives a reload of the script: mitmproxy then makes a new addon, streams go on with the old one."""

    memory: ReasoningMemory
    scope: list[str]
    """The allow_hosts that was set here, to tell it from the user's own."""
    recorder: journal.Recorder = field(default_factory=journal.Recorder)
    started_at: float = field(default_factory=time.time)


_shared = Shared(ReasoningMemory(), [])


class KimiMitm:
    """The addon that ``addons/kimi.py`` hands to mitmproxy."""

    name = "kimi-mitm"

    def __init__(self) -> None:
        self.settings = Settings()
        self.providers: Sequence[Provider] = ()
        self._kimi: Kimi | None = None
        self._kiro: Kiro | None = None
        self._key = ""
        self._page: StatusPage | None = None
        self._open = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self.commands = (
            commands.KimiCommands(self._current_kimi, self._start_command),
            commands.KiroCommands(self._current_kiro, self._start_command),
        )

    # --- life ----------------------------------------------------------------------------------------------------

    def load(self, loader: Loader) -> None:
        """Declare the options and put the replay in place."""
        options.declare(loader)
        views.install()
        try:
            replay.install()
        except replay.ReplayUnavailable as error:
            # a warning: an error during start-up would make mitmdump exit
            logger.warning(
                "%s Requests are served, but a 401 is not healed and logins are refreshed ahead only.", error
            )

    def configure(self, updated: set[str]) -> None:
        """Validate the options and rebuild what depends on them."""
        if self._kimi is not None and not updated & REBUILD:
            return
        settings = options.read(ctx.options)
        if settings.kimi_allow_clients and not settings.kimi_client_key:
            raise OptionsError("Option kimi_allow_clients asks for kimi_client_key: others could spend your plan.")
        folder, outbound = data_dir(), options.outbound(ctx.options)
        try:
            key = client_key(settings.kimi_client_key, folder)
            kimi = Kimi(settings, outbound, folder, memory=_shared.memory)
            kiro = Kiro(Service(settings, outbound, folder))
        except (ConfigError, StoreError) as error:
            raise OptionsError(str(error)) from error
        for provider in self.providers:
            provider.close()
        self.settings, self._key, self._kimi, self._kiro = settings, key, kimi, kiro
        self.providers = (kimi, kiro) if settings.kiro_enabled else (kimi,)
        self._page = StatusPage(
            kimi,
            kiro if settings.kiro_enabled else None,
            _shared.recorder,
            version=local.installed_version(),
            settings=settings,
            key=key,
            confdir=Path(ctx.options.confdir),
            folder=folder,
            started_at=_shared.started_at,
        )
        self._narrow()

    def running(self) -> None:
        """Move the listeners to this machine, start the timers, say where things stand."""
        modes = guard.loopback_modes(ctx.options.mode, ctx.options.listen_host, ctx.options.listen_port)
        if modes is not None:
            ctx.options.update(mode=modes)
        self._start(self._keep_fresh(), "kimi-mitm refresh timer")
        missing = [command for provider in self.providers if (command := provider.start())]
        if len(missing) == len(self.providers):
            logger.warning("Nobody is logged in. Run %s.", " or ".join(f"`{command}`" for command in missing))

    def done(self) -> None:
        """Stop the timers; streams under way go on."""
        views.remove()
        for task in self._tasks:
            task.cancel()
        for provider in self.providers:
            provider.close()

    # --- guard ---------------------------------------------------------------------------------------------------

    def client_connected(self, client: connection.Client) -> None:
        """Turn away clients of other machines before a byte of theirs is read."""
        if not guard.peer_allowed(client.peername[0], self.settings.networks()):
            client.error = "only clients on this machine may use this proxy (option kimi_allow_clients)"

    def tls_clienthello(self, data: tls.ClientHelloData) -> None:
        """Tunnel what logs in somewhere, whatever else is decrypted: its bodies are credentials."""
        address = data.context.server.address
        names = {data.client_hello.sni, address[0] if address else None}
        if any(names & provider.private_hosts() for provider in self.providers):
            data.ignore_connection = True

    # --- one request ---------------------------------------------------------------------------------------------

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Find out whose request this is, guard it, and open its exchange."""
        if flow.response or flow.error or not flow.live:  # one that is loaded from a file is not live
            return
        head = seal.head_of(flow)
        on_own_port = guard.own_port(flow)
        if on_own_port:
            try:
                guard.check_local(head, flow.client_conn.sockname[0] if self.settings.kimi_allow_clients else None)
            except Refused as error:
                self._answer(flow, reply_for(error, "openai"))
                return
            self._show_page(flow, head)
        if flow.is_replay:
            await self._again(flow, head, on_own_port=on_own_port)
        else:
            await self._serve(flow, head, on_own_port=on_own_port)

    async def request(self, flow: http.HTTPFlow) -> None:
        """Have the body rewritten, after a look at whether a request to another OpenAI-style host is for us."""
        self._keep_private(flow)
        if isinstance(replay.control_of(flow), takeover.ReadingControl):
            await self._take_over(flow)
        control = self._control(flow)
        if control is None or flow.response or flow.error:
            return
        if control.buffers_body:
            await control.prepare(flow)
        if not replay.installed() and not flow.response:
            control.bare = True
            seal.unlabelled(flow.request, control.exchange.attempt)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Let the answer stream."""
        passing = replay.control_of(flow)
        if isinstance(passing, native.NativeControl) and flow.response is not None:
            passing.open_stream(flow.response)
        control = self._control(flow)
        if control is None or flow.response is None:
            return
        self._mask(flow, control)
        if flow.response.timestamp_end is None:
            control.open_stream(flow)

    def response(self, flow: http.HTTPFlow) -> None:
        """Hand over what was collected, and finish the record of an exchange."""
        self._keep_private(flow)
        control = self._control(flow)
        if control is not None:
            control.collect(flow)
        self._finish(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        """Finish the record of an exchange that was broken off."""
        self._keep_private(flow)
        self._finish(flow)

    # --- whose it is ---------------------------------------------------------------------------------------------

    async def _serve(
        self, flow: http.HTTPFlow, head: RequestHead, *, on_own_port: bool, logins: Mapping[str, str] | None = None
    ) -> None:
        """Begin what a request asks for; *logins* are its client's own where the flow shows labels."""
        found = self._find(head, local_request=on_own_port)
        if found is None:
            if on_own_port:
                self._answer(flow, local.answer(flow.request, self.providers))
            elif takeover.concerns(head, self.settings.openai_hosts):
                replay.attach(flow, takeover.ReadingControl(self.settings.kimi_max_body * KIB * KIB))
            elif native.concerns(head, self.providers) and replay.installed():
                replay.attach(flow, native.NativeControl(flow, self.settings.kimi_record_limit * KIB, logins))
            return
        provider, route = found
        if self._permitted(flow, head, route):
            await self._begin(flow, provider, head, route)

    async def _again(self, flow: http.HTTPFlow, head: RequestHead, *, on_own_port: bool) -> None:
        """Begin with a flow that is sent again where its client began, if that is known and still what is wanted."""
        try:
            logins = again.logins(flow, head)
        except Refused as error:
            self._answer(flow, reply_for(error, "openai"))
            return
        head = again.with_logins(head, logins)
        known = again.original(flow, head, self.providers)
        if known is None:
            await self._serve(flow, head, on_own_port=on_own_port, logins=logins)
            return
        head = again.with_logins(known.head, logins)
        if self._permitted(flow, head, known.route):
            await self._begin(flow, known.provider, head, known.route, known.body)

    # --- parts ---------------------------------------------------------------------------------------------------

    def _current_kimi(self) -> Kimi:
        assert self._kimi is not None  # configure runs before anything asks
        return self._kimi

    def _current_kiro(self) -> Kiro:
        assert self._kiro is not None
        return self._kiro

    def _find(self, head: RequestHead, *, local_request: bool) -> tuple[Provider, Route] | None:
        for provider in self.providers:
            route = provider.route(head, local=local_request)
            if route is not None:
                return provider, route
        return None

    def _check(self, flow: http.HTTPFlow, head: RequestHead, route: Route) -> None:
        if not flow.is_replay:  # a replayed flow comes from mitmproxy's own user
            if not guard.peer_allowed(head.peer, self.settings.networks()):
                raise Refused("Only clients on this machine may use this proxy.")
            guard.check_client(flow, head.headers, self._key)
        own_leg = route.local or flow.client_conn.proxy_mode.type_name == "reverse"
        guard.check_encryption(head, route.scheme, own_leg=own_leg)
        guard.check_log()

    def _permitted(self, flow: http.HTTPFlow, head: RequestHead, route: Route) -> bool:
        """Tell whether the guard lets a request pass; one that it refuses is answered."""
        try:
            self._check(flow, head, route)
        except Refused as error:
            self._answered(flow, head, route, reply_for(error, route.dialect))
            return False
        return True

    def _show_page(self, flow: http.HTTPFlow, head: RequestHead) -> None:
        """Answer a request for the status page, and keep it from every list of flows: it is asked for again and again.

        Raises AddonHalt where it was one.
        """
        assert self._page is not None  # configure runs before anything asks
        shown = self._page.answer(head, flow.client_conn.sockname[:2])
        if shown is not None:
            self._answer(flow, shown)
            replay.attach(flow, PageControl())
            raise AddonHalt

    @staticmethod
    def _keep_private(flow: http.HTTPFlow) -> None:
        """Raise AddonHalt for the status page's own requests: addons after this one list, print and save flows."""
        if isinstance(replay.control_of(flow), PageControl):
            raise AddonHalt

    async def _begin(
        self, flow: http.HTTPFlow, provider: Provider, head: RequestHead, route: Route, body: bytes | None = None
    ) -> None:
        head = replace(head, headers=head.headers.without(guard.KEY_HEADER))  # between the client and this proxy only
        opened = await provider.open(head, route)
        if isinstance(opened, Reply):
            self._answered(flow, head, route, opened)
            return
        _shared.recorder.begin(flow.id, _arrival(flow, head, route), opened.story)
        sides.forget(flow)
        control = ExchangeControl(
            flow,
            opened,
            record_limit=self.settings.kimi_record_limit * KIB,
            on_retry=self._retried,
            client=Client(head, provider.name, route.operation, body),
        )
        flow.request.stream = not opened.buffers_body
        replay.attach(flow, control)
        self._open += 1

    async def _take_over(self, flow: http.HTTPFlow) -> None:
        """Begin an exchange for a request whose model names a provider; leave every other one as it came."""
        replay.detach(flow)
        limit = self.settings.kimi_max_body * KIB * KIB
        body = plain_body(flow.request, limit)
        if len(body) > limit:
            self._answer(flow, takeover.too_large(limit))
            return
        found = takeover.claimed(body, self.providers)
        if found is None or flow.response or flow.error:
            return
        provider, body = found
        head = seal.head_of(flow)
        route = provider.route(takeover.local_head(head, provider), local=True)
        assert route is not None
        if self._permitted(flow, head, route):
            await self._begin(flow, provider, head, route)
            flow.request.content = body

    def _answered(self, flow: http.HTTPFlow, head: RequestHead, route: Route, reply: Reply) -> None:
        """Answer a provider's request ourselves, and have the journal know."""
        self._answer(flow, reply)
        end = journal.End(reply.status, answered_at=time.time(), reason=reply.why or None)
        _shared.recorder.answered(_arrival(flow, head, route), end)

    @staticmethod
    def _answer(flow: http.HTTPFlow, reply: Reply) -> None:
        """Answer ourselves, at once; what the client sent as credentials does not stay in the flow."""
        for name in ("authorization", "x-api-key", guard.KEY_HEADER):
            if name in flow.request.headers:
                flow.request.headers[name] = "[removed]"
        replay.attach(flow, RefusedControl())
        flow.response = seal.response_for(reply)
        if reply.why:
            flow.comment = f"refused: {reply.why}"

    async def _retried(self, attempt: replay.Attempt, why: str, number: int) -> None:
        control = self._control(attempt.flow)
        assert control is not None  # it is the one that was asked
        words = f"{control.exchange.story.provider} · attempt {number}: {why}"
        await record.show_attempt(
            attempt.flow, attempt.response, attempt.error, words, exchange=control.id, number=number
        )

    def _finish(self, flow: http.HTTPFlow) -> None:
        passing = replay.control_of(flow)
        if isinstance(passing, native.NativeControl):
            passing.keep(flow)
        control = self._control(flow)
        if control is None or control.finished:
            return
        control.finished = True
        control.exchange.done()
        self._open -= 1
        self._mask(flow, control)
        control.keep(flow)
        record.tell(flow, control.exchange.story, control.attempts, control.id)
        _shared.recorder.end(flow.id, _end(flow, control.attempts))

    @staticmethod
    def _control(flow: http.HTTPFlow) -> ExchangeControl | None:
        control = replay.control_of(flow)
        return control if isinstance(control, ExchangeControl) else None

    @staticmethod
    def _mask(flow: http.HTTPFlow, control: ExchangeControl) -> None:
        """Without the replay the secret stood in the flow while the request was sent: take it out again."""
        for name in control.exchange.attempt.secrets if control.bare else ():
            label = control.exchange.attempt.headers.get(name)
            if label and name in flow.request.headers:
                flow.request.headers[name] = label

    def _narrow(self) -> None:
        """Decrypt only what is served; everything else passes as it is. The user's own choice wins."""
        if not ctx.options._options["connection_strategy"].has_changed():  # noqa: SLF001 - no public way to ask
            ctx.options.update(connection_strategy="lazy")  # an answer of our own needs no connection
        served = [origin for provider in self.providers for origin in provider.origins()]
        served += [(host, takeover.HTTPS) for host in self.settings.openai_hosts]
        mine = [] if self.settings.kimi_intercept_all else [rf"^{re.escape(host)}:{port}$" for host, port in served]
        chosen = list(ctx.options.allow_hosts)
        if chosen == _shared.scope and not ctx.options.ignore_hosts and chosen != mine:
            ctx.options.update(allow_hosts=mine)
            _shared.scope = mine

    async def _keep_fresh(self) -> None:
        await asyncio.gather(*(provider.keep_fresh(lambda: self._open > 0) for provider in self.providers))

    def _start_command(self, work: Coroutine[object, object, None], name: str) -> None:
        self._start(commands.report(work), name)

    def _start(self, work: Coroutine[object, object, Any], name: str) -> None:
        task = asyncio_utils.create_task(work, name=name, keep_ref=True)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _arrival(flow: http.HTTPFlow, head: RequestHead, route: Route) -> journal.Arrival:
    return journal.Arrival(
        flow.request.timestamp_start, head.headers.get("user-agent"), route.provider, route.operation
    )


def _end(flow: http.HTTPFlow, attempts: int) -> journal.End:
    response = flow.response
    return journal.End(
        status=response.status_code if response else None,
        attempts=attempts,
        answered_at=response.timestamp_start if response else None,
        fault=flow.error.msg if flow.error else None,
    )


def addons() -> list[object]:
    """Return what mitmproxy loads."""
    addon = KimiMitm()
    return [replay.Dispatcher(), addon, *addon.commands]
