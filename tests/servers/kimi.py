"""The Kimi Code service as an ASGI app: logins that rotate, models, usages, chat in both dialects, scripted answers.

`FakeKimi` answers chat by the last user message, unless a test has queued a `Script`::

    [[say TEXT]]              TEXT, in two pieces
    [[think TEXT]]            TEXT as reasoning, then "thought"
    [[call NAME {"a": 1}]]    one tool call; once its result is in the history: "tool said: RESULT"
    [[error STATUS]]          that status with the real service's wording

Anything else is echoed. Every request is recorded as it came. Nothing waits for a clock: a script waits at a `Gate`
until the test opens it, and a test waits for the fake with `FakeKimi.wait`.
"""

import asyncio
import hashlib
import json
import re
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.servers.oauth import FakeOAuth
from tests.servers.script import Script, as_json, chat_script, completion, error, messages_events, perform
from tests.servers.serve import CONNECTION, Connection

API = "/coding/v1/"
AUTH = "/api/oauth/"
WAIT_SECONDS = 10.0
MODELS: list[dict[str, Any]] = [
    {
        "id": "k3",
        "object": "model",
        "created": 1761264000,
        "display_name": "K3",
        "context_length": 1048576,
        "supports_reasoning": True,
        "supports_image_in": True,
        "supports_video_in": True,
        "protocol": None,
        "supports_thinking_type": "only",
        "think_efforts": {"support": True, "valid_efforts": ["low", "high", "max"], "default_effort": "high"},
    },
    {
        "id": "kimi-for-coding",
        "object": "model",
        "created": 1761264000,
        "display_name": "K2.7 Coding",
        "context_length": 262144,
        "supports_reasoning": True,
        "supports_image_in": True,
        "supports_video_in": True,
        "supports_thinking_type": "both",
    },
]
USAGES: dict[str, Any] = {
    "user": {"userId": "fake-user", "region": "REGION_CN", "membership": {"level": "LEVEL_BASIC"}},
    "usage": {"limit": "100", "used": "40", "remaining": "60", "resetTime": "2031-05-03T11:03:48.011825Z"},
    "limits": [
        {
            "window": {"duration": 300, "timeUnit": "TIME_UNIT_MINUTE"},
            "detail": {"limit": "100", "used": "95", "remaining": "5", "resetTime": "2031-05-01T09:00:00Z"},
        }
    ],
    "parallel": {"limit": "20"},
}


@dataclass(slots=True)
class Recorded:
    """One request as it came: header fields in wire order and spelling, the body byte for byte."""

    number: int
    connection: int
    http: str
    method: str
    target: str
    headers: list[tuple[str, str]]
    operation: str
    body: bytes = b""
    complete: bool = False
    disconnected: bool = False
    finished: bool = False

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def bearer(self) -> str:
        return (self.header("authorization") or "").removeprefix("Bearer ")


@dataclass(slots=True)
class _Exchange:
    seen: Recorded
    receive: Callable[[], Any]
    send: Callable[[Any], Any]
    connection: Connection | None


