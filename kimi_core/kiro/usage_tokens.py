"""Tokens of a turn: what Kiro says where it says it, else what can be worked out, marked as an estimate (kiro.md §2.5).

In this order: exact counts of a metadata or metrics event; the percentage of the model's window, which gives the exact
total; the estimate of the request that the caller brings along.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import astuple

from kimi_core.kiro.events import TokenUsage
from kimi_core.wire.parts import Usage

ASCII_TOKENS = 0.25  # tokens per ASCII character: English and code have about four characters to a token
OTHER_TOKENS = 0.75  # tokens per other character: between Cyrillic (about 0.5) and Chinese (about 1)
PERCENT = 100


_NOTHING = TokenUsage()


def estimate(text: str) -> float:
    """Return about how many tokens *text* is.

    A sum over its characters, so that the estimates of two pieces add up to that of the whole; round at the end.
    """
    if text.isascii():
        return len(text) * ASCII_TOKENS
    plain = len(text.encode("ascii", "ignore"))
    return plain * ASCII_TOKENS + (len(text) - plain) * OTHER_TOKENS


class Counter:
    """Collects what an answer says about tokens, and counts what it contains."""

    __slots__ = ("_count", "_limit", "_prompt", "_window", "exact", "percentage", "written")

    def __init__(
        self, window: int | None, prompt: int, *, count: Callable[[str], float] = estimate, limit: int | None = None
    ) -> None:
        self._window = window  # maxInputTokens of the serving model
        self._prompt = prompt  # the request's own estimate
        self._count = count
        self._limit = limit  # tokens that the client wants at the most
        self.written = 0.0  # estimated tokens of the answer so far
        self.exact: TokenUsage | None = None
        self.percentage: float | None = None

    @property
    def spent(self) -> bool:
        """True where the limit leaves no room for anything more."""
        return self._limit is not None and self.written >= self._limit

    def add(self, text: str) -> None:
        """Count *text*, whatever the limit."""
        self.written += self._count(text)

    def admit(self, text: str) -> str:
        """Count as much of *text* as the limit has room for, and return that."""
        tokens = self._count(text)
        limit = self._limit
        if limit is not None and self.written + tokens > limit:
            room = limit - self.written
            # the first length that is too long, found by halving: counting is additive, so longer is never less
            fits = bisect_right(range(len(text) + 1), room, key=lambda size: self._count(text[:size])) - 1
            text = text[: max(0, fits)]
            tokens = self._count(text)
        self.written += tokens
        return text

    def learn(self, tokens: TokenUsage) -> None:
        """Take exact counts; what a later event does not say stays as it was."""
        known = astuple(self.exact or _NOTHING)
        pairs = zip(known, astuple(tokens), strict=True)
        self.exact = TokenUsage(*(before if now is None else now for before, now in pairs))

    def full(self) -> bool:
        """Tell whether the model's window is full."""
        return self.percentage is not None and self.percentage >= PERCENT

    def usage(self) -> Usage:
        """Return the best that is known now."""
        exact = self.exact or _NOTHING
        completion = math.ceil(self.written) if exact.output is None else exact.output
        cached, cache_written = exact.cache_read or 0, exact.cache_write or 0
        prompt = None if exact.uncached is None else exact.uncached + cached + cache_written
        if prompt is None and (total := self._total(exact)) is not None:
            prompt = max(0, total - completion)
        estimated = exact.output is None or prompt is None
        return Usage(self._prompt if prompt is None else prompt, completion, cached, cache_written, estimated)

    def _total(self, exact: TokenUsage) -> int | None:
        if exact.total is not None:
            return exact.total
        if self.percentage is None or self._window is None:
            return None
        return round(self.percentage / PERCENT * self._window)
