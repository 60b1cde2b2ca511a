"""What a flow tells: attempts as flows of their own, one-line comments, marks."""

from __future__ import annotations

from typing import Any

from mitmproxy import ctx, http
from mitmproxy.flow import Error
from mitmproxy.proxy.layers.http import HttpErrorHook, HttpResponseHook

from kimi_core.exchange import Story

RETRIED = ":recycle:"
REPAIRED = ":wrench:"
METADATA = "kimi-mitm"


async def show_attempt(flow: http.HTTPFlow, response: http.Response | None, error: str | None, comment: str) -> None:
    """Record a failed attempt as a flow of its own, where flows are listed, printed and saved.

    `master.load_flow` would run every addon's hooks on the copy, proxy authentication included; so it is handed to
    exactly the addons that keep or print flows.
    """
    copy = flow.copy()
    copy.live = False
    copy.response = response.copy() if response else None
    copy.error = Error(error or "no answer") if response is None else None
    copy.comment = comment
    copy.marked = RETRIED
    copy.metadata[METADATA] = {"attempt_of": flow.id}
    addons: Any = ctx.master.addons
    view = addons.get("view")
    if view is not None:
        view.add([copy])
    hook = HttpResponseHook(copy) if response else HttpErrorHook(copy)
    for name in ("dumper", "save", "savehar"):
        addon = addons.get(name)
        if addon is not None:
            await addons.invoke_addon(addon, hook)


def tell(flow: http.HTTPFlow, story: Story, attempts: int) -> None:
    """Write the story of an exchange into its flow: comment, mark, metadata."""
    words = [story.provider]
    words += [_fact(name, value) for name, value in story.facts.items() if value not in {None, ""}]
    if attempts > 1:
        words.append(f"{attempts} attempts")
    if story.repairs:
        words.append("repaired: " + ", ".join(f"{name} ×{count}" for name, count in story.repairs.items()))
    flow.comment = " · ".join(words)
    if attempts > 1:
        flow.marked = RETRIED
    elif story.repairs:
        flow.marked = REPAIRED
    flow.metadata[METADATA] = {
        "provider": story.provider,
        "attempts": attempts,
        "facts": {name: str(value) for name, value in story.facts.items()},
        "repairs": dict(story.repairs),
        "removed": list(story.removed),
    }


def _fact(name: str, value: object) -> str:
    return str(value) if name in {"model", "operation"} else f"{name} {value}"
