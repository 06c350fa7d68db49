"""Studies of one setting: the tiny model and the tasks of ``learn``, one thing changed, several seeds; a table, curves and a picture."""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from keel.core.errors import UserError
from keel.methods import AlgorithmConfig
from labs.bench.learn import SHAPE, Judge, Setting, make_trainer, sft_start, success
from labs.bench.model import make_model
from labs.bench.tasks import TASKS, Task

log = logging.getLogger("keel")
WATCHED = ("kl", "entropy", "grad_norm", "policy/clipfrac_avg")  # beside the share of right answers, where a run reports them


@dataclass(frozen=True, slots=True)
class Study:
    """``settings`` by label; ``shows`` is the metric that stands beside the share of right answers."""

    what: str
    tasks: tuple[str, ...]
    settings: Mapping[str, Setting]
    shows: str


def _of(lr: float = 2e-3, samples: int = 8, prompts: int = 8, **algorithm: Any) -> Setting:
    return Setting(AlgorithmConfig.model_validate({"name": "grpo", **algorithm}), samples, prompts, lr)


def _clip(size: float) -> Setting:
    """Eight updates on each set of rollouts: there is something to clip."""
    return _of(epochs=4, minibatches=2, clip={"low": min(size, 0.99), "high": size}, kl={"place": "none"})


_COLLAPSE = {"lr": 8e-3, "kl": {"place": "none"}}