class FakeKimi:
    """The app and its state.

    `requests` holds what came to the API, in order of arrival; `scripts[operation]` the answers that the next
    requests get in place of the default ones ("chat", "messages", "models", …); `refuse` how many more requests get
    a 401 though their token is good (-1: all). `oauth` is the login service, mounted here on its own paths.
    """

    def __init__(self, oauth: FakeOAuth | None = None) -> None:
        self.oauth = oauth or FakeOAuth()
        self._changed = threading.Condition()
        self.reset()

    def reset(self) -> None:
        """Forget requests and scripts; logins stay."""
        self.requests: list[Recorded] = []
        self.scripts: defaultdict[str, deque[Script]] = defaultdict(deque)
        self.models: Any = {"object": "list", "data": MODELS}
        self.usages: Any = USAGES
        self.refuse = 0

    # what a test asks

    def queue(self, *scripts: Script, operation: str = "chat") -> None:
        self.scripts[operation].extend(scripts)

    def of(self, operation: str) -> list[Recorded]:
        return [seen for seen in self.requests if seen.operation == operation]

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
        """Block this thread until *condition* holds. Raises AssertionError that names *what* after *seconds*."""
        with self._changed:
            assert self._changed.wait_for(condition, seconds), f"the fake did not see {what} within {seconds} s"

    def wait_for_request(self, operation: str = "chat", count: int = 1) -> Recorded:
        """Wait until *count* requests of *operation* have come in whole; return the last of them."""
        self.wait(lambda: sum(seen.complete for seen in self.of(operation)) >= count, f"{count} {operation} requests")
        return self.of(operation)[count - 1]

    def wait_for_disconnect(self, seen: Recorded) -> None:
        self.wait(lambda: seen.disconnected, "its client leave")

    def secrets(self) -> set[str]:
        """Return every token and device code handed out so far."""
        found = {token for family in self.oauth.families for token in (family.refresh, *family.used)}
        found |= {f"fake-access-{f.number}-{n}" for f in self.oauth.families for n in range(1, f.generation + 1)}
        return found | {f"fake-device-code-{n}" for n in range(1, self.oauth._codes_made + 1)}

    # the app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or scope["path"].startswith(AUTH):
            await self.oauth(scope, receive, send)
            self._notify()
            return
        connection = scope["extensions"].get(CONNECTION)
        if connection and connection.stale:
            connection.close()
            return
        seen = self._record(scope, connection)
        exchange = _Exchange(seen, receive, send, connection)
        if await self._read(exchange):
            answer = asyncio.create_task(self._play(exchange, self._answer(seen)))
            leaving = asyncio.create_task(_disconnected(receive))
            await asyncio.wait({answer, leaving}, return_when=asyncio.FIRST_COMPLETED)
            seen.disconnected = not seen.finished
            for task in (answer, leaving):
                task.cancel()
            await asyncio.gather(answer, leaving, return_exceptions=True)
        self._notify()

    def _record(self, scope: Any, connection: Connection | None) -> Recorded:
        target = scope["raw_path"].decode() + (f"?{query}" if (query := scope["query_string"].decode()) else "")
        seen = Recorded(
            number=len(self.requests) + 1,
            connection=connection.number if connection else 0,
            http=scope["http_version"],
            method=scope["method"],
            target=target,
            headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]],
            operation=_operation(scope["path"]),
        )
        self.requests.append(seen)
        self._notify()
        return seen

    async def _read(self, exchange: _Exchange) -> bool:
        pieces = []
        while True:
            message = await exchange.receive()
            if message["type"] == "http.disconnect":
                exchange.seen.disconnected = True
                return False
            pieces.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        exchange.seen.body = b"".join(pieces)
        exchange.seen.complete = True
        self._notify()
        return True

    def _answer(self, seen: Recorded) -> Script:
        if self.refuse or not self.oauth.valid(seen.bearer):
            self.refuse -= self.refuse > 0
            return error(401, dialect=_dialect(seen.operation))
        if queued := self.scripts[seen.operation]:
            return queued.popleft()
        return self._table().get(seen.operation, _unknown)(seen)

    def _table(self) -> dict[str, Callable[[Recorded], Script]]:
        return {
            "models": lambda _: as_json(self.models),
            "usages": lambda _: as_json(self.usages),
            "chat": _chat,
            "messages": _messages,
            "count_tokens": lambda _: as_json({"input_tokens": 42}),
            "search": lambda _: as_json({"search_results": [{"title": "fake", "url": "https://fake.test/"}]}),
            "fetch": lambda _: Script([b"# fake page"], headers=[("content-type", "text/markdown")]),
            "files": lambda seen: as_json({"id": "fake-file-1", "bytes": len(seen.body)}),
        }

    async def _play(self, exchange: _Exchange, script: Script) -> None:
        send, connection = exchange.send, exchange.connection
        for step in script.before:
            if not await perform(step, connection):
                return
        headers = [(name.lower().encode(), value.encode()) for name, value in script.headers]
        await send({"type": "http.response.start", "status": script.status, "headers": headers})
        for step in script.steps:
            if isinstance(step, bytes):
                await send({"type": "http.response.body", "body": step, "more_body": True})
            elif not await perform(step, connection):
                return
        if script.stale and connection:
            connection.stale = True
        exchange.seen.finished = True
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


# --- the default answers ---------------------------------------------------------------------------------------------

_DIRECTIVE = re.compile(r"\[\[(say|think|call|error) (.*?)\]\]", re.DOTALL)


def _chat(seen: Recorded) -> Script:
    body = seen.json
    verb, text = _asked(body["messages"])
    if verb == "error":
        return error(int(text))
    kind: dict[str, Any] = {}
    if verb == "think":
        kind, text = {"reasoning": [text]}, "thought"
    elif verb == "call":
        if not body.get("tools"):
            text = "no tools"
        else:
            name, _, arguments = text.partition(" ")
            kind, text = {"calls": [(name, arguments)], "reasoning": ["I should call it."]}, ""
    if not body.get("stream"):
        reasoning = "".join(kind.pop("reasoning", ())) or None
        return completion(text, reasoning=reasoning, **kind)
    middle = len(text) // 2
    return chat_script(*filter(None, (text[:middle], text[middle:])), **kind)


def _messages(seen: Recorded) -> Script:
    body = seen.json
    verb, text = _asked(body["messages"])
    if verb == "error":
        return error(int(text), dialect="anthropic")
    if body.get("stream"):
        middle = len(text) // 2
        return Script(messages_events(text[:middle], text[middle:]))
    return as_json(
        {
            "id": "msg_fake",
            "type": "message",
            "role": "assistant",
            "model": "kimi-for-coding",
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 900, "output_tokens": 40},
        }
    )


def _asked(messages: list[dict[str, Any]]) -> tuple[str, str]:
    """Return what the history asks for: a directive's verb and argument."""
    if messages[-1]["role"] == "tool":
        return "say", f"tool said: {_text(messages[-1]).strip()}"
    last = next(_text(message) for message in reversed(messages) if message["role"] == "user")
    if found := _DIRECTIVE.search(last):
        return found[1], found[2]
    return "say", last


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _unknown(seen: Recorded) -> Script:
    return as_json({"path": seen.target, "method": seen.method})


# --- small parts -----------------------------------------------------------------------------------------------------

_OPERATIONS = {
    "models": "models",
    "usages": "usages",
    "chat/completions": "chat",
    "messages": "messages",
    "messages/count_tokens": "count_tokens",
    "search": "search",
    "fetch": "fetch",
    "files": "files",
}


def _operation(path: str) -> str:
    return _OPERATIONS.get(path.removeprefix(API), "other") if path.startswith(API) else "foreign"


def _dialect(operation: str) -> str:
    return "anthropic" if operation in {"messages", "count_tokens"} else "openai"


async def _disconnected(receive: Callable[[], Any]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
