"""What passes between the proxy and a provider: heads, attempts, answers and verdicts.

A client's request becomes an *exchange*. It offers *attempts*; each attempt gets an *answer*; the exchange
gives a *verdict* on it::

    provider.open(head, route) ──> Exchange | Reply          the head is known; a token is fetched here
    exchange.prepare(body)     ──> Attempt | Reply           the body is known; it is rewritten here
        proxy sends the attempt
    exchange.holds(head)       ──> True:  keep it back, read its body (bounded), then judge it
    exchange.peek(head, data)  ──> False: the same, decided by the first bytes of the body
                                   True:  relay it, through exchange.converter(head) where there is one,
                                          or read it whole and give it to exchange.collected(head, body)
    exchange.judge(answer)     ──> Retry(attempt) | Relay | Reply
    exchange.done()                                          whatever came of it

After the first byte has gone to the client there is no verdict any more, only `Converter.fail`.
Nothing here knows mitmproxy, and nothing in `proxy` knows a provider.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from kimi_core.errors import KimiMitmError, anthropic_body, openai_body
from kimi_core.headers import Headers

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A client's request without its body. `path` carries the query; `peer` is the client's IP address."""

    method: str
    scheme: str
    host: str
    port: int
    path: str
    headers: Headers
    peer: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request to send upstream.

    `headers` is what the flow may show, with a label such as ``Bearer [kimi]`` in place of a secret;
    `secrets` maps a header name to the value that goes onto the wire instead (design: Seal).
    `body` None leaves the client's own bytes alone (streamed uploads).
    """

    method: str
    scheme: str
    host: str
    port: int
    path: str
    headers: Headers
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    label: str = ""

    def carrying(self, body: bytes) -> Attempt:
        """Return the same request with *body*."""
        head = (self.method, self.scheme, self.host, self.port, self.path, self.headers, self.secrets)
        return Attempt(*head, body, self.label)


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """Status and header fields of an upstream answer."""

    status: int
    headers: Headers


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for an attempt that was held: a head with its (bounded) body, or an error and no head.

    `body` is decoded of any content-encoding. `complete` is False where the body was cut by a bound or a time
    limit. `error` is the transport's own sentence: connection refused, reset, closed without an answer; `silent_for`
    is set where the first-byte limit struck, in seconds. `final`: no further attempt is possible.
    """

    head: AnswerHead | None
    body: bytes = field(default=b"", repr=False)
    complete: bool = True
    error: str | None = None
    silent_for: float | None = None
    final: bool = False


@dataclass(frozen=True, slots=True)
class Retry:
    """Send *attempt* next; `why` is one short phrase for the flow ("401, refreshed")."""

    attempt: Attempt
    why: str


@dataclass(frozen=True, slots=True)
class Relay:
    """Give the client the held answer as it is, plus `extra` header fields."""

    extra: Headers = field(default_factory=Headers)
    why: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer the client ourselves."""

    status: int
    headers: Headers
    body: bytes = field(repr=False)
    why: str = ""


type Verdict = Retry | Relay | Reply


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds to wait for the first byte of an answer and between two bytes of it; None = no limit.

    After `keep_alive` seconds of silence within a streamed answer the client is sent a word that means nothing.
    """

    first_byte: float | None = None
    idle: float | None = None
    keep_alive: float | None = None


@dataclass(slots=True)
class Story:
    """What one exchange has to tell for the flow: facts for the comment, repairs for the mark.

    `facts` is ordered and short ("model": "k3", "effort": "high"); `repairs` counts by name what was mended in
    the request; `removed` has the names of header fields that were not let through, for the flow's metadata. None of
    them ever holds prompt text or a secret.
    """

    provider: str
    facts: dict[str, Any] = field(default_factory=dict)
    repairs: dict[str, int] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)


class Converter(Protocol):
    """Turns answer bytes into client bytes while they stream. Total: it never raises."""

    def feed(self, data: bytes) -> bytes:
        """Take what came, return what may go out now (b"" for nothing yet)."""
        ...

    def finish(self) -> bytes:
        """Say that the answer has ended; return what is left to send."""
        ...

    def fail(self, error: KimiMitmError) -> bytes | None:
        """Say that the answer was cut; return what is left, and an error frame in the client's dialect.

        None where the client has a part that nothing can be said in: its connection is broken off then.
        """
        ...


class EndsEarly(Protocol):
    """A converter that may be done before its answer is: the rest of it is not wanted any more."""

    @property
    def ended(self) -> bool:
        """True once the client has everything."""
        ...


