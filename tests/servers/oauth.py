"""A login service as an ASGI app: device flow, rotation, and revocation of a whole login when a token is reused.

`FakeOAuth` is mounted by other apps or served alone with `serve`. It follows kimi.md §1.2-§1.5: form bodies in, JSON
out, every refresh token good for one use only. A second use revokes the family, as RFC 9700 §4.14.2 asks of servers,
so that a client which loses a rotated token is logged out here as it would be there.
"""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config

CLIENT_ID = "17e5f671-d194-4dfb-9706-5516cb48c098"
DEVICE_PATH = "/api/oauth/device_authorization"
TOKEN_PATH = "/api/oauth/token"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
START_TIMEOUT = 10.0

type Canned = int | tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it came: header names in lower case, form fields in order."""

    path: str
    headers: list[tuple[str, str]]
    form: list[tuple[str, str]]

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name.lower()), None)

    def field(self, name: str) -> str | None:
        return dict(self.form).get(name)


@dataclass(slots=True)
class Family:
    """One login: its tokens follow each other; `refresh` is the only one that is still good."""

    number: int
    generation: int = 0
    refresh: str = ""
    used: set[str] = field(default_factory=set)
    access: dict[str, float] = field(default_factory=dict)
    revoked: bool = False


class FakeOAuth:
    """The app, its knobs (set them any time before a request comes) and its counters.

    Knobs: `lifetime` of access tokens in seconds; `polls` = error codes that the next polls of a device code get
    before it is approved; `poll_status` = HTTP status of those; `failures` = statuses, or (status, body), that the
    next token requests get before anything is looked at, `device_failures` the same for device requests; `delay` =
    seconds that a refresh takes before it rotates, and again after it; `gate` = where set, a refresh that has rotated
    waits for this event with its answer; `omit_refresh` = refreshes answer without a refresh token and keep the old
    one good.
    Counters: `refreshes` (rotations done), `in_flight`, `max_in_flight`, `reuses`, `rejections`.
    `holding` is set while an answer waits at the gate: a thread may wait for it.
    """

    def __init__(self, *, lifetime: float = 900.0, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.lifetime = lifetime
        self.polls: deque[str] = deque()
        self.poll_status = 400
        self.rejection_status = 400
        self.failures: deque[Canned] = deque()
        self.device_failures: deque[Canned] = deque()
        self.device_answer: dict[str, Any] = {}
        self.delay = 0.0
        self.gate: asyncio.Event | None = None
        self.omit_refresh = False
        self.holding = threading.Event()
        self.seen: list[Seen] = []
        self.refreshes = 0
        self.in_flight = 0
        self.max_in_flight = 0
        self.reuses = 0
        self.rejections = 0
        self.families: list[Family] = []
        self._device_codes: set[str] = set()
        self._codes_made = 0

    # what a test asks

    def login(self) -> dict[str, Any]:
        """Return the token answer of a new login, without the device flow."""
        family = Family(len(self.families) + 1)
        self.families.append(family)
        return self._issue(family)

    def valid(self, access: str) -> bool:
        """Tell whether an API would take this access token now."""
        now = self.clock()
        return any(not f.revoked and f.access.get(access, 0.0) > now for f in self.families)

    def reject_access(self) -> None:
        """Make every access token so far worthless; refresh tokens stay good."""
        for family in self.families:
            family.access.clear()

    def revoke(self) -> None:
        """End every login so far."""
        for family in self.families:
            family.revoked = True

    def close_gate(self) -> asyncio.Event:
        """From now on rotations wait with their answers for the event that is returned; call it in the app's loop."""
        self.gate = asyncio.Event()
        return self.gate

    def requests(self, path: str = TOKEN_PATH) -> list[Seen]:
        return [seen for seen in self.seen if seen.path.endswith(path)]

    # the app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        body = await _read(receive)
        path = scope["path"]
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        seen = Seen(path, headers, parse_qsl(body.decode(), keep_blank_values=True))
        self.seen.append(seen)
        if scope["method"] != "POST":
            status, answer = 405, _error("invalid_request")
        elif path.endswith(DEVICE_PATH):
            status, answer = self._device(seen)
        elif path.endswith(TOKEN_PATH):
            status, answer = await self._token(seen)
        else:
            status, answer = 404, _error("not_found")
        await _send(send, status, answer)

    def _device(self, seen: Seen) -> tuple[int, bytes]:
        if self.device_failures:
            return _canned(self.device_failures.popleft())
        if seen.form != [("client_id", CLIENT_ID)]:
            return 400, _error("invalid_client")
        self._codes_made += 1
        code = f"fake-device-code-{self._codes_made}"
        self._device_codes.add(code)
        user_code = f"FAKE-{self._codes_made:04}"
        answer = {
            "device_code": code,
            "user_code": user_code,
            "verification_uri": "https://www.kimi.com/code/authorize_device",
            "verification_uri_complete": f"https://www.kimi.com/code/authorize_device?user_code={user_code}",
            "expires_in": 1800,
            "interval": 5,
        }
        return 200, json.dumps(answer | self.device_answer).encode()

    async def _token(self, seen: Seen) -> tuple[int, bytes]:
        if self.failures:
            return _canned(self.failures.popleft())
        if seen.field("client_id") != CLIENT_ID:
            return 401, _error("invalid_client")
        if seen.field("grant_type") == DEVICE_GRANT:
            return self._poll(seen.field("device_code") or "")
        if seen.field("grant_type") != "refresh_token":
            return 400, _error("unsupported_grant_type")
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            if self.delay:
                await asyncio.sleep(self.delay)
            status, answer = self._refresh(seen.field("refresh_token") or "")
            if self.delay:
                await asyncio.sleep(self.delay)
            if self.gate is not None and status == 200:
                self.holding.set()
                await self.gate.wait()
                self.holding.clear()
            return status, answer
        finally:
            self.in_flight -= 1

    def _poll(self, code: str) -> tuple[int, bytes]:
        if code not in self._device_codes:
            return 400, _error("invalid_grant")
        if self.polls:
            return self.poll_status, _error(self.polls.popleft())
        self._device_codes.discard(code)
        return 200, json.dumps(self.login()).encode()

    def _refresh(self, token: str) -> tuple[int, bytes]:
        family = next((f for f in self.families if token == f.refresh or token in f.used), None)
        if family is None or family.revoked:
            self.rejections += 1
            return self.rejection_status, _error("invalid_grant")
        if token in family.used:
            self.reuses += 1
            self.rejections += 1
            family.revoked = True
            return self.rejection_status, _error("invalid_grant")
        self.refreshes += 1
        return 200, json.dumps(self._issue(family)).encode()

    def _issue(self, family: Family) -> dict[str, Any]:
        family.generation += 1
        access = f"fake-access-{family.number}-{family.generation}"
        family.access[access] = self.clock() + self.lifetime
        answer = {"access_token": access, "token_type": "Bearer", "expires_in": self.lifetime, "scope": "kimi-code"}
        if self.omit_refresh and family.refresh:
            return answer
        if family.refresh:
            family.used.add(family.refresh)
        family.refresh = f"fake-refresh-{family.number}-{family.generation}"
        return answer | {"refresh_token": family.refresh}


