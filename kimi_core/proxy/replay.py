"""Has mitmproxy send a request again itself: what an addon sees of it.

An addon attaches a `Control` to a flow, in its `requestheaders` or `request` hook. From then on the stream that
carries the flow (`replay_stream`, which uses the internals of mitmproxy that a replay needs) asks it:

========================  =============================================================================
`too_large`               the body grows past `max_body`: this answer goes out at once, the rest is dropped
`permit`                  a connection is up, nothing has been sent on it: may the request go there?
`seal`                    the request leaves: put the secrets into this copy
`holds`                   an answer's head is here: keep it from the client?
`peeks`, `peek`           the same, decided by the first bytes of the body
`judge`                   a held answer is complete, or an attempt failed before the client saw a byte of it
`ping`                    the answer is silent: a word that keeps the client waiting
`cut`                     the answer stopped in the middle: the last words for the client
========================  =============================================================================

An answer streams through the callable that an addon sets as `flow.response.stream`; where that is a `Sink`, its pieces
take a short way to the client, and the service is stopped once the client has everything.

Nothing here is asked about CONNECT. An attempt whose request body is streamed is never held, judged or sent again;
`permit`, `seal` and the limits hold for it as well.

A control may raise: the failure is logged without the exception's message (it may quote a secret), and the default
stands that spends nothing: refuse, relay, break off.
"""

from __future__ import annotations

import importlib
import logging
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from mitmproxy import connection, http

from kimi_core.errors import KimiMitmError
from kimi_core.exchange import Limits
from kimi_core.proxy import internals

logger = logging.getLogger(__name__)

type Decision = Literal["relay", "retry", "reply"]
type Broken = Literal["idle", "upstream"]

_ATTRIBUTE = "kimi_mitm_control"
_STREAM = "kimi_core.proxy.replay_stream"


class ReplayUnavailable(KimiMitmError):
    """This mitmproxy has not got what the replay needs; `missing` names each part."""

    code = "replay_unavailable"

    def __init__(self, missing: list[str]) -> None:
        super().__init__(f"This mitmproxy does not fit the replay; missing: {', '.join(missing)}.")
        self.missing = missing


@dataclass(slots=True, eq=False)
class Attempt:
    """A request that was sent, or could not be, and what came of it; exactly one of `response`, `error` is set.

    `response` is a held answer with its raw (still encoded) body, `complete` False where the body was cut by a bound,
    a time limit or the server. `error` is the transport's own sentence, or ours for a limit, a refused connection or
    a failed seal; `silent_for` is set to the seconds of a limit that struck. `final` says that there is no further
    attempt: "retry" then counts as "relay".

    `judge` sets `decision`: "retry" sends `flow.request` as it stands then, "reply" gives the client `response` as
    `judge` left it, "relay" gives it the held answer (whose head may have been edited) or, after an error, the error
    page that mitmproxy makes.
    """

    flow: http.HTTPFlow
    number: int
    response: http.Response | None = None
    error: str | None = None
    complete: bool = True
    silent_for: float | None = None
    final: bool = False
    decision: Decision = "relay"
    judged: bool = False


