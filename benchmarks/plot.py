"""A plot as SVG: lines of labelled points, a linear share across, a logarithmic scale upward."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 500
STYLE = 'font-family="sans-serif" font-size="13" fill="#222"'
LEFT, RIGHT, TOP, BOTTOM = 70, 30, 50, 115
#: Colours that are told apart also by who sees no red or green (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A point: a share (0 is the left edge), a positive value, and the text beside it."""

    x: float
    y: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points that a line joins, in their order."""

    name: str
    points: Sequence[Mark]


def draw(
    series: Sequence[Series],
    *,
    title: str,
    x_title: str,
    y_title: str,
    x_lines: Sequence[tuple[float, str]] = (),
    y_lines: Sequence[tuple[float, str]] = (),
    note: str = "",
) -> str:
    """The plot; `x_lines` and `y_lines` are dashed, each with its text."""
    xs = [p.x for one in series for p in one.points] + [x for x, _ in x_lines]
    ys = [p.y for one in series for p in one.points] + [y for y, _ in y_lines]
    right = max(0.2, math.ceil(max(xs, default=1.0) * 10 + 0.3) / 10)
    low, high = min(ys, default=1.0) / 1.3, max(ys, default=10.0) * 1.3

    def across(x: float) -> float:
        return LEFT + x / right * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        span = math.log(high / low)
        return TOP + math.log(high / y) / span * (HEIGHT - TOP - BOTTOM)

    floor, edge = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {STYLE}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        _text(LEFT, 28, title, more=' font-size="16" font-weight="bold"'),
    ]
    for tick in range(0, round(right * 10) + 1, 1 if right <= 0.6 else 2):
        x = across(tick / 10)
        parts += [_line(x, TOP, x, floor, "#ddd"), _text(x, floor + 18, f"{tick * 10} %", "middle")]
    for value in _ticks(low, high):
        y = down(value)
        parts += [_line(LEFT, y, edge, y, "#ddd"), _text(LEFT - 8, y + 4, f"{value:g}", "end")]
    for value, name in y_lines:
        y = down(value)
        parts += [_line(LEFT, y, edge, y, "#222", dashed=True), _text(edge, y - 5, name, "end")]
    for value, name in x_lines:
        x = across(value)
        parts += [_line(x, TOP, x, floor, "#222", dashed=True), _text(x + 5, TOP + 12, name)]
    for number, one in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        places = [(across(p.x), down(p.y), p.label) for p in one.points]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
        parts.append(
            f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        for x, y, label in places:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
            parts.append(_text(x + 7, y + 14, label, more=f' fill="{colour}"'))
        x = LEFT + 10 + number % 3 * 200
        y = floor + 62 + number // 3 * 17
        parts.append(f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{colour}"/>')
        parts.append(_text(x + 9, y, one.name))
    middle = (TOP + floor) / 2
    parts += [
        _text((LEFT + edge) / 2, floor + 38, x_title, "middle"),
        _text(18, middle, y_title, "middle", f' transform="rotate(-90 18 {middle:g})"'),
        _text(LEFT, HEIGHT - 12, note),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _ticks(low: float, high: float) -> Iterator[float]:
    """1, 2 and 5 times the powers of ten between two values."""
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for step in (1, 2, 5):
            if low <= step * 10.0**power <= high:
                yield step * 10.0**power


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}"{dash}/>'


def _text(x: float, y: float, text: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'
