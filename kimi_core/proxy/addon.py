"""The addon: mitmproxy's hooks, each in a few lines, and what lives as long as the program.

One request: `requestheaders` has the `reception` ask who it belongs to, guard it, and open an exchange (the token is
fetched there); `request` has the body rewritten; `replay` sends it, holds failures and sends again; `responseheaders`
lets the answer stream; `response` or `error` writes the story into the flow.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mitmproxy import connection, ctx, http, tls
from mitmproxy.addonmanager import Loader
from mitmproxy.exceptions import OptionsError
from mitmproxy.proxy import layer, server_hooks
from mitmproxy.utils import asyncio_utils

from kimi_core import later
from kimi_core.errors import ConfigError, StoreError
from kimi_core.kimi.memory import ReasoningMemory
from kimi_core.kimi.provider import Kimi
from kimi_core.kiro.provider import Kiro
from kimi_core.kiro.service import Service
from kimi_core.proxy import (
    commands,
    connecting,
    greeting,
    guard,
    journal,
    local,
    native,
    options,
    replay,
    rounds,
    seal,
    takeover,
    views,
)
from kimi_core.proxy.control import ExchangeControl
from kimi_core.proxy.key import client_key
from kimi_core.proxy.reception import Reception, mask
from kimi_core.proxy.status import StatusPage
from kimi_core.proxy.whereabouts import Whereabouts
from kimi_core.store import data_dir

logger = logging.getLogger(__name__)

LOADED_AFTER = 1.0  # seconds from the start until the rest is loaded: who waits for the start is to be answered first

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
    patience: connecting.Patience = field(default_factory=connecting.Patience)


_shared = Shared(ReasoningMemory(), [])


class KimiMitm:
    """The addon that ``addons/kimi.py`` hands to mitmproxy."""

    name = "kimi-mitm"

    def __init__(self) -> None:
        self.reception = Reception(_shared.recorder)
        self._kimi: Kimi | None = None
        self._kiro: Kiro | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.Task[Any] | None = None
        self._whereabouts = Whereabouts()
        self._commands = (
            commands.KimiCommands(self._current_kimi, self._start_command),
            commands.KiroCommands(self._current_kiro, self._start_command),
        )

    # --- life ----------------------------------------------------------------------------------------------------

    def load(self, loader: Loader) -> None:
        """Declare the options and the commands, and put the replay in place."""
        options.declare(loader)
        for each in self._commands:
            each.declare(loader)
        # each of its debug lines, two for every write of a login, would run through all addons
        logging.getLogger("filelock").setLevel(logging.INFO)
        views.install()
        rounds.install()
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
        for provider in self.reception.providers:
            provider.close()
        self._kimi, self._kiro = kimi, kiro
        page = StatusPage(
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
        self.reception.equip(settings, (kimi, kiro) if settings.kiro_enabled else (kimi,), key, page)
        self._narrow()
        if self._timer is not None:
            self._time_refreshes()

    def running(self) -> None:
        """Move the listeners to this machine, start the timers, say where things stand."""
        modes = guard.loopback_modes(ctx.options.mode, ctx.options.listen_host, ctx.options.listen_port)
        if modes is not None:
            ctx.options.update(mode=modes)
        self._time_refreshes()
        self._start(self._load_rest(), "kimi-mitm loading")
        missing = [command for provider in self.reception.providers if (command := provider.start())]
        if len(missing) == len(self.reception.providers):
            logger.warning("Nobody is logged in. Run %s.", " or ".join(f"`{command}`" for command in missing))
        self._whereabouts.running()

    def done(self) -> None:
        """Stop the timers; streams under way go on."""
        views.remove()
        rounds.remove()
        self._whereabouts.done()
        for task in self._tasks:
            task.cancel()
        for provider in self.reception.providers:
            provider.close()

    # --- guard ---------------------------------------------------------------------------------------------------

    def client_connected(self, client: connection.Client) -> None:
        """Turn away clients of other machines before a byte of theirs is read."""
        if not guard.peer_allowed(client.peername[0], self.reception.settings.networks()):
            client.error = "only clients on this machine may use this proxy (option kimi_allow_clients)"

    def server_connect(self, data: server_hooks.ServerConnectionHookData) -> None:
        """Have an eye on a connection to a service, or to a proxy on the way to it, that is made now."""
        if self._is_service(data.server.address) or connecting.leads_on(data.client, data.server):
            _shared.patience.begin(data.server, self._connect_seconds())

    def server_connected(self, data: server_hooks.ServerConnectionHookData) -> None:
        """Leave a connection alone that is there, but for the handshake of TLS."""
        if not data.server.tls:
            _shared.patience.end(data.server)

    def http_connect(self, flow: http.HTTPFlow) -> None:
        """Remember who asks for a tunnel."""
        _shared.patience.note_tunnel(flow.client_conn)

    def http_connect_upstream(self, flow: http.HTTPFlow) -> None:
        """Have an eye on a connection to a service that is made through an upstream proxy, if its end will be told."""
        seen = connecting.sees_tunnels() and _shared.patience.is_told(flow.client_conn)
        if seen and self._is_service((flow.request.host, flow.request.port)):
            _shared.patience.resume(flow.server_conn, self._connect_seconds())

    def tls_established_server(self, data: tls.TlsData) -> None:
        """Leave a connection alone that is there."""
        for each in connecting.carriers(data):
            _shared.patience.end(each)

    def server_connect_error(self, data: server_hooks.ServerConnectionHookData) -> None:
        """Leave a connection alone that has failed."""
        _shared.patience.end(data.server)

    def server_disconnected(self, data: server_hooks.ServerConnectionHookData) -> None:
        """Leave a connection alone that is over, maybe in the middle of its handshake."""
        _shared.patience.end(data.server)

    def next_layer(self, undecided: layer.NextLayer) -> None:
        """Decide what a client speaks that sends and sends without making it clear."""
        greeting.decide(undecided, ctx.master.addons.get("nextlayer"))

    def tls_clienthello(self, data: tls.ClientHelloData) -> None:
        """Tunnel what logs in somewhere, whatever else is decrypted: its bodies are credentials."""
        address = data.context.server.address
        names = {(name or "").lower().rstrip(".") for name in (data.client_hello.sni, address[0] if address else None)}
        if any(names & provider.private_hosts() for provider in self.reception.providers):
            data.ignore_connection = True

    # --- one request ---------------------------------------------------------------------------------------------

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Find out whose request this is, guard it, and open its exchange."""
        await self.reception.receive(flow)

    async def request(self, flow: http.HTTPFlow) -> None:
        """Have the body rewritten, after a look at whether a request to another OpenAI-style host is for us."""
        control = self.reception.in_charge(flow)
        if isinstance(control, takeover.ReadingControl):
            await self.reception.take_over(flow)
            control = replay.control_of(flow)
        if not isinstance(control, ExchangeControl) or flow.response or flow.error:
            return
        if control.buffers_body:
            await control.prepare(flow)
        if not replay.installed() and not flow.response:
            control.bare = True
            seal.unlabelled(flow.request, control.exchange.attempt)

    async def replay_attempt(self, attempt: replay.Attempt) -> None:
        """Have an attempt judged that failed, or whose answer is held. The name is that of `replay_stream`'s hook."""
        await replay.judge(attempt)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Let the answer stream."""
        control = replay.control_of(flow)
        if control is None or flow.response is None:
            return
        if isinstance(control, native.NativeControl):
            control.open_stream(flow.response)
        elif isinstance(control, ExchangeControl):
            mask(flow, control)
            if flow.response.timestamp_end is None:
                replay.guarded(None, control.open_stream, flow)

    def response(self, flow: http.HTTPFlow) -> None:
        """Hand over what was collected, and finish the record of an exchange."""
        control = self.reception.in_charge(flow)
        if isinstance(control, ExchangeControl):
            replay.guarded(None, control.collect, flow)
        self.reception.finish(flow, control)

    def error(self, flow: http.HTTPFlow) -> None:
        """Finish the record of an exchange that was broken off."""
        self.reception.finish(flow, self.reception.in_charge(flow))

    # --- parts ---------------------------------------------------------------------------------------------------

    def _is_service(self, address: tuple[str, int] | None) -> bool:
        return any(address in provider.origins() for provider in self.reception.providers)

    def _connect_seconds(self) -> float:
        """Return how long a connection may take to be made: no longer than the first byte of an answer may."""
        settings = self.reception.settings
        limits = (settings.kimi_first_byte_timeout, settings.kiro_first_byte_timeout)
        return min([connecting.SECONDS, *filter(None, limits)])

    def _current_kimi(self) -> Kimi:
        assert self._kimi is not None  # configure runs before anything asks
        return self._kimi

    def _current_kiro(self) -> Kiro:
        assert self._kiro is not None
        return self._kiro

    def _narrow(self) -> None:
        """Decrypt only what is served; everything else passes as it is. The user's own choice wins."""
        if not ctx.options.has_changed("connection_strategy"):
            ctx.options.update(connection_strategy="lazy")  # an answer of our own needs no connection
        settings, providers = self.reception.settings, self.reception.providers
        served = [origin for provider in providers for origin in provider.origins()]
        served += [(host, takeover.HTTPS) for host in settings.openai_hosts]
        mine = [] if settings.kimi_intercept_all else [rf"^{re.escape(host)}:{port}$" for host, port in served]
        chosen = list(ctx.options.allow_hosts)
        if chosen == _shared.scope and not ctx.options.ignore_hosts and chosen != mine:
            ctx.options.update(allow_hosts=mine)
            _shared.scope = mine

    async def _load_rest(self) -> None:
        await asyncio.sleep(LOADED_AFTER)
        await asyncio.to_thread(later.load)  # so that no request waits for it
        if _shared.recorder.running or gc.get_freeze_count():
            return  # what is frozen is never collected: no stream may be among it, nor what is left of one
        gc.collect()
        gc.freeze()  # what is loaded stays: to look through it for garbage again and again stops every stream

    def _time_refreshes(self) -> None:
        """Run the timer of the providers in use, and of no others."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._start(self._keep_fresh(), "kimi-mitm refresh timer")

    async def _keep_fresh(self) -> None:
        await asyncio.gather(
            *(provider.keep_fresh(lambda: _shared.recorder.running > 0) for provider in self.reception.providers)
        )

    def _start_command(self, work: Coroutine[object, object, None], name: str) -> None:
        self._start(commands.report(work), name)

    def _start(self, work: Coroutine[object, object, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio_utils.create_task(work, name=name, keep_ref=True)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def addons() -> list[object]:
    """Return what mitmproxy loads: one object, since each costs something at every event of every flow."""
    return [KimiMitm()]
