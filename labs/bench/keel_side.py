"""Keel's side of a comparison, in a process of its own: the parts and the loops of the stages, on the workload's rows.

python -m labs.bench.keel_side FOLDER RESULT
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from keel.learner.config import OptimConfig
from keel.learner.inference import LocalInference
from keel.loops.config import LoopConfig
from keel.loops.offline import Sides
from keel.loops.online import with_signal
from keel.methods.objectives.reward import RewardObjective
from keel.methods.objectives.supervised import SupervisedObjective
from keel.methods.preference import ObjectiveConfig, preference_objective
from keel.models.config import ModelOptions
from keel.models.heads import HeadName
from keel.models.loading import Loaded, load_model
from keel.rollout.local import LocalSampler
from keel.types import Branch, Edge, Encoded, Group, Objective, PairTarget, Prompt, SamplingParams, Unit
from keel.verbs.rl.build import RLParts
from keel.verbs.shared.parts import OfflineParts
from keel.verbs.shared.recipes import Training
from keel.verbs.shared.reference import Reference
from labs.bench import roofline
from labs.bench.clock import Clock, peak_mb, resident_mb
from labs.bench.rule import rule_of
from labs.bench.workload import BETA, LEARNING_RATE, MODEL, Workload, count_tokens, read, text_reward

Rows = Sequence[Mapping[str, Sequence[int]]]


@dataclass(frozen=True, slots=True)
class Side:
    """A workload that is read. ``order``: the rows of each step."""

    work: Workload
    rows: Rows
    order: Sequence[Sequence[int]]
    folder: Path
    clock: Clock

    @property
    def training(self) -> Training:
        """What both sides have: AdamW, a constant rate, gradients clipped to norm 1."""
        loop = LoopConfig(steps=self.work.steps + 1, batch_size=self.work.rows_a_step)
        return Training(OptimConfig(lr=LEARNING_RATE, schedule="constant", warmup_ratio=0.0), loop, self.work.seed)

    def load(self, *heads: HeadName) -> Loaded:
        options = ModelOptions(precision="bf16" if self.work.model.dtype == "bfloat16" else "fp32")
        return load_model(str(self.folder / MODEL), options, heads=frozenset(heads), seed=self.work.seed, new_heads=True)


def main(argv: Sequence[str]) -> None:
    folder, out = Path(argv[0]), Path(argv[1])
    logging.getLogger("keel").setLevel(logging.WARNING)
    work, rows, order = read(folder)
    torch.set_num_threads(work.threads)
    side = Side(work, rows, order, folder, Clock())
    parts = online(side) if work.verb == "rl" else offline(side)
    trainer = parts.trainer()
    loaded = resident_mb()
    for step in range(work.steps + 1):
        side.clock.start()
        metrics = trainer.step(step)
        side.clock.add_all({name: metrics[f"time/{name}"] for name in ("rollout_s", "reward_s", "measures_s") if f"time/{name}" in metrics})
        side.clock.stop(step)
    result = {**side.clock.medians(), **memory(loaded), "tokens": [count_tokens(work, [rows[i] for i in part]) for part in order[1:]]}
    result["floor_s"] = roofline.floor_seconds(parts.loaded.model, work, [[rows[i] for i in part] for part in order[1:]])
    out.write_text(json.dumps(result))


def memory(loaded: float) -> dict[str, float]:
    """The process's peak, and how much of it came after loading; the same of the GPU, where there is one."""
    found = {"peak_mb": peak_mb(), "loaded_mb": loaded}
    if torch.cuda.is_available():
        found["gpu_peak_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return found


# ------------------------------------------------------------------------------------------------------------------------ online


def online(side: Side) -> RLParts:
    """The parts of ``keel rl``."""
    work, clock, loaded = side.work, side.clock, side.load()
    algorithm = rule_of(work)
    reference = None
    if algorithm.needs_reference:
        frozen = LocalInference(loaded.model.frozen_copy(), side.training.batch)
        clock.part(frozen, "logprobs", "reference_s")
        reference = Reference(frozen.logprobs)
    sampler = LocalSampler(loaded.model, decoder(side.folder))
    critic = (side.load("value"), side.training.optim) if algorithm.needs_critic else None
    prompts = {str(i): (Prompt(str(i), text=""), Encoded(torch.tensor(row["prompt"]))) for i, row in enumerate(side.rows)}
    params = SamplingParams(max_tokens=work.completion, top_p=work.top_p)  # no end token: all have this length
    sides, training = {"train": prompts}, side.training
    parts = RLParts.of(loaded, algorithm, sampler, judge, sides, params, work.group, training, reference=reference, critic=critic)
    if parts.critic is not None:
        clock.part(parts.critic, "values", "values_s")
        clock.part(parts.critic, "forward_backward", "critic_gradient_s")
        clock.part(parts.critic, "step", "optimizer_s")
    clock.part(sampler, "load", "publish_s")
    clock.part(parts.policy, "forward_backward", "gradient_s")
    clock.part(parts.policy, "step", "optimizer_s")
    return parts


def decoder(folder: Path) -> Any:
    """Text of sampled ids, special tokens left out."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / MODEL)
    return lambda tokens_T: tokenizer.decode(tokens_T, skip_special_tokens=True)


def judge(groups: tuple[Group, ...]) -> tuple[Group, ...]:
    return tuple(replace(g, rewards_G=torch.tensor([text_reward(r.text) for r in g.rollouts])) for g in groups)


# ----------------------------------------------------------------------------------------------------------------------- offline


def offline(side: Side) -> OfflineParts:
    """The parts of the stages that learn from a file. What DPO takes from the reference is computed before the loop, as ``keel prefer``
    does, and each step's part of it counts as time of that step."""
    heads: tuple[HeadName, ...] = ("score",) if side.work.verb == "reward" else ()
    units = [unit(str(i), row) for i, row in enumerate(side.rows)]
    parts = OfflineParts.of(side.load(*heads), objective(side.work), Sides(tuple(units)), side.training)
    learner = parts.learner
    side.clock.part(learner, "forward_backward", "gradient_s")
    side.clock.part(learner, "step", "optimizer_s")
    if side.work.verb == "dpo":
        for step, part in enumerate(side.order):
            side.clock.start()
            referred = with_signal([units[i] for i in part], "ref_logprobs", learner.logprobs([units[i] for i in part]))
            side.clock.stop(step, "reference_s")
            for i, with_reference in zip(part, referred, strict=True):
                units[i] = with_reference
    return replace(parts, units=Sides(tuple(units)))


def objective(work: Workload) -> Objective:
    if work.verb == "sft":
        return SupervisedObjective()
    return RewardObjective() if work.verb == "reward" else preference_objective(ObjectiveConfig(name="dpo", beta=BETA))


def unit(name: str, row: Mapping[str, Sequence[int]]) -> Unit:
    """A text is its first token and a branch; a pair is two branches of its prompt."""
    if "text" in row:
        return Unit(name, Encoded(torch.tensor(row["text"][:1])), (branch(row["text"][1:]),))
    branches = (branch(row["chosen"]), branch(row["rejected"]))
    return Unit(name, Encoded(torch.tensor(row["prompt"])), branches, PairTarget((Edge(0, 1),)))


def branch(ids: Sequence[int]) -> Branch:
    tokens_T: Tensor = torch.tensor(ids)
    return Branch(tokens_T, torch.ones(len(ids), dtype=torch.bool))


if __name__ == "__main__":
    main(sys.argv[1:])
