"""Images of a chat request as Kiro takes them (kiro.md §3.5, §4.1).

An image travels in the request itself, as a data URL (RFC 2397). What another server would have to be asked for is
refused: a proxy that fetches what a web page or a model names is a way into its user's network.
"""

from __future__ import annotations

import binascii
import re
from typing import Any

from kimi_core.errors import BadRequest

MAX_IMAGES = 10  # per message (service model, official client)
MIB = 1024 * 1024
MAX_BYTES = 10 * MIB  # of one image, decoded (official client)
FORMATS = {"image/png": "png", "image/jpeg": "jpeg", "image/jpg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
"""Media type -> format on the wire."""

_HEAD = re.compile(r"data:(?P<type>[^;,\s]*)(?P<parameters>(?:;[^;,]*)*),", re.IGNORECASE)
_MAX_HEAD = 256  # characters before the comma that are looked at
_MAGIC = (  # the first bytes of a file of each format
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "png"),
    (re.compile(rb"\xff\xd8\xff"), "jpeg"),
    (re.compile(rb"GIF8[79]a"), "gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "webp"),
)

type Image = dict[str, Any]


def image(url: str, path: str) -> Image:
    """Return ``{"format", "source": {"bytes": base64}}`` for the data URL *url*, which stands at *path*.

    The format is what the bytes say, and what the URL says where they say nothing: clients name screenshots of one kind
    after another. Raises BadRequest.
    """
    head = _HEAD.match(url[:_MAX_HEAD])
    if head is None:
        raise BadRequest(
            "Kiro takes images as data: URLs only (data:image/png;base64,…); addresses are not fetched. Send the image "
            "itself.",
            path,
        )
    if "base64" not in head["parameters"].lower().split(";"):
        raise BadRequest("The data: URL of an image is not base64.", path)
    named = FORMATS.get(head["type"].lower())
    text = url[head.end() :]
    try:
        data = _decoded(text)
    except ValueError as error:
        raise BadRequest("The data: URL of an image holds something that is not base64.", path) from error
    if not data:
        raise BadRequest("The image is empty.", path)
    if len(data) > MAX_BYTES:
        # no exact numbers: a client may take the 500 in one for a status, and ask again
        raise BadRequest(
            f"The image has {len(data) / MIB:.1f} MiB; Kiro takes {MAX_BYTES / MIB:.1f} at the most.", path
        )
    found = next((name for magic, name in _MAGIC if magic.match(data)), named)
    if found is None:
        raise BadRequest(
            f"Kiro takes images of the types png, jpeg, gif and webp, not {head['type'] or 'text/plain'}.", path
        )
    return {"format": found, "source": {"bytes": text}}


def _decoded(text: str) -> bytes:
    """Return what *text* stands for. Raises ValueError where it is no base64 (RFC 4648 §4), or not ASCII."""
    if len(text) % 4 or text.endswith("==="):  # Python 3.12 takes more padding than there is to fill
        raise ValueError("the padding is wrong")
    return binascii.a2b_base64(text, strict_mode=True)
