"""Merge an object into the text of a JSONC document; every byte that nothing is said about stays as it is.

Goals, in this order: the result reads as the merged value; no comment is lost; nothing else changes; what is new looks
as if the file's owner had written it (indentation, line ends, trailing commas). It is done by insertions at offsets of
the text, never by writing the document anew.

Objects are merged member by member. Everything else is a leaf and is replaced where it differs. An object is never put
in place of something that is none, nor the other way round: whoever wrote that meant something by it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kimi_core.blocks.place import dump
from kimi_core.cli.jsonc import JsoncError, Member, Node, comments, parse, skip, skip_line

INDENT = "  "  # where a document shows none of its own
SHORT = 60  # columns of a member that may join an object which stands on one line
BOM = "\ufeff"
_LEADING = re.compile(r"[ \t]*")


def merge(text: str, wanted: Mapping[str, Any]) -> str:
    """Return *text* with the members of *wanted* merged into it; *text* itself where it has them all.

    A text without a value gets one, behind its comments. Raises JsoncError where the text is no JSONC, its value no
    object, or where one of the two has an object and the other none.
    """
    mark, body = (BOM, text[1:]) if text.startswith(BOM) else ("", text)
    root = parse(body)
    if root is None:
        return mark + _begun(body, wanted)
    if not root.is_object:
        raise JsoncError("an object { } was expected", body, root.start)
    return mark + _Merger(body, root).merged(wanted)


@dataclass(frozen=True, slots=True)
class _Edit:
    """Put `text` in place of ``[start:end]``."""

    start: int
    end: int
    text: str


class _Merger:
    """Collects the edits for one document."""

    def __init__(self, text: str, root: Node) -> None:
        self._text = text
        self._root = root
        self._newline = _newline(text)
        self._unit = self._indent_of_members(root) or INDENT
        self._edits: list[_Edit] = []

    def merged(self, wanted: Mapping[str, Any]) -> str:
        self._merge(self._root, wanted)
        out, at = [], 0
        # a comma goes before what is inserted at the same place: the order in which they were made
        for edit in sorted(self._edits, key=lambda edit: edit.start):
            out += [self._text[at : edit.start], edit.text]
            at = edit.end
        return "".join([*out, self._text[at:]])

    def _merge(self, node: Node, wanted: Mapping[str, Any]) -> None:
        new: list[tuple[str, Any]] = []
        last: Member | None = None  # the member behind which new ones belong, in the order of *wanted*
        for key, value in wanted.items():
            member = node.member(key)
            if member is None:
                new.append((key, value))
                continue
            self._insert(node, new, last, member if last is None else None)
            new, last = [], member
            self._settle(member.node, value)
        self._insert(node, new, last or (node.members[-1] if node.members else None), None)

    def _settle(self, node: Node, value: Any) -> None:
        """Make an existing *node* what *value* is."""
        if node.is_object != isinstance(value, Mapping):
            expected = "an object { }" if isinstance(value, Mapping) else "no object"
            raise JsoncError(f"{expected} was expected", self._text, node.start)
        if isinstance(value, Mapping):
            self._merge(node, value)
        elif json.dumps(node.value) != json.dumps(value):
            indent = self._indent_of_line(node.start)
            kept = "".join(self._kept(found[0], indent) for found in comments(self._text, node.start, node.end))
            self._edits.append(_Edit(node.start, node.end, kept + self._written(value, indent)))

    def _kept(self, comment: str, indent: str) -> str:
        """Return a comment that stood within a value which is replaced, to stand before the new one."""
        return f"{comment}{self._newline}{indent}" if comment.startswith("//") else f"{comment} "

    def _insert(self, node: Node, new: Sequence[tuple[str, Any]], after: Member | None, before: Member | None) -> None:
        """Insert members into an object: behind the member *after*, else in front of *before*, else as its first."""
        if not new:
            return
        if self._fits(node, new):
            self._insert_inline(node, [f"{_flat(key)}: {_flat(value)}" for key, value in new], after)
            return
        indent = self._indent_of_members(node) or self._indent_of_line(node.start) + self._unit
        lines = [f"{indent}{_flat(key)}: {self._written(value, indent, len(_flat(key)) + 2)}" for key, value in new]
        joined = f",{self._newline}".join(lines)
        at = skip_line(self._text, node.start + 1)
        if after is not None:
            at = skip_line(self._text, (after.node.end if after.comma is None else after.comma + 1))
            if after.comma is None:
                self._edits.append(_Edit(after.node.end, after.node.end, ","))
        elif not node.members:
            at = max((found.end() for found in comments(self._text, node.start + 1, node.end)), default=at)
        comma = "," if before is not None or (after is not None and after.comma is not None) else ""
        self._edits.append(_Edit(at, at, f"{self._newline}{joined}{comma}{self._ending(node, at)}"))

    def _ending(self, node: Node, at: int) -> str:
        """Return the line break that is needed before a closing brace which follows at once."""
        rest = skip(self._text, at)
        if rest != node.end - 1 or "\n" in self._text[at:rest]:
            return ""
        return self._newline + self._indent_of_line(node.start)

    def _fits(self, node: Node, new: Sequence[tuple[str, Any]]) -> bool:
        """Tell whether *new* may join an object that stands on one line without making a long one of it."""
        short = len(json.dumps(dict(new))) <= SHORT
        return short and node is not self._root and "\n" not in self._text[node.start : node.end]

    def _insert_inline(self, node: Node, texts: Sequence[str], after: Member | None) -> None:
        joined = ", ".join(texts)
        if after is not None:
            at = after.node.end
            self._edits.append(_Edit(at, at, f", {joined}"))
        elif node.members:
            at = node.members[0].start
            self._edits.append(_Edit(at, at, f"{joined}, "))
        else:
            self._edits.append(_Edit(node.start + 1, node.start + 1, joined))

    def _written(self, value: Any, indent: str, used: int = 0) -> str:
        """Return *value* as JSON whose further lines begin at *indent*, in the document's own units."""
        return _laid_out(value, indent, self._unit, self._newline, used)

    def _indent_of_line(self, offset: int) -> str:
        """Return the white space with which the line of *offset* begins."""
        found = _LEADING.match(self._text, self._line(offset))
        return found[0] if found else ""

    def _indent_of_members(self, node: Node) -> str:
        """Return the indentation of the first member that begins a line, "" where there is none."""
        for member in node.members:
            indent = self._text[self._line(member.start) : member.start]
            if not indent.strip(" \t"):
                return indent
        return ""

    def _line(self, offset: int) -> int:
        """Return where the line of *offset* begins."""
        return max(self._text.rfind("\n", 0, offset), self._text.rfind("\r", 0, offset)) + 1


def _begun(text: str, wanted: Mapping[str, Any]) -> str:
    """Return a document of *wanted* behind the comments of *text*, which holds nothing else."""
    newline = _newline(text)
    value = _laid_out(wanted, "", INDENT, newline)
    head = text if not text.strip() or text.endswith("\n") else text + newline
    return f"{head if text.strip() else ''}{value}{newline}"


def _laid_out(value: Any, indent: str, unit: str, newline: str, used: int = 0) -> str:
    """Return *value* as JSON, its further lines indented by *indent* and further by *unit* for each level."""
    first, *lines = dump(value, used=len(indent) + used).split("\n")
    return newline.join([first, *(indent + _deepened(line, unit) for line in lines)])


def _deepened(line: str, unit: str) -> str:
    """Return a line of `dump`, which indents by two columns, indented by *unit* for each level."""
    bare = line.lstrip(" ")
    return unit * ((len(line) - len(bare)) // 2) + bare


def _newline(text: str) -> str:
    """Return the line end that the text uses first."""
    at = text.find("\n")
    return "\r\n" if at > 0 and text[at - 1] == "\r" else "\n"


def _flat(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
