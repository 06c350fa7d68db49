"""A reward model at labelled units: its scores beside what people said, for the measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from keel.evaluate.reward_measures import ScoredLabel, Ties, flat, measure
from keel.learner.inference import LocalInference
from keel.methods.objectives.reward import order_of
from keel.types import PairTarget, StepsTarget, Unit

CATEGORIES = ("category", "subset", "domain", "language")  # extra columns by which measures are split: the first that a row has


def judge(inference: LocalInference, units: Sequence[Unit], column: str = "") -> list[ScoredLabel]:
    """Scores and labels of units with pairs, rankings or ratings; others are left out. ``column`` names the category's."""
    scales = scales_of(inference)
    kept = [u for u in units if not isinstance(u.target, StepsTarget) and u.target is not None]
    ties = _ties(inference, kept)
    judged = [members_GM for members_GM, _ in inference.judgements(kept)]
    zeros_M = _zeros(inference, judged)
    return [
        ScoredLabel(
            prompt_id=str(unit.meta.get("prompt_id", unit.unit_id)),
            scores=tuple(members_GM.mean(1).tolist()),
            edges=tuple((e.winner, e.loser, e.label) for e in unit.target.edges) if isinstance(unit.target, PairTarget) else (),
            order=() if isinstance(unit.target, PairTarget) else tuple(order_of(unit, scales)),
            category=category(unit, column),
            std=tuple((members_GM - zeros_M).std(1, correction=0).tolist()) if members_GM.shape[1] > 1 else (),
            lengths=tuple(len(b) for b in unit.branches),
            unit_id=unit.unit_id,
            ties=ties if isinstance(unit.target, PairTarget) else None,
        )
        for unit, members_GM in zip(kept, judged, strict=True)
    ]


def _zeros(inference: LocalInference, judged: Sequence[Tensor]) -> Tensor:
    """What each member says on average of all these answers, where its zero is its own: no disagreement. 0 for ratings. [M]"""
    head = inference.model.score_head
    whole_NM = torch.cat(list(judged)) if judged else torch.zeros(1, 1)
    return whole_NM.mean(0) if head is not None and head.spec.open_zero else torch.zeros(whole_NM.shape[1])


def _ties(inference: LocalInference, units: Sequence[Unit]) -> Ties | None:
    """The model's ties, where it has learnt them and the labels have some: without any, the odds of what is left are the lead's."""
    models = inference.model.members or (inference.model,)
    heads = [m.score_head for m in models if m.score_head is not None and m.score_head.tie is not None]
    there = any(e.tie > 0 for u in units if isinstance(u.target, PairTarget) for e in u.target.edges)
    if not heads or not there:
        return None
    weights = [float(w) for head in heads if head.tie is not None for w in head.tie.detach()]
    return Ties(sum(weights) / len(weights), heads[0].spec.tie_model)


def scales_of(inference: LocalInference) -> dict[str, tuple[float, float, float]]:
    """(weight, mean, standard deviation) of the ratings that the model's head learnt, by dimension."""
    head = inference.model.score_head
    return {} if head is None else {n: (w, *u) for n, w, u in zip(head.spec.dimensions, head.spec.weights, head.spec.units)}


def category(unit: Unit, column: str = "") -> str:
    """What the unit is about, where its row says so."""
    return next((str(unit.meta[name]) for name in ((column,) if column else CATEGORIES) if unit.meta.get(name) is not None), "")


def step_accuracy(inference: LocalInference, units: Sequence[Unit]) -> dict[str, Any]:
    """How well the score at the end of each step tells right from wrong, and where the first error is; {} without stepwise labels."""
    kept = [(u, u.target) for u in units if isinstance(u.target, StepsTarget)]
    if not kept:
        return {}
    right = total = found = wrong = 0
    for (_, target), scores in zip(kept, inference.steps([u for u, _ in kept]), strict=True):
        for labels, scores_N in zip(target.labels, scores, strict=True):
            said = [float(s) > 0 for s in scores_N]
            right, total = right + sum(a == b for a, b in zip(said, labels)), total + len(labels)
            if not all(labels):
                wrong += 1
                found += (said.index(False) if False in said else -1) == list(labels).index(False)
    return {"stepwise": {"accuracy": right / total, "n": total, "first_error_found": found / wrong if wrong else None, "with_error": wrong}}


def summary_measures(inference: LocalInference, units: Sequence[Unit]) -> dict[str, Any]:
    """What a stage's summary says of held-out units."""
    judged = judge(inference, units)
    found = measure(judged) if judged else {}
    shown: dict[str, Any] = {"reward_model": flat(found)} if flat(found) else {}
    if "calibration" in found:
        shown["calibration"] = found["calibration"]
    return shown | step_accuracy(inference, units)
