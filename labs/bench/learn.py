"""Does every algorithm learn? A tiny model from one SFT start a task, the same prompts, the loops of the stages; success, samples, time."""

from __future__ import annotations

import logging
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from keel.core.errors import UserError
from keel.learner.config import OptimConfig
from keel.loops.config import LoopConfig
from keel.loops.gathering import sample_groups
from keel.loops.online import OnlineTrainer
from keel.methods import ALGORITHMS, AlgorithmConfig, resolve
from keel.rollout.local import LocalSampler
from keel.types import Group, Prompt, SampleRequest, SamplingParams, Unit
from keel.verbs.rl.build import RLParts
from keel.verbs.shared.recipes import Training
from labs.bench.model import make_model
from labs.bench.small import branch, encoded, imitate, started
from labs.bench.tasks import TASKS, VOCAB, Task
from labs.bench.workload import EOS, ModelShape

log = logging.getLogger("keel")
SHAPE = ModelShape("llama", vocab=VOCAB, hidden=32, layers=2, intermediate=64)
_SFT_STEPS, _SFT_BATCH, _SFT_LR = 150, 64, 1e-2
PROMPTS, SAMPLES, LR, _CRITIC_LR = 8, 8, 2e-3, 5e-3
POOL, _HELD_OUT = 512, 256  # prompts to train on, and to measure success on
LEARNERS = {name: a for name, a in ALGORITHMS.items() if not a.taught}  # those that learn from a task's rewards
_RECENT = 3  # steps whose successes are compared with the threshold


@dataclass(frozen=True, slots=True)
class Curve:
    """One run: an algorithm on a task with a seed. ``samples_to_threshold`` is None when it was never reached."""

    algorithm: str
    task: str
    seed: int
    start: float  # share of right answers on held-out prompts, sampled, before and after
    final: float
    samples_to_threshold: int | None
    samples: int
    wall_s: float
    rewards: tuple[float, ...]  # share of right answers among those sampled, step by step


@dataclass(frozen=True, slots=True)
class Setting:
    """How a run differs from the usual one."""

    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    samples: int = SAMPLES
    prompts: int = PROMPTS
    lr: float = LR


Beside = Callable[[Path, Mapping[str, Tensor], Task, str, int], Curve]
"""(folder of the tiny model, weights of the start, task, algorithm, seed) -> the run of another library."""


def learn(
    algorithms: Sequence[str],
    tasks: Sequence[str],
    seeds: Sequence[int],
    budget: tuple[int, float],
    beside: Mapping[str, Beside] = MappingProxyType({}),
) -> tuple[dict[str, Any], list[Curve]]:
    """All runs and their table. ``budget``: steps, and the threshold: the share of right answers, over three steps, that samples are
    counted up to. ``beside``: who else runs these algorithms. Raises UserError for a name that is not in the tables."""
    steps, threshold = budget
    for given, known, what in ((algorithms, LEARNERS, "algorithm"), (tasks, TASKS, "task")):
        if unknown := [name for name in given if name not in known]:
            raise UserError(f"no {what} is named {', '.join(unknown)}", f"one of: {', '.join(known)}")
    curves: list[Curve] = []
    with tempfile.TemporaryDirectory(prefix="keel-learn-") as scratch:
        make_model(SHAPE, Path(scratch), 0)
        for name in tasks:
            start = sft_start(Path(scratch), TASKS[name])
            for algorithm in algorithms:
                for seed in seeds:
                    curves.append(run(Path(scratch), start, TASKS[name], algorithm, seed, steps, threshold))
                    if algorithm in beside:
                        curves.append(beside[algorithm](Path(scratch), start, TASKS[name], algorithm, seed))
                    for c in curves[-1 - (algorithm in beside) :]:
                        log.info("%s on %s, seed %d: %.2f -> %.2f in %.1f s", c.algorithm, name, seed, c.start, c.final, c.wall_s)
    what = {name: TASKS[name].what for name in tasks}
    found = {"threshold": threshold, "steps": steps, "tasks": what, "table": table_rows(curves), "runs": [asdict(c) for c in curves]}
    return found, curves


def sft_start(folder: Path, task: Task) -> dict[str, Tensor]:
    """Weights after imitating noisy demonstrations of the task: where every algorithm and seed starts."""
    rng = random.Random(f"sft {task.name}")
    prompts = [task.prompt(rng) for _ in range(_SFT_STEPS * _SFT_BATCH)]
    units = [Unit(str(i), encoded(p), (branch(task.demonstration(p, rng)),)) for i, p in enumerate(prompts)]
    return imitate(folder, units, _SFT_STEPS, _SFT_BATCH, _SFT_LR)


def run(folder: Path, start: Mapping[str, Tensor], task: Task, algorithm: str, seed: int, steps: int, threshold: float) -> Curve:
    """One algorithm from the start."""
    judge = Judge(task)
    trainer, sampler = make_trainer(folder, start, judge, Setting(AlgorithmConfig(name=algorithm)), seed, steps)
    before = success(sampler, task)
    began = time.perf_counter()
    reached, shares = None, list[float]()
    for step in range(steps):
        right, drawn = judge.right, judge.drawn
        trainer.step(step)
        shares.append((judge.right - right) / max(1, judge.drawn - drawn))
        if reached is None and first_reached(shares, threshold) is not None:
            reached = judge.drawn
    seconds = time.perf_counter() - began
    return Curve(algorithm, task.name, seed, before, success(sampler, task), reached, judge.drawn, seconds, tuple(shares))


