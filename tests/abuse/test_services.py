"""A service, or a client, that means harm: bombs, bodies without end, absurd times, pages of other sites."""

import gzip
import traceback

import brotli
import httpx
import pytest
import zstandard
from mitmproxy.test import tutils

from kimi_core import calls, documents
from kimi_core.errors import LoginError, UpstreamError
from kimi_core.headers import Headers
from kimi_core.kimi import oauth, usage
from kimi_core.kimi.constants import REGIONS
from kimi_core.kiro import verdict
from kimi_core.kiro.refresh import MAX_LIFE, tokens_of
from kimi_core.outbound import Outbound, body_of
from kimi_core.proxy import replay, takeover
from kimi_core.proxy.control import Client, ExchangeControl, plain_body
from kimi_core.proxy.reception import Reception
from kimi_core.proxy.stream import AnswerStream, Tape
from kimi_core.proxy.views import MAX_DECODED
from kimi_core.tokens import MAX_LIFE as KIMI_LIFE
from kimi_core.tokens import OAuthToken
from kimi_core.wire import codings
from tests.abuse.flows import error, flow
from tests.proxy.stand_ins import FakeExchange, FakeProvider, Line

MIB = 1 << 20
ZEROS = bytes(40 * MIB)
BOMBS = {
    "gzip": gzip.compress(ZEROS, 1),
    "br": brotli.compress(ZEROS, quality=1),
    "zstd": zstandard.compress(ZEROS, 1),
}
NOW = 1_800_000_000.0


class Endless(httpx.AsyncByteStream):
    """A body that never ends; `given` counts its pieces."""

    def __init__(self, piece):
        self.piece, self.given = piece, 0

    async def __aiter__(self):
        while True:
            self.given += 1
            yield self.piece


def client(answer):
    """Return a client of the program's own kind that is always answered so."""
    made = Outbound().new_client()
    made._transport, made._mounts = httpx.MockTransport(lambda _: answer()), {}
    return made


@pytest.mark.parametrize("coding", [None, *BOMBS])
async def test_a_body_without_end_is_cut(coding):
    """Our own calls read so much and no more, whatever it is coded in."""
    body = Endless(BOMBS.get(coding, bytes(MIB)))
    headers = {"content-encoding": coding} if coding else {}
    async with client(lambda: httpx.Response(200, headers=headers, stream=body)) as asked:
        request = httpx.Request("GET", "https://api.kimi.com/")
        reply = await calls.call(asked, request, 20)
        assert len(reply.body) == calls.MAX_BODY
        with pytest.raises(UpstreamError, match="longer than"):
            await documents.fetch(asked, "GET", "https://api.kimi.com/", Headers(), what="It", seconds=20)
        response = await asked.send(request, stream=True)
        assert len(await body_of(response, 10)) <= 10 + 5 * codings.PIECE
        await response.aclose()
    assert body.given < 12


async def test_a_coding_that_is_damaged_is_no_answer():
    """It is told like any other failure of the network."""
    async with client(lambda: httpx.Response(200, headers={"content-encoding": "gzip"}, stream=Endless(b"x"))) as asked:
        with pytest.raises(calls.NoAnswer, match="DecodingError"):
            await calls.call(asked, httpx.Request("GET", "https://api.kimi.com/"), 20)


@pytest.mark.parametrize("coding", BOMBS)
def test_a_bomb_in_a_stream_ends_it(coding):
    """The client is told that the answer cannot be read; nothing of the bomb is in memory."""
    stream = AnswerStream(Line(), codings.decoder_for(coding), Tape(100))
    assert stream(BOMBS[coding]) == [b"<answer_unreadable>"]
    assert stream.over


@pytest.mark.parametrize("coding", BOMBS)
async def test_a_bomb_from_a_client_is_too_large(coding):
    """kimi_max_body counts what a request stands for, not what it weighs."""
    exchange = FakeExchange()
    exchange.max_body = 2 * MIB
    made = flow(headers=[("Content-Encoding", coding)])
    made.request.data.content = BOMBS[coding]
    head = None
    control = ExchangeControl(made, exchange, record_limit=0, on_retry=None, client=Client(head, "fake", "chat"))
    made.request.headers["content-encoding"] = coding
    await control.prepare(made)
    assert error(made)["code"] == "bad_request"
    assert exchange.bodies == []


@pytest.mark.parametrize("coding", BOMBS)
def test_what_is_looked_into_is_bounded(coding):
    """Neither a view nor the search for a model's name undoes more than a little beyond its bound."""
    made = tutils.treq(content=BOMBS[coding], headers=Headers([]))
    made.headers["content-encoding"] = coding
    assert len(plain_body(made, MIB)) <= 6 * MIB
    assert len(codings.decode(BOMBS[coding], coding, MAX_DECODED)) <= MAX_DECODED + 5 * codings.PIECE


async def test_a_bomb_to_another_host_is_not_taken_over(world):
    """A request whose model is looked for is refused where it stands for more than kimi_max_body."""
    tctx, addon = world
    reception: Reception = addon.reception
    tctx.configure(addon, openai_hosts=["api.openai.com"], kimi_max_body=1)
    reception = addon.reception
    reception.providers = (FakeProvider(FakeExchange()),)
    made = flow("/v1/chat/completions", "api.openai.com", headers=[("Content-Encoding", "gzip")])
    await addon.requestheaders(made)
    assert isinstance(replay.control_of(made), takeover.ReadingControl)
    made.request.data.content = BOMBS["gzip"]
    await addon.request(made)
    assert "kimi_max_body" in error(made)["message"]


@pytest.mark.parametrize("life", [1e300, 10**30, 1e18, KIMI_LIFE + 1])
def test_an_absurd_lifetime_is_shortened(life):
    """A token that never runs out would never be renewed, and its moment could not be shown."""
    token = OAuthToken.from_response({"access_token": "a", "refresh_token": "b", "expires_in": life}, NOW)
    assert token.expires_at == NOW + KIMI_LIFE
    assert tokens_of({"accessToken": "a", "expiresIn": life}, NOW)["expires_at"] <= (NOW + MAX_LIFE) * 1000


@pytest.mark.parametrize("wait", ["9" * 400, "999999999", "Fri, 31 Dec 9999 23:59:59 GMT", "-5", "1e999", "NaN", "∞"])
def test_an_absurd_wait_is_shortened(wait):
    """Retry-After puts an account aside for a day at the most, whatever it says."""
    found = verdict.classify(429, Headers([("retry-after", wait)]), b"{}")
    assert found.retry_after is None or 0 <= found.retry_after <= verdict.MAX_RETRY_AFTER


@pytest.mark.parametrize("reset", ["9" * 17, 1e17, "9999-12-31T23:59:59Z", -1e17, "1e308", [], {}])
def test_an_absurd_reset_can_be_shown(reset):
    """However far a reset is, the row is told."""
    row = usage.parse({"usage": {"used": 1, "limit": 1, "resetTime": reset}}, NOW).rows[0]
    assert "left" in row.text(NOW)


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "file:///etc/passwd", "https://evil.test/", "--new-window", "\\\\evil\\x"]
)
async def test_a_page_of_another_site_is_neither_shown_nor_opened(url):
    """The address of the approval is the service's word, and is taken only for its own site."""
    fields = {"device_code": "fake-device-1", "user_code": "U", "verification_uri_complete": url}
    async with client(lambda: httpx.Response(200, json=fields)) as asked:
        with pytest.raises(LoginError) as caught:
            await oauth.request_code(asked, REGIONS["cn"], Headers())
    assert "fake-device" not in "".join(traceback.format_exception(caught.value))