STUDIES: dict[str, Study] = {
    "clip": Study(
        "clip range of GRPO, eight updates on each set of rollouts",
        ("reverse",),
        {f"{size:g}": _clip(size) for size in (0.01, 0.2, 100.0)},
        "policy/clipfrac_avg",
    ),
    "kl": Study(
        "price of the KL to the reference, GRPO", ("needle",), {f"{c:g}": _of(kl={"coef": c}) for c in (0.001, 0.04, 0.5, 5.0)}, "kl"
    ),
    "group": Study(
        "answers a prompt, 64 answers a step throughout, GRPO",
        ("reverse",),
        {str(g): _of(samples=g, prompts=64 // g) for g in (2, 8, 32)},
        "grad_norm",
    ),
    "lr": Study("learning rate of GRPO", ("reverse",), {f"{lr:g}": _of(lr=lr) for lr in (1e-4, 2e-3, 8e-3, 4e-2)}, "kl"),
    "entropy": Study(
        "what holds the entropy of a policy that learns too fast, GRPO",
        ("needle",),
        {
            "nothing": _of(**_COLLAPSE),
            "bonus 0.05": _of(**_COLLAPSE, entropy={"coef": 0.05}),
            "target 1.0": _of(**_COLLAPSE, entropy={"coef": 0.01, "target": 1.0, "step": 0.02, "high": 0.5}),
            "KL 0.1": _of(**{**_COLLAPSE, "kl": {"coef": 0.1}}),
            "lr / 4": _of(**{**_COLLAPSE, "lr": 2e-3}),
        },
        "entropy",
    ),
    "algorithms": Study(
        "GRPO, RLOO and PPO on the same number of answers",
        ("reverse", "needle"),
        {name: _of(name=name) for name in ("grpo", "rloo", "ppo")},
        "kl",
    ),
    "recipes": Study(
        "the algorithms of the recipes dapo, gspo and rloo with their settings",
        ("reverse",),
        {
            "dapo": _of(name="dapo", minibatches=4),
            "gspo": _of(name="gspo", minibatches=4),
            "rloo": _of(name="rloo"),
        },
        "policy/clipfrac_avg",
    ),
}


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a study. ``curves``: share of right answers among those sampled, and ``WATCHED``, step by step (None: not reported)."""

    task: str
    label: str
    seed: int
    start: float
    final: float
    samples: int
    wall_s: float
    curves: Mapping[str, tuple[float | None, ...]]


def sweep(name: str, seeds: Sequence[int], steps: int) -> dict[str, Any]:
    """All runs of a study and their table. Raises UserError for a study that is not there."""
    if name not in STUDIES:
        raise UserError(f"no study is named {name}", f"one of: {', '.join(STUDIES)}")
    study, runs = STUDIES[name], list[Run]()
    with tempfile.TemporaryDirectory(prefix="keel-sweep-") as scratch:
        make_model(SHAPE, Path(scratch), 0)
        for task in (TASKS[t] for t in study.tasks):
            start = sft_start(Path(scratch), task)
            for label, setting in study.settings.items():
                for seed in seeds:
                    run = _run(Path(scratch), start, task, (label, setting), seed, steps)
                    log.info("%s %s on %s, seed %d: %.2f -> %.2f in %.1f s", name, label, task.name, seed, run.start, run.final, run.wall_s)
                    runs.append(run)
    settings = {label: asdict(s) | {"algorithm": s.algorithm.model_dump(exclude_unset=True)} for label, s in study.settings.items()}
    head = {"study": name, "what": study.what, "shows": study.shows, "steps": steps, "seeds": list(seeds), "settings": settings}
    return {**head, "table": table_rows(runs, study.shows), "runs": [asdict(r) for r in runs]}


def _run(folder: Path, start: Mapping[str, Tensor], task: Task, named: tuple[str, Setting], seed: int, steps: int) -> Run:
    judge = Judge(task)
    trainer, sampler = make_trainer(folder, start, judge, named[1], seed, steps)
    before, began = success(sampler, task), time.perf_counter()
    shares: list[float] = []
    watched: dict[str, list[float | None]] = {metric: [] for metric in WATCHED}
    for step in range(steps):
        right, drawn = judge.right, judge.drawn
        metrics = trainer.step(step)
        shares.append((judge.right - right) / max(1, judge.drawn - drawn))
        for metric, values in watched.items():
            values.append(metrics.get(metric))
    seconds = time.perf_counter() - began
    curves: dict[str, tuple[float | None, ...]] = {"right": tuple(shares)}
    curves |= {metric: tuple(values) for metric, values in watched.items() if any(v is not None for v in values)}
    return Run(task.name, named[0], seed, before, success(sampler, task), judge.drawn, seconds, curves)


def table_rows(runs: Sequence[Run], shows: str) -> list[dict[str, Any]]:
    """A row for each task and label: success before and after (mean, standard deviation over the seeds), share of right answers over the
    whole run (how fast it learnt), and the shown metric at its last quarter."""
    rows: list[dict[str, Any]] = []
    for task, label in dict.fromkeys((r.task, r.label) for r in runs):
        of = [r for r in runs if (r.task, r.label) == (task, label)]
        finals = [r.final for r in of]
        shown = [v for r in of for v in r.curves.get(shows, ())[-max(1, len(r.curves["right"]) // 4) :] if v is not None]
        rows.append(
            {
                "task": task,
                "label": label,
                "start": statistics.fmean(r.start for r in of),
                "final": statistics.fmean(finals),
                "final_sd": statistics.stdev(finals) if len(of) > 1 else 0.0,
                "over_run": statistics.fmean(v for r in of for v in r.curves["right"] if v is not None),
                "shown": statistics.fmean(shown) if shown else None,
                "samples": statistics.fmean(r.samples for r in of),
            }
        )
    return rows


def markdown(found: Mapping[str, Any]) -> str:
    """The table for people."""
    lines = [f"| task | {found['study']} | start | final | over the run | {found['shows']}, last quarter | answers |", "|" + "---|" * 7]
    for r in found["table"]:
        shown = "–" if r["shown"] is None else f"{r['shown']:.3g}"
        final = f"{r['final']:.2f} ± {r['final_sd']:.2f}"
        lines.append(f"| {r['task']} | {r['label']} | {r['start']:.2f} | {final} | {r['over_run']:.2f} | {shown} | {r['samples']:.0f} |")
    seeds = f"{len(found['seeds'])} seed" + ("s" if len(found["seeds"]) > 1 else "")
    return "\n".join([*lines, "", f"{found['what']}; {found['steps']} steps, {seeds}"])
