"""A provider and an exchange that do as they are told."""

from kimi_core.errors import UpstreamError
from kimi_core.exchange import Attempt, Limits, Reply, Route, Story, reply_for
from kimi_core.headers import Headers

SECRET = "Bearer fake-access-1"


def attempt(**changes):
    """Return an attempt at api.kimi.com with a sealed token."""
    fields = {
        "method": "POST",
        "scheme": "https",
        "host": "api.kimi.com",
        "port": 443,
        "path": "/coding/v1/chat/completions",
        "headers": Headers([("Host", "api.kimi.com"), ("Authorization", "Bearer [kimi]")]),
        "secrets": {"authorization": SECRET},
    }
    return Attempt(**fields | changes)


class Line:
    """A converter that says what it was told."""

    def feed(self, data):
        return data

    def finish(self):
        return b"<end>"

    def fail(self, error):
        return f"<{error.code}>".encode()


class FakeExchange:
    """An exchange whose verdicts are a list."""

    buffers_body = True
    max_body = 1024
    max_attempts = 3
    peek_limit = 10

    def __init__(self, *verdicts, converter=True, limits=None):
        self.attempt = attempt()
        self.story = Story("fake", {"model": "m"})
        self.limits = limits or Limits()
        self.verdicts = list(verdicts)
        self.answers = []
        self.watched = converter
        self.bodies = []
        self.peeked = lambda data: True
        self.whole = False
        self.over = 0
        self.prepared = attempt(body=b'{"rewritten":true}')

    async def prepare(self, body):
        self.bodies.append(body)
        return self.prepared

    def holds(self, head):
        return head.status >= 400

    def converter(self, head):
        return (head, Line()) if self.watched else None

    async def judge(self, answer):
        self.answers.append(answer)
        return self.verdicts.pop(0)

    def refuse(self, error):
        return reply_for(error, "openai")

    def peek(self, head, data, *, ended):
        return self.peeked(bytes(data))

    def collects(self, head):
        return self.whole

    def collected(self, head, body):
        return Reply(201, Headers([("x-collected", "yes")]), b"<" + body + b">")

    def ping(self):
        return b": ping\n\n"

    def done(self):
        self.over += 1

    def silence(self, seconds):
        return UpstreamError(f"silent for {seconds}")


class FakeProvider:
    """A provider of api.kimi.com and /kimi/ whose exchange is given."""

    name = "fake"
    prefix = "/kimi/"

    def __init__(self, opened):
        self.opened = opened
        self.heads = []
        self.closed = False

    def route(self, head, *, local):
        mine = head.path.startswith("/kimi/") if local else head.host == "api.kimi.com" and head.path != "/native"
        if not mine:
            return None
        return Route("fake", "chat", "openai", "https", "api.kimi.com", 443, "/coding/v1/chat/completions", local)

    async def open(self, head, route):
        self.heads.append(head)
        return self.opened

    def origins(self):
        return [("api.kimi.com", 443)]

    def private_hosts(self):
        return frozenset({"auth.kimi.com"})

    def health(self):
        return {"site": "kimi.com", "login": "ok", "expires_at": None}

    def start(self):
        return None

    async def keep_fresh(self, busy):
        self.busy = busy

    def close(self):
        self.closed = True
