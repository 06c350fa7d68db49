"""What curves over seeds say: peaks, falls with intervals, and whether the published shape is there."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, NamedTuple

from labs.study.curves import Spread, at_kl, cross_peaks, fit_form, peak, spread, standard_error
from labs.study.world import Point


class Shape(NamedTuple):
    """Of one curve, each a mean over seeds with its interval."""

    rise: Spread  # of the gold reward from the start to the peak
    fall: Spread  # of the gold reward from the peak to the end
    proxy_after: Spread  # rise of the proxy from the gold reward's peak to the end
    peak_kl: Spread


@dataclass(frozen=True, slots=True)
class Curve:
    """One way of optimising for one reward: the same stops for all seeds. ``xs``: n of best-of-n, or steps."""

    method: str
    name: str
    xs: tuple[int, ...]
    seeds: tuple[tuple[Point, ...], ...]

    def means(self, of: Callable[[Point], float]) -> list[float]:
        """Over seeds, stop by stop."""
        return [fmean(map(of, stop)) for stop in zip(*self.seeds, strict=True)]

    def by_seed(self) -> list[tuple[float, ...]]:
        """The numbers of ``Shape`` for each seed, whose peak stands where that of the other seeds' mean is."""
        peaks = cross_peaks([[p.gold for p in points] for points in self.seeds])
        ends = [(points[0], points[at], points[-1]) for at, points in zip(peaks, self.seeds, strict=True)]
        return [(top.gold - first.gold, top.gold - last.gold, last.proxy - top.proxy, top.kl) for first, top, last in ends]

    def shape(self) -> Shape:
        return pooled([self])

    def verdict(self) -> dict[str, Any]:
        return judged(self.shape())

    def to_json(self) -> dict[str, Any]:
        shape, top = self.shape(), peak(self.means(lambda p: p.gold))
        kls, golds = self.means(lambda p: p.kl), self.means(lambda p: p.gold)
        fit = fit_form(kls, golds, "bon" if self.method == "best_of_n" else "rl")
        return {
            "method": self.method,
            "reward": self.name,
            "points": [self._point(i, x) for i, x in enumerate(self.xs)],
            "peak": {"at": self.xs[top], "kl": kls[top], "sqrt_kl": _root(kls[top]), "gold": golds[top], "inside": 0 < top < len(kls) - 1},
            **{name: value._asdict() for name, value in shape._asdict().items()},
            "fit": fit._asdict() if fit else None,
            "seeds": [[asdict(p) for p in points] for points in self.seeds],
            "verdict": self.verdict(),
        }

    def _point(self, i: int, x: int) -> dict[str, float]:
        row: dict[str, float] = {"n" if self.method == "best_of_n" else "step": x}
        for name in ("kl", "gold", "proxy"):
            values = [getattr(points[i], name) for points in self.seeds]
            row |= {name: fmean(values), f"{name}_se": standard_error(values)}
        return row | {"sqrt_kl": _root(row["kl"])}


def _root(kl: float) -> float:
    """Of a KL; an estimate by samples may be a little below 0."""
    return math.sqrt(max(0.0, kl))


def surely(s: Spread) -> bool:
    """The whole interval is above 0. One seed has none, and proves nothing."""
    return s.low is not None and s.low > 0


def words(s: Spread) -> str:
    """For people."""
    return f"{s.mean:.2f} (one seed: no interval)" if s.low is None else f"{s.mean:.2f} [{s.low:.2f}, {s.high:.2f}]"


def pooled(curves: Sequence[Curve]) -> Shape:
    """The shape that curves of the same seeds have on average: means over curves, then over seeds."""
    by_seed = [[fmean(numbers) for numbers in zip(*rows, strict=True)] for rows in zip(*(c.by_seed() for c in curves), strict=True)]
    return Shape(*(spread(numbers) for numbers in zip(*by_seed, strict=True)))


