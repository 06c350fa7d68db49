"""One run of the bench: Keel's loop, harness, guard and evaluation on a small model, and what it reported."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from keel.core.config import Section
from keel.core.errors import DivergedError, SelfTestError
from keel.core.events import Event, EventBus
from keel.learner.config import OptimConfig
from keel.loops.config import LoopConfig
from keel.loops.harness import Harness
from keel.loops.online import Evaluator
from keel.methods import AlgorithmConfig, group_metrics, resolve
from keel.rewards.sources.model import ModelSource
from keel.rollout.config import EvalSamplingConfig
from keel.rollout.local import LocalSampler
from keel.runs.directory import RunDir
from keel.types import Encoded, Prompt, SamplingParams
from keel.verbs.rl.build import RLParts
from keel.verbs.shared.recipes import Training
from keel.verbs.shared.sampled_eval import measured_answers
from keel.watch.config import EarlyStopConfig, EmergencyConfig, WatchConfig
from labs.bench.small import encoded
from labs.bench.workload import EOS
from labs.study.world import ending
from labs.watchbench.language import as_text
from labs.watchbench.plan import ALGORITHMS, Run
from labs.watchbench.sickness import Judge, Patient, Sickened, TardySampler
from labs.watchbench.world import World

_POOL, _HELD_OUT = 256, 32  # prompts
_CRITIC_LR = 5e-3
_TRUTH = 4  # answers to each held-out prompt when the result is measured
Prompts = dict[str, tuple[Prompt, Encoded]]


@dataclass(slots=True)
class Record:
    """What a run reported, step by step, as ``metrics.jsonl`` holds it. ``final``: rewards of many held-out answers after the last step;
    ``ended``: why it ended before its time; ``actions``: what its guard did."""

    run: Run
    rows: list[dict[str, float]] = field(default_factory=list[dict[str, float]])  # with "step"
    final: dict[str, float] = field(default_factory=dict[str, float])
    ended: str = ""
    actions: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    seconds: float = 0.0  # of this process


class _Rows:
    """A sink that keeps what ``metrics.jsonl`` would hold, and what the guard did."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def handle(self, event: Event) -> None:
        rows = self.record.rows
        if event.kind in ("step", "eval"):
            if not rows or rows[-1]["step"] != event.step:
                rows.append({"step": event.step})
            rows[-1] |= event.data["metrics"]
        elif event.kind in ("emergency", "adjusted", "paused") or (event.kind == "verdict" and event.data.get("action")):
            self.record.actions.append({"kind": event.kind, "step": event.step, "message": event.message})

    def close(self) -> None:
        """Nothing is open."""


class _Nothing(Section):
    """A recipe without settings: the runs are made from their names."""


def guard(act: bool) -> WatchConfig:
    """As a user has it by default, or told to act. A run that is only looked at ends where it would have been taken back."""
    return WatchConfig(act=act, emergency=EmergencyConfig(rollbacks=3 if act else 0))


def record(run: Run, world: World, watch: WatchConfig) -> Record:
    """Run it to its end, or to where its guard ends it."""
    began = time.process_time()
    found = Record(run)
    patient, trainer = _patient(run, world)
    with (
        tempfile.TemporaryDirectory(prefix="keel-watchbench-run-") as folder,
        RunDir.open(Path(folder), _Nothing(), "rl", run.number) as at,
    ):
        bus = EventBus([_Rows(found)], run.name, 0)
        every = 10 if watch.act else 10 * run.steps
        best = EarlyStopConfig(metric="eval/reward", mode="max")
        harness = Harness(cast("Any", Sickened(patient)), at, at.checkpoints(2), bus, trainer.config, watch, every, best)
        try:
            if harness.train().interrupted:
                raise KeyboardInterrupt  # a run that was cut short is none
        except (DivergedError, SelfTestError) as error:
            found.ended = error.message
        finally:
            bus.close()
    found.final = {name.removeprefix("eval/"): value for name, value in _truth(run, world, patient).items()}
    found.seconds = time.process_time() - began
    return found


def _patient(run: Run, world: World) -> tuple[Patient, Any]:
    task = world.tasks[run.task]
    algorithm = resolve(AlgorithmConfig.model_validate(ALGORITHMS[run.algorithm]), run.samples)
    loaded = world.policy(run.task)
    if run.family == "stale":
        sampler: LocalSampler = TardySampler(world.policy(run.task).model, loaded.model, _text)
    else:
        sampler = LocalSampler(loaded.model, _text)
    optim = OptimConfig(lr=run.lr, schedule=run.schedule, warmup_steps=2)  # type: ignore[arg-type]
    critic_optim = OptimConfig(lr=_CRITIC_LR, schedule="constant")
    critic = (world.policy(run.task, frozenset({"value"})), critic_optim) if algorithm.needs_critic else None
    judge = Judge(task, _proxy(run, world))
    training = Training(optim, LoopConfig(steps=run.steps, batch_size=run.prompts, eval_every=run.eval_every), run.number)
    asked = {"train": make_prompts(run, world, "train", _POOL)}
    params = SamplingParams(max_tokens=task.max_tokens, stop_tokens=(EOS,))
    parts = RLParts.of(loaded, algorithm, sampler, judge, asked, params, run.samples, training, critic=critic)
    trainer = parts.trainer()
    patient = Patient(run, trainer, judge, sampler, loaded.model)
    trainer.evaluators = {
        "eval": evaluator(patient, make_prompts(run, world, "held out", _HELD_OUT), params, EvalSamplingConfig(), run.gold)
    }
    return patient, trainer


def evaluator(patient: Patient, prompts: Prompts, params: SamplingParams, sampling: EvalSamplingConfig, gold: bool) -> Evaluator:
    """Held-out prompts, answered and judged."""

    def evaluate(step: int) -> Mapping[str, float]:
        groups = patient.judge.held_out(measured_answers(patient.sampler, prompts, params, sampling), gold)
        return {f"eval/{name}": value for name, value in group_metrics(groups).items()}

    return evaluate


def _truth(run: Run, world: World, patient: Patient) -> Mapping[str, float]:
    """The result, measured more closely than the run itself did; nothing where the weights are broken."""
    params = SamplingParams(max_tokens=world.tasks[run.task].max_tokens, stop_tokens=(EOS,))
    sampling = EvalSamplingConfig(samples=_TRUTH)
    found = evaluator(patient, make_prompts(run, world, "held out", _HELD_OUT), params, sampling, True)(run.steps)
    kept = ("eval/reward", "eval/rewards/gold/mean", "eval/completions/mean_length")
    return {name: found[name] for name in kept if name in found}


def make_prompts(run: Run, world: World, side: str, n: int) -> Prompts:
    """Prompts of the task by chance; held-out ones are the same for all runs of it."""
    rng = random.Random(f"{side} {run.task}" if side == "held out" else f"{side} {run.name}")
    name = f"{side[:1]}-{{}}"
    return {name.format(i): (Prompt(name.format(i), text=""), encoded(world.tasks[run.task].prompt(rng))) for i in range(n)}


def _proxy(run: Run, world: World) -> Any:
    if run.family != "proxy":
        return None
    learner, scale = world.proxy(run.task, run.number % 6)
    return ModelSource("proxy", learner.scores, ending, scale).score


def _text(tokens_T: torch.Tensor) -> str:
    return as_text(tokens_T.tolist())


def steps_of(rows: Sequence[Mapping[str, float]]) -> list[tuple[int, Mapping[str, float]]]:
    """As rules take them."""
    return [(int(row["step"]), {name: value for name, value in row.items() if name != "step"}) for row in rows]
