"""Keel's side of a comparison with images, in a process of its own.

python -m labs.bench.vlm_keel FOLDER RESULT

Every step of the first epoch sees new images; that is what is compared. The same rows once more are its second epoch, timed by itself.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from keel.learner import inference as scoring
from keel.learner.config import OptimConfig
from keel.learner.inference import LocalInference
from keel.loops.config import LoopConfig
from keel.loops.offline import Sides
from keel.loops.online import with_signal
from keel.methods.preference import ObjectiveConfig, preference_objective
from keel.models.config import ModelOptions
from keel.models.loading import Loaded, load_model
from keel.models.media import MediaStore
from keel.models.model import Model
from keel.models.pictured import reading_of
from keel.render.config import RenderConfig
from keel.render.renderer import Renderer
from keel.rollout.local import LocalSampler
from keel.types import Edge, Encoded, ImagePart, Message, PairTarget, Prompt, SamplingParams, TextPart, Unit
from keel.verbs.rl.build import RLParts
from keel.verbs.shared.parts import OfflineParts
from keel.verbs.shared.recipes import Training
from keel.verbs.shared.reference import Reference
from keel.verbs.shared.session import renderer_of
from labs.bench.clock import Clock, resident_mb
from labs.bench.keel_side import branch, judge, memory
from labs.bench.rule import rule_of
from labs.bench.vlm_count import Work
from labs.bench.vlm_work import MODEL, read
from labs.bench.workload import BETA, EOS, LEARNING_RATE

Step = Callable[[int], Any]


class Side:
    """A workload that is read, with its model: the decoder is trained, tower and projector are not."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.count = folder, Clock(), Work()
        self.work, self.rows, self.order = read(folder)
        torch.set_num_threads(self.work.threads)
        precision = "bf16" if self.work.model.dtype == "bfloat16" else "fp32"
        self.loaded: Loaded = load_model(str(folder / MODEL), ModelOptions(precision=precision, train=("language",)), seed=self.work.seed)
        self.renderer: Renderer = renderer_of(self.loaded, RenderConfig())
        module = self.loaded.model.module
        self.count.watch(module, head=False)
        self.count.rows(module, scoring, "fused_token_loss", lambda: 3)
        self.count.rows(module, scoring, "token_logprobs", lambda: 4 if torch.is_grad_enabled() else 1)
        counted, logits = self.count, Model.logits

        def counting(model: Model, hidden_BH: torch.Tensor, *args: Any) -> torch.Tensor:
            counted.done["head"] += 2 * model.head_weight_VH.numel() * len(hidden_BH) / 1e9
            return logits(model, hidden_BH, *args)

        Model.logits = counting  # type: ignore[method-assign]

    @property
    def training(self) -> Training:
        loop = LoopConfig(steps=2 * (self.work.steps + 1), batch_size=self.work.rows_a_step)
        return Training(OptimConfig(lr=LEARNING_RATE, schedule="constant", warmup_ratio=0.0), loop, self.work.seed)

    def prompt(self, number: int) -> Prompt:
        row = self.rows[number]
        parts = (ImagePart(str(self.folder / f"{row['image']}.png")), TextPart(row["prompt"]))
        return Prompt(str(number), (Message("user", parts),))

    def tokens(self, encoded: Sequence[Encoded]) -> list[int]:
        """Of prompts, for every answer, and of answers, in each timed step."""
        work = self.work

        def of(number: int) -> int:
            if work.verb == "rl":
                return work.group * (len(encoded[number]) + work.completion)
            return sum(len(encoded[number]) + len(self.rows[number][side].split()) + 1 for side in ("chosen", "rejected"))

        return [sum(map(of, part)) for part in self.order[1:]]


