"""Ids and arguments of the tool calls in a history (kiro.md §3.5, §3.6)."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from typing import Any

from pydantic_core import from_json

from kimi_core.errors import BadRequest
from kimi_core.kiro.openai_in import is_finite, well_formed

ID_LENGTH = 64  # characters (service model)

_legal = re.compile(rf"[A-Za-z0-9_-]{{1,{ID_LENGTH}}}").fullmatch
_immense = re.compile(r"[0-9][eE]\+?[0-9]{3}|[0-9]{300}").search  # what may be beyond the range of a double


class CallIds:
    """Ids of calls as Kiro takes them, each of them once in a conversation.

    An id of allowed characters and length stays the first time. Others, and those that come again (some services
    begin anew in every turn), become a hash of the id and of how often it came before.
    """

    __slots__ = ("_seen", "_taken")

    def __init__(self) -> None:
        self._seen: defaultdict[str, int] = defaultdict(int)
        self._taken: set[str] = set()

    def new(self, client_id: str) -> str:
        """Return the id on the wire for the next call that the client knows as *client_id*."""
        again = self._seen[client_id]
        self._seen[client_id] += 1
        wire = client_id if _legal(client_id) and not again else _hash(client_id, again)
        while wire in self._taken:
            wire = _hash(wire, 1)
        self._taken.add(wire)
        return wire


def _hash(client_id: str, again: int) -> str:
    return hashlib.sha256(f"{client_id}\0{again}".encode() if again else client_id.encode()).hexdigest()


def read_arguments(text: str, path: str) -> dict[str, Any]:
    """Return the arguments of a call, an object; no text is an empty one. *path* is theirs. Raises BadRequest."""
    if not text.strip():
        return {}
    try:
        value = _slowly(text) if _immense(text) else from_json(text, allow_inf_nan=False)
    except ValueError:
        value = _slowly(text)
    if not isinstance(value, dict):
        raise BadRequest(
            "The arguments of a tool call are a JSON object, written as text; these are not.",
            path,
        )
    return value


def _slowly(text: str) -> Any:
    """Return the value of *text* by the patient reader, lone surrogates replaced.

    None where it is no JSON, or holds a number that could not be written again.
    """
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return well_formed(value) if is_finite(value) else None
