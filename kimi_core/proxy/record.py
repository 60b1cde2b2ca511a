"""What a flow tells: attempts as flows of their own, one-line comments, marks.

All flows of one exchange share a short id: it stands in the metadata of each, and in the comments where there is more
than one flow. So ``~comment #4f9a1c`` or ``~meta 4f9a1c`` finds them together.
"""

from __future__ import annotations

import secrets
from typing import Any

from mitmproxy import ctx, http
from mitmproxy.flow import Error
from mitmproxy.proxy.layers.http import HttpErrorHook, HttpResponseHook

from kimi_core.exchange import Story
from kimi_core.plain import line
from kimi_core.proxy import sides
from kimi_core.view.text import size

RETRIED = ":recycle:"
REPAIRED = ":wrench:"
FAILED = ":warning:"
MARKS = {
    FAILED: "The client got an error, or only the beginning of an answer.",
    RETRIED: "A failed attempt after which the request was sent again, or an exchange that took several attempts.",
    REPAIRED: "The request was repaired before it was sent; the comment names the repairs.",
}
METADATA = "kimi-mitm"
ID_LENGTH = 6  # hexadecimal digits: a session of a day has some thousand exchanges
_FAULTS = ("reason", "error")  # facts that stand for an answer that is none


def new_id() -> str:
    """Return an id for an exchange, short enough to be typed into a filter."""
    return secrets.token_hex(ID_LENGTH // 2)


async def show_attempt(
    flow: http.HTTPFlow,
    response: http.Response | None,
    error: str | None,
    comment: str,
    *,
    exchange: str = "",
    number: int = 1,
) -> None:
    """Record a failed attempt as a flow of its own, where flows are listed, printed and saved.

    `master.load_flow` would run every addon's hooks on the copy, proxy authentication included; so it is handed to
    exactly the addons that keep or print flows.
    """
    sides.sign(flow)
    copy = flow.copy()
    copy.live = False
    copy.response = response.copy() if response else None
    copy.error = Error(error or "no answer") if response is None else None
    copy.comment = " · ".join(filter(None, (comment, _tag(exchange))))
    copy.marked = RETRIED
    copy.metadata[METADATA] = {"exchange": exchange, "attempt_of": flow.id, "attempt": number}
    addons: Any = ctx.master.addons
    view = addons.get("view")
    if view is not None:
        view.add([copy])
    hook = HttpResponseHook(copy) if response else HttpErrorHook(copy)
    for name in ("dumper", "save", "savehar"):
        addon = addons.get(name)
        if addon is not None:
            await addons.invoke_addon(addon, hook)


def tell(flow: http.HTTPFlow, story: Story, attempts: int, exchange: str = "") -> None:
    """Write the story of an exchange into its flow: comment, mark, metadata."""
    words = [story.provider]
    words += [_fact(name, value) for name, value in story.facts.items() if value is not None and value != ""]
    if attempts > 1:
        words.append(f"{attempts} attempts")
    if story.repairs:
        words.append("repaired: " + ", ".join(f"{name} ×{count}" for name, count in story.repairs.items()))
    if attempts > 1:
        words.append(_tag(exchange))
    _say(flow, words)
    _mark(flow, _mark_for(flow, story, attempts))
    flow.metadata[METADATA] = {
        "exchange": exchange,
        "provider": story.provider,
        "attempts": attempts,
        "facts": {name: str(value) for name, value in story.facts.items()},
        "repairs": dict(story.repairs),
        "removed": list(story.removed),
    }


def tell_native(flow: http.HTTPFlow) -> None:
    """Say of a request of a service's own client that it passed as it came."""
    _say(flow, ["passed as it came, with the client's own login"])


def cut_note(flow: http.HTTPFlow) -> str:
    """Return how much of a flow's answer is kept, where that is not all of it."""
    length = sides.full_length(flow)
    if length is None or flow.response is None:
        return ""
    return f"{size(len(flow.response.data.content or b''))} of {size(length)} kept (kimi_record_limit)"


def _say(flow: http.HTTPFlow, words: list[str]) -> None:
    flow.comment = " · ".join(filter(None, (*words, cut_note(flow))))


def _mark_for(flow: http.HTTPFlow, story: Story, attempts: int) -> str:
    if flow.error is not None or any(story.facts.get(name) for name in _FAULTS):
        return FAILED
    if attempts > 1:
        return RETRIED
    return REPAIRED if story.repairs else ""


def _mark(flow: http.HTTPFlow, mark: str) -> None:
    """Set a mark of ours; one that the user chose stays where we have nothing to mark."""
    if mark or flow.marked in MARKS:
        flow.marked = mark


def _tag(exchange: str) -> str:
    return f"#{exchange}" if exchange else ""


def _fact(name: str, value: object) -> str:
    text = line(str(value))  # the model is what the client says; mitmdump prints comments as they are
    return text if name in {"model", "operation"} else f"{name} {text}"