def main(argv: Sequence[str]) -> None:
    logging.getLogger("keel").setLevel(logging.WARNING)
    side = Side(Path(argv[0]))
    encoded = [side.renderer.prompt(side.prompt(number)) for number in range(len(side.rows))]
    step = online(side, encoded) if side.work.verb == "rl" else offline(side, encoded)
    loaded, epochs, later = resident_mb(), list[dict[str, float]](), Clock()
    for clock in (side.clock, later):
        for number in range(side.work.steps + 1):
            side.count.take()
            clock.start()
            step(number + (side.work.steps + 1 if clock is later else 0))
            clock.stop(number)
        epochs.append(side.count.take())
    found = {**side.clock.medians(), **memory(loaded), "tokens": side.tokens(encoded), "gflop": epochs[0], "gflop_seen": epochs[1]}
    found |= {f"seen_{name}": later.medians()[name] for name in ("step_s", "cpu_s")}
    found["features"] = side.loaded.model.media.features.summary()
    Path(argv[1]).write_text(json.dumps(found))


def online(side: Side, encoded: Sequence[Encoded]) -> Step:
    """A step of GRPO. The images' way from files to pixels is part of it, as it is on the other side."""
    work, clock, loaded = side.work, side.clock, side.loaded
    frozen = LocalInference(loaded.model.frozen_copy(), side.training.batch)  # what is counted of the model is counted of its copy too
    clock.part(frozen, "logprobs", "reference_s")
    sampler = LocalSampler(loaded.model, side.renderer.decode)
    params = SamplingParams(max_tokens=work.completion, banned_tokens=side.renderer.banned_tokens)  # no end token: all have this length
    sides = {"train": {str(number): (side.prompt(number), found) for number, found in enumerate(encoded)}}
    rule, reference = rule_of(work), Reference(frozen.logprobs)
    parts = RLParts.of(loaded, rule, sampler, judge, sides, params, work.group, side.training, reference=reference)
    clock.part(parts.policy, "forward_backward", "gradient_s")
    clock.part(parts.policy, "step", "optimizer_s")
    trainer, module = parts.trainer(), loaded.model.module
    again = Renderer(loaded.tokenizer, loaded.processor, RenderConfig(), MediaStore(), module.generation_config, None, reading_of(module))
    clock.part(again, "prompt", "render_s")

    def step(number: int) -> None:
        for row in side.order[number] if number < len(side.order) else ():
            again.prompt(side.prompt(row))
        metrics = trainer.step(number)
        clock.add_all({name: metrics[f"time/{name}"] for name in ("rollout_s", "reward_s")})

    return step


def offline(side: Side, encoded: Sequence[Encoded]) -> Step:
    """A step of DPO. What it takes from the reference is computed before the loop, as ``keel prefer`` does, and each step's part of it
    counts as time and work of that step. The images' way from files to pixels is no part of it, on either side."""
    units: list[Unit] = []
    for number, row in enumerate(side.rows):
        ids = [side.loaded.tokenizer.convert_tokens_to_ids(row[name].split()) for name in ("chosen", "rejected")]
        units.append(Unit(str(number), encoded[number], tuple(branch([*of, EOS]) for of in ids), PairTarget((Edge(0, 1),))))
    objective = preference_objective(ObjectiveConfig(name="dpo", beta=BETA))
    parts = OfflineParts.of(side.loaded, objective, Sides(tuple(units)), side.training)
    learner, before = parts.learner, list[dict[str, float]]()
    side.clock.part(learner, "forward_backward", "gradient_s")
    side.clock.part(learner, "step", "optimizer_s")
    for number, part in enumerate(side.order):
        side.count.take()
        side.clock.start()
        referred = with_signal([units[i] for i in part], "ref_logprobs", learner.logprobs([units[i] for i in part]))
        side.clock.stop(number, "reference_s")
        before.append(side.count.take())
        for i, with_reference in zip(part, referred, strict=True):
            units[i] = with_reference
    trainer = replace(parts, units=Sides(tuple(units))).trainer()

    def step(number: int) -> None:
        trainer.step(number)
        for part, gflop in before[number].items() if number < len(before) else ():
            side.count.done[part] += gflop

    return step


if __name__ == "__main__":
    main(sys.argv[1:])
