"""The stress set of a reward model: variants of the user's own pairs, scored beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from keel.data.config import ConversionConfig
from keel.data.conversion import to_pairs
from keel.data.dataset import Dataset
from keel.evaluate.measures import pair_accuracy
from keel.evaluate.stress import ATTACKS, INVARIANTS, Variant
from keel.feedback.store import pair_row
from keel.learner.inference import LocalInference
from keel.render.renderer import Renderer
from keel.render.targets import pairs_to_units
from keel.runs.durable import write_atomic
from keel.runs.logs import json_line
from keel.types import Message, Pair, PairTarget, Prompt, Steps, Unpaired
from keel.verbs.eval_reward.config import EvalRewardConfig

Turns = tuple[Message, ...]


def stress(
    inference: LocalInference, renderer: Renderer, dataset: Dataset, spread: float, config: EvalRewardConfig
) -> dict[str, dict[str, Any]]:
    """By variant: ``n`` pairs, ``accuracy`` on them, ``flips`` (share of the pairs ordered rightly before that are no longer), ``shift``
    (mean move of the changed answers' scores, in standard deviations ``spread``), ``attack`` (only the worse answer is changed)."""
    pairs = decided(dataset)[: config.stress_pairs]
    found: dict[str, dict[str, Any]] = {}
    rows: list[Pair] = []
    for name, variant in {**ATTACKS, **INVARIANTS}.items():
        changed = [(p, c) for p in pairs if (c := vary(p, variant, both=name in INVARIANTS)) is not None]
        if not changed:
            continue
        rows += [replace(c, record_id=f"{c.record_id}:{name}") for _, c in changed]
        before, after = (_scores(inference, renderer, [pair[i] for pair in changed]) for i in (0, 1))
        kept = [(b, a) for (p, c) in changed if (b := before.get(p.record_id)) is not None and (a := after.get(c.record_id)) is not None]
        if not kept:
            continue
        margins = [a[0] - a[1] for _, a in kept]
        right = [a for b, a in kept if b[0] > b[1]]
        moved = [a[1] - b[1] for b, a in kept] + ([a[0] - b[0] for b, a in kept] if name in INVARIANTS else [])
        prompts = [p.prompt.prompt_id for p, c in changed if p.record_id in before and c.record_id in after]
        found[name] = {
            "n": len(kept),
            "accuracy": pair_accuracy(margins, None, prompts, draws=config.draws).to_json(),
            "flips": sum(a[0] <= a[1] for a in right) / len(right) if right else 0.0,
            "shift": sum(moved) / len(moved) / spread,
            "attack": name in ATTACKS,
        }
    if config.write_stress:
        write_atomic(Path(config.write_stress), b"".join(json_line(pair_row(p)) for p in rows))
    return found


def decided(dataset: Dataset) -> list[Pair]:
    """Pairs with a better answer, that one first: as they stand, or made of ratings, rankings and comparisons."""
    records = [r for r in dataset.records if not isinstance(r, Prompt | Steps | Unpaired)]
    pairs = to_pairs(records, ConversionConfig(balance=1), dataset.source) if records else []
    turned = [replace(p, chosen=p.rejected, rejected=p.chosen, label=1 - p.label) if p.label < 0.5 else p for p in pairs if p.label != 0.5]
    return [replace(p, record_id=f"{i}:{p.record_id}") for i, p in enumerate(turned)]


def vary(pair: Pair, variant: Variant, both: bool) -> Pair | None:
    """The pair with its worse answer (or both) changed; None when that changes nothing or makes them equal."""
    rejected = _changed(pair.rejected, variant)
    chosen = _changed(pair.chosen, variant) if both else pair.chosen
    if (chosen, rejected) == (pair.chosen, pair.rejected) or chosen == rejected:
        return None
    return replace(pair, chosen=chosen, rejected=rejected)


def _changed(answer: Turns, variant: Variant) -> Turns:
    last = answer[-1]
    return (*answer[:-1], replace(last, content=variant(last.content))) if isinstance(last.content, str) and last.content else answer


def _scores(inference: LocalInference, renderer: Renderer, pairs: Sequence[Pair]) -> dict[str, tuple[float, float]]:
    """(score of the better answer, of the worse one) by the pair's id; those that cannot be rendered are missing."""
    rendered = [(pair.record_id, unit) for pair in pairs for unit in pairs_to_units(renderer, [pair])[0]]
    found: dict[str, tuple[float, float]] = {}
    for (name, unit), scores_G in zip(rendered, inference.scores([u for _, u in rendered]), strict=True):
        assert isinstance(unit.target, PairTarget)
        edge = unit.target.edges[0]
        found[name] = (float(scores_G[edge.winner]), float(scores_G[edge.loser]))
    return found
