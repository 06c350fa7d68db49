"""Small pictures for the report, as inline SVG. Colours are CSS variables of the page, so they follow light and dark; every label is
escaped; values are read by hovering (SVG titles), without a script."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup, escape

from keel.evaluate.report_series import Series, thin

WIDTH, HEIGHT = 520.0, 230.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 14.0, 12.0, 32.0
_MAX_HOVER = 120
_MINUS = "−"


def number(value: float | int | None, digits: int = 3) -> str:
    """A number for people: about ``digits`` significant digits, thousands separated, a real minus sign; an en dash for None or NaN."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size >= 6 or size < -4:
        text = f"{value:.{digits - 1}e}"
    else:
        text = f"{value:,.{max(0, digits - 1 - size)}f}"
        if "." in text:
            text = text.rstrip("0").rstrip(".")
    return text.replace("-", _MINUS)


def percent(value: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * value:.1f}%"


def duration(seconds: float) -> str:
    """Seconds for people: ``48 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers covering [low, high] at steps of 1, 2, 2.5 or 5 times a power of ten."""
    span = high - low
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def smooth(y: Sequence[float], window: int) -> list[float]:
    """Centred mean over ``window`` values (an odd number), over fewer at the ends, so that no curve lags behind its points."""
    total = np.concatenate([[0.0], np.cumsum(np.asarray(y, dtype=np.float64))])
    spans = [(max(0, i - window // 2), min(len(y), i + window // 2 + 1)) for i in range(len(y))]
    return [float((total[stop] - total[start]) / (stop - start)) for start, stop in spans]


@dataclass(frozen=True, slots=True)
class _Frame:
    """Plot area with linear axes."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def px(self, x: float) -> float:
        return round(_LEFT + (x - self.x_low) / (self.x_high - self.x_low) * (WIDTH - _LEFT - _RIGHT), 1)

    def py(self, y: float) -> float:
        return round(HEIGHT - _BOTTOM - (y - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - _TOP - _BOTTOM), 1)

    def axes(self, x_label: str, x_ticks: Sequence[float], y_ticks: Sequence[float], percents: bool = False) -> list[str]:
        parts = []
        for y in y_ticks:
            label = f"{100 * y:g}%" if percents else _tick(y, y_ticks)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{self.py(y)}" y2="{self.py(y)}"/>')
            parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{self.py(y) + 4}" text-anchor="end">{label}</text>')
        for x in x_ticks:
            parts.append(f'<text class="tick" x="{self.px(x)}" y="{HEIGHT - 14}" text-anchor="middle">{_tick(x, x_ticks)}</text>')
        base = HEIGHT - _BOTTOM
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>')
        middle = (_LEFT + WIDTH - _RIGHT) / 2
        parts.append(f'<text class="axis-label" x="{middle}" y="{HEIGHT - 1}" text-anchor="middle">{escape(x_label)}</text>')
        return parts


def _tick(value: float, all_ticks: Sequence[float]) -> str:
    step = all_ticks[1] - all_ticks[0] if len(all_ticks) > 1 else abs(value) or 1.0
    if abs(value) >= 1e6 or step < 1e-4:
        return number(value, 2)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6:
        decimals += 1
    return f"{value:,.{decimals}f}".replace("-", _MINUS)


def _padded(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    low, high = min(values), max(values)
    span = (high - low) or abs(high) * 0.2 or 1.0
    floor = 0.0 if low >= 0 else -math.inf  # what cannot be negative keeps its axis at or above zero
    return max(floor, low - share * span), high + share * span


def _svg(parts: Sequence[str], title: str, height: float = HEIGHT, width: float = WIDTH) -> Markup:
    box = f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}"'
    return Markup(f"<svg {box}>{''.join(parts)}</svg>")


def line_chart(title: str, series: Sequence[Series], x_label: str = "step", marks: Sequence[tuple[float, str]] = ()) -> Markup:
    """Curves over steps. A noisy curve is drawn thin, with its moving mean on top. A value that is not finite is a cross at the upper edge;
    one of a step that was given up, a ring. ``marks``: steps with a line across, and what it says."""
    shown = [thin(s) for s in series]
    all_x = [x for s in shown for x in (*s.x, *s.holes, *(x for x, _ in s.lost))]
    x_low, x_high = min(all_x), max(all_x)
    low, high = _padded([y for s in shown for y in s.y] or [0.0, 1.0])
    high = max(high, min(high + 2 * (high - low), max((y for s in shown for _, y in s.lost), default=high)))
    frame = _Frame(x_low - (x_low == x_high), x_high + (x_low == x_high), low, high)
    x_ticks = [x for x in ticks(frame.x_low, frame.x_high, 6) if x == int(x)] or [x_low]
    parts = frame.axes(x_label, x_ticks, ticks(frame.y_low, frame.y_high))
    for x, text in marks:
        place = f'x1="{frame.px(x)}" x2="{frame.px(x)}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"'
        parts.append(f'<line class="mark" {place}><title>{escape(text)}</title></line>')
    for index, s in enumerate(shown):
        colour = f"var(--c{index % 6 + 1})"
        points = [(frame.px(x), frame.py(y)) for x, y in zip(s.x, s.y)]
        if len(points) == 1 or s.dots:
            parts += [f'<circle cx="{x}" cy="{y}" r="3.2" fill="{colour}"/>' for x, y in points]
        window = max(5, len(points) // 10) | 1
        noisy = len(points) >= 16 and not s.dots and _turns(s.y) > len(points) // 4
        parts.append(_path(points, colour, "raw" if noisy else "curve"))
        if noisy:
            x_mean, y_mean = s.trend or (s.x, s.y)
            parts.append(_path([(frame.px(x), frame.py(y)) for x, y in zip(x_mean, smooth(y_mean, window))], colour, "curve"))
    parts += _hover_strips(frame, shown, x_label)
    for i, s in enumerate(shown):  # above the strips: each says its own
        parts += _apart(frame, s, f"var(--c{i % 6 + 1})", x_label)
    return _svg(parts, title)


def _turns(y: Sequence[float]) -> int:
    """How often a curve changes direction: a schedule does not, a measured loss does all the time."""
    moves = [b - a for a, b in pairwise(y) if b != a]
    return sum(a * b < 0 for a, b in pairwise(moves))


def _apart(frame: _Frame, s: Series, colour: str, x_label: str) -> list[str]:
    """Crosses of values that are not finite, rings of values that were given up."""
    parts: list[str] = []
    for x in s.holes:
        cross = f"M{frame.px(x) - 3:g} {_TOP - 3} l6 6 m0 -6 l-6 6"
        text = f"{s.label} is not finite at {x_label} {x:g}"
        parts.append(f'<path class="hole" d="{cross}" stroke="{colour}"><title>{escape(text)}</title></path>')
    for x, y in s.lost:
        text = f"{s.label} {number(y, 4)} at {x_label} {x:g}, given up"
        ring = f'cx="{frame.px(x)}" cy="{frame.py(min(max(y, frame.y_low), frame.y_high))}" r="2.6"'
        parts.append(f'<circle class="lost" {ring} stroke="{colour}"><title>{escape(text)}</title></circle>')
    return parts


def _path(points: Sequence[tuple[float, float]], colour: str, kind: str) -> str:
    steps = " ".join(f"{'L' if i else 'M'}{x:g} {y:g}" for i, (x, y) in enumerate(points))
    return f'<path class="{kind}" d="{steps}" stroke="{colour}"/>'


def _hover_strips(frame: _Frame, series: Sequence[Series], x_label: str) -> list[str]:
    """Invisible full-height strips, one a step, whose title tells the values there."""
    at: dict[float, list[str]] = {}
    for s in series:
        for x, y in zip(s.x, s.y):
            at.setdefault(x, []).append(f"{s.label} {number(y, 4)}")
    xs = sorted(at)
    xs = xs[:: math.ceil(len(xs) / _MAX_HOVER)]
    width = (WIDTH - _LEFT - _RIGHT) / max(1, len(xs))
    height = HEIGHT - _TOP - _BOTTOM
    return [
        f'<rect class="hover" x="{frame.px(x) - width / 2:.1f}" y="{_TOP}" width="{width:.1f}" height="{height}">'
        f"<title>{escape(f'{x_label} {x:g} · ' + ' · '.join(at[x]))}</title></rect>"
        for x in xs
    ]


def histogram(title: str, before: Sequence[float], after: Sequence[float], x_label: str) -> Markup:
    """Two distributions over one axis, in shares of their answers, with their means marked."""
    both = [*before, *after]
    low, high = min(both), max(both)
    if low == high:
        low, high = low - 0.5, high + 0.5
    bins = min(30, max(8, round(1.4 * math.sqrt(min(len(before), len(after))))))
    edges = np.linspace(low, high, bins + 1)
    shares = [np.histogram(values, edges)[0] / len(values) for values in (before, after)]
    frame = _Frame(low, high, 0.0, max(float(s.max()) for s in shares) * 1.12)
    y_ticks = ticks(0.0, frame.y_high, 3)
    parts = frame.axes(x_label, ticks(low, high, 6), y_ticks, percents=True)
    for name, values, share in zip(("before", "after"), (before, after), shares):
        for i, height in enumerate(share):
            if height > 0:
                x, y = frame.px(float(edges[i])), frame.py(float(height))
                tip = f"{name}: {percent(float(height))} between {number(float(edges[i]))} and {number(float(edges[i + 1]))}"
                box = f'x="{x + 0.6:.1f}" y="{y}" width="{frame.px(float(edges[i + 1])) - x - 1.2:.1f}" height="{frame.py(0) - y:.1f}"'
                parts.append(f'<rect class="bar {name}" {box} rx="1.5"><title>{escape(tip)}</title></rect>')
        mean = frame.px(float(np.mean(values)))
        parts.append(f'<line class="mean {name}" x1="{mean}" x2="{mean}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>')
    return _svg(parts, title)


def intervals(title: str, rows: Sequence[tuple[str, float, float, float]], *, width: float = 720.0, headline: bool = False) -> Markup:
    """Shares with their intervals on one axis from 0 to 100%, one half marked: rows of (label, mean, low, high).

    With ``headline`` the first row stands out. Labels get the room that they need, up to 45% of the width; longer ones are cut, and whole
    when one points at them.
    """
    line, right, most = 36.0, 68.0, 0.45 * width
    left = min(most, max(0.25 * width, *(_label_width(label) + 18 for label, *_ in rows))) if rows else 0.25 * width
    height = line * len(rows) + 30

    def px(share: float) -> float:
        return round(left + share * (width - left - right), 1)

    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        kind = "half" if share == 0.5 else "grid"
        parts.append(f'<line class="{kind}" x1="{px(share)}" x2="{px(share)}" y1="4" y2="{height - 24}"/>')
        parts.append(f'<text class="tick" x="{px(share)}" y="{height - 6}" text-anchor="middle">{share:.0%}</text>')
    for i, (label, mean, low, high) in enumerate(rows):
        y = 4 + line * (i + 0.5)
        tip = f"{label}: {percent(mean)}, interval {percent(low)} to {percent(high)}"
        kind = "first" if headline and i == 0 else "other"
        shown = _fitted(label, left - 18)
        whole = f"<title>{escape(label)}</title>" if shown != label else ""
        parts.append(f'<text class="row-label {kind}" x="{left - 14:.1f}" y="{y + 4}" text-anchor="end">{escape(shown)}{whole}</text>')
        parts.append(f'<line class="whisker {kind}" x1="{px(low)}" x2="{px(high)}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="estimate {kind}" cx="{px(mean)}" cy="{y}" r="6.5"><title>{escape(tip)}</title></circle>')
        parts.append(f'<text class="row-value {kind}" x="{width - 4}" y="{y + 4}" text-anchor="end">{percent(mean)}</text>')
    return _svg(parts, title, height, width)


def _label_width(text: str) -> float:
    """About how wide a label of rows is, in pixels: Chinese characters are as wide as they are high."""
    return sum(14.5 if unicodedata.east_asian_width(ch) in "WF" else 7.6 for ch in text)


def _fitted(text: str, room: float) -> str:
    """The text, or as much of its beginning as there is room for, with an ellipsis."""
    if _label_width(text) <= room:
        return text
    while text and _label_width(text) + 7.6 > room:
        text = text[:-1]
    return f"{text.rstrip()}…"


def timeline(title: str, seconds: Mapping[str, float]) -> Markup:
    """The stages in order as one bar, each as long as it took."""
    width, height, total = 1040.0, 34.0, sum(seconds.values())
    parts, x = [], 0.0
    for index, (name, value) in enumerate(seconds.items()):
        length = value / total * width
        tip = f"{name}: {duration(value)} ({value / total:.0%})"
        box = f'x="{x + 1:.1f}" y="0" width="{max(1.0, length - 2):.1f}" height="{height}"'
        parts.append(f'<rect {box} rx="5" fill="var(--c{index % 6 + 1})"><title>{escape(tip)}</title></rect>')
        if length > 60:
            parts.append(f'<text class="on-bar" x="{x + length / 2:.1f}" y="22" text-anchor="middle">{value / total:.0%}</text>')
        x += length
    return _svg(parts, title, height, width)


def reliability(title: str, bins: Sequence[Mapping[str, float]]) -> Markup:
    """Confidence claimed against accuracy found, a bubble for each bin (its area the number of pairs), the diagonal being right."""
    low = min(0.5, *(min(b["confidence"], b["accuracy"]) for b in bins)) if bins else 0.5
    low = math.floor(low * 10) / 10
    frame = _Frame(low, 1.0, low, 1.02)
    parts = frame.axes("confidence claimed", ticks(low, 1.0, 5), ticks(low, 1.0, 5))
    parts.append(f'<line class="diagonal" x1="{frame.px(low)}" y1="{frame.py(low)}" x2="{frame.px(1)}" y2="{frame.py(1)}"/>')
    most = max(b["n"] for b in bins)
    for b in bins:
        x, y = frame.px(b["confidence"]), frame.py(b["accuracy"])
        parts.append(f'<line class="gap" x1="{x}" x2="{x}" y1="{y}" y2="{frame.py(b["confidence"])}"/>')
        tip = f"claimed {percent(b['confidence'])}, right {percent(b['accuracy'])}, {b['n']:g} pairs"
        parts.append(
            f'<circle class="bubble" cx="{x}" cy="{y}" r="{4 + 9 * math.sqrt(b["n"] / most):.1f}"><title>{escape(tip)}</title></circle>'
        )
    return _svg(parts, title)
