"""A request that is in Kiro's own form already: one that went out through this proxy before and is sent again.

It is known by the label that stands where an account's token was. Its conversation goes out as it stands; account,
place and token are chosen anew, and its answer comes as a stream of chunks, as nobody can say what its client wanted.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json, to_json

from kimi_core.errors import BadRequest
from kimi_core.exchange import RequestHead
from kimi_core.kiro.exchange import KiroExchange
from kimi_core.kiro.translated import Translated

LABEL = "Bearer [kiro "
STATE = "conversationState"


def is_resent(head: RequestHead) -> bool:
    """Tell whether this request shows our own label in place of a login."""
    return head.method == "POST" and (head.headers.get("authorization") or "").startswith(LABEL)


class ResentExchange(KiroExchange):
    """Such a request on its way; see `kimi_core.exchange.Exchange`."""

    def _translate(self, body: bytes) -> None:
        """Take the conversation as it stands. Raises BadRequest."""
        document = _object(_parsed(body), "the body")
        state = _object(document.get(STATE), STATE)
        message = _object(_object(state.get("currentMessage"), "currentMessage").get("userInputMessage"), "the message")
        model = message.get("modelId")
        self._wanted = model if isinstance(model, str) else "auto"
        self._conversation = str(state.get("conversationId") or "")
        _, self._model = self._service.catalog().resolve(self._wanted)
        fields = document.get("additionalModelRequestFields")
        self._translated = Translated(
            conversation=to_json(state),
            model_id=self._wanted,
            fields=fields if isinstance(fields, dict) else {},
            wants_stream=True,
            wants_usage=True,
        )
        self.story.facts.update({"model": self._wanted, "sent": "again, as it stood"})


def _parsed(body: bytes) -> Any:
    try:
        return from_json(body)
    except ValueError as error:
        raise BadRequest("The request is no JSON.") from error


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"The request is not in Kiro's form: {what} is missing, or is no object.", STATE)
    return value
