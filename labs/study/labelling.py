"""Labels saved by choosing which pairs people judge: logistic reward models on simulated features, against a random arm. numpy alone.

The worlds: answers' features are clustered (many pairs are alike), people's votes are Bradley-Terry's of a hidden linear utility, so votes
on close pairs are nearly coins. Both arms start from the same random labels, learn with the same model and are scored on the same
pairs that neither has seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from keel.feedback.active import doubt, labels_saved, plan
from keel.feedback.reliability.votes import Floats, Ints


@dataclass(frozen=True, slots=True)
class Plan:
    """``sharpness``: the utility's scale; the larger, the less people are coins. ``control``: the random share within the chosen arm."""

    worlds: int = 40
    pool: int = 1500
    held_out: int = 2000
    features: int = 20
    start: int = 40
    batch: int = 30
    rounds: int = 8
    members: int = 8
    sharpness: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0)
    control: float = 0.2
    seed: int = 0


def study(plan_: Plan) -> dict[str, Any]:
    """For each sharpness the two learning curves and the labels saved."""
    rows: list[dict[str, Any]] = []
    labels = plan_.start + plan_.batch * np.arange(plan_.rounds + 1)
    for sharpness in plan_.sharpness:
        curves = {arm: np.array([_learn(plan_, sharpness, w, arm) for w in range(plan_.worlds)]) for arm in ("chosen", "random")}
        saved = labels_saved(labels, curves["chosen"], curves["random"])
        rows.append({"sharpness": sharpness, "saved": asdict(saved), **{k: v.mean(0).tolist() for k, v in curves.items()}})
    return {"study": "labelling", "labels": labels.tolist(), "worlds": plan_.worlds, "control": plan_.control, "rows": rows}


def _world(plan_: Plan, sharpness: float, world: int) -> tuple[Floats, Floats, Floats, Ints]:
    rng = np.random.default_rng((plan_.seed, world, int(10 * sharpness)))
    n = plan_.pool + plan_.held_out
    centres = rng.normal(size=(12, plan_.features))
    share = rng.dirichlet(np.full(12, 0.5))
    x = 0.6 * centres[rng.choice(12, n, p=share)] + 0.6 * rng.normal(size=(n, plan_.features))
    w = rng.normal(size=plan_.features)
    utility = sharpness * (x @ w) / np.std(x @ w)
    votes = (rng.random(n) < 1.0 / (1.0 + np.exp(-utility))).astype(np.int64)
    return x, utility, w, votes


def _learn(plan_: Plan, sharpness: float, world: int, arm: str) -> Floats:
    """Accuracy on held-out pairs (against the hidden utility's sign) after each round, [rounds + 1]."""
    x, utility, _, votes = _world(plan_, sharpness, world)
    pool, test = np.arange(plan_.pool), slice(plan_.pool, None)
    rng = np.random.default_rng((plan_.seed, world, 7))
    have = list(rng.permutation(plan_.pool)[: plan_.start])
    later = iter([i for i in rng.permutation(plan_.pool) if i not in set(have)])
    found: list[float] = []
    for step in range(plan_.rounds + 1):
        w = fit(x[have], votes[have])
        found.append(float(((x[test] @ w > 0) == (utility[test] > 0)).mean()))
        if step == plan_.rounds:
            break
        if arm == "random":
            have += [next(later) for _ in range(plan_.batch)]
            continue
        left = np.setdiff1d(pool, have)
        members = np.stack([x[left] @ fit(x[pick], votes[pick]) for pick in (rng.choice(have, len(have)) for _ in range(plan_.members))])
        chosen = plan([str(i) for i in left], doubt(members), x[left], plan_.batch, control=plan_.control, seed=1000 * world + step)
        have += [int(p.task) for p in chosen]
    return np.array(found)


def fit(x_ND: Floats, y_N: Ints | Floats, ridge: float = 1.0, steps: int = 12) -> Floats:
    """Logistic regression without an intercept, ridge ``ridge`` / 2 |w|^2, by Newton's method."""
    w_D = np.zeros(x_ND.shape[1])
    for _ in range(steps):
        p_N = 1.0 / (1.0 + np.exp(-np.clip(x_ND @ w_D, -30, 30)))
        gradient_D = x_ND.T @ (p_N - y_N) + ridge * w_D
        hessian_DD = (x_ND * (p_N * (1.0 - p_N))[:, None]).T @ x_ND + ridge * np.eye(len(w_D))
        w_D = w_D - np.linalg.solve(hessian_DD, gradient_D)
    return w_D


def table(found: Mapping[str, Any]) -> str:
    """Labels saved by sharpness, as Markdown."""
    lines = [
        "| scale of the utility | random arm's accuracy at the end | chosen arm's | labels saved at that accuracy | above 0 |",
        "|---|---|---|---|---|",
    ]
    for r in found["rows"]:
        s = r["saved"]
        cells = f"{100 * s['share']:.0f}% [{100 * s['low']:.0f}, {100 * s['high']:.0f}]"
        lines.append(f"| {r['sharpness']} | {r['random'][-1]:.3f} | {r['chosen'][-1]:.3f} | {cells} | {'yes' if s['better'] else 'no'} |")
    return "\n".join(lines)
