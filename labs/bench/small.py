"""Pieces of experiments with models that are made on the spot: sequences as records, and a start that many runs share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keel.learner.config import OptimConfig
from keel.learner.local import LocalLearner
from keel.loops.config import LoopConfig
from keel.loops.offline import Sides
from keel.methods.objectives.supervised import SupervisedObjective
from keel.models.config import ModelOptions
from keel.models.loading import Loaded, load_model
from keel.types import Branch, Encoded, Unit
from keel.verbs.shared.parts import OfflineParts
from keel.verbs.shared.recipes import Training

OPTIONS = ModelOptions(precision="fp32", device="cpu")


def encoded(ids: Sequence[int]) -> Encoded:
    """Token ids as a prompt."""
    return Encoded(torch.tensor(ids))


def branch(ids: Sequence[int]) -> Branch:
    """Token ids as an answer, every token trained."""
    return Branch(torch.tensor(ids), torch.ones(len(ids), dtype=torch.bool))


def imitate(folder: Path, units: Sequence[Unit], steps: int, batch: int, lr: float) -> dict[str, Tensor]:
    """The weights of the model in ``folder`` after SFT on ``units``."""
    loaded, training = load_model(str(folder), OPTIONS), Training(OptimConfig(lr=lr), LoopConfig(steps=steps, batch_size=batch))
    trained(OfflineParts.of(loaded, SupervisedObjective(), Sides(tuple(units)), training))
    return {name: tensor.clone() for name, tensor in loaded.model.state_tensors().items()}


def trained(parts: OfflineParts) -> LocalLearner:
    """All steps, without a run directory."""
    trainer = parts.trainer()
    for step in range(trainer.total_steps):
        trainer.step(step)
    assert isinstance(parts.learner, LocalLearner), "one process"
    return parts.learner


def started(folder: Path, start: Mapping[str, Tensor], heads: frozenset[Any] = frozenset()) -> Loaded:
    """The model in ``folder`` with these weights; heads that they lack start anew."""
    loaded = load_model(str(folder), OPTIONS, heads=heads, new_heads=True)
    own = loaded.model.state_tensors()
    loaded.model.load_state_tensors({**own, **{name: tensor for name, tensor in start.items() if name in own}})
    return loaded
