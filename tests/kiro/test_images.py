import base64

import pytest

from kimi_core.errors import BadRequest
from kimi_core.kiro import images
from kimi_core.kiro.images import FORMATS, image

BYTES = {
    "png": b"\x89PNG\r\n\x1a\n....",
    "jpeg": b"\xff\xd8\xff\xe0....",
    "gif": b"GIF89a....",
    "webp": b"RIFF\x01\x02\x03\nWEBPVP8 ",
}


def url(data=b"abc", head="data:image/png;base64,"):
    """Return a data URL."""
    return head + base64.b64encode(data).decode()


@pytest.mark.parametrize("named", [*FORMATS, "IMAGE/PNG", ""])
@pytest.mark.parametrize(("kind", "data"), BYTES.items())
def test_the_bytes_say_what_it_is(named, kind, data):
    """Whatever the URL says: clients name one kind after another."""
    assert image(url(data, f"data:{named};base64,"), "p") == {
        "format": kind,
        "source": {"bytes": base64.b64encode(data).decode()},
    }


@pytest.mark.parametrize(("named", "kind"), FORMATS.items())
def test_unknown_bytes_are_what_the_url_says(named, kind):
    """The service looks for itself. jpg is jpeg."""
    assert image(url(head=f"data:{named};base64,"), "p")["format"] == kind


def test_other_parameters_are_no_matter():
    """RFC 2397 allows them before base64."""
    assert image(url(head="DATA:image/png;name=x.png;BASE64,"), "p")["format"] == "png"


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("https://example.com/a.png", "not fetched"),
        ("http://169.254.169.254/", "not fetched"),
        ("file:///etc/passwd", "not fetched"),
        ("", "not fetched"),
        ("data:image/png;base64", "not fetched"),
        ("data:image/png,%89PNG", "is not base64"),
        ("data:image/png;base64,a*c=", "not base64"),
        ("data:image/png;base64,YWJj=", "not base64"),
        ("data:image/png;base64,YWJj====", "not base64"),
        ("data:image/png;base64,é", "not base64"),
        ("data:image/png;base64,YW\nJj", "not base64"),
        ("data:image/png;base64,", "empty"),
        (url(head="data:image/svg+xml;base64,"), r"not image/svg\+xml"),
        (url(head="data:application/pdf;base64,"), "not application/pdf"),
        (url(head="data:;base64,"), "not text/plain"),
    ],
)
def test_what_is_no_image_is_refused(address, word):
    """With the path, and what would do."""
    with pytest.raises(BadRequest, match=word) as caught:
        image(address, "messages[0].content[1].image_url.url")
    assert caught.value.param == "messages[0].content[1].image_url.url"


def test_an_image_may_have_ten_mebibytes(monkeypatch):
    """The bound itself fits; the refusal says both numbers."""
    assert images.MAX_BYTES == 10 * 1024 * 1024
    monkeypatch.setattr(images, "MAX_BYTES", images.MIB)
    fits = BYTES["png"].ljust(images.MIB, b".")
    assert image(url(fits), "p")
    with pytest.raises(BadRequest, match=r"has 1\.0 MiB; Kiro takes 1\.0"):
        image(url(fits + b"."), "p")
