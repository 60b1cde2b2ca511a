"""``GET /models``: which models the plan has, what they can do, and what a client's model name means (kimi.md §4).

A list is read tolerantly: a field that is missing or odd is None, an item without an id is left out. What the server
does not say about a model is filled in by kimi-cli's own rules on model ids. The last good list is kept in a file per
login slot (no secrets), so that a restart knows the slugs before the first call.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic_core import from_json

from kimi_core.errors import StoreError, UpstreamError
from kimi_core.headers import Headers
from kimi_core.kimi.api import MAX_ANSWER, get_json
from kimi_core.kimi.constants import MODEL_ALIAS, Site
from kimi_core.plain import line

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

REFRESH_INTERVAL = 600.0  # seconds; discovery follows every token refresh, and those come every 7.5 minutes
TIMEOUT = 30.0  # seconds for the whole call
THINKING_TYPES = ("only", "no", "both")
THINKING_WORDS = ("thinking", "reason")  # kimi-cli: an id with one of them always thinks
CAPABLE_PREFIX = "kimi-k2"  # kimi-cli: thinking, images and video …
CAPABLE_IDS = (MODEL_ALIAS, "kimi-code")  # … and so have these


@dataclass(frozen=True, slots=True)
class Model:
    """One item of the list; None = the server does not say and nothing follows from the id.

    `context_length` is in tokens. `thinking_type`: "only" = cannot be switched off, "no" = cannot think, "both".
    `efforts` is empty unless the model lists levels that it takes; `protocol` "anthropic" switches the dialect.
    """

    id: str
    display_name: str | None = None
    context_length: int | None = None
    reasoning: bool | None = None
    image_in: bool | None = None
    video_in: bool | None = None
    thinking_type: str | None = None
    efforts: tuple[str, ...] = ()
    default_effort: str | None = None
    tool_use: bool | None = None
    protocol: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the item in the server's own shape; `parse` reads it back."""
        levels = {"support": True, "valid_efforts": list(self.efforts), "default_effort": self.default_effort}
        fields = {
            "display_name": self.display_name,
            "context_length": self.context_length,
            "supports_reasoning": self.reasoning,
            "supports_image_in": self.image_in,
            "supports_video_in": self.video_in,
            "supports_thinking_type": self.thinking_type,
            "think_efforts": levels if self.efforts else None,
            "supports_tool_use": self.tool_use,
            "protocol": self.protocol,
        }
        return {"id": self.id, **{name: value for name, value in fields.items() if value is not None}}


@dataclass(frozen=True, slots=True)
class Catalog:
    """The models of a plan in the server's order; `fetched_at` is in unix seconds, None = never."""

    models: tuple[Model, ...] = ()
    fetched_at: float | None = None

    def find(self, model_id: str) -> Model | None:
        """Return the model of exactly this id."""
        return next((model for model in self.models if model.id == model_id), None)

    def resolve(self, wanted: str) -> tuple[str, Model | None]:
        """Return the slug to send for a client's model name, and what is known of it.

        An id of the list is sent as it is. The alias ``kimi-for-coding``, where the list does not hold it, becomes
        the first coding model, and only then the first of all. Any other name passes unchanged: the list may be old.

        The trap (kimi.md §4): official clients take ``data[0]`` for their default, which is a general model (k3) on
        some plans. Taking it for the alias would move a user who asked for the coding model to another one, with
        another quota and another context, without a word; so the alias goes to ``data[0]`` only as a last resort.
        """
        model = self.find(wanted)
        if model is None and wanted == MODEL_ALIAS and self.models:
            model = next((m for m in self.models if _is_coding(m)), self.models[0])
        return (model.id if model else wanted), model


def parse(data: object, now: float) -> Catalog:
    """Return the catalog of a parsed ``/models`` answer; of two items with one id the first counts.

    Raises UpstreamError for anything without a single usable model, so that it never replaces a good list.
    """
    items = data.get("data") if isinstance(data, Mapping) else data
    if not isinstance(items, list):
        raise UpstreamError("The model list has an unknown shape.")
    found: dict[str, Model] = {}
    for item in items:
        if isinstance(item, Mapping) and (model_id := _text(item.get("id"))):
            found.setdefault(model_id, _model(model_id, item))
    if not found:
        raise UpstreamError("The model list holds no model.")
    return Catalog(tuple(found.values()), now)


async def fetch(
    client: httpx.AsyncClient, site: Site, headers: Headers, *, clock: Callable[[], float] = time.time
) -> Catalog:
    """Ask *site* for its models; *headers* are sent as they are, Authorization included.

    Raises UpstreamError; its `http_status` is 401 where the access token was refused.
    """
    data = await get_json(client, f"{site.base}/models", headers, what="The model list", seconds=TIMEOUT)
    return parse(data, clock())


