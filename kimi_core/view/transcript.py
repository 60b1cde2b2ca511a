"""The turns of a conversation on a page: the beginning and the end of a long one, the last turn at length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kimi_core.view.text import FOOT, Page, count

FIRST = 12  # turns shown from the beginning: system text and first question
LAST = 150  # and from the end
SHOWN = 1_500  # characters of each text of a turn
SHOWN_LAST = 12_000  # of the last turn, which is what the request is about

type Said = tuple[str, list[str]]
"""Who speaks, and the blocks of what is said."""


def transcript(page: Page, turns: list[Any], said: Callable[[Any, int], Said]) -> None:
    """Put *turns* on the page; *said* turns one of them into text, with a limit for each block."""
    left_out = max(0, len(turns) - FIRST - LAST)
    for place, turn in enumerate(turns[:FIRST]):
        _turn(page, place, said(turn, SHOWN_LAST if place == len(turns) - 1 else SHOWN))
    if left_out:
        page.add(f"\n… {count(left_out, 'turn')} left out …")
    later = range(FIRST + left_out, len(turns) - 1)
    for place in later:
        if not page.full:
            _turn(page, place, said(turns[place], SHOWN))
    page.make_room(FOOT)
    if len(turns) > FIRST:
        _turn(page, len(turns) - 1, said(turns[-1], SHOWN_LAST))


def _turn(page: Page, place: int, turn: Said) -> None:
    title, blocks = turn
    page.section(f"{place + 1} {title}")
    for number, block in enumerate(blocks):
        if number and (block[:1] in "→←[" or blocks[number - 1][:1] in "→["):
            page.add()
        page.prose(block)
