"""The numbers of an algorithm as they will be: what a recipe leaves empty is the algorithm's own."""

from __future__ import annotations

from typing import Any

from keel.methods import Algorithm


def resolved_numbers(algorithm: Algorithm) -> dict[str, Any]:
    """For the manifest: ``kl_coef`` (0 without a KL), ``clip`` (down, up; None where nothing is clipped), ``epochs``, ``critic``."""
    return {
        "name": algorithm.name,
        "kl_coef": algorithm.kl.coef if algorithm.kl is not None else 0.0,
        "clip": list(algorithm.clip) if algorithm.policy_loss.clips else None,
        "epochs": algorithm.epochs,
        "critic": algorithm.needs_critic,
    }
