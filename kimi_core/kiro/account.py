"""One Kiro account: its shape, whether it is the same as another, and what logins and rejections make of it.

The names are those that users of other multi-account tools know (kiro.md §10); moments are milliseconds since 1970.
Keys that are not known here are kept, and so is the whole of an account with a value that is not known here. An account
is the same account by its user, or by the chain of refresh tokens that it came from; never by its label.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator

from kimi_core.kiro.constants import BUILDER_PROFILE, SOCIAL_PROFILE
from kimi_core.kiro.expiry import milliseconds
from kimi_core.kiro.records import Record, Source, UsageRecord
from kimi_core.plain import line
from kimi_core.tokens import digest

SHARED_PROFILES = frozenset({SOCIAL_PROFILE, BUILDER_PROFILE})  # of all users of that kind of login: nobody's own
MARGIN = 300  # seconds of life left at which a token is renewed, and up to as many again by chance
SHARED_MARGIN = 30.0  # seconds, for an account of another program, which is to renew it itself
LONG_LIFE = 10**9  # milliseconds: of a token whose beginning is not known

type AuthMethod = Literal["desktop", "idc", "builder", "external_idp", "api_key"]
type State = Literal["ok", "needs_login", "suspended"]


class Account(Record):
    """One account; frozen: changes are copies (`model_copy(update=…)`).

    `auth_method` says which service renews it: "desktop" (social), "idc", "builder", "external_idp", or "api_key",
    which nothing renews. `region` is the API's, `oidc_region` that of the SSO service. `state` is "needs_login" once
    the refresh token was turned down, and "suspended" once the service locked the account; `enabled` is the user's
    word. `identity_hash` is made once, from the user or the first refresh token. `imported_from` maps the place an
    import came from to the digest of the refresh token found there. `source` makes it a shared account, and
    `shared_base` is the digest of the source's refresh token that the tokens kept here were made from.
    `rejected_refresh` is the digest of the refresh token that was turned down last, at `rejected_at`.
    """

    model_config = ConfigDict(frozen=True)
    INSTEAD: ClassVar[dict[str, Any]] = {"enabled": False}  # nobody knows what its use would do

    id: str
    label: str = ""
    email: str = ""
    user_id: str = ""
    auth_method: AuthMethod = "desktop"
    region: str = "us-east-1"
    oidc_region: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    client_secret_expires_at: int | None = None
    profile_arn: str | None = None
    start_url: str | None = None
    token_endpoint: str | None = None
    issuer_url: str | None = None
    scopes: tuple[str, ...] | None = None
    access_token: str = ""
    refresh_token: str = ""
    expires_at: int = 0
    refreshed_at: int = 0
    rejected_refresh: str | None = None
    rejected_at: int = 0
    enabled: bool = True
    state: State = "ok"
    is_healthy: bool = True
    consecutive_failures: int = 0
    cooldown_until: int | None = None
    last_error: str | None = None
    usage: UsageRecord | None = None
    quota_state: Literal["available", "exhausted", "unknown"] = "unknown"
    quota_updated_at: int = 0
    request_count: int = 0
    last_used: int = 0
    added_at: int = 0
    identity_hash: str = ""
    imported_from: dict[str, str] = Field(default_factory=dict)
    source: Source | None = None
    shared_base: str | None = None
    host_winner: str | None = None
    machine_id: str = ""

    @field_validator("expires_at", "client_secret_expires_at", "cooldown_until", mode="before")
    @classmethod
    def _moment(cls, value: object) -> int | None:
        return None if value is None else milliseconds(value)

    @field_validator("label", "email")
    @classmethod
    def _shown(cls, value: str) -> str:
        return line(value)

    @property
    def renewable(self) -> bool:
        """Whether there is something that a refresh service could be asked with."""
        return self.auth_method != "api_key" and bool(self.refresh_token)

    @property
    def own_profile(self) -> str | None:
        """The profile ARN, unless it is one that all users of a kind of login share."""
        return self.profile_arn if self.profile_arn and self.profile_arn not in SHARED_PROFILES else None

    def remaining(self, now: float) -> float:
        """Return the seconds of life left in the access token at *now* (unix seconds); an API key has no end."""
        return float("inf") if self.auth_method == "api_key" else self.expires_at / 1000 - now

    def due(self, now: float) -> bool:
        """Tell whether it is time to renew the access token at *now* (unix seconds), ahead of its end.

        Five to ten minutes ahead (kiro.md §7.3), the same for one token in every process, different among accounts,
        and at most half of a short token's life. Of a shared account only its owner is ahead of time.
        """
        if self.source is not None:
            return self.remaining(now) < SHARED_MARGIN
        if self.remaining(now) >= 2 * MARGIN:
            return False
        jitter = int(digest(self.access_token)[:8], 16) % MARGIN
        life = self.expires_at - self.refreshed_at if self.refreshed_at else LONG_LIFE
        return self.remaining(now) * 1000 < min((MARGIN + jitter) * 1000, life / 2)

    @property
    def held_back(self) -> bool:
        """Whether the refresh token has been turned down, so that nobody is to try it again unasked."""
        return bool(self.refresh_token) and self.rejected_refresh == digest(self.refresh_token)

    def buried(self, error: str, now: float, *, refused: bool = False) -> Account:
        """Return the account after its refresh token was turned down with *error* at *now* (unix seconds).

        It still serves for as long as its access token does, unless that was *refused* too.
        """
        marks: dict[str, Any] = {
            "rejected_refresh": digest(self.refresh_token),
            "rejected_at": int(now * 1000),
            "last_error": error,
        }
        if (refused or self.remaining(now) <= 0) and self.state == "ok":
            marks |= {"state": "needs_login", "is_healthy": False}
        return self.model_copy(update=marks)

    def is_twin_of(self, other: Account) -> bool:
        """Tell whether both are the same account: the same user, or refresh tokens of one chain.

        One person may have several profiles of an organisation; those are different accounts. Where both users are
        known, they alone decide.
        """
        if self.user_id and other.user_id:
            profiles = {profile for profile in (self.own_profile, other.own_profile) if profile}
            return self.user_id == other.user_id and len(profiles) <= 1
        return bool(self.chain & other.chain)

    @property
    def chain(self) -> frozenset[str]:
        """The digests by which a refresh token (or key) is known to belong to this account."""
        secret = self.access_token if self.auth_method == "api_key" else self.refresh_token
        marks = {self.identity_hash, *self.imported_from.values(), digest(secret) if secret else ""}
        return frozenset(marks - {""})

    @property
    def placeholder(self) -> str:
        """The label of an account of which nothing is known that a person would recognise."""
        return f"kiro-{self.auth_method}-{self.id[:8]}"

    def founded(self, *, clock: Callable[[], float] = time.time) -> Account:
        """Return the account with what it gets once, when it is added: label, identity, machine id, moment."""
        secret = self.access_token if self.auth_method == "api_key" else self.refresh_token
        root = f"user:{self.user_id}|{self.own_profile or ''}" if self.user_id else secret
        once = {
            "label": self.label or self.email or self.placeholder,
            "identity_hash": self.identity_hash or digest(root),
            "machine_id": self.machine_id or secrets.token_hex(32),
            "added_at": self.added_at or int(clock() * 1000),
        }
        return self.model_copy(update=once)

    def succeeded_by(self, new: Account) -> Account:
        """Return this account with the login of *new*, its twin: tokens replaced, health forgiven, the rest kept.

        What *new* does not know stays as it was; a suspended account stays suspended.
        """
        login = {name: value for name in LOGIN_FIELDS if (value := getattr(new, name))}
        health: dict[str, Any] = {}
        if self.state != "suspended":
            health = {"state": "ok", "is_healthy": True, "consecutive_failures": 0}
            health |= {"cooldown_until": None, "last_error": None, "rejected_refresh": None}
        merged: dict[str, Any] = {"imported_from": self.imported_from | new.imported_from}
        merged |= {name: getattr(new, name) for name in ("expires_at", "source", "shared_base")}
        return self.model_copy(update=login | health | merged)


LOGIN_FIELDS = (  # what a new login of the same account brings
    "email", "user_id", "auth_method", "region", "oidc_region", "client_id", "client_secret",
    "client_secret_expires_at", "profile_arn", "start_url", "token_endpoint", "issuer_url", "scopes", "access_token",
    "refresh_token", "refreshed_at",
)  # fmt: skip
