"""JSON with comments, read with the place of everything in it, so that it can be edited without being written anew.

What is understood is what opencode and editors take for JSONC: JSON (RFC 8259), ``//`` and ``/* */`` comments wherever
white space may stand, and one comma after the last member or item. A key that stands twice counts the last time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 200  # levels of nesting; beyond that it is no configuration, and Python's stack has an end
_TRIVIA = re.compile(r"[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORD = re.compile(r"true|false|null")
_LEAVES = (_STRING, _NUMBER, _WORD)
_WHITE = " \t\r\n"


class JsoncError(ValueError):
    """A text is no JSONC, or does not have the shape that is needed; `line` and `column` count from 1."""

    def __init__(self, message: str, text: str, offset: int) -> None:
        before = text[:offset]
        self.line = before.count("\n") + 1
        self.column = offset - (before.rfind("\n") + 1) + 1
        super().__init__(f"line {self.line}, column {self.column}: {message}")


@dataclass(frozen=True, slots=True)
class Node:
    """A value and the span ``text[start:end]`` that it takes; `members` are those of an object, in their order."""

    value: Any
    start: int
    end: int
    members: tuple[Member, ...] = ()

    @property
    def is_object(self) -> bool:
        """True for an object, also an empty one."""
        return isinstance(self.value, dict)

    def member(self, key: str) -> Member | None:
        """Return the member of that name that counts: the last one."""
        return next((member for member in reversed(self.members) if member.key == key), None)


@dataclass(frozen=True, slots=True)
class Member:
    """One ``"key": value`` of an object; `start` is that of the key, `comma` the offset of the comma behind it."""

    key: str
    start: int
    node: Node
    comma: int | None


def parse(text: str) -> Node | None:
    """Return the tree of *text*, or None where there is nothing in it but comments. Raises JsoncError."""
    return _Parser(text).document()


def comments(text: str, start: int, end: int) -> Iterator[re.Match[str]]:
    """Yield the comments within ``text[start:end]``, which begins outside of strings and comments."""
    offset = start
    while offset < end:
        found = _TRIVIA.match(text, offset) or _STRING.match(text, offset)
        if found and found[0].startswith("/"):
            yield found
        offset = found.end() if found else offset + 1


def skip(text: str, offset: int) -> int:
    """Return the offset behind all white space and comments at *offset*."""
    while found := _TRIVIA.match(text, offset):
        offset = found.end()
    return offset


def skip_line(text: str, offset: int) -> int:
    """Return the offset behind the comments that follow on the same line, or *offset* where there are none."""
    end = offset
    while found := _TRIVIA.match(text, offset):
        offset = found.end()
        if "\n" in found[0] or "\r" in found[0]:
            break
        if found[0][0] not in _WHITE:
            end = offset
    return end


class _Parser:
    """Recursive descent over one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def document(self) -> Node | None:
        self._skip()
        if self._at == len(self._text):
            return None
        node = self._value(0)
        self._skip()
        if self._at != len(self._text):
            raise self._fault("something follows after the end of the value")
        return node

    def _value(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise self._fault("this is nested too deeply")
        match self._peek():
            case "{":
                return self._object(depth)
            case "[":
                return self._array(depth)
            case _:
                return self._leaf()

    def _object(self, depth: int) -> Node:
        start, members = self._at, list[Member]()
        self._take()
        while (sign := self._next()) != "}":
            if members and members[-1].comma is None:
                raise self._fault("a comma or } is missing")
            if sign != '"':
                raise self._fault("a key in double quotes is missing")
            key = self._leaf()
            if self._next() != ":":
                raise self._fault("a colon is missing")
            self._take()
            self._skip()
            node = self._value(depth + 1)
            members.append(Member(key.value, key.start, node, self._comma()))
        self._take()
        return Node({member.key: member.node.value for member in members}, start, self._at, tuple(members))

    def _array(self, depth: int) -> Node:
        start, items, open_end = self._at, list[Any](), True
        self._take()
        while self._next() != "]":
            if not open_end:
                raise self._fault("a comma or ] is missing")
            items.append(self._value(depth + 1).value)
            open_end = self._comma() is not None
        self._take()
        return Node(items, start, self._at)

    def _leaf(self) -> Node:
        start = self._at
        for pattern in _LEAVES:
            if found := pattern.match(self._text, start):
                self._at = found.end()
                return Node(self._decoded(found[0], start), start, self._at)
        raise self._fault("a value is missing" if self._peek() in ("", "}", "]", ",") else "this is no value of JSON")

    def _decoded(self, token: str, start: int) -> Any:
        try:
            return json.loads(token)
        except ValueError:  # an escape that there is not, or a number with thousands of digits
            raise JsoncError("this is no value of JSON", self._text, start) from None

    def _comma(self) -> int | None:
        if self._next() != ",":
            return None
        self._take()
        return self._at - 1

    def _next(self) -> str:
        """Skip what means nothing; return the sign that follows, "" at the end."""
        self._skip()
        return self._peek()

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> None:
        self._at += 1

    def _skip(self) -> None:
        self._at = skip(self._text, self._at)
        if self._text.startswith("/*", self._at):
            raise self._fault("a comment has no end")

    def _fault(self, message: str) -> JsoncError:
        return JsoncError(message, self._text, self._at)
