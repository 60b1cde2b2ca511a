"""What a fake service of any provider does: record requests as they come, play scripts, let tests wait for it."""

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from tests.servers.kimi import WAIT_SECONDS, Recorded, _disconnected
from tests.servers.oauth import _lifespan
from tests.servers.script import Script, perform
from tests.servers.serve import CONNECTION, Connection


class Scripted:
    """An ASGI app whose subclass says what a request asks for (`operation`) and what it gets (`answer`).

    `requests` holds what came, in order of arrival; `scripts[operation]` the answers that the next requests get in
    place of the usual ones. Nothing waits for a clock: a script waits at a gate until the test opens it, and a test
    waits with `wait`.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.reset()

    def reset(self) -> None:
        """Forget requests and scripts."""
        self.requests: list[Recorded] = []
        self.scripts: defaultdict[str, deque[Script]] = defaultdict(deque)

    def operation(self, scope: Any) -> str:
        raise NotImplementedError

    def answer(self, seen: Recorded) -> Script:
        raise NotImplementedError

    # what a test asks

    def queue(self, *scripts: Script, operation: str) -> None:
        self.scripts[operation].extend(scripts)

    def of(self, operation: str) -> list[Recorded]:
        return [seen for seen in self.requests if seen.operation == operation]

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
        """Block this thread until *condition* holds. Raises AssertionError that names *what* after *seconds*."""
        with self._changed:
            assert self._changed.wait_for(condition, seconds), f"the fake did not see {what} within {seconds} s"

    def wait_for_request(self, operation: str, count: int = 1) -> Recorded:
        """Wait until *count* requests of *operation* have come in whole; return the last of them."""
        self.wait(lambda: sum(seen.complete for seen in self.of(operation)) >= count, f"{count} {operation} requests")
        return self.of(operation)[count - 1]

    def wait_for_disconnect(self, seen: Recorded) -> None:
        self.wait(lambda: seen.disconnected, "its client leave")

    # the app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        connection = scope.get("extensions", {}).get(CONNECTION)
        if connection and connection.stale:
            connection.close()
            return
        seen = self._record(scope, connection)
        if await self._read(seen, receive):
            playing = asyncio.create_task(self._play(seen, self.answer(seen), send, connection))
            leaving = asyncio.create_task(_disconnected(receive))
            await asyncio.wait({playing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            seen.disconnected = not seen.finished
            for task in (playing, leaving):
                task.cancel()
            await asyncio.gather(playing, leaving, return_exceptions=True)
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
            operation=self.operation(scope),
        )
        self.requests.append(seen)
        self._notify()
        return seen

    async def _read(self, seen: Recorded, receive: Any) -> bool:
        pieces = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                seen.disconnected = True
                return False
            pieces.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        seen.body = b"".join(pieces)
        seen.complete = True
        self._notify()
        return True

    async def _play(self, seen: Recorded, script: Script, send: Any, connection: Connection | None) -> None:
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
        seen.finished = True
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
