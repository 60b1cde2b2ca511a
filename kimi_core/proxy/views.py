"""The readable views as mitmproxy's content views: in its console, in mitmweb, and in what mitmdump prints.

Three choose themselves for what they know: event streams of AWS by their content type, chat requests and chat answers
where the flow is one of ours or the body cannot be taken for anything else. Two are there to be chosen: what the other
side of the flow looked like (`sides`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mitmproxy import contentviews, http
from mitmproxy.contentviews import Contentview, Metadata

from kimi_core import later
from kimi_core.proxy import internals, record, sides
from kimi_core.view.text import Page, size
from kimi_core.wire.codings import decode
from kimi_core.wire.eventstream import CONTENT_TYPE as EVENT_STREAM

if TYPE_CHECKING:
    from kimi_core.view import answer, eventstream, request
else:
    answer = later.module("kimi_core.view.answer")
    eventstream = later.module("kimi_core.view.eventstream")
    request = later.module("kimi_core.view.request")

CHOSEN = 2.0  # mitmproxy's own views say 1 at the most
NEVER = -1.0
MAX_DECODED = 16 << 20  # bytes of a body whose coding is undone here; a page shows far less
SSE = "text/event-stream"
_JSON = "json"
_PATHS = ("/chat/completions", "/messages", "/generateAssistantResponse")


class _View(Contentview):
    """What ours have in common."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        """The name in menus; looked up without regard to case."""
        return self._name


class EventStreamView(_View):
    """Frames of an AWS event stream."""

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        """Return one line per frame."""
        return eventstream.render(_plain(data, metadata), _note(metadata))

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        """Choose itself by content type: nobody else's view can read these."""
        return CHOSEN if data and metadata.content_type == EVENT_STREAM else NEVER


class AnswerView(_View):
    """Chat answers in either dialect."""

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        """Return what the answer says, the raw events below."""
        return answer.render(_plain(data, metadata), _note(metadata))

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        """Choose itself for answers, streamed or in one piece, that look like chat."""
        if not data or not isinstance(metadata.http_message, http.Response):
            return NEVER
        kind = metadata.content_type or ""
        if kind != SSE and _JSON not in kind:
            return NEVER
        return CHOSEN if (kind == SSE and _is_ours(metadata)) or answer.is_answer(data) else NEVER


class RequestView(_View):
    """Chat requests in either dialect, and Kiro's."""

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        """Return the request as a transcript."""
        return request.render(data)

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        """Choose itself for requests that look like chat, where their path says the same or the flow is ours."""
        message = metadata.http_message
        if not data or not isinstance(message, http.Request) or _JSON not in (metadata.content_type or _JSON):
            return NEVER
        path = message.path.partition("?")[0]
        expected = path.endswith(_PATHS) or _is_ours(metadata)
        return CHOSEN if expected and request.is_request(data) else NEVER


class ClientView(_View):
    """What the client sent, before it was rewritten or translated."""

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        """Return the head and the transcript of the client's request; an answer is what the client got anyway."""
        if isinstance(metadata.http_message, http.Response):
            return answer.render(_plain(data, metadata), _note(metadata))
        kept = sides.request_of(metadata.flow) if isinstance(metadata.flow, http.HTTPFlow) else None
        if kept is None:
            return "What the client sent is not kept with this flow; it shows what went to the service."
        page = Page()
        page.prose(f"{kept.method} {kept.url}")
        for name, value in kept.headers:
            page.prose(f"{name}: {value}")
        page.add("(but for credentials, which are not kept)\n\n")
        note = "" if kept.whole else f"{size(len(kept.body))} of {size(kept.length)} kept (kimi_record_limit)"
        return page.render() + request.render(kept.body, note)

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        """Wait to be chosen."""
        return NEVER


class WireView(_View):
    """What the service sent, before it was translated for the client."""

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        """Return the frames of the service's answer; a request is what went to the service anyway."""
        if isinstance(metadata.http_message, http.Request):
            return request.render(data)
        kept = sides.answer_of(metadata.flow) if isinstance(metadata.flow, http.HTTPFlow) else None
        if kept is None:
            return _wire(data, metadata.content_type or "", "this answer came as it stands here")
        short = len(kept.body) < kept.length
        note = f"{size(len(kept.body))} of {size(kept.length)} kept (kimi_record_limit)" if short else ""
        return _wire(kept.body, kept.content_type, note)

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        """Wait to be chosen."""
        return NEVER


def _wire(body: bytes, content_type: str, note: str) -> str:
    render: Callable[[bytes, str], str] = eventstream.render if EVENT_STREAM in content_type else answer.render
    return render(body, note)


def _plain(data: bytes, metadata: Metadata) -> bytes:
    """Return *data*; where mitmproxy could not undo its coding, because it was cut, as much of it as can be read."""
    message = metadata.http_message
    if message is None or not isinstance(metadata.flow, http.HTTPFlow):
        return data
    cut = sides.full_length(metadata.flow) is not None and data is message.raw_content
    return decode(data, message.headers.get("content-encoding"), MAX_DECODED) if cut else data


def _note(metadata: Metadata) -> str:
    flow = metadata.flow
    return record.cut_note(flow) if isinstance(flow, http.HTTPFlow) else ""


def _is_ours(metadata: Metadata) -> bool:
    """Tell whether the flow is a chat that went through a provider here."""
    return metadata.flow is not None and sides.SIDES in metadata.flow.metadata


VIEWS: tuple[_View, ...] = (
    EventStreamView("AWS event stream"),
    AnswerView("Chat answer"),
    RequestView("Chat request"),
    ClientView("As the client sent it"),
    WireView("Kiro wire"),
)


def install() -> None:
    """Register the views; those of an earlier load of the script are replaced."""
    for view in VIEWS:
        contentviews.add(view)


def remove() -> None:
    """Take the views out again. mitmproxy has no public way to; where it has changed they stay, and do no harm."""
    if internals.missing(internals.VIEWS):
        return
    registered = contentviews.registry._by_name  # noqa: SLF001 - see above
    for view in VIEWS:
        if registered.get(view.name.lower()) is view:
            del registered[view.name.lower()]
