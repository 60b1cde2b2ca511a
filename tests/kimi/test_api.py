import asyncio

import httpx
import pytest

from kimi_core.errors import UpstreamError
from kimi_core.headers import Headers
from kimi_core.kimi import api

URL = "https://api.example/coding/v1/usages"
HEADERS = Headers([("Authorization", "Bearer fake-access-1"), ("X-Msh-Platform", "kimi_cli")])


async def _ask(handler, seconds=5.0):
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        return await api.get_json(client, URL, HEADERS, what="The thing", seconds=seconds)


async def test_sends_exactly_the_headers_given():
    """No header of the HTTP library slips in beside those of the identity."""
    seen = []

    def handler(request):
        seen.append(request)
        return httpx.Response(200, json={"a": [1]})

    assert await _ask(handler) == {"a": [1]}
    assert seen[0].method == "GET"
    assert str(seen[0].url) == URL
    assert [(k.decode(), v.decode()) for k, v in seen[0].headers.raw] == [("Host", "api.example"), *HEADERS]


@pytest.mark.parametrize("status", [204, 301, 401, 402, 403, 404, 429, 500])
async def test_status_other_than_200(status):
    """Any status but 200 is an error that carries the status and an excerpt on one line."""
    with pytest.raises(UpstreamError, match=f"The thing was answered with status {status}") as caught:
        await _ask(lambda _: httpx.Response(status, text="no\n\tgood\x00 " + "x" * 500))
    assert caught.value.http_status == status
    assert '"no good xxx' in str(caught.value)
    assert len(str(caught.value)) < 300


async def test_echoed_credentials_are_cut_out():
    """An answer that repeats the request's Authorization does not bring the token into the message."""
    with pytest.raises(UpstreamError) as caught:
        await _ask(
            lambda request: httpx.Response(403, text=f"you sent {request.headers['authorization']}, fake-access-1")
        )
    assert "fake-access-1" not in str(caught.value)
    assert '"you sent Bearer …, …"' in str(caught.value)


async def test_no_json():
    """A login page of a corporate proxy is named with its beginning."""
    with pytest.raises(UpstreamError, match='The thing is no JSON: "<html>sign in</html>"') as caught:
        await _ask(lambda _: httpx.Response(200, text="<html>sign in</html>"))
    assert caught.value.http_status == 200


async def test_empty_body():
    """An empty answer is no JSON, and nothing is quoted."""
    with pytest.raises(UpstreamError, match=r"The thing is no JSON\.$"):
        await _ask(lambda _: httpx.Response(200))


async def test_too_long():
    """Reading stops soon after the bound."""
    read = 0

    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self):
            nonlocal read
            while True:
                read += 1
                yield b"x" * 65536

    with pytest.raises(UpstreamError, match="longer than"):
        await _ask(lambda _: httpx.Response(200, stream=Endless()))
    assert read * 65536 <= api.MAX_ANSWER + 2 * 65536


async def test_transport_failure():
    """A failing connection is an UpstreamError without a status."""

    def handler(request):
        raise httpx.ConnectError("boom", request=request)

    with pytest.raises(UpstreamError, match=r"could not be fetched: ConnectError\.") as caught:
        await _ask(handler)
    assert caught.value.http_status is None


async def test_deadline():
    """The bound is for the whole call."""

    async def handler(_):
        await asyncio.Event().wait()

    with pytest.raises(UpstreamError, match=r"did not come within 0\.001 s"):
        await _ask(handler, seconds=0.001)
