"""Small records inside the accounts' document, and what all of them share: unknown keys kept, no secret shown.

A record with a value that is not known here was made by a newer version: it is `Tolerant`ly read as far as it is
understood, and written back as it stands, whatever is done with it here.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_serializer,
)

SHOWN = frozenset({"id", "label", "auth_method", "region", "state", "enabled", "is_healthy"})  # all that a repr has


class Record(BaseModel):
    """Keeps unknown keys; shows nothing in a repr but `SHOWN`, and no value in a message."""

    # built when first used: a start without accounts does not wait for it
    model_config = ConfigDict(extra="allow", hide_input_in_errors=True, defer_build=True)

    INSTEAD: ClassVar[dict[str, Any]] = {}  # fields of a record that is not wholly understood
    _unknown: tuple[str, ...] = PrivateAttr(())
    _stands: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def unknown(self) -> tuple[str, ...]:
        """The fields whose value is not known here; they have their defaults, and the record is never altered."""
        private = self.__pydantic_private__  # pydantic finds `self._unknown` by way of an exception
        return private["_unknown"] if private else ()

    def keep(self, stands: dict[str, Any], unknown: tuple[str, ...]) -> None:
        """Be written as it *stands* from now on, since *unknown* of that was left out."""
        self._stands, self._unknown = stands, unknown

    def changed(self, **fields: Any) -> Self:
        """Return a copy with these *fields*, which are the record's own.

        It is `model_copy(update=…)` at a third of its cost, for what happens with every request.
        """
        kind = type(self)
        copy = kind.__new__(kind)
        put = object.__setattr__  # a frozen record is made this way, too
        put(copy, "__dict__", {**self.__dict__, **fields})
        put(copy, "__pydantic_fields_set__", {*self.__pydantic_fields_set__, *fields})
        put(copy, "__pydantic_extra__", dict(self.__pydantic_extra__ or {}))
        put(copy, "__pydantic_private__", dict(self.__pydantic_private__ or {}))
        return copy

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return [(name, getattr(self, name)) for name in type(self).model_fields if name in SHOWN]

    @model_serializer(mode="wrap")
    def _without_absent(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        if self._unknown:
            return self._stands
        fields = type(self).model_fields
        return {key: value for key, value in serialize(self).items() if value is not None or key not in fields}

    def to_json(self) -> dict[str, Any]:
        """Return the object for the document; fields of ours that are None are left out."""
        return self.model_dump()  # values of others stay what JSON made of them


def _as_far_as_understood(value: object, validate: ValidatorFunctionWrapHandler) -> Record:
    """Return the record in *value*; where members do not fit, with these left out, and *value* kept as it stands."""
    try:
        record: Record = validate(value)
    except ValidationError as error:
        if not isinstance(value, dict):
            raise
        faults = error.errors(include_input=False, include_url=False, include_context=False)
        unknown = tuple(dict.fromkeys(str(fault["loc"][0]) for fault in faults))
        part: Record = validate({key: item for key, item in value.items() if key not in unknown})
        record = part.model_copy(update=part.INSTEAD)
        record.keep(value, unknown)
    return record


Tolerant = WrapValidator(_as_far_as_understood)


class UsageRecord(Record):
    """Credits of an account when they were last asked for (kiro.md §8); `resets_at` is when they begin anew."""

    used: float = 0.0
    limit: float = 0.0
    fetched_at: int = 0
    plan: str | None = None
    resets_at: int | None = None


type SourceKind = Literal["opencode", "kiro-cli", "kiro-ide", "opencode-db", "environment"]  # `sources.NAMES`


class Source(Record):
    """The place in another program's store that a shared account is read from each time (`sources.read`)."""

    kind: SourceKind
    path: str
    key: str = ""


class ForkRecord(Record):
    """What became of another program's refresh token that was offered for import: "forked", "known", "rejected".

    Whatever else stands there, the token was dealt with.
    """

    outcome: str = ""
    at: int = 0
    account: str | None = None


class Registration(Record):
    """This program as a client of one region's SSO service, until `expires_at` (milliseconds)."""

    client_id: str = ""
    client_secret: str = ""
    expires_at: int = 0
