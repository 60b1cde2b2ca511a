"""Server-sent events (WHATWG HTML, section 9.2): edit a stream in passing, and parse a finished one.

Goals of the editor, in this order:

1. What is not edited leaves byte for byte as it came: comments, ids, blank lines, CRLF, a lone CR, a BOM, a stream
   without an end, and text that is no event stream at all.
2. A complete line leaves in the call that completes it; only an incomplete line is held back.
3. The same bytes leave however the stream was cut into chunks.
4. Time is linear in the bytes, also for chunks of one byte; memory is bounded by `MAX_LINE`.

A line ends with LF, CRLF or CR. A CR at the end of a chunk ends its line at once, without waiting for the LF that may
follow: that LF is then passed on as the rest of the line end and not taken for a blank line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

MAX_LINE = 4 * 1024 * 1024  # bytes of a line that are held back; chat chunks are a few hundred, a whole tool call in
# one chunk may be some hundred KiB. A longer line is passed on unedited while it comes.
BOM = b"\xef\xbb\xbf"
_ENDS = b"\r\n"
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n")
_BLANK = (b"\n", b"\r\n", b"\r")

type Edit = Callable[[bytes], bytes | None]
"""Takes the value of a ``data:`` field, returns what replaces it (one line) or None to leave it. Must not raise."""

type Look = Callable[[bytes], bool]
"""Takes a chunk of whole events; False where *edit* would neither change nor want to see any line of it."""


class Editor:
    """Passes an event stream on and offers the value of every complete ``data:`` line to *edit*.

    A chunk of whole events that *look* says no to is passed on without being taken apart.
    """

    __slots__ = ("_after_cr", "_edit", "_held", "_inside", "_limit", "_look", "_overlong", "_started")

    def __init__(self, edit: Edit, look: Look = bool, *, limit: int = MAX_LINE) -> None:
        self._edit = edit
        self._look = look
        self._limit = limit
        self._held = bytearray()  # the incomplete line
        self._overlong = False  # within a line that is passed on as it comes
        self._after_cr = False  # the last byte that came was a CR
        self._inside = False  # within an event: the last line that left was not blank
        self._started = False  # the first line, which may carry a BOM, is through

    def feed(self, data: bytes) -> bytes:
        """Take what came, return what may leave; the very same object where there is nothing to change."""
        if data.endswith(_EVENT_ENDS) and not (self._held or self._overlong or self._look(data)):
            self._inside = self._after_cr = False
            self._started = True
            return data
        if not data:
            return data
        lines = data.splitlines(keepends=True)  # of bytes: at LF, CRLF and CR, as the specification has it
        tail = b"" if lines[-1][-1] in _ENDS else lines.pop()
        if not lines:
            self._after_cr = False
            return self._hold(tail)
        ends_overlong = self._overlong and len(lines) == 1  # what stands there may be a line end alone, and is no blank
        changed = self._complete(lines)
        if not (len(lines) == 1 and lines[0] == b"\n" and self._after_cr):
            self._inside = ends_overlong or lines[-1] not in _BLANK
        self._after_cr = not tail and lines[-1][-1:] == b"\r"
        if not (changed or tail):
            return data
        lines.append(self._hold(tail))
        return b"".join(lines)

    def finish(self) -> bytes:
        """Say that the stream has ended; return the last line, which has no line end."""
        line = bytes(self._held)
        self._held = bytearray()
        return self._line(line) or line

    def cut(self) -> bytes:
        """Say that the stream was cut; return what brings it to a place where an event may begin.

        The incomplete line is dropped: the client has seen nothing of it and could make nothing of half of it.
        """
        self._held = bytearray()
        # two line ends: the first may only end the line, or only complete the CR that left last
        end = b"\n\n" if self._overlong or self._inside else b""
        self._overlong = self._inside = self._after_cr = False
        return end

    def _complete(self, lines: list[bytes]) -> bool:
        """Edit *lines*, complete ones, in place; tell whether they differ from what came in this call."""
        changed, first = False, 0
        if self._overlong:
            self._overlong, first = False, 1
        elif self._held:
            lines[0] = bytes(self._held + lines[0])
            self._held = bytearray()
            changed = True
        for index in range(first, len(lines)):
            line = lines[index]
            if line.startswith(b"data:") or not self._started:  # asked here to spare a call for every other line
                new = self._line(line)
                if new is not None:
                    lines[index] = new
                    changed = True
        return changed

    def _line(self, line: bytes) -> bytes | None:
        """Return what replaces a complete line with its line end, or None."""
        start = 0
        if not self._started:
            self._started = True
            start = len(BOM) if line.startswith(BOM) else 0
        if not line.startswith(b"data:", start):
            return None
        end = len(line.rstrip(_ENDS))
        if end > self._limit:
            return None
        value = start + len(b"data:")
        value += line[value : value + 1] == b" "
        new = self._edit(line[value:end])
        return None if new is None else line[:value] + new + line[end:]

    def _hold(self, tail: bytes) -> bytes:
        """Keep the beginning of a line back, unless it is or becomes too long; return what leaves."""
        if self._overlong:
            return tail
        self._held += tail
        if len(self._held) <= self._limit:
            return b""
        out = bytes(self._held)
        self._held = bytearray()
        self._overlong = self._started = True
        return out


@dataclass(frozen=True, slots=True)
class Event:
    """One event as a client sees it; `id` is the last id the stream has set so far, None where it set none."""

    data: str
    event: str = "message"
    id: str | None = None


def events(stream: bytes) -> Iterator[Event]:
    """Yield the events of a finished stream; an event that no blank line ends is left out, as the standard says."""
    name, data, last_id = "", list[str](), None
    for line in stream.removeprefix(BOM).splitlines():
        if not line:
            if data:
                yield Event("\n".join(data), name or "message", last_id)
            name, data = "", []
            continue
        field, _, raw = line.partition(b":")
        value = raw.removeprefix(b" ").decode(errors="replace")
        match field:
            case b"data":
                data.append(value)
            case b"event":
                name = value
            case b"id" if "\0" not in value:
                last_id = value
            case _:  # comments, retry, fields to come
                pass
