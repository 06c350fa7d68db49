"""Labels saved by choosing which pairs people judge, on a real model's answers: reward heads on a frozen language model.

    python -m labs.study.doubts RUN/stages/sft/final RUN/stages/collect/tasks.jsonl RUN/stages/mine/tasks.jsonl

The answers are those of files of tasks; a reward model is a linear head on the mean of the last hidden states of an answer, an ensemble of
them (bootstrapped labels) says what it doubts. A label is what three simulated annotators say of a pair. Both arms start from
the same pairs, and are scored on pairs of prompts that neither has seen, against the hidden utility. Repetitions differ in the split, the
first pairs and all draws.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from keel.feedback.active import doubt, labels_saved, plan
from keel.feedback.candidates import deduplicate, make_candidate
from keel.feedback.config import AnnotatorsConfig
from keel.feedback.reliability.votes import Floats, Ints
from keel.simulate import gold
from keel.simulate.annotators import annotate, make_annotators
from keel.types import Candidate, Prompt
from labs.study.labelling import fit


@dataclass(frozen=True, slots=True)
class Plan:
    """``ridge``: of the heads, on standardised features."""

    repetitions: int = 24
    held_out: float = 0.35
    start: int = 40
    batch: int = 30
    rounds: int = 8
    members: int = 6
    control: float = 0.2
    ridge: float = 30.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class World:
    """P pairs of answers: differences of features (first less second) [P, D], the annotators' soft label, the true difference of utility,
    the number of the prompt."""

    x_PD: Floats
    label_P: Floats
    true_P: Floats
    prompt_P: Ints


def world(prompts: Sequence[Prompt], answers: Sequence[Sequence[str]], features: Sequence[Floats], seed: int = 0) -> World:
    """All pairs of different answers to each prompt. ``features``: [answers, D] for each prompt."""
    items: list[tuple[Prompt, Candidate, Candidate]] = []
    x: list[Floats] = []
    owner: list[int] = []
    for n, (prompt, texts, of_prompt) in enumerate(zip(prompts, answers, features, strict=True)):
        made = [make_candidate(prompt.prompt_id, text, {}) for text in texts]
        kept = deduplicate(made)
        places = [made.index(c) for c in kept]
        for (i, one), (j, two) in itertools.combinations(zip(places, kept, strict=True), 2):
            items.append((prompt, one, two))
            x.append(of_prompt[i] - of_prompt[j])
            owner.append(n)
    annotators = make_annotators(AnnotatorsConfig(), seed)
    votes = annotate(items, annotators, 3, seed)
    share: dict[tuple[str, str, str], list[float]] = {}
    for v in votes:
        first, second = (c.candidate_id for c in v.candidates)
        said = {"first": 1.0, "second": 0.0, "tie": 0.5}[v.outcome]
        share.setdefault((v.prompt.prompt_id, first, second), []).append(said)

    def label(prompt: Prompt, one: Candidate, two: Candidate) -> float:
        key = (prompt.prompt_id, one.candidate_id, two.candidate_id)
        if key in share:
            return float(np.mean(share[key]))
        return 1.0 - float(np.mean(share[prompt.prompt_id, two.candidate_id, one.candidate_id]))

    true = [gold.utility(p, one.text) - gold.utility(p, two.text) for p, one, two in items]
    return World(np.array(x), np.array([label(*i) for i in items]), np.array(true), np.array(owner, np.int64))


def study(found: World, plan_: Plan) -> dict[str, Any]:
    """The two learning curves and the labels saved."""
    labels = plan_.start + plan_.batch * np.arange(plan_.rounds + 1)
    curves = {arm: np.array([_learn(found, plan_, r, arm) for r in range(plan_.repetitions)]) for arm in ("chosen", "random")}
    saved = labels_saved(labels, curves["chosen"], curves["random"])
    means = {name: c.mean(0).tolist() for name, c in curves.items()}
    difference = curves["chosen"][:, -1] - curves["random"][:, -1]
    pick = np.random.default_rng(0).integers(0, len(difference), (2000, len(difference)))
    low, high = np.quantile(difference[pick].mean(1), [0.025, 0.975])
    end = {"mean": float(difference.mean()), "low": float(low), "high": float(high)}
    sizes = {"pairs": len(found.label_P), "prompts": len(set(found.prompt_P.tolist())), "features": found.x_PD.shape[1]}
    return {
        "study": "doubts",
        **sizes,
        "plan": asdict(plan_),
        "labels": labels.tolist(),
        **means,
        "saved": asdict(saved),
        "at_the_end": end,
    }


def _learn(found: World, plan_: Plan, repetition: int, arm: str) -> Floats:
    """Accuracy on pairs of unseen prompts after each round, [rounds + 1]."""
    rng = np.random.default_rng((plan_.seed, repetition))
    names = rng.permutation(np.unique(found.prompt_P))
    held = np.isin(found.prompt_P, names[: round(plan_.held_out * len(names))])
    test, pool = np.flatnonzero(held & (found.true_P != 0)), np.flatnonzero(~held)
    x_PD = found.x_PD / np.maximum(found.x_PD[pool].std(0), 1e-9)
    order = rng.permutation(pool)
    have, later = list(order[: plan_.start]), iter(order[plan_.start :])
    curve: list[float] = []
    for step in range(plan_.rounds + 1):
        w_D = fit(x_PD[have], found.label_P[have], plan_.ridge)
        curve.append(float(((x_PD[test] @ w_D > 0) == (found.true_P[test] > 0)).mean()))
        if step == plan_.rounds:
            break
        if arm == "random":
            have += list(itertools.islice(later, plan_.batch))
            continue
        left = np.setdiff1d(pool, have)
        draws = [rng.choice(have, len(have)) for _ in range(plan_.members)]
        members_MT = np.stack([x_PD[left] @ fit(x_PD[d], found.label_P[d], plan_.ridge) for d in draws])
        apart = np.stack([members_MT.mean(0), members_MT.std(0), np.linalg.norm(x_PD[left], axis=1)], 1)
        chosen = plan([str(i) for i in left], doubt(members_MT), apart, plan_.batch, control=plan_.control, seed=1000 * repetition + step)
        have += [int(p.task) for p in chosen]
    return np.array(curve)


def read(model: str, files: Sequence[Path]) -> tuple[list[Prompt], list[list[str]], list[Floats]]:
    """The answers of tasks by prompt, and the mean of a model's last hidden states over each."""
    import torch

    from keel.models.config import ModelOptions
    from keel.models.loading import load_model
    from keel.render.config import RenderConfig
    from keel.verbs.shared.session import renderer_of
    from keel.verbs.shared.tasks import read_tasks

    loaded = load_model(model, ModelOptions(precision="fp32"))
    loaded.model.freeze()
    renderer = renderer_of(loaded, RenderConfig(max_prompt=256, max_completion=256))
    prompts: dict[str, Prompt] = {}
    answers: dict[str, dict[str, Candidate]] = {}
    for task in (t for file in files for t in read_tasks(file)):
        prompts.setdefault(task.prompt.prompt_id, task.prompt)
        answers.setdefault(task.prompt.prompt_id, {}).update({c.candidate_id: c for c in task.candidates})
    features: list[Floats] = []
    with torch.no_grad():
        for i, prompt in prompts.items():
            before_T = renderer.prompt(prompt, 1).tokens_T
            rows = []
            for c in answers[i].values():
                said = loaded.tokenizer(c.text, add_special_tokens=False, return_tensors="pt").input_ids[0]
                ids = torch.cat([before_T, said])[None]
                hidden = loaded.model.module(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
                rows.append(hidden[-len(said) :].float().mean(0).numpy().astype(np.float64))
            features.append(np.array(rows))
    return list(prompts.values()), [[c.text for c in found.values()] for found in answers.values()], features


def principal(found: World, count: int) -> World:
    """The pairs' differences in their ``count`` directions of most variance: heads on few labels need few. What people said is not read."""
    if count >= found.x_PD.shape[1]:
        return found
    _, _, directions_DD = np.linalg.svd(found.x_PD, full_matrices=False)
    return replace(found, x_PD=found.x_PD @ directions_DD[:count].T)


def main() -> None:
    top = argparse.ArgumentParser(description="labels saved on a real model's answers")
    top.add_argument("model", help="the model whose hidden states the heads read")
    top.add_argument("tasks", nargs="+", type=Path, help="files of tasks: their answers")
    top.add_argument("--directions", type=int, default=48, help="principal directions of the hidden states that are kept")
    top.add_argument("--start", type=int, default=30, help="random labels that both arms start with")
    top.add_argument("--batch", type=int, default=20, help="labels a round")
    top.add_argument("--rounds", type=int, default=6)
    top.add_argument("--repetitions", type=int, default=24)
    top.add_argument("--ridge", type=float, default=30.0)
    top.add_argument("--json", type=Path)
    args = top.parse_args()
    made = principal(world(*read(args.model, args.tasks)), args.directions)
    found = study(made, Plan(args.repetitions, start=args.start, batch=args.batch, rounds=args.rounds, ridge=args.ridge))
    print(json.dumps({k: v for k, v in found.items() if k != "plan"}, indent=1))
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