def first_reached(shares: Sequence[float], threshold: float) -> int | None:
    """The first step at which the mean share of the last three is at the threshold, or None."""
    means = (statistics.fmean(shares[i + 1 - _RECENT : i + 1]) for i in range(_RECENT - 1, len(shares)))
    return next((i for i, mean in enumerate(means, _RECENT - 1) if mean >= threshold), None)


def success(sampler: LocalSampler, task: Task) -> float:
    """The share of right answers, one sampled for each held-out prompt."""
    judge = Judge(task)
    rng = random.Random(f"held out {task.name}")
    prompts = {f"held-{i}": task.prompt(rng) for i in range(_HELD_OUT)}
    requests = [SampleRequest(name, encoded(p), 1, _params(task), seed=0) for name, p in prompts.items()]
    judge(sample_groups(sampler, requests, {name: Prompt(name, text="") for name in prompts}))
    return judge.right / judge.drawn


class Judge:
    """Rewards by the task, and a count of what was drawn and what was right."""

    def __init__(self, task: Task) -> None:
        self.task, self.drawn, self.right = task, 0, 0.0

    def __call__(self, groups: tuple[Group, ...]) -> tuple[Group, ...]:
        return tuple(self._judged(g) for g in groups)

    def _judged(self, group: Group) -> Group:
        prompt = group.encoded.tokens_T.tolist()
        rewards = [self.task.reward(prompt, r.tokens_T.tolist()) for r in group.rollouts]
        self.drawn += len(rewards)
        self.right += sum(rewards)
        return replace(group, rewards_G=torch.tensor(rewards), parts={"right": torch.tensor(rewards)})


def make_trainer(
    folder: Path, start: Mapping[str, Tensor], judge: Judge, setting: Setting, seed: int, steps: int
) -> tuple[OnlineTrainer, LocalSampler]:
    """The loop of ``keel rl`` on the task's prompts."""
    algorithm = resolve(setting.algorithm, setting.samples)
    loaded = started(folder, start)
    optim, critic_optim = (OptimConfig(lr=lr, schedule="constant") for lr in (setting.lr, _CRITIC_LR))
    critic = (started(folder, start, frozenset({"value"})), critic_optim) if algorithm.needs_critic else None
    sampler = LocalSampler(loaded.model, lambda tokens_T: "")
    rng = random.Random(f"train {judge.task.name} {seed}")
    prompts = {str(i): (Prompt(str(i), text=""), encoded(judge.task.prompt(rng))) for i in range(POOL)}
    training = Training(optim, LoopConfig(steps=steps, batch_size=setting.prompts), seed)
    sides, params = {"train": prompts}, _params(judge.task)
    parts = RLParts.of(loaded, algorithm, sampler, judge, sides, params, setting.samples, training, critic=critic)
    return parts.trainer(), sampler


def _params(task: Task) -> SamplingParams:
    return SamplingParams(max_tokens=task.max_tokens, stop_tokens=(EOS,))


# ------------------------------------------------------------------------------------------------------------------------- table


def table_rows(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """A row for each task and algorithm, over the seeds: means, the spread (standard deviation) of the final success, the median of the
    samples to the threshold (None when fewer than half of the seeds reached it)."""
    rows: list[dict[str, Any]] = []
    for task, algorithm in dict.fromkeys((c.task, c.algorithm) for c in curves):
        of = [c for c in curves if (c.task, c.algorithm) == (task, algorithm)]
        needed = statistics.median(float("inf") if c.samples_to_threshold is None else c.samples_to_threshold for c in of)
        rows.append(
            {
                "task": task,
                "algorithm": algorithm,
                "seeds": len(of),
                "start": _mean(of, lambda c: c.start),
                "final": _mean(of, lambda c: c.final),
                "final_sd": statistics.stdev(c.final for c in of) if len(of) > 1 else 0.0,
                "samples_to_threshold": None if needed == float("inf") else needed,
                "samples": _mean(of, lambda c: c.samples),
                "wall_s": _mean(of, lambda c: c.wall_s),
            }
        )
    return rows


def _mean(curves: Sequence[Curve], value: Callable[[Curve], float]) -> float:
    return statistics.fmean(map(value, curves))


def markdown(found: Mapping[str, Any]) -> str:
    """The table for people."""
    head = f"| task | algorithm | start | final | samples to {found['threshold']:.2f} | of | s a run |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for r in found["table"]:
        needed = "never" if r["samples_to_threshold"] is None else f"{r['samples_to_threshold']:.0f}"
        numbers = f"{r['start']:.2f} | {r['final']:.2f} ± {r['final_sd']:.2f} | {needed} | {r['samples']:.0f} | {r['wall_s']:.1f}"
        lines.append(f"| {r['task']} | {r['algorithm']} | {numbers} |")
    return "\n".join([*lines, "", *(f"{name}: {what}" for name, what in found["tasks"].items())])
