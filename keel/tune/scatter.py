"""Points in a small picture, as inline SVG in the report's colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

from keel.evaluate.report_plots import HEIGHT, WIDTH, number, ticks

_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 18.0, 14.0, 34.0


@dataclass(frozen=True, slots=True)
class Dot:
    """A point; ``y`` None: there is no value, it is drawn at the lower edge."""

    x: float
    y: float | None
    kind: Literal["full", "ring", "cross"]
    tip: str


def scatter(title: str, dots: Sequence[Dot], x_label: str, log: bool) -> Markup:
    """Dots over a setting; ``log``: equal factors are equally far, where all are above 0. At least one has a value."""
    log = log and all(d.x > 0 for d in dots)
    at = math.log10 if log else float
    xs, ys = [at(d.x) for d in dots], [d.y for d in dots if d.y is not None]
    x_low, x_high = _padded(min(xs), max(xs))
    y_low, y_high = _padded(min(ys), max(ys))

    def px(x: float) -> float:
        return round(_LEFT + (at(x) - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT), 1)

    def py(y: float) -> float:
        return round(HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - _TOP - _BOTTOM), 1)

    parts: list[str] = []
    base = HEIGHT - _BOTTOM
    for y in ticks(y_low, y_high):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{py(y)}" y2="{py(y)}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{py(y) + 4}" text-anchor="end">{number(y)}</text>')
    marks = [10.0**k for k in range(math.ceil(x_low), math.floor(x_high) + 1)] if log else ticks(x_low, x_high)
    for x in marks if len(marks) > 1 else sorted({d.x for d in dots})[:: max(1, len(dots) - 1)]:
        parts.append(f'<text class="tick" x="{px(x)}" y="{HEIGHT - 17}" text-anchor="middle">{number(x)}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>')
    parts.append(
        f'<text class="axis-label" x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{HEIGHT - 2}" text-anchor="middle">{escape(x_label)}</text>'
    )
    for d in dots:
        x, y, tip = px(d.x), py(d.y) if d.y is not None else base, f"<title>{escape(d.tip)}</title>"
        if d.kind == "cross" or d.y is None:
            path = f"M{x - 4},{y - 4}L{x + 4},{y + 4}M{x - 4},{y + 4}L{x + 4},{y - 4}"
            parts.append(f'<path d="{path}" stroke="var(--bad)" stroke-width="1.8">{tip}</path>')
        else:
            fill = "var(--c1)" if d.kind == "full" else "var(--card)"
            parts.append(f'<circle cx="{x}" cy="{y}" r="4.2" fill="{fill}" stroke="var(--c1)" stroke-width="1.6">{tip}</circle>')
    return Markup(f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>')


def _padded(low: float, high: float) -> tuple[float, float]:
    span = (high - low) or abs(high) * 0.2 or 1.0
    return low - 0.07 * span, high + 0.07 * span
