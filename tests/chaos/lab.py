"""A real proxy, logged in to both services under their real names, before raw servers that a test has in its hands."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import trustme

from kimi_core.kiro.accounts import Account, Accounts, new_id
from tests.chaos import levers
from tests.chaos.raw import RawServer
from tests.e2e.harness import ADDON, wait_until
from tests.e2e.kiro_harness import API_HOSTS, RUNTIME, KiroProxy, KiroWorld
from tests.servers.kiro import Login
from tests.servers.kiro_answers import INITIAL, METERING, PERCENT, text
from tests.servers.script import SSE, chat_events

KIMI_HOST = "api.kimi.com"
AMAZON = "application/vnd.amazon.eventstream"
GOOD = {"kimi": b"".join(chat_events("good")), "kiro": b"".join((INITIAL, text("good"), PERCENT, METERING))}
KINDS = {"kimi": SSE, "kiro": AMAZON}
MODELS = {"kimi": "kimi-for-coding", "kiro": "claude-sonnet-4.5"}
HOSTS = {"kimi": (KIMI_HOST,), "kiro": API_HOSTS}
WANTED = {"kimi": b"/chat/completions", "kiro": b"GenerateAssistantResponse"}
PROVIDERS = ("kimi", "kiro")
PATIENCE = 40  # seconds of silence that the proxy bears, unless a test is about that: the machine may stand still
IMPATIENCE = 1
DEADLINE = 40
SECONDS = 60.0  # a client that waits longer has been left hanging
DONE = b"data: [DONE]"
KEY = "fake-kiro-api-key-1"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a client met: a status and a body, and how the transport broke where it did."""

    status: int | None
    body: bytes
    broken: str | None = None
    headers: httpx.Headers | None = None

    @property
    def events(self) -> list[Any]:
        """The JSON events of a streamed answer; one that is not there whole is none."""
        whole = self.body.replace(b"\r\n", b"\n").split(b"\n\n")[:-1]
        return [json.loads(event[6:]) for event in whole if event.startswith(b"data: {")]

    @property
    def error(self) -> dict[str, Any] | None:
        """The error that the client reads: a whole answer, or the last event of a streamed one."""
        if self.status is not None and self.status >= 400:
            try:
                found = json.loads(self.body)
            except ValueError:
                return None
        else:
            found = self.events[-1] if self.events else {}
        return found.get("error") if isinstance(found, dict) else None

    @property
    def complete(self) -> bool:
        """Whether a client takes it for a whole answer."""
        return self.status == 200 and self.broken is None and DONE in self.body and self.error is None

    @property
    def honest(self) -> bool:
        """Whether it is whole, or says that it is not."""
        return self.complete or self.broken is not None or bool(self.error and self.error["message"])

    @property
    def text(self) -> str:
        choices = [choice for event in self.events for choice in event.get("choices", [])]
        return "".join(choice["delta"].get("content") or "" for choice in choices)


def read(answer: httpx.Response) -> Outcome:
    """Read a streamed answer to its end, whatever end that is."""
    body = b""
    try:
        for piece in answer.iter_raw():
            body += piece
    except httpx.TimeoutException:
        raise  # a client that is left hanging: never an outcome
    except httpx.TransportError as error:
        return Outcome(answer.status_code, body, repr(error), answer.headers)
    return Outcome(answer.status_code, body, None, answer.headers)


class Asking(threading.Thread):
    """A request in a thread of its own; `outcome` is there once it is joined."""

    def __init__(self, ask: Callable[[], Outcome]) -> None:
        super().__init__(daemon=True)
        self._ask = ask
        self.outcome: Outcome

    def run(self) -> None:
        self.outcome = self._ask()


