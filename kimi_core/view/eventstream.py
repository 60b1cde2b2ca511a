"""The page of an AWS event stream: one line per frame, damage and the end of a cut stream shown where they are."""

from __future__ import annotations

from collections import Counter, deque
from itertools import islice

from kimi_core.view import text
from kimi_core.view.frames import Found, headers_of, walk
from kimi_core.view.text import Page, count
from kimi_core.wire.eventstream_headers import Headers

FIRST = 1500  # frames shown at the beginning
LAST = 60  # and at the end: there stand usage, credits and exceptions
LOOKED_AT = 8_000  # frames checked at the most, within the time that a view may take
MANY = 12  # kinds of frames that are named where many are left out
MAX_FAULTS = 1_000  # damaged pieces after which no more is looked at: each costs a search
MAX_DAMAGED = 200  # damaged pieces shown outside of the beginning and the end
PAYLOAD_LINE = 160  # characters of a payload that stay on its line
PAYLOAD_FOLDED = 4_000  # characters of a longer payload shown below it
PAYLOAD_READ = 64 * 1024  # bytes of a payload that are read as JSON; longer ones are shown as they begin
_NAMES = (":event-type", ":exception-type", ":error-code")
_HIDDEN = {*_NAMES, ":message-type", ":content-type"}
_STATES = {True: "ok", False: "BAD", None: "—"}
_UNDER = " " * 11


class _Looked:
    """What was looked at: the pieces shown at the beginning and the end, and what is left out between them."""

    def __init__(self, data: bytes) -> None:
        pieces = walk(data)
        self.first = list(islice(pieces, FIRST))
        self.last: deque[Found] = deque(maxlen=LAST)
        self.skipped: Counter[bytes] = Counter()
        self.damaged: list[Found] = []
        self.pieces = len(self.first)
        self.faults = sum(not piece.good for piece in self.first)
        piece = self.first[-1] if self.first else None
        for piece in islice(pieces, LOOKED_AT - FIRST):
            self._take(piece)
            if self.faults >= MAX_FAULTS:
                break
        self.end = piece.offset + piece.length if piece else 0

    def _take(self, piece: Found) -> None:
        self.pieces += 1
        self.faults += not piece.good
        if len(self.last) == LAST:
            oldest = self.last[0]
            if oldest.good:
                self.skipped[oldest.block] += 1
            else:
                self.damaged.append(oldest)
        self.last.append(piece)


def render(data: bytes, note: str = "") -> str:
    """Return the page for *data*; *note* is said at the top. Never raises."""
    page, looked = Page(), _Looked(data)
    _head(page, data, looked, note)
    for piece in looked.first:
        _piece(page, piece)
    page.make_room(text.FOOT)
    _between(page, looked)
    for piece in looked.last:
        _piece(page, piece)
    if looked.end < len(data):
        page.add(f"\n… the last {len(data) - looked.end:,} bytes were not looked at: there is too much of it …")
    return page.render()


def _between(page: Page, looked: _Looked) -> None:
    """Tell what is left out in the middle, and show what of it is damaged."""
    if looked.skipped:
        names = ", ".join(f"{_name(headers_of(block))} {n:,}" for block, n in looked.skipped.most_common(MANY))
        page.add(f"\n… {count(looked.skipped.total(), 'good frame')} left out ({names}) …\n")
    for piece in looked.damaged[:MAX_DAMAGED]:
        _piece(page, piece)
    if len(looked.damaged) > MAX_DAMAGED:
        page.add(f"\n… {count(len(looked.damaged) - MAX_DAMAGED, 'damaged piece')} more left out …\n")


def _head(page: Page, data: bytes, looked: _Looked, note: str) -> None:
    state = count(looked.faults, "DAMAGED PIECE", "DAMAGED PIECES") if looked.faults else "all checksums good"
    state = state if looked.pieces else "empty"
    page.add(f"AWS event stream · {count(looked.pieces, 'frame')} · {len(data):,} bytes · {state}")
    if note:
        page.add(note)
    page.add("checks: those of the prelude and of the whole frame")
    page.add()
    page.add(f"{'offset':>9} {'bytes':>6} {'checks':<7} {'event':<24} payload")


def _piece(page: Page, piece: Found) -> None:
    if page.full:
        return
    states = f"{_STATES[piece.prelude_ok]}/{_STATES[piece.message_ok]}"
    place = f"{piece.offset:>9,} {piece.length:>6,} {states:<7} "
    if piece.is_frame:
        _frame(page, piece, place)
    else:
        page.add(f"{place}✗ NO FRAME")
    if piece.problem:
        page.add(f"{_UNDER}✗ {piece.problem}")
        page.add(text.hexed(piece.begins), _UNDER + "    ")
        page.add(f"{_UNDER}  {_goes_on(piece)}")


def _goes_on(piece: Found) -> str:
    if piece.is_last:
        return "decoding ends here"
    return f"decoding resumes at {piece.offset + piece.length:,}"


def _frame(page: Page, piece: Found, place: str) -> None:
    headers = headers_of(piece.block)
    payload, folded = _payload(piece.payload)
    page.add(f"{place}{_name(headers):<24} {payload}".rstrip())
    if isinstance(headers, str):
        page.add(f"{_UNDER}✗ {headers}")
        page.add(text.hexed(piece.block), _UNDER + "    ")
    else:
        more = [f"{name}={text.clip(str(value), 80)}" for name, value in headers.items() if name not in _HIDDEN]
        if more:
            page.add(f"{_UNDER}{' '.join(more)}")
    if folded:
        page.add(folded, _UNDER + "│ ")


def _name(headers: Headers | str) -> str:
    """Return how a frame is called: by its event, or as an exception or error in capitals that are hard to miss."""
    if isinstance(headers, str):
        return "(unreadable headers)"
    name = text.clip(str(next((headers[key] for key in _NAMES if key in headers), "(no name)")), 60)
    kind = headers.get(":message-type", "event")
    return name if kind == "event" else f"{text.clip(str(kind), 20).upper()} {name}"


def _payload(payload: bytes) -> tuple[str, str]:
    """Return what stands on the frame's line, and what is folded under it."""
    if len(payload) > PAYLOAD_READ:
        shown = payload[:PAYLOAD_FOLDED].decode(errors="replace")
        return f"({len(payload):,} bytes)", f"{shown}\n… {len(payload) - PAYLOAD_FOLDED:,} bytes more"
    shown = payload.decode(errors="replace")
    if len(shown) <= PAYLOAD_LINE and shown.isprintable():
        return shown, ""
    try:
        value = text.read_json(payload)
    except text.Unreadable:
        return _no_json(payload, shown)
    line = text.compact(value)
    if len(line) <= PAYLOAD_LINE:
        return line, ""
    return f"({count(len(line), 'character')})", text.shorten(text.pretty(value), PAYLOAD_FOLDED)


def _no_json(payload: bytes, shown: str) -> tuple[str, str]:
    if "\N{REPLACEMENT CHARACTER}" in shown:
        return f"({len(payload):,} bytes)", text.hexed(payload)
    return f"({count(len(shown), 'character')})", text.shorten(shown, PAYLOAD_FOLDED)
