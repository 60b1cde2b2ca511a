"""Lines of ours in a shell file of the user's, between two marks; the rest of the file is never touched. Pure."""

from __future__ import annotations


def put(text: str, name: str, lines: str) -> str:
    """Return *text* with *lines* between the marks of *name*, which go to the end where they are not there yet.

    Raises ValueError with a place and a reason where the marks are not one pair in order.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    begin, end = f"# >>> kimi-mitm {name} >>>", f"# <<< kimi-mitm {name} <<<"
    found = text.splitlines(keepends=True)
    marks = [(number, line.strip()) for number, line in enumerate(found) if line.strip() in (begin, end)]
    ours = [f"{line}{newline}" for line in (begin, *lines.splitlines(), end)]
    match marks:
        case []:
            gap = "" if not text or text.endswith("\n") else newline
            return "".join([text, gap, newline if text else "", *ours])
        case [(first, mark), (last, other)] if (mark, other) == (begin, end):
            return "".join([*found[:first], *ours, *found[last + 1 :]])
        case _:
            raise ValueError(f"line {marks[0][0] + 1}: the marks of kimi-mitm {name} are not one pair")
