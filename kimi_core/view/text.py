"""What all views share: JSON read leniently, texts shortened, sections with a title, one bound for the whole page.

Goals of every view, in this order:

1. It never raises: any bytes, cut anywhere.
2. What is damaged, cut or left out is said, with its size.
3. It is done within 100 ms for a body of 5 MB: what is looked at and what is shown are both bounded.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic_core import from_json, to_json

from kimi_core.plain import plain

WIDTH = 88  # columns of a divider; a page of mitmweb shows about a hundred
LABEL = 11  # columns of the labels in the head of a page
PAGE = 300_000  # characters of the part of a view that can grow; beyond it browsers stall
FOOT = 60_000  # characters of room that the end of a view has, however much stands before it
INLINE = 100  # characters of JSON that stay on the line
HEX_BYTES = 48  # bytes shown of what cannot be read
HEX_ROW = 16  # on a line
HUGE = 10**15  # from here on nothing was counted; Python refuses to write integers of any length
MAX_ITEMS = 400  # members of a list, or lines of a block of JSON, that are shown

SLOW_JSON = 2 * 1024 * 1024  # bytes that are read by Python's own reader, which takes what pydantic's does not
MAX_MEMBERS = 150_000  # members of JSON objects that are read: beyond it a body is no chat, and takes its time
_MEMBER = b'":'
_SURROGATE = re.compile("surrogate|hex escape")  # half of a surrogate pair, which clients do send

_EMPTY_LINE = re.compile(r"^(?=\n)", re.MULTILINE)  # mitmweb gives an empty line no height, and a blank one has some
_DOTS = {byte: "." for byte in range(256) if not chr(byte).isprintable() or byte > ord("~")}
FENCE = "```"  # begins and ends code in Markdown, whose lines are left as they are

KIB = 1024


class Page:
    """Lines of text with one bound for all of them; what no longer fits is counted and told at the end."""

    def __init__(self, limit: int = PAGE) -> None:
        self._lines: list[str] = []
        self._left = limit  # characters
        self._lost = 0

    @property
    def full(self) -> bool:
        """True once something had no room; what follows is not worth making."""
        return self._lost > 0

    def add(self, text: str = "", indent: str = "") -> None:
        """Add a line, or several with line breaks between them, as they are."""
        if indent:
            text = indent + text.replace("\n", "\n" + indent)
        size = len(text) + 1
        if self._lost or size > self._left:
            self._lost += size
            return
        self._left -= size
        self._lines.append(text)

    def prose(self, text: str) -> None:
        """Add text that people read, its long lines wrapped: mitmweb does not do that."""
        self.add(wrap(text))

    def row(self, label: str, value: str) -> None:
        """Add a row of the head, its value wrapped beside the label."""
        lines = wrap(value, WIDTH - LABEL).replace("\n", "\n" + " " * LABEL)
        self.add(f"{label:<{LABEL - 1}} {lines}")

    def section(self, *words: str) -> None:
        """Begin a section: a blank line and a title within a rule."""
        title = " · ".join(word for word in words if word)
        self.add()
        self.add(f"── {title} ".ljust(WIDTH, "─"))

    def divider(self, *words: str) -> None:
        """Begin what is below the fold."""
        title = " · ".join(word for word in words if word)
        self.add()
        self.add(f"══ {title} ".ljust(WIDTH, "═"))

    def make_room(self, room: int) -> None:
        """Begin a part that has *room* characters of its own, however much was there before."""
        self._tell_loss()
        self._left = max(self._left, room)

    def _tell_loss(self) -> None:
        if self._lost:
            self._lines.append(f"\n… {count(self._lost, 'character')} more had no room here …")
            self._lost = 0

    def render(self) -> str:
        """Return the page, fit for every encoding that a terminal or a browser is sent."""
        self._tell_loss()
        text = _EMPTY_LINE.sub(" ", plain("\n".join(self._lines)))
        return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def count(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: ``1 frame``, ``1,200 frames``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def size(number: float) -> str:
    """Return a number of bytes as people say it."""
    if number < KIB:
        return f"{int(number)} B"
    if number < KIB * KIB:
        return f"{number / KIB:.1f} KiB"
    return f"{number / KIB / KIB:.1f} MiB"


def shorten(text: str, limit: int) -> str:
    """Return *text*, or its beginning and its end with what was left out told between them."""
    if len(text) <= limit:
        return text.rstrip("\n")
    head, tail = text[: limit * 2 // 3], text[len(text) - limit // 3 :]
    left_out = len(text) - len(head) - len(tail)
    return f"{head}\n[… {left_out:,} of {len(text):,} characters left out …]\n{tail}".rstrip("\n")


def clip(text: str, limit: int) -> str:
    """Return *text* on one line, cut where it is too long, with its length."""
    if len(text) > limit:
        text = f"{text[:limit]}… ({len(text):,} characters)"
    return text.replace("\r", "\\r").replace("\n", "\\n")


def wrap(text: str, width: int = WIDTH) -> str:
    """Break the lines that are longer than *width* between words; code that Markdown fences stays as it is."""
    lines = text.split("\n")
    if len(max(lines, key=len)) <= width:
        return text
    out: list[str] = []
    fenced = False
    for line in lines:
        if line.lstrip().startswith(FENCE):
            fenced = not fenced
        if fenced or len(line) <= width:
            out.append(line)
        else:
            _break(line, width, out)
    return "\n".join(out)


def _break(line: str, width: int, out: list[str]) -> None:
    indent = line[: len(line) - len(line.lstrip())]
    if len(indent) > width // 2:
        indent = ""
    start, room = len(indent), width - len(indent)
    while len(line) - start > room:
        blank = line.rfind(" ", start + 1, start + room + 1)
        stop = blank if blank > 0 else start + room
        out.append(indent + line[start:stop])
        start = stop + (blank > 0)
    out.append(indent + line[start:])


def hexed(data: bytes, limit: int = HEX_BYTES) -> str:
    """Return the first bytes in hexadecimal and, beside them, as what is printable of them; a line for 16."""
    piece = data[:limit]
    rows = [piece[at : at + HEX_ROW] for at in range(0, len(piece), HEX_ROW)]
    wide = 3 * HEX_ROW
    lines = [f"{row.hex(' '):<{wide}} {row.decode('latin-1').translate(_DOTS)}" for row in rows]
    return "\n".join(lines) + (f"\n… {len(data) - limit:,} bytes more" if len(data) > limit else "")


class Unreadable(ValueError):
    """Bytes that are no JSON; the message says what is wrong."""


def read_json(data: bytes, *, partial: bool = False) -> Any:
    """Return the JSON value of *data*; with *partial* as much of it as there is. Raises Unreadable."""
    try:
        return from_json(data, allow_partial="trailing-strings" if partial else False)
    except ValueError as error:
        problem = str(error)
    if partial or not _SURROGATE.search(problem) or len(data) > SLOW_JSON:
        raise Unreadable(problem)
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Unreadable(problem) from None


def read_most(data: bytes) -> tuple[Any, str]:
    """Return the JSON value of *data*, and nothing; or as much of it as can be read, and one sentence on why.

    None where there is nothing at all.
    """
    problem, found = "", data.count(_MEMBER)
    if found > MAX_MEMBERS:
        data = data[: len(data) * MAX_MEMBERS // found]
        problem = f"✗ it has {found:,} members: only the first {size(len(data))} were read"
    else:
        try:
            return read_json(data), ""
        except Unreadable as error:
            problem = f"✗ this is no whole JSON: {clip(str(error), 200)}"
    try:
        return read_json(data, partial=True), problem
    except Unreadable:
        return None, problem


def compact(value: Any) -> str:
    """Return *value* as JSON on one line."""
    try:
        return to_json(value, inf_nan_mode="constants").decode()
    except (ValueError, RecursionError):
        return _plain(value, None)


def pretty(value: Any) -> str:
    """Return *value* as JSON: on one line where it is short, indented where it is not."""
    line = compact(value)
    if len(line) <= INLINE or not isinstance(value, dict | list):
        return line
    try:
        return to_json(value, indent=2, inf_nan_mode="constants").decode()
    except (ValueError, RecursionError):
        return _plain(value, 2)


def _plain(value: Any, indent: int | None) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent)
    except (ValueError, RecursionError):
        return "(nested too deeply to be shown)"


def pretty_source(source: str, limit: int) -> str:
    """Return JSON that stands in a text, such as the arguments of a call, indented; what is no JSON as it is."""
    if len(source) > limit:
        return shorten(source, limit)
    try:
        return shorten(pretty(read_json(source.encode("utf-8", "surrogatepass"))), limit)
    except Unreadable:
        return source


def members(value: Any) -> dict[str, Any]:
    """Return *value* where it is a JSON object, else none."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """Return *value* where it is a JSON list, else none."""
    return value if isinstance(value, list) else []


def word(value: Any) -> str:
    """Return a JSON value as a word of a line: a string as it is, nothing for null."""
    if value is None:
        return ""
    return clip(value if isinstance(value, str) else compact(value), INLINE)


def amount(value: Any) -> str:
    """Return a counted number with its thousands apart, any other value as a word."""
    plain = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < HUGE
    return f"{value:,}" if plain else word(value)
