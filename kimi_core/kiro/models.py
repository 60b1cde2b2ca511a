"""The model list of each account: asked for, kept over failures and restarts, joined for clients (kiro.md §6.3)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, date, datetime, time
from functools import reduce
from pathlib import Path
from typing import Any

from kimi_core.errors import StoreError, UpstreamError
from kimi_core.kiro import effort
from kimi_core.kiro.catalog import FALLBACK, FALLBACK_DATE, TEXT, Catalog, ModelInfo, next_token, parse
from kimi_core.kiro.identity import KiroIdentity
from kimi_core.kiro.management import Caller, Question, pages
from kimi_core.store import Document

logger = logging.getLogger(__name__)

FILE = "kiro-models.json"
LIFE = 3600.0  # seconds that a list is good for (kiro.md §6.3)
PAUSE = 60.0  # seconds after a try that failed
LOCK_WAIT = 10.0  # seconds; holders only read, change and write the document
OWNER = "kiro"


def question(identity: KiroIdentity) -> Question:
    """Return the question for the model list."""
    return Question("models", "The model list", {"origin": identity.origin})


async def fetch(caller: Caller, account_id: str, now: float) -> Catalog:
    """Ask for the models of an account, all pages. Raises as `Caller.ask`."""
    answers = await pages(caller, account_id, question, next_token)
    return reduce(Catalog.joined, (parse(answer, now) for answer in answers))


class Catalogs:
    """The lists of all accounts: in memory, and in one document without secrets that survives a restart.

    Nothing here fails for want of a list: a document that cannot be read counts as empty, one that cannot be written
    is logged, and a failed refresh keeps what was known. Times are unix seconds and come from the caller.
    """

    def __init__(self, folder: Path) -> None:
        self.document = Document(folder / FILE)
        self._tried: dict[str, float] = {}
        self._lists = self._load()
        self._joined: dict[tuple[str, ...], Catalog] = {}  # of these accounts, for as long as no list changes

    def known(self, account_id: str) -> Catalog | None:
        """Return the list of one account, None where there was never one."""
        return self._lists.get(account_id)

    def joined(self, account_ids: Iterable[str]) -> Catalog:
        """Return the models of all these accounts, each once; the fallback list where none of theirs is known."""
        known = tuple(account_id for account_id in account_ids if account_id in self._lists)
        found = self._joined.get(known)
        if found is None:
            found = reduce(Catalog.joined, (self._lists[account_id] for account_id in known)) if known else FALLBACK
            self._joined = {known: found}
        return found

    def due(self, account_id: str, now: float) -> bool:
        """Tell whether it is time to ask for an account's list; a clock that was set back counts as time passed."""
        found, tried = self._lists.get(account_id), self._tried.get(account_id)
        fresh = found is not None and found.fetched_at is not None and 0 <= now - found.fetched_at < LIFE
        return not fresh and (tried is None or not 0 <= now - tried < PAUSE)

    async def refresh(self, account_id: str, ask: Callable[[], Awaitable[Catalog]], now: float) -> Catalog:
        """Ask and keep the answer, however recent the last one is.

        The try counts for `due` from its beginning, so that calls side by side ask once. Raises what *ask* raises; the
        old list then stays.
        """
        self._tried[account_id] = now
        self._lists[account_id] = found = await ask()
        self._joined = {}
        await self._keep(account_id, found)
        return found

    async def forget(self, account_ids: Iterable[str]) -> None:
        """Drop the lists of accounts that are gone."""
        gone = [account_id for account_id in account_ids if self._lists.pop(account_id, None)]
        self._joined = {}
        await self._change(lambda lists: [lists.pop(account_id, None) for account_id in gone])

    async def _keep(self, account_id: str, catalog: Catalog) -> None:
        entry = {"fetched_at": catalog.fetched_at, **catalog.to_json()}
        await self._change(lambda lists: lists.__setitem__(account_id, entry))

    async def _change(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the document under its lock: another process may keep the lists of other accounts in it."""
        try:
            async with self.document.alock(LOCK_WAIT):
                lists = _lists(self.document.read())
                change(lists)
                self.document.write({"accounts": lists})
        except (StoreError, OSError) as error:
            logger.warning("The Kiro model lists could not be kept for the next start: %s", error)

    def _load(self) -> dict[str, Catalog]:
        try:
            kept = _lists(self.document.read())
        except (StoreError, OSError) as error:
            logger.warning("The kept Kiro model lists cannot be used and will be fetched again: %s", error)
            return {}
        found = {account_id: _catalog(entry) for account_id, entry in kept.items()}
        return {account_id: catalog for account_id, catalog in found.items() if catalog is not None}


def _lists(document: Mapping[str, Any] | None) -> dict[str, Any]:
    lists = (document or {}).get("accounts")
    return lists if isinstance(lists, dict) else {}


def _catalog(entry: object) -> Catalog | None:
    """Return a kept list, None where it is none."""
    when = entry.get("fetched_at") if isinstance(entry, Mapping) else None
    if not isinstance(when, int | float) or isinstance(when, bool):
        return None
    try:
        return parse(entry, float(when))
    except UpstreamError:
        return None


# --- for clients ------------------------------------------------------------------------------------------------------


def listing(catalog: Catalog) -> dict[str, Any]:
    """Return ``GET /models`` in OpenAI's shape, with what clients of it look for beyond id and owner.

    `context_length` and `max_completion_tokens` are tokens; what is not known is left out.
    """
    return {"object": "list", "data": [_item(model, _created(catalog)) for model in catalog.models]}


def item(catalog: Catalog, wanted: str) -> dict[str, Any] | None:
    """Return ``GET /models/{wanted}`` in OpenAI's shape, None for a model that is not in the list."""
    _, model = catalog.resolve(wanted)
    return _item(model, _created(catalog)) if model else None


def modalities(model: ModelInfo) -> list[str]:
    """Return the kinds of input that *model* takes, in lower case, text first."""
    return [kind.lower() for kind in sorted(model.inputs | {TEXT}, key=lambda kind: (kind != TEXT, kind))]


def _created(catalog: Catalog) -> int:
    """Return the moment of the list; for the fallback list the day that it is of."""
    if catalog.fetched_at is not None:
        return int(catalog.fetched_at)
    return int(datetime.combine(date.fromisoformat(FALLBACK_DATE), time(), UTC).timestamp())


def _item(model: ModelInfo, created: int) -> dict[str, Any]:
    levels = effort.levels(model.effort_schema)
    fields = {
        "display_name": model.name,
        "description": model.description,
        "context_length": model.max_input,
        "max_completion_tokens": model.max_output,
        "input_modalities": modalities(model),
        "output_modalities": ["text"],
        "supports_image_in": model.takes_images,
        "reasoning_efforts": list(levels) or None,
        "rate_multiplier": model.rate,
    }
    known = {name: value for name, value in fields.items() if value is not None}
    return {"id": model.id, "object": "model", "created": created, "owned_by": OWNER, **known}
