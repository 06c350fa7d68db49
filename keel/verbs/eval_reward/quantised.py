"""A reward model in fewer bits: what it loses in accuracy on the same pairs, and what it saves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from keel.evaluate.reward_bits import accuracy_loss
from keel.evaluate.reward_measures import ScoredLabel
from keel.learner.inference import LocalInference
from keel.models.loading import load_model
from keel.models.model import Model
from keel.models.quantise import quantise_model
from keel.types import Unit
from keel.verbs.eval_reward.config import EvalRewardConfig
from keel.verbs.shared.scored_labels import judge

_MB = 1 << 20


def in_fewer_bits(judged: Sequence[ScoredLabel], units: Sequence[Unit], config: EvalRewardConfig) -> dict[str, Any]:
    """Of each way of ``config.quantised``: the loss of accuracy, paired by prompt, with its interval over prompts; pairs that turn; drift
    of the scores; megabytes of weights in memory. Left out where no pair is decided. Raises ModelError for adapters that are not merged."""
    found: dict[str, Any] = {}
    for way in config.quantised:
        model = load_model(config.model, config.model_options, heads=frozenset({"score"})).model.freeze()
        before = weights_mb(model)
        quantise_model(model, way)
        loss = accuracy_loss(judged, judge(LocalInference(model, config.batch), units, config.category))
        if loss is not None:
            found[way] = {"loss": loss.interval.to_json(), **loss.to_json(), "mb_before": before, "mb": weights_mb(model)}
    return found


def weights_mb(model: Model) -> float:
    """Memory of all weights, those that members share once. Only int8 is kept in fewer bits here; the other ways are computed as they
    would be read, from weights of the usual size."""
    tensors: dict[int, int] = {}
    for member in model.members or (model,):
        module: nn.Module = member.module
        for t in (*module.parameters(), *module.buffers()):
            tensors[t.data_ptr()] = t.numel() * t.element_size()
    return sum(tensors.values()) / _MB
