"""Where a request arrives: whose it is, whether it may be served, and the exchange that is opened for it.

The order matters. What is refused, or asked of the proxy's own port, is answered here before anything is spent; a
request that is sent again begins where its client began; what nobody serves passes as it came.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mitmproxy import http
from mitmproxy.exceptions import AddonHalt

from kimi_core.errors import Refused, Unforeseen
from kimi_core.exchange import Provider, Reply, RequestHead, Route, reply_for
from kimi_core.proxy import again, guard, journal, local, native, record, replay, seal, sides, takeover
from kimi_core.proxy.control import Client, ExchangeControl, plain_body
from kimi_core.proxy.passing import RefusedControl
from kimi_core.proxy.status import PageControl, StatusPage
from kimi_core.settings import Settings

KIB = 1024


def control_of(flow: http.HTTPFlow) -> ExchangeControl | None:
    """Return the control of a flow that is an exchange."""
    control = replay.control_of(flow)
    return control if isinstance(control, ExchangeControl) else None


def mask(flow: http.HTTPFlow, control: ExchangeControl) -> None:
    """Take the secrets out of the flow again: without the replay they stand in it while its request is sent."""
    for name in control.exchange.attempt.secrets if control.bare else ():
        label = control.exchange.attempt.headers.get(name)
        if label and name in flow.request.headers:
            flow.request.headers[name] = label


class Reception:
    """Takes requests in, and writes down how they ended. `providers` are asked in order.

    Where this program itself fails at a request, that is answered with an error: it must not go on as it came, with
    the client's own words and keys, and mitmproxy would write the exception's text into its log.
    """

    def __init__(self, recorder: journal.Recorder) -> None:
        self.settings = Settings()
        self.providers: Sequence[Provider] = ()
        self._recorder = recorder
        self._key = ""
        self._page: StatusPage | None = None

    def equip(self, settings: Settings, providers: Sequence[Provider], key: str, page: StatusPage) -> None:
        """Serve by these from now on; *key* is the client key, "" for none."""
        self.settings, self.providers, self._key, self._page = settings, providers, key, page

    async def receive(self, flow: http.HTTPFlow) -> None:
        """Answer a request, open its exchange, or let it pass. Raises AddonHalt for one of the status page's."""
        try:
            await self._receive(flow)
        except AddonHalt:
            raise
        except Exception as error:  # noqa: BLE001 - any: see the class
            self._fail(flow, self._receive, error)

    async def take_over(self, flow: http.HTTPFlow) -> None:
        """Begin an exchange for a request whose model names a provider; leave every other one as it came."""
        try:
            await self._take_over(flow)
        except Exception as error:  # noqa: BLE001 - any: see the class
            self._fail(flow, self._take_over, error)

    async def _receive(self, flow: http.HTTPFlow) -> None:
        if flow.response or flow.error or not flow.live:  # one that is loaded from a file is not live
            return
        head = seal.head_of(flow)
        on_own_port = guard.own_port(flow)
        if on_own_port:
            try:
                guard.check_local(head, flow.client_conn.sockname[0] if self.settings.kimi_allow_clients else None)
            except Refused as error:
                self.answer(flow, reply_for(error, "openai"))
                return
            self._show_page(flow, head)
        if flow.is_replay:
            await self._again(flow, head, on_own_port=on_own_port)
        else:
            await self._serve(flow, head, on_own_port=on_own_port)

    async def _take_over(self, flow: http.HTTPFlow) -> None:
        replay.detach(flow)
        limit = self.settings.kimi_max_body * KIB * KIB
        body = plain_body(flow.request, limit)
        if len(body) > limit:
            self.answer(flow, takeover.too_large(limit))
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

    @staticmethod
    def in_charge(flow: http.HTTPFlow) -> replay.Control | None:
        """Return the control of a flow.

        Raises AddonHalt for the status page's own requests: addons after this one list, print and save flows.
        """
        control = replay.control_of(flow)
        if isinstance(control, PageControl):
            raise AddonHalt
        return control

    @staticmethod
    def answer(flow: http.HTTPFlow, reply: Reply) -> None:
        """Answer ourselves, at once; what the client sent as credentials does not stay in the flow."""
        for name in (*native.CREDENTIALS, guard.KEY_HEADER):
            if name in flow.request.headers:
                flow.request.headers[name] = "[removed]"
        replay.attach(flow, RefusedControl())
        flow.response = seal.response_for(reply)
        if reply.why:
            flow.comment = f"refused: {reply.why}"

    def finish(self, flow: http.HTTPFlow, control: replay.Control | None) -> None:
        """Write the record of a flow that is over; what it tells is told once."""
        if isinstance(control, native.NativeControl):
            control.keep(flow)
        if not isinstance(control, ExchangeControl) or control.finished:
            return
        control.finished = True
        control.exchange.done()
        try:
            mask(flow, control)
            control.keep(flow)
            record.tell(flow, control.exchange.story, control.attempts, control.id)
        finally:
            self._recorder.end(flow.id, _end(flow, control.attempts))

    # --- parts ---------------------------------------------------------------------------------------------------

    def _fail(self, flow: http.HTTPFlow, step: Callable[..., object], error: Exception) -> None:
        replay.report(step, error)
        self.answer(flow, reply_for(Unforeseen(), "openai"))
        self._recorder.end(flow.id, journal.End(Unforeseen.status, answered_at=time.time(), reason=Unforeseen.code))

    async def _serve(
        self, flow: http.HTTPFlow, head: RequestHead, *, on_own_port: bool, logins: Mapping[str, str] | None = None
    ) -> None:
        """Begin what a request asks for; *logins* are its client's own where the flow shows labels."""
        found = self._find(head, local_request=on_own_port)
        if found is None:
            if on_own_port:
                self.answer(flow, local.answer(flow.request, self.providers))
            elif local.misses(head, flow, self.providers):
                own, limit = flow.client_conn.sockname[1], self.settings.kimi_max_body * KIB * KIB
                replay.attach(flow, local.OtherPortControl(head.port, own, limit))
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
            self.answer(flow, reply_for(error, "openai"))
            return
        head = again.with_logins(head, logins)
        known = again.original(flow, head, self.providers)
        if known is None:
            await self._serve(flow, head, on_own_port=on_own_port, logins=logins)
            return
        head = again.with_logins(known.head, logins)
        if self._permitted(flow, head, known.route):
            await self._begin(flow, known.provider, head, known.route, known.body)

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
            self.answer(flow, shown)
            replay.attach(flow, PageControl())
            raise AddonHalt

    async def _begin(
        self, flow: http.HTTPFlow, provider: Provider, head: RequestHead, route: Route, body: bytes | None = None
    ) -> None:
        if guard.KEY_HEADER in head.headers:  # between the client and this proxy only
            head = replace(head, headers=head.headers.without(guard.KEY_HEADER))
        opened = await provider.open(head, route)
        if isinstance(opened, Reply):
            self._answered(flow, head, route, opened)
            return
        self._recorder.begin(flow.id, _arrival(flow, head, route), opened.story)
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

    def _answered(self, flow: http.HTTPFlow, head: RequestHead, route: Route, reply: Reply) -> None:
        """Answer a provider's request ourselves, and have the journal know."""
        self.answer(flow, reply)
        end = journal.End(reply.status, answered_at=time.time(), reason=reply.why or None)
        self._recorder.answered(_arrival(flow, head, route), end)

    async def _retried(self, attempt: replay.Attempt, why: str, number: int) -> None:
        control = control_of(attempt.flow)
        assert control is not None  # it is the one that was asked
        words = f"{control.exchange.story.provider} · attempt {number}: {why}"
        await record.show_attempt(
            attempt.flow, attempt.response, attempt.error, words, exchange=control.id, number=number
        )


def _arrival(flow: http.HTTPFlow, head: RequestHead, route: Route) -> journal.Arrival:
    agent = (head.headers.get("user-agent") or "")[: journal.READ]
    return journal.Arrival(flow.request.timestamp_start, agent, route.provider, route.operation)


def _end(flow: http.HTTPFlow, attempts: int) -> journal.End:
    response = flow.response
    return journal.End(
        status=response.status_code if response else None,
        attempts=attempts,
        answered_at=response.timestamp_start if response else None,
        fault=flow.error.msg if flow.error else None,
    )
