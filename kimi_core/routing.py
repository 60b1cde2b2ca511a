"""Path and host arithmetic for deciding whose request this is; pure.

A proxy that adds credentials must not be talked into adding them elsewhere: hosts are compared as they are, by
equality, and a path that a server could read differently from us (dot segments, encoded slashes, backslashes,
doubled slashes) belongs to nobody.
"""

from __future__ import annotations

import re

# what one server normalises away and another does not: RFC 3986 §5.2.4, §6.2.2
_AMBIGUOUS = re.compile(r"//|\\|%(?:2f|5c|2e|00|25)|/\.{1,2}(?:[/;]|$)", re.IGNORECASE)
_ILLEGAL = re.compile(r"[\x00-\x20\x7f#]")  # in no request target (RFC 9112 §3.2); would end the line, or the path


def below(path: str, folder: str) -> str | None:
    """Return what of *path* (query and all) lies below *folder* (which ends in a slash), None if it does not.

    None, too, for a path that could mean another place to the server than to us.
    """
    bare = path.partition("?")[0]
    if not path.startswith(folder) or _AMBIGUOUS.search(bare) or _ILLEGAL.search(path):
        return None
    return path[len(folder) :]


def authority(scheme: str, host: str, port: int) -> str:
    """Return the Host header's value (RFC 9110 §7.2): the port only where it is not the scheme's own."""
    name = f"[{host}]" if ":" in host else host
    return name if port == {"https": 443, "http": 80}.get(scheme) else f"{name}:{port}"
