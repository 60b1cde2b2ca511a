"""A line chart as SVG, in colours that can be read on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 36, 52  # margins; the right one holds the names of the lines
TICKS = 6  # about so many on each axis
STEPS = (1, 2, 2.5, 5, 10)  # that a tick may be apart, times a power of ten
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.grid { stroke: #d1d9e0; stroke-width: 1 }
.line { fill: none; stroke-width: 2 }
.c0 { stroke: #0969da; fill: #0969da } .c1 { stroke: #bc4c00; fill: #bc4c00 } .c2 { stroke: #59636e; fill: #59636e }
.line { fill: none } .name { stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .grid { stroke: #3d444d }
  .c0 { stroke: #58a6ff; fill: #58a6ff } .c1 { stroke: #f0883e; fill: #f0883e } .c2 { stroke: #9198a1; fill: #9198a1 }
  .line { fill: none } .name { stroke: none }
}
"""


@dataclass(frozen=True)
class Line:
    """A named row of points (x, y), neither below 0."""

    name: str
    points: Sequence[tuple[float, float]]


def ticks(top: float) -> list[float]:
    """Return round numbers from 0 on, about `TICKS` of them, the last at or above *top*."""
    power = 10.0 ** math.floor(math.log10(top / TICKS))
    step = next(power * each for each in STEPS if power * each * TICKS >= top)
    return [number * step for number in range(math.ceil(top / step - 1e-9) + 1)]


def chart(title: str, across: str, up: str, lines: Sequence[Line]) -> str:
    """Return the SVG; *across* and *up* name the axes."""
    xs = ticks(max(x for line in lines for x, _ in line.points))
    ys = ticks(max(y for line in lines for _, y in line.points))
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + x / xs[-1] * wide, TOP + high - y / ys[-1] * high

    def parts() -> Iterator[str]:
        yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        yield f"<title>{escape(title)}</title><style>{STYLE}</style>"
        yield _text(LEFT, TOP - 16, title)
        for x in xs:
            left, bottom = place(x, 0)
            yield _text(left, bottom + 20, f"{x:g}", "middle")
        for y in ys:
            left, bottom = place(0, y)
            yield f'<path class="grid" d="M{left:.1f} {bottom:.1f}H{LEFT + wide}"/>'
            yield _text(left - 8, bottom + 4, f"{y:g}", "end")
        yield _text(LEFT + wide / 2, HEIGHT - 10, across, "middle")
        yield f'<g transform="rotate(-90 16 {TOP + high / 2})">{_text(16, TOP + high / 2, up, "middle")}</g>'
        for number, line in enumerate(lines):
            places = [place(*point) for point in line.points]
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            yield f'<path class="line c{number}" d="M{path}"/>'
            for x, y in places:
                yield f'<circle class="c{number}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>'
            x, y = places[-1]
            yield f'<text class="name c{number}" x="{x + 8:.1f}" y="{y + 4:.1f}">{escape(line.name)}</text>'
        yield "</svg>"

    return "\n".join(parts()) + "\n"


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
