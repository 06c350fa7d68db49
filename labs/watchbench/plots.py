"""The curves of detection against false alarms, a small picture for each rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from keel.core.figures import grid, save
from labs.watchbench.roc import Point, Sweep

# The limit of each rule whose curve is drawn, as it stands in its condition.
SWEEPS: Mapping[str, Sweep] = {
    "kl-jump": Sweep("change(kl, 3) > 4", (0.5, 1, 2, 3, 6, 10, 20, 50), ("explosion",)),
    "entropy-jump": Sweep("change(entropy, 3) < -0.5", (-0.05, -0.1, -0.2, -0.3, -0.4, -0.6, -0.8, -0.95), ("explosion",)),
    "reward-plunge": Sweep("max(mean(reward, 10)) - 3", (0, 0.5, 1, 2, 4, 6, 10), ("explosion",)),
    "collapse": Sweep("max(mean(reward, 10)) - mean(reward, 10) > 2.5", (0, 1, 4, 6, 10), ("explosion",)),
    "gradient-jump": Sweep("mean(grad_norm, 3) > 8", (1.5, 2, 3, 4, 6, 12, 20), ("explosion",)),
    "entropy-fall": Sweep("change(entropy, 5) < -0.13", (-0.02, -0.05, -0.08, -0.1, -0.16, -0.2, -0.3), ("entropy",)),
    "length-up": Sweep("mean(completions/mean_length, 3) > 1.3", (1.05, 1.1, 1.2, 1.5, 1.8, 2.2, 3), ("length",)),
    "held-out-gap": Sweep("first(eval/reward_std, 1) * 0.3", (-0.5, 0, 0.1, 0.2, 0.5, 1), ("leak", "proxy")),
    "gold-gap": Sweep(
        "max(eval/rewards/gold/mean) - 0.5", (0, 0.1, 0.2, 0.3, 0.7, 1, 1.5, 2), ("length", "format", "keyword", "leak", "proxy")
    ),
    "stale": Sweep("sampling/staleness/mean > 3", (0, 1, 2, 5, 10, 20), ("stale",)),
    "sampler-apart": Sweep("mean(sampling/sampling_logp_difference/mean, 3) > 0.02", (0, 0.005, 0.01, 0.05, 0.1, 0.3), ("stale",)),
    "critic": Sweep("mean(loss/value_avg, 3) > 4", (1, 1.5, 2, 3, 6, 10, 30), ("critic",)),
    "no-signal": Sweep("mean(frac_reward_zero_std, 5) > 0.9", (0.2, 0.4, 0.6, 0.8, 0.95, 0.99), ("dead",)),
}
_COLUMNS = 4


def draw(curves: Mapping[str, Sequence[Point]], path: Path) -> None:
    """Detection (share of sick runs) over false alarms (share of healthy runs), with intervals; the shipped limit is the filled point."""
    names = list(curves)
    rows = -(-len(names) // _COLUMNS)
    figure, axes = grid(rows, _COLUMNS, 11, 2.7 * rows)
    for k in range(rows * _COLUMNS):
        axis = axes[k // _COLUMNS][k % _COLUMNS]
        if k >= len(names):
            axis.axis("off")
            continue
        points = sorted(curves[names[k]], key=lambda p: (p.false.mean, p.detected.mean))
        x, y = [p.false.mean for p in points], [p.detected.mean for p in points]
        axis.plot(x, y, linewidth=1, marker="o", markersize=3, fillstyle="none")
        for p in points:
            if p.shipped:
                axis.plot([p.false.mean], [p.detected.mean], marker="o", color="black", markersize=5)
                axis.plot([p.false.low, p.false.high], [p.detected.mean] * 2, color="black", linewidth=0.8)
                axis.plot([p.false.mean] * 2, [p.detected.low, p.detected.high], color="black", linewidth=0.8)
        axis.set_xlim(-0.03, 1.03)
        axis.set_ylim(-0.03, 1.03)
        axis.set_title(names[k], fontsize=9)
        axis.tick_params(labelsize=7)
        if k + _COLUMNS >= len(names):  # the lowest of its column
            axis.set_xlabel("healthy runs in which it speaks", fontsize=7)
        if k % _COLUMNS == 0:
            axis.set_ylabel("sick runs that it names", fontsize=7)
    save(figure, path)
