"""Pictures that can be read on a telephone: rows of intervals as HTML, whose texts keep their size, and small curves as SVG drawn at
the width that a card has there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from keel.evaluate.report_plots import ticks

WIDTH, HEIGHT = 340.0, 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 10.0, 10.0, 34.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of intervals: texts as they are shown."""

    label: str
    mean: float
    low: float
    high: float
    value: str
    note: str = ""
    strong: bool = False


def rows(bars: Sequence[Bar], low: float, high: float, marks: Sequence[tuple[float, str]]) -> Markup:
    """Intervals on one axis from ``low`` to ``high``; what reaches further is cut there. ``marks``: places with their texts, the first one
    drawn through all rows."""

    def at(value: float) -> float:
        return round(100 * (min(max(value, low), high) - low) / (high - low), 2)

    parts = ['<div class="forest">']
    for bar in bars:
        kind = " strong" if bar.strong else ""
        parts.append(f'<div class="forest-row{kind}"><div class="forest-label">{escape(bar.label)}')
        parts.append(f' <span class="dim">{escape(bar.note)}</span></div>' if bar.note else "</div>")
        parts.append(f'<div class="forest-track"><i class="forest-zero" style="left:{at(marks[0][0])}%"></i>')
        parts.append(f'<i class="forest-span" style="left:{at(bar.low)}%;width:{round(at(bar.high) - at(bar.low), 2)}%"></i>')
        parts.append(
            f'<i class="forest-dot" style="left:{at(bar.mean)}%"></i></div><div class="forest-value">{escape(bar.value)}</div></div>'
        )
    parts.append('<div class="forest-row forest-axis"><div></div><div class="forest-track">')
    parts += [f'<span style="left:{at(place)}%">{escape(text)}</span>' for place, text in marks]
    parts.append("</div><div></div></div></div>")
    return Markup("".join(parts))


@dataclass(frozen=True, slots=True)
class Curve:
    """Points (x, y, low, high) of one line; equal ends draw no band."""

    label: str
    points: Sequence[tuple[float, float, float, float]]


def curves(
    title: str, lines: Sequence[Curve], x_label: str, *, percents: bool = True, zero: float | None = None, logarithmic: bool = False
) -> Markup:
    """Lines with their bands over a common axis, a line across at ``zero``."""
    every = [p for line in lines for p in line.points]
    place = (lambda x: math.log(x)) if logarithmic else (lambda x: x)
    xs = [place(p[0]) for p in every]
    ys = [v for p in every for v in p[1:] if math.isfinite(v)] + ([zero] if zero is not None else [])
    x_low, x_high = min(xs), max(xs)
    if x_low == x_high:
        x_low, x_high = x_low - 1, x_high + 1
    y_low, y_high = min(ys), max(ys)
    pad = 0.06 * ((y_high - y_low) or 1.0)
    y_low, y_high = y_low - pad, y_high + pad

    def px(x: float) -> float:
        return round(_LEFT + (place(x) - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT), 1)

    def py(y: float) -> float:
        y = min(max(y, y_low), y_high)
        return round(HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - _TOP - _BOTTOM), 1)

    parts: list[str] = []
    for y in ticks(y_low, y_high, 4):
        text = f"{100 * y:.0f}%" if percents else f"{y:g}"
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{py(y)}" y2="{py(y)}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{py(y) + 4}" text-anchor="end">{text}</text>'.replace("-", "-"))
    if zero is not None:
        parts.append(f'<line class="half" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{py(zero)}" y2="{py(zero)}"/>')
    for i, line in enumerate(lines):
        colour = f"var(--c{i % 6 + 1})"
        points = sorted(line.points)
        if any(p[3] > p[2] for p in points):
            ends = [f"{px(p[0])} {py(p[3])}" for p in points] + [f"{px(p[0])} {py(p[2])}" for p in reversed(points)]
            parts.append(f'<path class="fan" style="fill:{colour}" d="M{" L".join(ends)}Z"/>')
        path = " L".join(f"{px(p[0])} {py(p[1])}" for p in points)
        parts.append(f'<path class="curve" d="M{path}" stroke="{colour}"/>')
        tip = "{}: {} {:g}, {:.3g} ({:.3g} – {:.3g})"
        for p in points:
            parts.append(f'<circle cx="{px(p[0])}" cy="{py(p[1])}" r="3" fill="{colour}">')
            parts.append(f"<title>{escape(tip.format(line.label, x_label, *p))}</title></circle>")
    for x in _x_marks([p[0] for p in every], px):
        parts.append(f'<text class="tick" x="{px(x)}" y="{HEIGHT - 18}" text-anchor="middle">{x:,g}</text>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text class="axis-label" x="{middle}" y="{HEIGHT - 3}" text-anchor="middle">{escape(x_label)}</text>')
    box = f'viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(title)}"'
    return Markup(f'<svg class="small-plot" {box}>{"".join(parts)}</svg>')


def _x_marks(xs: Sequence[float], px) -> list[float]:
    """The measured places, the last first, as many as do not touch."""
    shown: list[float] = []
    for x in sorted(set(xs), reverse=True):
        if all(abs(px(x) - px(other)) > 38 for other in shown) and px(x) < WIDTH - _RIGHT + 1:
            shown.append(x)
    return shown
