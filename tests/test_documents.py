import httpx
import pytest

from kimi_core import documents
from kimi_core.headers import Headers

URL = "https://management.example/"
HEADERS = Headers([("content-type", "application/x-amz-json-1.0"), ("authorization", "Bearer fake-access-1")])


async def _post(handler):
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        return await documents.fetch(client, "POST", URL, HEADERS, what="The thing", seconds=5.0, content=b'{"a":1}')


async def test_a_post_is_sent_as_given():
    """Body and header fields go out as they are, beside Host and the length alone."""
    seen = []

    def handler(request):
        seen.append(request)
        return httpx.Response(200, json=[1])

    assert await _post(handler) == [1]
    assert (seen[0].method, seen[0].content) == ("POST", b'{"a":1}')
    assert [(k.decode(), v.decode()) for k, v in seen[0].headers.raw] == [
        ("Host", "management.example"),
        *HEADERS,
        ("Content-Length", "7"),
    ]


async def test_a_refusal_keeps_what_came():
    """Who knows the service's errors can read status, header fields and body; none of them shows in the message."""
    with pytest.raises(documents.Declined) as caught:
        await _post(lambda _: httpx.Response(403, headers={"x-amzn-errortype": "A:http"}, text="fake-access-1 no"))
    error = caught.value
    assert (error.http_status, error.body) == (403, b"fake-access-1 no")
    assert error.headers.get("x-amzn-errortype") == "A:http"
    assert "fake-access-1" not in f"{error}{error!r}"


async def test_a_refusal_is_bounded():
    """Of an endless refusal no more is kept than of any answer."""
    with pytest.raises(documents.Declined) as caught:
        await _post(lambda _: httpx.Response(500, content=b"x" * (documents.MAX_ANSWER + 10)))
    assert len(caught.value.body) == documents.MAX_ANSWER
