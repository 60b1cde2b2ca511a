"""Small records inside the accounts' document, and what all of them share: unknown keys kept, no secret shown."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

SHOWN = frozenset({"id", "label", "auth_method", "region", "state", "enabled", "is_healthy"})  # all that a repr has


class Record(BaseModel):
    """Keeps unknown keys; shows nothing in a repr but `SHOWN`, and no value in a message."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return [(name, getattr(self, name)) for name in type(self).model_fields if name in SHOWN]

    @model_serializer(mode="wrap")
    def _without_absent(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        return {key: value for key, value in serialize(self).items() if value is not None or key not in fields}

    def to_json(self) -> dict[str, Any]:
        """Return the object for the document; fields of ours that are None are left out."""
        return self.model_dump(mode="json")


class UsageRecord(Record):
    """Credits of an account when they were last asked for (kiro.md §8); `resets_at` is when they begin anew."""

    used: float = 0.0
    limit: float = 0.0
    fetched_at: int = 0
    plan: str | None = None
    resets_at: int | None = None


class Source(Record):
    """The place in another program's store that a shared account is read from each time (`sources.read`)."""

    kind: str
    path: str
    key: str = ""


class ForkRecord(Record):
    """What became of another program's refresh token that was offered for import: "forked", "known", "rejected"."""

    outcome: Literal["forked", "known", "rejected"]
    at: int = 0
    account: str | None = None


class Registration(Record):
    """This program as a client of one region's SSO service, until `expires_at` (milliseconds)."""

    client_id: str
    client_secret: str
    expires_at: int = 0