class Lab:
    """The proxy, and per provider a raw server for each protocol: `lead` says which of them is the service now."""

    def __init__(
        self,
        world: KiroWorld,
        ca: trustme.CA,
        folder: Path,
        confdir: Path,
        *,
        patience: int = PATIENCE,
        kind: type[KiroProxy] = KiroProxy,
        scripts: Sequence[Path] = (Path(levers.__file__), ADDON),
        **more: Any,
    ) -> None:
        self.world = world
        self.ca = ca
        options = [f"{name}={patience}" for name in levers.LIMITS] + [f"kiro_deadline={DEADLINE}"]
        self.proxy = kind(world, folder / "proxy", confdir, options=options, scripts=scripts, **more)
        self.servers = {
            (provider, http2): self.server(provider, self.certificate(*hosts), http2=http2)
            for provider, hosts in HOSTS.items()
            for http2 in (False, True)
        }
        world.keys[KEY] = Login("api_key")
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in self.servers.values():
                stack.enter_context(server.run(self.world.background))
            self.proxy.login()
            self.recover()
            stack.enter_context(self.proxy)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.__exit__(*exc)

    def certificate(self, *names: str, **more: Any) -> ssl.SSLContext:
        """Return the context of a server for *names*."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*names, **more).configure_cert(context)
        return context

    def server(self, provider: str, context: ssl.SSLContext | None, **more: Any) -> RawServer:
        """Return a raw server that answers as the provider does."""
        return RawServer(context, KINDS[provider], GOOD[provider], wanted=WANTED[provider], **more)

    def lead(self, provider: str, server: RawServer) -> None:
        """Make *server* the one that the provider's names lead to."""
        self.world.upstream.routes |= {f"{host}:443": server.port for host in HOSTS[provider]}

    def calm(self) -> None:
        """Take all faults away; the services speak HTTP/1.1."""
        for (provider, http2), server in self.servers.items():
            server.scripts.clear()
            server.scripts_taken = 0
            server.always = None
            if not http2:
                self.lead(provider, server)
        self.recover()

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """Have requests that come meanwhile given up after a second of silence."""
        self._bear(IMPATIENCE)
        try:
            yield
        finally:
            self._bear(PATIENCE)

    def _bear(self, seconds: int) -> None:
        httpx.get(f"{self.proxy.url}{levers.PATH}{seconds}", trust_env=False, timeout=SECONDS).raise_for_status()

    def recover(self) -> None:
        """Have a Kiro account that nothing stands against; what is noted of the one before may come late."""
        account = Account(id=new_id(), label="key", auth_method="api_key", access_token=KEY)

        def change(accounts: Accounts) -> None:
            for old in list(accounts.accounts):
                accounts.remove(old.id)
            accounts.upsert(account)

        self.proxy.registry.update(change)

    def base(self, provider: str) -> str:
        return f"{self.proxy.url}/{provider}/v1"

    def body(self, provider: str, content: str = "a question", **more: Any) -> dict[str, Any]:
        return {"model": MODELS[provider], "stream": True, "messages": [{"role": "user", "content": content}]} | more

    @contextmanager
    def client(self, way: str, provider: str) -> Iterator[httpx.Client]:
        """Yield a client that asks the proxy itself ("local"), or the service through it ("h1", "h2")."""
        if way == "local":
            with httpx.Client(base_url=self.base(provider), trust_env=False, timeout=SECONDS) as client:
                yield client
            return
        offers = {"h1": ["http/1.1", "h2"], "h2": ["h2", "http/1.1"]}[way]
        with self.proxy.client(*offers) as client:
            client.base_url = f"https://{KIMI_HOST}/coding/v1" if provider == "kimi" else f"https://{RUNTIME}/v1"
            client.timeout = SECONDS
            yield client

    def ask(self, provider: str = "kimi", way: str = "local", **more: Any) -> Outcome:
        """Ask once, over a connection of its own."""
        with self.client(way, provider) as client:
            return self.ask_with(client, provider, **more)

    def ask_with(self, client: httpx.Client, provider: str, **more: Any) -> Outcome:
        try:
            with client.stream("POST", "chat/completions", json=self.body(provider, **more)) as answer:
                return read(answer)
        except httpx.TimeoutException:
            raise  # see `read`
        except httpx.TransportError as error:
            return Outcome(None, b"", repr(error))

    @contextmanager
    def background_ask(self, provider: str) -> Iterator["Asking"]:
        """Yield a request that a thread asks once it is started; leaving waits for its outcome."""
        asking = Asking(lambda: self.ask(provider))
        yield asking
        asking.join()

    def wait_for_served(self, provider: str, *, http2: bool = False) -> None:
        """Wait until the service has got one more request than it has answered so far."""
        server = self.servers[provider, http2]
        wait_until(lambda: server.scripts_taken, "the request", SECONDS)

    def memory(self) -> int:
        """Return the resident memory of the proxy in KiB."""
        return int(self.status_field("VmRSS").split()[0])

    def descriptors(self) -> int:
        """Return how many files and sockets the proxy has open."""
        return len(list(Path(f"/proc/{self.proxy.pid}/fd").iterdir()))

    def status_field(self, name: str) -> str:
        """Return a field of the proxy's /proc/PID/status."""
        lines = Path(f"/proc/{self.proxy.pid}/status").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:"))

    def probe(self) -> None:
        """See that the proxy goes on serving others."""
        for provider in PROVIDERS:
            outcome = self.ask(provider)
            assert outcome.complete, (provider, outcome)
            assert outcome.text == "good"