class Exchange(Protocol):
    """One client request on its way through one provider.

    What a provider has no need of (peeking, collecting, keeping a client waiting, being told of the end) is answered
    here in the plainest way.
    """

    story: Story
    limits: Limits
    attempt: Attempt
    buffers_body: bool
    """True: the whole body is read and given to `prepare`. False: it is streamed past, `attempt` stands."""
    max_body: int
    """Bytes of body that are read at the most when `buffers_body`."""
    peek_limit: int = 64 * 1024
    """Bytes of an answer after which it is relayed although `peek` does not know yet."""
    max_attempts: int = 3
    """How often a request is sent at the most: once, after a lost connection, and after a refresh."""

    async def prepare(self, body: bytes) -> Attempt | Reply:
        """Rewrite the body; called once, before anything is sent upstream, and only when `buffers_body`."""
        ...

    def holds(self, head: AnswerHead) -> bool:
        """Tell whether this answer is kept from the client until it is judged."""
        ...

    def peek(self, head: AnswerHead, data: bytes | bytearray, *, ended: bool) -> bool | None:
        """Judge an answer that is not held by its first bytes: False = a failure, hold it; None = more bytes.

        *data* is all that has come, decoded; *ended* says that no more will. Asked with b"" first: True then means that
        the head says enough, and the answer streams at once.
        """
        return True

    def converter(self, head: AnswerHead) -> tuple[AnswerHead, Converter] | None:
        """For an answer that is relayed: the head the client gets and the converter of its body, or None."""
        ...

    def collects(self, head: AnswerHead) -> bool:
        """Tell whether a relayed answer is read whole and then given to `collected` instead of streamed."""
        return False

    def collected(self, head: AnswerHead, body: bytes) -> Reply:
        """Return what the client gets for an answer that was read whole."""
        return Reply(head.status, head.headers, body)

    async def judge(self, answer: Answer) -> Verdict:
        """Give the verdict on a held answer or a failed attempt."""
        ...

    def refuse(self, error: KimiMitmError) -> Reply:
        """Return *error* in this client's dialect."""
        ...

    def silence(self, seconds: float) -> KimiMitmError:
        """Return the error for an answer in which nothing came for *seconds*."""
        ...

    def ping(self) -> bytes:
        """Return what keeps a waiting client waiting (`Limits.keep_alive`); b"" for nothing."""
        return b""

    def done(self) -> None:
        """Be told that the exchange is over, whatever came of it; called once."""
        return None  # noqa: RET501 - without it the body is empty, and the method counts as abstract


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request belongs: `operation` is the provider's own name for the endpoint ("chat", "models" …).

    `scheme`, `host`, `port`, `path` say where it goes upstream; `dialect` is "openai" or "anthropic";
    `local` is True for a request on the proxy's own port.
    """

    provider: str
    operation: str
    dialect: str
    scheme: str
    host: str
    port: int
    path: str
    local: bool = False


class Provider(Protocol):
    """A service behind the proxy."""

    name: str
    prefix: str
    """Path prefix of the provider on the proxy's own port (``/kimi/``)."""

    def route(self, head: RequestHead, *, local: bool) -> Route | None:
        """Tell whether this request is for the provider, and which endpoint it wants; pure."""
        ...

    async def open(self, head: RequestHead, route: Route) -> Exchange | Reply:
        """Begin an exchange: log-in state is checked and the token refreshed ahead of time here."""
        ...

    def origins(self) -> list[tuple[str, int]]:
        """Return host and port of every place that is served."""
        ...

    def private_hosts(self) -> frozenset[str]:
        """Return the hosts that are never decrypted: logging in there carries credentials in bodies."""
        ...

    def health(self) -> dict[str, Any]:
        """Return the provider's state for /health: no network, no secrets."""
        ...

    def start(self) -> str | None:
        """Begin background work; return None, or the command to run where nobody is logged in."""
        ...

    async def keep_fresh(self, busy: Callable[[], bool]) -> None:
        """Refresh logins by a timer while *busy* says that exchanges are open; runs until cancelled."""
        ...

    def close(self) -> None:
        """Cancel background work."""
        ...


def reply_for(error: KimiMitmError, dialect: str, extra: Headers | None = None) -> Reply:
    """Return *error* as a JSON reply in *dialect*, with ``x-kimi-mitm-reason`` set to its code."""
    body = anthropic_body(error) if dialect == "anthropic" else openai_body(error)
    headers = Headers([("content-type", JSON), ("x-kimi-mitm-reason", error.code), *(extra or ())])
    return Reply(error.status, headers, body, why=error.code)
