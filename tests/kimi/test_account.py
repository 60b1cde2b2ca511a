import asyncio
import logging

import httpx
import pytest

from kimi_core.errors import NotLoggedIn, UpstreamError
from kimi_core.kimi.account import USAGE_AGE, Account
from kimi_core.kimi.constants import REGIONS
from kimi_core.kimi.device import Device
from kimi_core.kimi.identity import build
from kimi_core.kimi.models import REFRESH_INTERVAL
from tests.kimi.stand_ins import NOW, FakeOutbound, FakeSession

IDENTITY = build("kimi-cli", Device("Linux", "6", "x86_64", "#1", "box"), "a" * 32)
MODELS = {"data": [{"id": "k3", "context_length": 1048576}]}
USAGES = {"usage": {"limit": "100", "used": "40"}}


class World:
    """An account whose calls are answered by a list of responses."""

    def __init__(self, folder, *answers, error=None):
        self.now = NOW
        self.requests = []
        self.answers = list(answers)
        self.session = FakeSession(error)
        self.account = Account(
            REGIONS["cn"],
            IDENTITY,
            FakeOutbound(self._answer),
            folder,
            session=self.session,
            clock=lambda: self.now,
        )

    def _answer(self, request):
        self.requests.append(request)
        return self.answers.pop(0)

    async def settle(self):
        """Wait for what runs beside."""
        await asyncio.gather(*self.account._tasks.values(), return_exceptions=True)


async def test_calls_carry_what_the_client_sends_there(tmp_path):
    """A call of our own has the identity's fields for that endpoint and the bearer token, nothing else."""
    world = World(tmp_path, httpx.Response(200, json=MODELS))
    await world.account.fetch_models()
    (request,) = world.requests
    assert str(request.url) == "https://api.kimi.com/coding/v1/models"
    assert request.headers["authorization"] == "Bearer fake-access-1"
    assert request.headers["user-agent"].startswith("Python/")
    assert not [name for name in request.headers if name.startswith("x-msh")]
    assert world.account.cache.catalog.find("k3").context_length == 1048576
    assert world.account.cache.catalog.fetched_at == NOW


async def test_a_refused_token_is_renewed_once(tmp_path):
    """A 401 on a call of ours refreshes and asks once more."""
    world = World(tmp_path, httpx.Response(401), httpx.Response(200, json=USAGES))
    usage = await world.account.fetch_usage()
    assert usage.rows[0].used == 40
    assert [request.headers["authorization"] for request in world.requests] == [
        "Bearer fake-access-1",
        "Bearer fake-access-2",
    ]


@pytest.mark.parametrize("answers", [[403], [500], [401, 401]])
async def test_other_failures_are_not_repeated(tmp_path, answers):
    """Nothing but a first 401 is asked again; the error says the status."""
    world = World(tmp_path, *[httpx.Response(status) for status in answers])
    with pytest.raises(UpstreamError) as caught:
        await world.account.fetch_usage()
    assert caught.value.http_status == answers[-1]
    assert len(world.requests) == len(answers)


async def test_models_are_wanted_no_more_often_than_the_interval(tmp_path):
    """The list is fetched beside the requests, once per interval, however many requests ask for it."""
    world = World(tmp_path, httpx.Response(200, json=MODELS), httpx.Response(200, json=MODELS))
    for _ in range(5):
        world.account.want_models()
    await world.settle()
    world.account.want_models()
    assert len(world.requests) == 1
    world.now += REFRESH_INTERVAL + 1
    world.account.want_models()
    await world.settle()
    assert len(world.requests) == 2


async def test_usage_is_wanted_once_a_minute(tmp_path):
    """Usage that is younger than a minute is not asked for again, and two wishes at once are one call."""
    world = World(tmp_path, httpx.Response(200, json=USAGES), httpx.Response(200, json=USAGES))
    world.account.want_usage()
    world.account.want_usage()
    await world.settle()
    world.now = world.account.usage.fetched_at + USAGE_AGE
    world.account.want_usage()
    await world.settle()
    assert len(world.requests) == 1
    world.now += 1
    world.account.want_usage()
    await world.settle()
    assert len(world.requests) == 2


async def test_usage_of_a_clock_that_was_ahead_is_asked_for_again(tmp_path):
    """A clock that was set back counts as time passed, as it does for the models."""
    world = World(tmp_path, httpx.Response(200, json=USAGES), httpx.Response(200, json=USAGES))
    await world.account.fetch_usage()
    world.now = world.account.usage.fetched_at - 1
    world.account.want_usage()
    await world.settle()
    assert len(world.requests) == 2


async def test_usage_is_waited_for_a_moment_only(tmp_path):
    """Whoever needs the usage waits until it is there, but not for ever; an answer that comes later counts as well."""
    gate = asyncio.Event()

    async def answer(_request):
        await gate.wait()
        return httpx.Response(200, json=USAGES)

    world = World(tmp_path)
    world.account._outbound = FakeOutbound(answer)
    await world.account.settled_usage(0.0)
    assert world.account.usage is None
    gate.set()
    await world.account.settled_usage(60.0)
    assert world.account.usage.rows[0].used == 40
    await world.account.settled_usage(60.0)


async def test_failures_beside_are_a_line_in_the_log(tmp_path, caplog):
    """What fails beside the requests disturbs none of them."""
    world = World(tmp_path, error=NotLoggedIn("Not logged in to kimi.com."))
    with caplog.at_level(logging.INFO):
        world.account.want_models()
        await world.settle()
    assert "Not logged in" in caplog.text


async def test_a_token_that_an_upload_found_refused_is_renewed_for_the_next(tmp_path):
    """A 401 that nobody could wait for leads to a renewal at the next request."""
    world = World(tmp_path)
    world.account.reject("fake-access-1")
    assert (await world.account.token()).access_token == "fake-access-2"
    assert (await world.account.token()).access_token == "fake-access-2"
    assert world.session.renewed == ["fake-access-1"]


async def test_closing_cancels_what_runs_beside(tmp_path):
    """Nothing goes on after close."""
    gate = asyncio.Event()

    async def wait(_request):
        await gate.wait()

    world = World(tmp_path)
    world.account._outbound = FakeOutbound(wait)
    world.account.want_usage()
    await asyncio.sleep(0)
    world.account.close()
    await world.settle()
    assert all(task.cancelled() for task in world.account._tasks.values())