def judged(shape: Shape) -> dict[str, Any]:
    """``found``: the gold reward rises, then falls while the proxy goes on rising, each with an interval above 0."""
    parts = {
        "gold rises from the start to its peak": shape.rise,
        "gold falls from its peak to the end": shape.fall,
        "the proxy rises from there to the end": shape.proxy_after,
    }
    reasons = [f"{what}: {'yes' if surely(s) else 'no'}, by {words(s)}" for what, s in parts.items()]
    return {"found": all(map(surely, parts.values())), "reasons": reasons}


def shape_of(curves: Sequence[Curve], method: str, names: Collection[str] | None = None) -> dict[str, Any]:
    """Have the curves of this way of optimising (those named, or all) the published shape on average? Which have it each by itself stands
    below, for information: among many, one may have it by chance."""
    of = [c for c in curves if c.method == method and (names is None or c.name in names)]
    if not of:
        return {"found": False, "reasons": ["there is no curve"]}
    verdict, alone = judged(pooled(of)), [c.name for c in of if c.verdict()["found"]]
    over = f"mean over {', '.join(c.name for c in of)}"
    return {"found": verdict["found"], "reasons": [over, *verdict["reasons"], f"each by itself: {'; '.join(alone) or 'none'}"]}


def ensembles_help(curves: Sequence[Curve], single: str, ensembles: Sequence[str]) -> dict[str, Any]:
    """Ensembles against one of their members, seed by seed, on average over the ensembles of a way of optimising. ``found``: for some way
    the peak of the gold reward stands at a larger KL, or the fall from it is smaller, surely, and at the largest KL that both reach gold
    is not surely lower. Each ensemble by itself stands below."""
    of = {(c.method, c.name): c for c in curves}
    found, reasons = False, list[str]()
    compared: list[dict[str, Any]] = []
    for method in ("best_of_n", "rl"):
        names = [name for name in ensembles if (method, single) in of and (method, name) in of]
        rows = {name: _against(of[method, single], of[method, name]) for name in names}
        compared += [{"method": method, "ensemble": name, **_helps([row])} for name, row in rows.items()]
        if rows:
            together = _helps(list(rows.values()))
            found = found or together["helps"]
            reasons.append(f"{method}: {'yes' if together['helps'] else 'no'}: {together['in_words']}")
    return {"found": found, "reasons": reasons, "compared": compared}


def _helps(by_ensemble: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Differences by ensemble and seed: means over ensembles, then over seeds."""
    by_seed = [{name: fmean(row[name] for row in rows) for name in rows[0]} for rows in zip(*by_ensemble, strict=True)]
    found = {name: spread([row[name] for row in by_seed]) for name in by_seed[0]}
    gold = found["gold_at_largest_shared_kl"]
    helps = (surely(found["later_peak_kl"]) or surely(found["less_fall"])) and (gold.high is None or gold.high >= 0)
    in_words = ", ".join(f"{name.replace('_', ' ').replace(' kl', ' KL')} {words(s)}" for name, s in found.items())
    return {"helps": helps, "in_words": in_words, **{name: s._asdict() for name, s in found.items()}}


def _against(single: Curve, ensemble: Curve) -> list[dict[str, float]]:
    """Differences by seed: ensemble less single; of the falls, the other way round."""
    rows: list[dict[str, float]] = []
    tops = [cross_peaks([[p.gold for p in points] for points in c.seeds]) for c in (single, ensemble)]
    for a, b, at_a, at_b in zip(single.seeds, ensemble.seeds, *tops, strict=True):
        shared = min(max(p.kl for p in a), max(p.kl for p in b))
        there = [at_kl([p.kl for p in points], [p.gold for p in points], shared) for points in (a, b)]
        rows.append(
            {
                "later_peak_kl": b[at_b].kl - a[at_a].kl,
                "higher_peak": b[at_b].gold - a[at_a].gold,
                "less_fall": (a[at_a].gold - a[-1].gold) - (b[at_b].gold - b[-1].gold),
                "gold_at_largest_shared_kl": there[1] - there[0],
            }
        )
    return rows
