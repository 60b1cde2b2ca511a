"""Facts of the Kiro service that depend on no identity and no account (kiro.md §3.1, §3.3, §6.3, §7, §8)."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from kimi_core.errors import ConfigError
from kimi_core.origins import origin

LOCAL_PREFIX = "/kiro/"  # the local endpoint: http://127.0.0.1:PORT/kiro/v1/…

# --- regions and hosts -----------------------------------------------------------------------------------------------

DEFAULT_REGION = "us-east-1"
REGIONS = (DEFAULT_REGION, "eu-central-1")  # where the API is served
SERVED_FROM = {"us-": "us-east-1", "ap-": "us-east-1", "eu-": "eu-central-1"}  # prefix of a region -> API region

KEPT_REGIONS = 64  # answers that are remembered, about one for each account

_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-\d{1,2}")  # it becomes part of a host name that is sent a token
_HOLE = "{region}"
_ARN_REGION = 3  # arn:aws:codewhisperer:REGION:account:profile/id


@functools.lru_cache(maxsize=KEPT_REGIONS)
def api_region(region: str) -> str:
    """Return the region whose API serves *region*."""
    return next((home for prefix, home in SERVED_FROM.items() if region.startswith(prefix)), DEFAULT_REGION)


@functools.lru_cache(maxsize=KEPT_REGIONS)
def arn_region(arn: str) -> str | None:
    """Return the region that a profile ARN names, or None where it is no ARN."""
    parts = arn.split(":")
    found = parts[_ARN_REGION] if len(parts) > _ARN_REGION else ""
    return found if _REGION.fullmatch(found) else None


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Origins of the service, without a trailing slash: templates, or what the environment says instead.

    `runtime` generates; `management` and the older `q` list models, profiles and usage, and `q` generates as well.
    `oidc` is AWS SSO (Builder ID, IAM Identity Center), `auth` the login service of Google and GitHub users,
    `portal` where those log in.
    """

    runtime_origin: str = "https://runtime.{region}.kiro.dev"
    management_origin: str = "https://management.{region}.kiro.dev"
    q_origin: str = "https://q.{region}.amazonaws.com"
    oidc_origin: str = "https://oidc.{region}.amazonaws.com"
    auth_origin: str = "https://prod.{region}.auth.desktop.kiro.dev"
    portal: str = "https://app.kiro.dev"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Endpoints:
        """Return the origins with the overrides of *environ* (``OVERRIDES``), each for all regions.

        Raises ConfigError for anything but an origin of https, or of http on this machine.
        """
        return cls(**{field: origin(url) for field, name in OVERRIDES.items() if (url := environ.get(name))})

    def runtime(self, region: str) -> str:
        """Return the origin that generates for *region*."""
        return self.runtime_origin.replace(_HOLE, api_region(region))

    def management(self, region: str) -> str:
        """Return the origin of models, profiles and usage for *region*."""
        return self.management_origin.replace(_HOLE, api_region(region))

    def q(self, region: str) -> str:
        """Return the older origin of everything for *region*."""
        return self.q_origin.replace(_HOLE, api_region(region))

    def oidc(self, region: str) -> str:
        """Return the SSO origin of exactly *region*. Raises ConfigError for what is no region's name."""
        if not _REGION.fullmatch(region):
            raise ConfigError(f"{region!r} is no region of AWS; they look like eu-central-1.")
        return self.oidc_origin.replace(_HOLE, region)

    def auth(self, region: str) -> str:
        """Return the origin of the login service for Google and GitHub users."""
        return self.auth_origin.replace(_HOLE, api_region(region))

    def served(self) -> tuple[str, ...]:
        """Return every origin that answers API calls, each once, those that generate first."""
        names = (self.runtime, self.q, self.management)
        return tuple(dict.fromkeys(name(region) for name in names for region in REGIONS))

    def logins(self) -> tuple[str, ...]:
        """Return every origin at which somebody logs in, for the regions that serve the API."""
        names = (self.oidc, self.auth)
        return (self.portal, *dict.fromkeys(name(region) for name in names for region in REGIONS))


OVERRIDES = {  # field of `Endpoints` -> environment variable
    "runtime_origin": "KIRO_RUNTIME_URL",
    "management_origin": "KIRO_MANAGEMENT_URL",
    "q_origin": "KIRO_Q_URL",
    "oidc_origin": "KIRO_OIDC_URL",
    "auth_origin": "KIRO_AUTH_URL",
    "portal": "KIRO_PORTAL_URL",
}

# --- profiles that the service itself owns ---------------------------------------------------------------------------

SOCIAL_PROFILE = "arn:aws:codewhisperer:us-east-1:699475941385:profile/EHGA3GRVQMUK"
BUILDER_PROFILE = "arn:aws:codewhisperer:us-east-1:638616132270:profile/AAAACCCCXXXX"
BUILDER_START_URL = "https://view.awsapps.com/start"

# --- operations ------------------------------------------------------------------------------------------------------

AWS_JSON = "application/x-amz-json-1.0"
GENERATE_TARGET = "AmazonCodeWhispererStreamingService.GenerateAssistantResponse"
MODELS_TARGET = "AmazonCodeWhispererService.ListAvailableModels"
USAGE_TARGET = "AmazonCodeWhispererService.GetUsageLimits"
PROFILES_TARGET = "AmazonCodeWhispererService.ListAvailableProfiles"
