"""Origins that a user may put in place of a service's own: which are taken."""

from __future__ import annotations

from urllib.parse import urlsplit

from kimi_core.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def check(url: str) -> None:
    """Raise ConfigError for anything but https, or http to this machine itself: what goes there carries a token."""
    if "@" in url.partition("://")[2].partition("/")[0]:  # it would stand in names of files, and in messages
        raise ConfigError("An address with a user name or a password in it is not taken.")
    if not _taken(url):
        raise ConfigError(f"{url!r} is no https address; plain http is taken only for this machine itself.")


def _taken(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError:
        return False
    plain = parts.scheme == "http" and parts.hostname in LOOPBACK
    return bool(parts.hostname) and (parts.scheme == "https" or plain)


def origin(url: str) -> str:
    """Return *url* as an origin, lower case and without a trailing slash. Raises ConfigError, also for a path."""
    check(url)
    parts = urlsplit(url)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigError(f"{url!r} is no origin: only scheme, host and port are taken.")
    return f"{parts.scheme}://{parts.netloc.lower()}"
