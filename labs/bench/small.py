"""Pieces of experiments with models that are made on the spot: sequences as records, and a start that many runs share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.local import LocalLearner
from keel.loops.config import LoopConfig
from keel.loops.offline import OfflineTrainer, Sides
from keel.methods.objectives.supervised import SupervisedObjective
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.models.model import Model
from keel.types import Branch, Encoded, Unit

OPTIONS = ModelOptions(precision="fp32", device="cpu")


def encoded(ids: Sequence[int]) -> Encoded:
    """Token ids as a prompt."""
    return Encoded(torch.tensor(ids))


def branch(ids: Sequence[int]) -> Branch:
    """Token ids as an answer, every token trained."""
    return Branch(torch.tensor(ids), torch.ones(len(ids), dtype=torch.bool))


def imitate(folder: Path, units: Sequence[Unit], steps: int, batch: int, lr: float) -> dict[str, Tensor]:
    """The weights of the model in ``folder`` after SFT on ``units``."""
    model = load_model(str(folder), OPTIONS).model
    learner = LocalLearner(model, OptimConfig(lr=lr), BatchConfig(), steps, 0)
    trainer = OfflineTrainer(learner, SupervisedObjective(), Sides(tuple(units)), LoopConfig(steps=steps, batch_size=batch), 0)
    for step in range(steps):
        trainer.step(step)
    return {name: tensor.clone() for name, tensor in model.state_tensors().items()}


def started(folder: Path, start: Mapping[str, Tensor], heads: frozenset[Any] = frozenset()) -> Model:
    """The model in ``folder`` with these weights; heads that they lack start anew."""
    model = load_model(str(folder), OPTIONS, heads=heads, new_heads=True).model
    own = model.state_tensors()
    model.load_state_tensors({**own, **{name: tensor for name, tensor in start.items() if name in own}})
    return model
