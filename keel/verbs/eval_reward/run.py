"""`keel eval reward MODEL DATA`: order, calibration, ensemble, stress, cost and diagnosis of a reward model, as JSON and as a page."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from keel.core.config import load
from keel.core.errors import DataError
from keel.data.dataset import Dataset
from keel.data.dataset import load as load_data
from keel.data.findings import find
from keel.evaluate.blindness import SWAPPED, Look, changed, scores_are_right, scores_move
from keel.evaluate.diagnosis import Patient, diagnose
from keel.evaluate.measures import pair_accuracy
from keel.evaluate.reward_measures import ScoredLabel, measure
from keel.evaluate.reward_page import page
from keel.evaluate.rewardbench import rewardbench2
from keel.feedback.agreement import agreement
from keel.learner.inference import LocalInference
from keel.models.loading import load_model
from keel.render.renderer import Renderer
from keel.runs.durable import write_atomic
from keel.runs.memory import peak_mb
from keel.types import Comparison, Unit
from keel.verbs.eval_reward.config import EvalRewardConfig
from keel.verbs.eval_reward.quantised import in_fewer_bits
from keel.verbs.eval_reward.stress import stress
from keel.verbs.shared.labels import reward_units
from keel.verbs.shared.scored_labels import judge, step_accuracy
from keel.verbs.shared.session import renderer_of

log = logging.getLogger("keel")
MAX_TIMED = 16  # answers scored one by one, for the latency
MAX_SWAPPED = 64  # prompts that are swapped, to see whether they are read


@dataclass(frozen=True, slots=True)
class _Side:
    """One data set as units, with its measures."""

    data: Dataset
    units: tuple[Unit, ...]
    judged: tuple[ScoredLabel, ...]
    measures: dict[str, Any]


def run_eval_reward(model: str, data: str, json_file: str = "", html_file: str = "", overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Measure, write ``json_file`` and ``html_file`` where given, print the headline. Raises UserError for a model, data or settings that
    cannot be used, before anything is measured."""
    config = load(EvalRewardConfig, None, [f"model={json.dumps(model)}", f"data={{path: {json.dumps(data)}}}", *overrides])
    wholes = _datasets(config)
    loaded = load_model(config.model, config.model_options, heads=frozenset({"score"}))
    renderer = renderer_of(loaded, config.render)
    inference = LocalInference(loaded.model.freeze(), config.batch)
    assert loaded.model.score_head is not None
    started = time.perf_counter()
    sides = {name: _side(inference, renderer, dataset, config) for name, dataset in wholes.items()}
    seconds = time.perf_counter() - started
    found: dict[str, Any] = {"model": model, "head": loaded.model.score_head.spec.to_json()}
    found["data"] = {name: side.measures for name, side in sides.items() if name != "trained_on"}
    stressed = stress(inference, renderer, sides["data"].data, _spread(sides["data"].judged), config)
    found["stress"] = stressed
    looks = _blindness(inference, sides["data"], renderer)
    found["looks"] = {what: look.to_json() for what, look in looks.items()}
    if "image" in looks:
        found["looks"]["image"]["right"] = scores_are_right(inference.scores, changed(sides["data"].units, renderer.twins, MAX_SWAPPED))
    trained = sides["trained_on"].judged if "trained_on" in sides else ()
    found["diagnosis"] = [f.to_json() for f in diagnose(_patient(sides["data"], trained, looks, stressed))]
    found["cost"] = _cost(inference, sides, seconds)
    found["quantised"] = in_fewer_bits(sides["data"].judged, sides["data"].units, config)
    if json_file:
        write_atomic(Path(json_file), (json.dumps(found, ensure_ascii=False, indent=2) + "\n").encode())
    if html_file:
        write_atomic(Path(html_file), page(found).encode())
    for line in headline(found):
        print(line)
    return found


def _datasets(config: EvalRewardConfig) -> dict[str, Dataset]:
    """All data by name; prompts of the training data are left out of what is measured."""
    names = {"data": config.data, **config.others}
    if {"trained_on"} & config.others.keys() or "data" in config.others:
        raise DataError("others: the names data and trained_on are taken", "call it something else")
    wholes = {name: load_data(section, 0) for name, section in names.items()}
    if config.trained_on is None:
        return wholes
    trained = load_data(config.trained_on, 0)
    return {name: data.without_prompts(trained) for name, data in wholes.items()} | {"trained_on": trained}


def _side(inference: LocalInference, renderer: Renderer, dataset: Dataset, config: EvalRewardConfig) -> _Side:
    head = inference.model.score_head
    assert head is not None
    units, refused = reward_units(
        renderer, dataset, head.spec.dimensions if head.spec.units and _rated(dataset, head.spec.dimensions) else ()
    )
    if not units:
        why = f"; the first: {refused[0].source_id}: {refused[0].reason}" if refused else ""
        raise DataError(f"{dataset.source}: none of {len(dataset)} records can be scored{why}", "see the limits in render.*")
    judged = judge(inference, units, config.category)
    counts = {
        "rows": dataset.counts["rows"],
        "bad_rows": len(dataset.bad),
        "refused": len(refused),
        "in_training_data": dataset.in_held_out,
    }
    measures: dict[str, Any] = {"source": dataset.source, **counts, **measure(judged, bins=config.bins, draws=config.draws)}
    measures |= step_accuracy(inference, units) | _certainty(judged) | rewardbench2(judged)
    return _Side(dataset, tuple(units), tuple(judged), measures)


def _rated(dataset: Dataset, dimensions: Sequence[str]) -> bool:
    return any(name in getattr(record, "scores", {}) for record in dataset.records for name in dimensions)


