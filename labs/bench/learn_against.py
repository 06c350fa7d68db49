"""The learning table beside TRL: its trainers from the same start on the same prompts, and how far their results lie apart."""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import keel
from keel.core.errors import UserError
from keel.data.batching import batch_at
from keel.methods import ALGORITHMS, AlgorithmConfig, resolve
from keel.models.loading import load_model
from keel.rollout.local import LocalSampler
from labs.bench import learn, learn_trl
from labs.bench.learn import Curve
from labs.bench.small import OPTIONS, started
from labs.bench.tasks import Task

THEIRS = ("grpo", "rloo")  # the rows of the table that TRL has a trainer for
_PREFIX = "trl:"


def run(python: Path, budget: tuple[int, float], folder: Path, start: Mapping[str, Tensor], task: Task, algorithm: str, seed: int) -> Curve:
    """One run of TRL's trainer. ``folder`` holds the tiny model; ``budget``: steps, and the threshold that samples are counted up to."""
    steps, threshold = budget
    with tempfile.TemporaryDirectory(prefix="keel-learn-trl-") as scratch:
        place = Path(scratch)
        before = _write(place, folder, start, task, algorithm, seed, steps)
        _train(python, place)
        found = json.loads((place / "result.json").read_text())
        after = learn.success(LocalSampler(load_model(str(place / "trained"), OPTIONS).model, lambda tokens_T: ""), task)
    shares, drawn = found["shares"], learn.PROMPTS * learn.SAMPLES
    reached = learn.first_reached(shares, threshold)
    needed = None if reached is None else (reached + 1) * drawn
    return Curve(_PREFIX + algorithm, task.name, seed, before, after, needed, drawn * len(shares), found["wall_s"], tuple(shares))


def _write(place: Path, folder: Path, start: Mapping[str, Tensor], task: Task, algorithm: str, seed: int, steps: int) -> float:
    """What the script reads: the start as a model, the prompts in the order of Keel's loop, its settings. Returns the start's success."""
    model = started(folder, start).model
    model.save(place / "start", load_model(str(folder), OPTIONS).tokenizer)
    rng = random.Random(f"train {task.name} {seed}")
    pool = [task.prompt(rng) for _ in range(learn.POOL)]
    resolved = resolve(AlgorithmConfig(name=algorithm), learn.SAMPLES)
    work = {
        "task": task.name,
        "algorithm": algorithm,
        "seed": seed,
        "steps": steps,
        "batch": learn.PROMPTS,
        "group": learn.SAMPLES,
        "lr": learn.LR,
        "kl": resolved.kl.coef if resolved.kl is not None else 0.0,
        "threads": torch.get_num_threads(),
        "prompts": [pool[i] for step in range(steps) for i in batch_at(learn.POOL, step, learn.PROMPTS, seed)],
    }
    (place / "learn.json").write_text(json.dumps(work))
    return learn.success(LocalSampler(model, lambda tokens_T: ""), task)


def _train(python: Path, place: Path) -> None:
    """Run the script in TRL's interpreter. Raises UserError when it fails."""
    root = str(Path(keel.__file__).parent.parent)
    env = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": str(torch.get_num_threads()), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run([str(python), learn_trl.__file__, str(place)], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-12:])
        raise UserError(f"TRL's side failed (exit {done.returncode}):\n{last}", "leave --against out to measure Keel alone")


def checked(algorithms: Sequence[str], python: Path | None) -> list[str]:
    """The rows that TRL runs too. Raises UserError when there are none."""
    found = [name for name in algorithms if name in THEIRS]
    if not found:
        raise UserError(f"TRL has none of {', '.join(algorithms)}", f"of the {len(ALGORITHMS)} it has {' and '.join(THEIRS)}")
    from labs.bench.compare import trl_version

    trl_version(python or Path(sys.executable))
    return found


def differences(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """For each task and algorithm that both sides ran: Keel's mean final success less TRL's, its 95% interval over the seeds (Welch), and
    whether that holds zero (``within_noise``). With one seed there is no interval."""
    rows: list[dict[str, Any]] = []
    for task, algorithm in dict.fromkeys((c.task, c.algorithm.removeprefix(_PREFIX)) for c in curves if c.algorithm.startswith(_PREFIX)):
        ours, theirs = ([c.final for c in curves if (c.task, c.algorithm) == (task, name)] for name in (algorithm, _PREFIX + algorithm))
        row: dict[str, Any] = {"task": task, "algorithm": algorithm, "difference": statistics.fmean(ours) - statistics.fmean(theirs)}
        interval = welch(ours, theirs)
        if interval is not None:
            row |= {"low": interval[0], "high": interval[1], "within_noise": interval[0] <= 0 <= interval[1]}
        rows.append(row)
    return rows


def welch(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float] | None:
    """The 95% interval of the difference of two means whose variances may differ (Welch 1947), None with fewer than two of each."""
    if min(len(ours), len(theirs)) < 2:
        return None
    apart = statistics.fmean(ours) - statistics.fmean(theirs)
    parts = [(statistics.variance(x) / len(x), len(x) - 1) for x in (ours, theirs)]
    square = sum(v for v, _ in parts)
    if square == 0:
        return apart, apart
    half = student_quantile(0.975, square**2 / sum(v**2 / n for v, n in parts)) * math.sqrt(square)
    return apart - half, apart + half


def student_quantile(level: float, freedom: float) -> float:
    """The quantile of Student's t for a level above one half, by bisection on the integral of its density (Simpson)."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)

    def above_half(t: float, pieces: int = 2000) -> float:
        density = [scale * (1 + (t * i / pieces) ** 2 / freedom) ** (-(freedom + 1) / 2) for i in range(pieces + 1)]
        return t / pieces / 3 * (density[0] + 4 * sum(density[1:-1:2]) + 2 * sum(density[2:-1:2]) + density[-1])

    low, high = 0.0, 64.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if above_half(middle) < level - 0.5 else (low, middle)
    return low


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The differences for people."""
    lines = ["| task | algorithm | Keel less TRL | 95% interval | within noise |", "|---|---|---|---|---|"]
    for r in rows:
        said = "| one seed says nothing |"
        if "low" in r:
            said = f"[{r['low']:+.3f}, {r['high']:+.3f}] | {'yes' if r['within_noise'] else 'no'} |"
        lines.append(f"| {r['task']} | {r['algorithm']} | {r['difference']:+.3f} | {said}")
    return "\n".join(lines)