@dataclass(frozen=True, slots=True)
class Served:
    """A fake that listens on loopback in a thread of its own."""

    app: Any
    url: str
    loop: asyncio.AbstractEventLoop

    def run[T](self, call: Callable[[], T]) -> T:
        """Run *call* in the server's loop and return what it returns (events belong to that loop)."""

        async def inside() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(inside(), self.loop).result(START_TIMEOUT)


@contextlib.contextmanager
def serve(app: Any) -> Iterator[Served]:
    """Serve any ASGI *app* over plain HTTP/1.1 on a free loopback port, in a thread; end it on leaving."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.accesslog = config.errorlog = None
    config.graceful_timeout = 0.2
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    ready = threading.Event()

    async def main() -> None:
        ready.set()
        await hypercorn_serve(app, config, shutdown_trigger=stop.wait)

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), name="fake-server", daemon=True)
    thread.start()
    assert ready.wait(START_TIMEOUT)
    try:
        yield Served(app, f"http://127.0.0.1:{port}", loop)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(START_TIMEOUT)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def _canned(answer: Canned) -> tuple[int, bytes]:
    return (answer, _error("server_error")) if isinstance(answer, int) else answer


def _error(code: str) -> bytes:
    return json.dumps({"error": code, "error_description": f"the fake says {code}"}).encode()


async def _read(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def _send(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
