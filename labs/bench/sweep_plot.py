"""The picture of a study: share of right answers, and the metric that it is about."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keel.core.figures import grid, save


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Draw what ``sweep`` found: a row a task, means over the seeds, the band from the lowest to the highest seed. Raises UserError when
    the file cannot be written."""
    tasks = list(dict.fromkeys(r["task"] for r in found["runs"]))
    figure, axes = grid(len(tasks), 2, 8, 2.6 * len(tasks))
    for row, task in zip(axes, tasks, strict=True):
        for axis, metric in zip(row, ("right", found["shows"]), strict=True):
            for label in dict.fromkeys(r["label"] for r in found["runs"]):
                curves = [r["curves"][metric] for r in found["runs"] if (r["task"], r["label"]) == (task, label) and metric in r["curves"]]
                if curves:
                    _band(axis, curves, label)
            axis.set_title(f"{task}: {'share of right answers' if metric == 'right' else metric}", fontsize=9)
            axis.set_xlabel("step", fontsize=8)
            axis.tick_params(labelsize=7)
        row[0].set_ylim(0, 1)
        row[0].legend(fontsize=7)
    save(figure, path)


def _band(axis: Any, curves: Sequence[Sequence[float | None]], label: str) -> None:
    steps = [i for i in range(min(map(len, curves))) if all(c[i] is not None for c in curves)]
    columns = [[float(v) for c in curves if (v := c[i]) is not None] for i in steps]
    smooth = [
        [statistics.fmean(v for column in part for v in column)] for i in range(len(steps)) if (part := columns[max(0, i - 2) : i + 1])
    ]
    (line,) = axis.plot([i + 1 for i in steps], [s[0] for s in smooth], label=label, linewidth=1.3)
    axis.fill_between([i + 1 for i in steps], [min(c) for c in columns], [max(c) for c in columns], alpha=0.12, color=line.get_color())
