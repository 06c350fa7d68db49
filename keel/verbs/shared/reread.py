"""What is released is what was trained: the saved model is read again, as whoever uses it reads it, and compared with the one in memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from keel.learner.inference import LocalInference
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.runs.memory import give_back_memory
from keel.types import Unit

log = logging.getLogger("keel")
UNITS = 8  # that are compared
_LOST = 0.1  # of what training changed, a difference that is told of
_ROUNDING = 1e-3  # nats a token, or standard deviations of scores: below it nothing is told


def compare_saved(folder: Path, options: ModelOptions, learner: LocalInference, units: Sequence[Unit]) -> dict[str, Any]:
    """How far the model in ``folder``, read with ``options``, is from ``learner``'s on the first units: merging adapters rounds, and what
    rounding takes away of the training nobody would see.

    A policy: ``kl``, nats a token (k3 of http://joschu.net/blog/kl-approx.html, over the units' own tokens), beside ``kl_of_training``, the
    same between start and end of training. A reward model: ``score_difference``, root mean square, in standard deviations of its scores.
    {} without LoRA, where nothing is merged, and without units.
    """
    some = list(units[:UNITS])
    if learner.model.peft_model is None or not some:
        return {}
    scores = learner.model.score_head is not None
    give_back_memory()  # what training took: a second model comes now
    saved = load_model(str(folder), options, heads=frozenset({"score"}) if scores else frozenset()).model.freeze()
    saved.transform, saved.media = learner.model.transform, learner.model.media
    reader = LocalInference(saved, learner.batch, learner.temperature)
    if scores:
        mine, theirs = (torch.cat(model.scores(some)) for model in (learner, reader))
        found = {"score_difference": float((mine - theirs).square().mean().sqrt() / mine.std().clamp_min(1e-6)) if len(mine) > 1 else 0.0}
        lost = found["score_difference"] > max(_LOST, _ROUNDING)
    else:
        trained = _flat(learner, some)
        with learner.model.as_reference():
            start = _flat(learner, some)
        found = {"kl": _k3(trained, _flat(reader, some)), "kl_of_training": _k3(trained, start), "tokens": len(trained)}
        lost = found["kl"] > max(_LOST * found["kl_of_training"], _ROUNDING)
    if lost:
        beside = "" if learner.model.whole_parts else "; adapter/ beside it holds all that was learnt"
        log.warning("%s differs from the model that was trained: %s%s", folder, found, beside)
    return found


def _flat(learner: LocalInference, units: Sequence[Unit]) -> torch.Tensor:
    """Log-probabilities [N] of the trained tokens of all units."""
    plain = [replace(u, branches=tuple(replace(b, signals={}) for b in u.branches)) for u in units]
    rows = learner.logprobs(plain)
    return torch.cat([row_T[b.trained_T] for u, row in zip(plain, rows, strict=True) for b, row_T in zip(u.branches, row, strict=True)])


def _k3(logprobs_N: torch.Tensor, other_N: torch.Tensor) -> float:
    ratio_N = other_N - logprobs_N
    return float((ratio_N.exp() - 1 - ratio_N).mean())