class Shelf(Protocol):
    """Where a catalog is kept: one JSON document (`store.Document`)."""

    def read(self) -> dict[str, Any] | None:
        """Return the document, None where there is none. Raises StoreError."""
        ...

    def write(self, data: Mapping[str, Any]) -> None:
        """Replace the document. Raises StoreError or OSError."""
        ...


def cache_path(folder: Path, slot: str) -> Path:
    """Return the file of the catalog of a login slot."""
    return folder / f"models-{slot}.json"


class CatalogCache:
    """The catalog of one login slot: in memory, and on a shelf that survives a restart.

    Nothing here fails for want of a list: a shelf that cannot be read counts as empty, one that cannot be written is
    logged, and a failed refresh keeps what was known. Times are unix seconds and come from the caller.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._tried: float | None = None
        self.catalog = self._load()

    def due(self, now: float) -> bool:
        """Tell whether it is time to ask again; a clock that was set back counts as time passed."""
        known = [moment for moment in (self._tried, self.catalog.fetched_at) if moment is not None]
        return not known or not 0 <= now - max(known) < REFRESH_INTERVAL

    async def refresh(self, ask: Callable[[], Awaitable[Catalog]], now: float) -> Catalog:
        """Ask and keep the answer, however recent the last one is.

        The attempt counts for `due` from its beginning, so that calls side by side ask once. Raises UpstreamError (and
        whatever else *ask* raises); the old catalog then stays.
        """
        self._tried = now
        self._keep(await ask())
        return self.catalog

    def offer(self, body: bytes, now: float) -> bool:
        """Learn from a ``/models`` answer that passes through; tell whether it held a list."""
        if len(body) > MAX_ANSWER:
            return False
        try:
            self._keep(parse(from_json(body), now))
        except (ValueError, UpstreamError):
            return False
        return True

    def _keep(self, catalog: Catalog) -> None:
        self.catalog = catalog
        document = {"fetched_at": catalog.fetched_at, "data": [model.to_json() for model in catalog.models]}
        try:
            self._shelf.write(document)
        except (StoreError, OSError) as error:
            logger.warning("The model list could not be kept for the next start: %s", error)

    def _load(self) -> Catalog:
        try:
            document = self._shelf.read()
            when = _number(document.get("fetched_at")) if document else None
            return parse(document, when) if document and when is not None else Catalog()
        except (StoreError, OSError, UpstreamError) as error:
            logger.warning("The kept model list cannot be used and will be fetched again: %s", error)
            return Catalog()


def _model(model_id: str, item: Mapping[str, Any]) -> Model:
    """Read one item. The server's word counts, kimi-code's precedence: thinking type over supports_reasoning."""
    always = any(word in model_id.lower() for word in THINKING_WORDS)
    capable = True if model_id.startswith(CAPABLE_PREFIX) or model_id in CAPABLE_IDS else None
    reasoning = _flag(item.get("supports_reasoning"))
    thinking = item.get("supports_thinking_type")
    if thinking not in THINKING_TYPES:
        thinking = "only" if always and reasoning is not False else None
    if thinking is not None:
        reasoning = thinking != "no"
    efforts, default = _efforts(item.get("think_efforts"))
    return Model(
        id=model_id,
        display_name=_text(item.get("display_name")),
        context_length=_count(item.get("context_length")),
        reasoning=_first(reasoning, capable),
        image_in=_first(_flag(item.get("supports_image_in")), capable),
        video_in=_first(_flag(item.get("supports_video_in")), capable),
        thinking_type=thinking,
        efforts=efforts,
        default_effort=default,
        tool_use=_flag(item.get("supports_tool_use")),
        protocol=_text(item.get("protocol")),
    )


def _efforts(value: object) -> tuple[tuple[str, ...], str | None]:
    """Return the levels and the default of ``think_efforts``; both empty unless ``support`` is true."""
    if not isinstance(value, Mapping) or value.get("support") is not True:
        return (), None
    listed = value.get("valid_efforts")
    levels = tuple(dict.fromkeys(filter(None, map(_text, listed)))) if isinstance(listed, list) else ()
    default = _text(value.get("default_effort"))
    return levels, default if default in levels else None


def _is_coding(model: Model) -> bool:
    return "coding" in f"{model.id} {model.display_name}".lower()


def _first(said: bool | None, otherwise: bool | None) -> bool | None:
    return otherwise if said is None else said


def _text(value: object) -> str | None:
    return line(value.strip()) or None if isinstance(value, str) else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _count(value: object) -> int | None:
    """Return a positive whole number, also where it is written as text or as a float."""
    try:
        number = int(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else 0
    except (ValueError, OverflowError):  # "many", NaN, Infinity
        return None
    return number if number > 0 else None