class Control(Protocol):
    """What is asked about one flow."""

    @property
    def buffers_body(self) -> bool:
        """True: the request body is read whole before the request hook, whatever stream_large_bodies says."""
        ...

    @property
    def max_body(self) -> int:
        """Bytes of request body that are read at the most where `buffers_body`; body_size_limit wins if smaller."""
        ...

    @property
    def limits(self) -> Limits:
        """Seconds to wait for the head of an answer, counted from the end of the request, and between two bytes."""
        ...

    @property
    def max_attempts(self) -> int:
        """How often the request is sent at the most."""
        ...

    def too_large(self, flow: http.HTTPFlow) -> http.Response:
        """Return the answer to a body beyond `max_body`; no request hook runs for it."""
        ...

    def permit(self, flow: http.HTTPFlow, server: connection.Server) -> str | None:
        """Return None where the request may go over this connection, else one sentence that says why not."""
        ...

    def seal(self, request: http.Request) -> http.Request:
        """Put the secrets into *request*, which is a copy for the wire alone, and return it."""
        ...

    def holds(self, flow: http.HTTPFlow, response: http.Response) -> bool:
        """Tell by its head whether this answer is kept from the client until it is judged."""
        ...

    def peeks(self, flow: http.HTTPFlow, response: http.Response) -> bool:
        """Tell by its head whether this answer is kept from the client until `peek` has seen enough of its body."""
        ...

    @property
    def peek_limit(self) -> int:
        """Bytes of body after which an answer whose nature is not clear by then is relayed."""
        ...

    def peek(self, flow: http.HTTPFlow, data: bytearray, ended: bool) -> bool | None:
        """Tell by the first bytes of the body: True relay it, False hold it and judge it, None more bytes.

        *data* is all that has come and must not be changed; *ended* says that no more will.
        """
        ...

    async def judge(self, attempt: Attempt) -> None:
        """Set `attempt.decision`; asked for the last attempt too."""
        ...

    def cut(self, flow: http.HTTPFlow, limit: Broken) -> bytes | None:
        """Return the last bytes of an answer that stopped in mid-stream, after which it is ended in good order.

        *limit* is "idle" where the idle limit struck and "upstream" where the server broke off. None resets the
        client's stream instead, as mitmproxy does; so does an answer that promised its length. The callable that is
        set as `flow.response.stream` is not called again.
        """
        ...

    def ping(self, flow: http.HTTPFlow) -> bytes:
        """Return what the client of a streamed answer gets after `limits.keep_alive` of silence; b"" for nothing."""
        ...


class Sink(ABC):
    """A callable for `flow.response.stream` that keeps what it wants to keep itself, and never raises."""

    over = False
    """True, after a piece, once the client has everything; the rest is then cancelled."""

    broken = False
    """True, with `over`, where the client has a part alone and cannot be told: its connection is then broken off."""

    @abstractmethod
    def __call__(self, data: bytes) -> Sequence[bytes]:
        """Take a piece (b"" = the end), return the pieces for the client."""


def attach(flow: http.HTTPFlow, control: Control) -> None:
    """Put *control* in charge of *flow*. It is never serialised, and a copy of the flow has not got it."""
    vars(flow)[_ATTRIBUTE] = control


def detach(flow: http.HTTPFlow) -> None:
    """Take what `attach` put there away again; the flow is then mitmproxy's own."""
    vars(flow).pop(_ATTRIBUTE, None)


def control_of(flow: http.HTTPFlow) -> Control | None:
    """Return what `attach` put there."""
    control: Control | None = vars(flow).get(_ATTRIBUTE)
    return control


def guarded[T, D](default: D, call: Callable[..., T], *args: Any) -> T | D:
    """Return ``call(*args)``, or *default* where that raises: a control must not take the connection down."""
    try:
        return call(*args)
    except Exception as error:  # noqa: BLE001 - any: mitmproxy would take it for a crash of its own and hang
        report(call, error)
        return default


def report(call: Callable[..., Any], error: Exception) -> None:
    """Log that *call* failed: what and where, without the message, which may quote a secret."""
    where = "".join(traceback.format_tb(error.__traceback__))
    name = getattr(call, "__qualname__", type(call).__name__)
    logger.error("%s raised %s (message withheld)\n%s", name, type(error).__name__, where)


async def judge(attempt: Attempt) -> None:
    """Ask the flow's control what becomes of *attempt*, once, however many addons pass it on."""
    control = control_of(attempt.flow)
    if attempt.judged or control is None:
        return
    attempt.judged = True
    try:
        await control.judge(attempt)
    except Exception as error:  # noqa: BLE001 - mitmproxy would log the message, which may quote a secret
        attempt.decision = "relay"
        report(control.judge, error)


def install() -> None:
    """Have mitmproxy make its HTTP streams of our class; a no-op where that is so.

    Raises ReplayUnavailable, which names every internal that is missing, and then changes nothing.
    """
    missing = internals.missing()
    if missing:
        raise ReplayUnavailable(missing)
    try:
        importlib.import_module(_STREAM).enable()
    except ImportError as error:
        raise ReplayUnavailable([str(error)]) from error


def uninstall() -> None:
    """Give mitmproxy its own class back; streams that are open stay what they are."""
    if installed():
        sys.modules[_STREAM].disable()


def installed() -> bool:
    """Tell whether new streams are of our class."""
    module = sys.modules.get(_STREAM)
    return module is not None and bool(module.enabled())
