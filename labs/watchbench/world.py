"""The small models that runs start from, made on the spot and kept while a process lives: a policy for each task, reward models of a few
votes."""

from __future__ import annotations

import functools
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from keel.learner.config import OptimConfig
from keel.learner.inference import LocalInference
from keel.loops.config import LoopConfig
from keel.loops.offline import Sides
from keel.methods.objectives.reward import RewardObjective
from keel.models.loading import Loaded, load_model
from keel.rewards.sources.model import Standardiser, fit_standardiser
from keel.types import Edge, PairTarget, Unit
from keel.verbs.shared.parts import OfflineParts
from keel.verbs.shared.recipes import Training
from labs.bench.model import make_model
from labs.bench.small import OPTIONS, branch, encoded, imitate, started, trained
from labs.bench.workload import ModelShape
from labs.watchbench.language import VOCAB, Task, tasks

_SHAPE = ModelShape("llama", vocab=VOCAB, hidden=32, layers=1, intermediate=64)
_SMALL = ModelShape("llama", vocab=VOCAB, hidden=16, layers=1, intermediate=32)  # of a reward model
_STEPS, _BATCH, _LR = 80, 48, 1e-2  # of the imitation
_VOTES, _ANSWERS, _EPOCHS = 48, 8, 3  # a reward model's prompts, answers to each, passes


class World:
    """Models on disk in a folder that goes with it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="keel-watchbench-")
        self.tasks = tasks()
        make_model(_SHAPE, Path(self._folder.name) / "policy", 0)
        make_model(_SMALL, Path(self._folder.name) / "small", 1)

    @functools.cache  # noqa: B019 - one world a process
    def start(self, task: str) -> Mapping[str, Tensor]:
        """Weights after imitating noisy demonstrations."""
        rng, of = random.Random(f"start {task}"), self.tasks[task]
        prompts = [of.prompt(rng) for _ in range(_STEPS * _BATCH)]
        units = [Unit(str(i), encoded(p), (branch(of.demonstration(p, rng)),)) for i, p in enumerate(prompts)]
        return imitate(Path(self._folder.name) / "policy", units, _STEPS, _BATCH, _LR)

    def policy(self, task: str, heads: frozenset[str] = frozenset()) -> Loaded:
        """A model of its own at the task's start."""
        return started(Path(self._folder.name) / "policy", self.start(task), heads)

    @functools.cache  # noqa: B019
    def proxy(self, task: str, seed: int) -> tuple[LocalInference, Standardiser]:
        """A small reward model of a few noisy votes on demonstrations, in deviations of what it says of them."""
        units = votes(self.tasks[task], random.Random(f"votes {task} {seed}"))
        loaded = load_model(str(Path(self._folder.name) / "small"), OPTIONS, heads=frozenset({"score"}), seed=seed, new_heads=True)
        training = Training(OptimConfig(lr=3e-3), LoopConfig(batch_size=8, epochs=_EPOCHS), seed)
        learner = trained(OfflineParts.of(loaded, RewardObjective(), Sides(units), training))
        return learner, fit_standardiser(learner.scores(units))


def votes(task: Task, rng: random.Random) -> tuple[Unit, ...]:
    """Answers in pairs, each with one vote: the gold's difference is the log-odds (Bradley and Terry 1952)."""
    units: list[Unit] = []
    for i in range(_VOTES):
        prompt = task.prompt(rng)
        answers = [task.demonstration(prompt, rng) for _ in range(_ANSWERS)]
        gold = [task.gold(prompt, a) for a in answers]
        units.append(Unit(f"vote-{i}", encoded(prompt), tuple(map(branch, answers)), PairTarget(tuple(_edges(gold, rng)))))
    return tuple(units)


def _edges(gold: Sequence[float], rng: random.Random) -> list[Edge]:
    odds = torch.sigmoid(torch.tensor([gold[a] - gold[a + 1] for a in range(0, len(gold), 2)])).tolist()
    return [Edge(2 * i, 2 * i + 1) if rng.random() < p else Edge(2 * i + 1, 2 * i) for i, p in enumerate(odds)]
