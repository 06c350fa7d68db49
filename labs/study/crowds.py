"""Public crowds with known truth: accuracy, Brier score and log-loss of each way of adding votes up. The data are the user's:
``FOLDER/NAME/label.csv`` (item, worker, label) and ``truth.csv`` (item, truth), integers below a line of names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keel.core.errors import DataError
from keel.feedback.reliability import calibrate
from keel.feedback.reliability.dawid_skene import dawid_skene
from keel.feedback.reliability.mace import mace
from keel.feedback.reliability.majority import vote_share
from keel.feedback.reliability.votes import Floats, Ints, Votes, from_arrays

SPLITS, GOLD = 20, 0.1
METHODS = ("vote share", "dawid_skene", "mace", "dawid_skene, guarded", "dawid_skene, fitted on gold")


def crowds(folder: Path, splits: int = SPLITS) -> dict[str, Any]:
    """Every set below ``folder``. Raises DataError where there is none."""
    found = sorted(p.parent for p in folder.glob("*/label.csv") if (p.parent / "truth.csv").is_file())
    if not found:
        raise DataError(f"{folder} holds no folder with label.csv and truth.csv", "one folder a data set: item,worker,label and item,truth")
    return {"study": "crowds", "rows": [one(path, splits) for path in found]}


def read(path: Path) -> tuple[Votes, Ints, Ints]:
    """Votes (the first of each worker on an item), the items with known truth and their classes."""
    labels = np.loadtxt(path / "label.csv", delimiter=",", skiprows=1, dtype=np.int64, ndmin=2)
    truth = np.loadtxt(path / "truth.csv", delimiter=",", skiprows=1, dtype=np.int64, ndmin=2)
    labels = labels[np.sort(np.unique(labels[:, :2], axis=0, return_index=True)[1])]
    truth = truth[np.isin(truth[:, 0], labels[:, 0])]
    classes = np.unique(np.concatenate([labels[:, 2], truth[:, 1]]))
    items = np.unique(labels[:, 0])
    votes = from_arrays(np.searchsorted(items, labels[:, 0]), labels[:, 1], np.searchsorted(classes, labels[:, 2]), len(classes))
    return votes, np.searchsorted(items, truth[:, 0]), np.searchsorted(classes, truth[:, 1])


def one(path: Path, splits: int) -> dict[str, Any]:
    """Scores of one set; what is fitted on gold is fitted on a tenth of the known items (20 at least) and scored on the rest, ``splits``
    times; all others are scored on the same rests."""
    votes, task_G, class_G = read(path)
    share, fitted = vote_share(votes), dawid_skene(votes).posterior_TK
    ways = {"vote share": share, "dawid_skene": fitted, "mace": mace(votes).posterior_TK, METHODS[3]: calibrate.guarded(fitted, share)}
    found: dict[str, list[Mapping[str, float]]] = {name: [] for name in METHODS}
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(len(task_G))
        n = max(calibrate.FEWEST_GOLD, round(GOLD * len(task_G)))
        known, rest = order[:n], order[n:]
        for name, posterior in ways.items():
            found[name].append(calibrate.scores(posterior, task_G[rest], class_G[rest]))
        soft = _soft(votes, fitted, dict(zip(task_G[known].tolist(), class_G[known].tolist())))
        found[METHODS[4]].append(calibrate.scores(soft, task_G[rest], class_G[rest]))
    mean = {name: {k: float(np.mean([s[k] for s in rows])) for k in rows[0]} for name, rows in found.items()}
    sizes = {"votes": len(votes), "tasks": len(votes.tasks), "people": len(np.unique(votes.annotator_V)), "classes": len(votes.classes)}
    return {"set": path.name, **sizes, "known": len(task_G), "scores": mean}


def _soft(votes: Votes, posterior_TK: Floats, gold: Mapping[int, int]) -> Floats:
    share = vote_share(votes, calibrate.MASS / len(votes.classes))
    return calibrate.fit(posterior_TK, share, gold).apply(posterior_TK, share)


def table(found: Mapping[str, Any]) -> str:
    """Accuracy / Brier / log-loss of each set and method, as Markdown."""
    lines = [f"| set | votes | people | classes | {' | '.join(METHODS)} |", "|---" * (4 + len(METHODS)) + "|"]
    for r in found["rows"]:
        cells = [f"{s['accuracy']:.3f} / {s['brier']:.3f} / {s['log_loss']:.2f}" for s in (r["scores"][m] for m in METHODS)]
        lines.append(f"| {r['set']} | {r['votes']} | {r['people']} | {r['classes']} | {' | '.join(cells)} |")
    return "\n".join(lines)
