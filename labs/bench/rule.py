"""The algorithm of a workload."""

from __future__ import annotations

from keel.methods import Algorithm, AlgorithmConfig, resolve
from labs.bench.vlm_work import VisionWork
from labs.bench.workload import Workload


def rule_of(work: Workload | VisionWork) -> Algorithm:
    """The row that ``keel rl`` would take; GRPO with TRL's way to weigh tokens and the workload's price of the KL, for equal numerics."""
    grpo = {"kl": {"coef": work.kl}, "reduce": "per_token"} if work.algorithm == "grpo" else {}
    return resolve(AlgorithmConfig.model_validate({"name": work.algorithm, **grpo}), work.group)
