"""The files that the page's HTML names, style sheet, script and icon, and the policy that they are loaded under."""

from __future__ import annotations

from functools import cache
from importlib import resources

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
ASSETS = {  # name -> media type
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


@cache
def asset(name: str) -> bytes:
    """Return one of `ASSETS`."""
    return resources.files(__package__).joinpath("assets", name).read_bytes()