def _certainty(judged: Sequence[ScoredLabel]) -> dict[str, Any]:
    """Of an ensemble: does it know what it does not know? Accuracy of the pairs on which its members agree most and least."""
    rows = [
        (j.std[a] + j.std[b], j.scores[a] - j.scores[b], label) for j in judged if j.std for a, b, label in j.preferences if label != 0.5
    ]
    if len(rows) < 4:
        return {}
    rows.sort(key=lambda r: r[0])
    half = len(rows) // 2
    of = {"agreeing": rows[:half], "disagreeing": rows[half:]}
    mean = math.fsum(s for j in judged for s in j.std) / sum(len(j.std) for j in judged)
    return {"ensemble": {"std": mean} | {k: pair_accuracy([m for _, m, _ in r], [y for _, _, y in r]).mean for k, r in of.items()}}


def _patient(side: _Side, trained: Sequence[ScoredLabel], looks: dict[str, Look], stressed: dict[str, Any]) -> Patient:
    votes = [r for r in side.data.records if isinstance(r, Comparison)]
    found = agreement(votes) if votes else None
    decided = sum(v.outcome != "tie" for v in votes)
    contradictions = find(side.data.records).contradictions / max(1, side.measures["pairs"])
    return Patient(
        side.judged,
        trained,
        looks,
        {name: row["flips"] for name, row in stressed.items() if row["attack"]},
        found.left_rate if found is not None else math.nan,
        decided,
        contradictions,
    )


def _spread(judged: Sequence[ScoredLabel]) -> float:
    """Standard deviation of all scores; 1 when they are all the same."""
    scores = torch.tensor([s for j in judged for s in j.scores], dtype=torch.float64)
    return float(scores.std(correction=0)) or 1.0 if len(scores) else 1.0


def _blindness(inference: LocalInference, side: _Side, renderer: Renderer) -> dict[str, Look]:
    """How far scores move when an answer stands under another prompt, and before other images or none."""
    units = [u for u in side.units if u.branches][:MAX_SWAPPED]
    texts = [u for u in units if not u.prompt.media]
    others = [(u, replace(u, prompt=texts[i - 1].prompt)) for i, u in enumerate(texts)]
    told = [(u, o) for u, o in others if not torch.equal(u.prompt.tokens_T, o.prompt.tokens_T)]
    pairs = {"prompt": {SWAPPED: told} if len(told) > 1 else {}, "image": changed(units, renderer.twins, MAX_SWAPPED)}
    looks = {what: scores_move(inference.scores, of) for what, of in pairs.items()}
    return {what: look for what, look in looks.items() if look is not None}


def _cost(inference: LocalInference, sides: dict[str, _Side], seconds: float) -> dict[str, float]:
    """Throughput over all data, latency of one answer at a time, memory."""
    answers = sum(len(u.branches) for s in sides.values() for u in s.units)
    tokens = sum(u.n_tokens for s in sides.values() for u in s.units)
    single = [replace(u, branches=u.branches[:1], target=None) for u in sides["data"].units[:MAX_TIMED]]
    times = []
    for unit in single:
        started = time.perf_counter()
        inference.scores([unit])
        times.append(1000 * (time.perf_counter() - started))
    memory = {"peak_mb": peak_mb()}
    models = inference.model.members or (inference.model,)
    sizes = {id(p): p.numel() for model in models for p in model.module.parameters()}  # a base that members share counts once
    if inference.model.device.type == "cuda":
        memory["peak_gpu_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return {
        "answers_per_s": answers / seconds,
        "tokens_per_s": tokens / seconds,
        "latency_ms_median": sorted(times)[len(times) // 2],
        "latency_ms_max": max(times),
        "parameters": float(sum(sizes.values())),
        **memory,
    }


def headline(found: dict[str, Any]) -> list[str]:
    """The result in a few lines."""
    lines: list[str] = []
    for name, m in found["data"].items():
        parts = [f"{name}: {m['prompts']} prompts, {m['pairs']} pairs"]
        if (a := m.get("accuracy")) is not None:
            parts.append(f"accuracy {a['mean']:.3f} [{a['low']:.3f}, {a['high']:.3f}]")
            parts.append(f"calibration error {m['calibration']['ece']:.3f} (temperature {m['temperature']:.3g})")
        parts += [f"{k} {m[k]['mean']:.3f}" for k in ("kendall", "spearman", "best_of_k") if k in m]
        if m.get("spearman_overall") is not None:
            parts.append(f"spearman overall {m['spearman_overall']:.3f}")
        if "rewardbench2" in m:
            parts.append(f"RewardBench 2 {m['rewardbench2']['mean']:.3f} (ties {m['rewardbench2']['ties']['score']:.3f})")
        if "stepwise" in m:
            parts.append(f"steps right {m['stepwise']['accuracy']:.3f}")
        lines.append(", ".join(parts))
    right = found["looks"].get("image", {}).get("right", {})
    lines += ["right " + ", ".join(f"{share:.0%} with the image {name}" for name, share in right.items())] if right else []
    lines += [f"{name}: {row['flips']:.0%} of right pairs turn" for name, row in found["stress"].items()]
    for way, row in found["quantised"].items():
        loss = row["loss"]
        text = f"accuracy {row['before']:.3f} -> {row['after']:.3f}, loss {loss['mean']:.4f} [{loss['low']:.4f}, {loss['high']:.4f}]"
        lines.append(f"{way}: {text}, {row['turned']:.1%} of pairs turn, {row['mb']:.1f} MB of weights instead of {row['mb_before']:.1f}")
    lines += [f"finding: {f['name']}: {f['evidence']}; what helps: {f['remedy']}" for f in found["diagnosis"] if f["present"]]
    return lines
