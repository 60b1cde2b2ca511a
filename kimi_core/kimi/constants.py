"""Facts of the Kimi Code service that do not depend on an identity (protocol: kimi.md §0, §1)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit

from kimi_core.origins import check

CLIENT_ID = "17e5f671-d194-4dfb-9706-5516cb48c098"  # public; the same in both regions and in every official client
MODEL_ALIAS = "kimi-for-coding"
LOCAL_PREFIX = "/kimi/"  # the local endpoint: http://127.0.0.1:PORT/kimi/v1/…
LABEL = "Bearer [kimi]"  # what a flow shows in place of the login …
OWN_KEY_LABEL = "[own key]"  # … and of a key of the client's own
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Site:
    """One place to log in and to send requests to.

    `slot` names the stored login; `oauth` is an origin (``https://auth.kimi.com``); `base` is the API base with its
    path (``https://api.kimi.com/coding/v1``), both without a trailing slash.
    """

    slot: str
    oauth: str
    base: str

    @cached_property
    def scheme(self) -> str:
        """Scheme of the API."""
        return urlsplit(self.base).scheme

    @cached_property
    def host(self) -> str:
        """Host name of the API, lower case."""
        return urlsplit(self.base).hostname or ""

    @cached_property
    def port(self) -> int:
        """Port of the API."""
        parts = urlsplit(self.base)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @cached_property
    def path(self) -> str:
        """Path of the API base (``/coding/v1``)."""
        return urlsplit(self.base).path


REGIONS: dict[str, Site] = {
    "cn": Site("kimi.com", "https://auth.kimi.com", "https://api.kimi.com/coding/v1"),
    "global": Site("kimi.ai", "https://auth.kimi.ai", "https://api.kimi.ai/coding/v1"),
}


def site_for(region: str, environ: Mapping[str, str] = os.environ) -> Site:
    """Return the site of *region* with kimi-cli's overrides from the environment (kimi.md §1.1).

    KIMI_CODE_OAUTH_HOST, else KIMI_OAUTH_HOST, replaces the login origin; KIMI_CODE_BASE_URL the API base. An
    overridden site has a login slot of its own, so that a token of one place is never sent to another.
    Raises ConfigError for anything but https, or http to a loopback address.
    """
    home = REGIONS[region]
    oauth = (environ.get("KIMI_CODE_OAUTH_HOST") or environ.get("KIMI_OAUTH_HOST") or home.oauth).rstrip("/")
    base = (environ.get("KIMI_CODE_BASE_URL") or home.base).rstrip("/")
    if (oauth, base) == (home.oauth, home.base):
        return home
    for url in (oauth, base):
        check(url)
    slot = "@".join(dict.fromkeys(urlsplit(url).netloc.lower().replace(":", "_") for url in (base, oauth)))
    return Site(slot, oauth, base)


def sites(region: str, environ: Mapping[str, str] = os.environ) -> tuple[Site, ...]:
    """Return every site that is served: that of *region* (with its overrides) first, then the other regions."""
    first = site_for(region, environ)
    return (first, *(site for site in REGIONS.values() if site.host != first.host))
