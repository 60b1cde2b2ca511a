#!/usr/bin/env python3
"""Make the pictures in docs/screenshots: ``make screenshots``.

Photographs what a user sees of a real proxy with traffic (`stage`) with a headless Chromium (``$CHROMIUM``, else the
one on PATH). ``SHOTS`` lists the pictures.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from PIL import Image
from playwright.sync_api import Page as Tab
from stage import ROOT, Stage, stage

FOLDER = ROOT / "docs" / "screenshots"
WIDE, NARROW = 1600, 400  # px
HEIGHT = 1000  # px; a full page is as long as it is
COLOURS = 256  # of a picture's palette, as many as PNG allows


@dataclass(frozen=True)
class Shot:
    """One picture: what is opened at which width, by day or by night, and what is done before it is taken."""

    name: str
    of: Literal["page", "mitmweb"]
    width: int = WIDE
    dark: bool = False
    full: bool = True
    prepare: Callable[[Tab], None] | None = None


def _answer_of(path: str, view: str | None = None) -> Callable[[Tab], None]:
    """Return what opens the answer of the last good chat below *path* in mitmweb, in *view* where one is named."""

    def open_it(tab: Tab) -> None:
        tab.locator("tr", has_text=path).filter(has_text="200").filter(has_not_text="...").last.click()
        tab.get_by_text("Response", exact=True).first.click()
        tab.get_by_text("Chat answer", exact=True).wait_for()
        if view:
            tab.get_by_text("View:").first.click()
            tab.get_by_text(view.lower(), exact=True).click()
            tab.get_by_text(view, exact=True).wait_for()
        tab.evaluate("document.activeElement.blur()")  # the ring of the last click says nothing
        tab.wait_for_load_state("networkidle")

    return open_it


SHOTS: Sequence[Shot] = (
    Shot("status-light", "page"),
    Shot("status-dark", "page", dark=True),
    Shot("status-narrow-light", "page", width=NARROW, full=False),
    Shot("status-narrow-dark", "page", width=NARROW, full=False, dark=True),
    Shot("mitmweb-answer", "mitmweb", full=False, prepare=_answer_of("api.kimi.com")),
    Shot("mitmweb-event-stream", "mitmweb", full=False, prepare=_answer_of("kiro.dev", "Kiro wire")),
)

# --- the pictures -----------------------------------------------------------------------------------------------------


def take(shot: Shot, on: Stage) -> bytes:
    """Return the picture as PNG."""
    context = on.browser.new_context(
        viewport={"width": shot.width, "height": HEIGHT}, color_scheme="dark" if shot.dark else "light"
    )
    with context:
        tab = context.new_page()
        tab.goto(getattr(on, shot.of))
        tab.wait_for_load_state("networkidle")
        if shot.prepare:
            shot.prepare(tab)
        return small(tab.screenshot(full_page=shot.full, animations="disabled"))


def small(png: bytes) -> bytes:
    """Return *png* with its commonest colours for a palette: surfaces stay exact, edges of letters nearly so."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    found = cast("list[tuple[int, tuple[int, int, int]]]", picture.getcolors(picture.width * picture.height))
    commonest = [colour for _, colour in sorted(found, reverse=True)[:COLOURS]]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for colour in commonest for part in colour])
    out = io.BytesIO()
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def main() -> None:
    """Take every picture, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="pictures to take; all of them where none is named")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    wanted = parser.parse_args()
    wanted.folder.mkdir(parents=True, exist_ok=True)
    with stage() as on:
        for shot in SHOTS:
            if not wanted.names or shot.name in wanted.names:
                path = wanted.folder / f"{shot.name}.png"
                path.write_bytes(take(shot, on))
                print(f"{path.name}: {path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
