"""Which sampled tokens hang on a part of their prompt: those that are less likely when it is masked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from keel.methods.math.kl import grounded
from keel.types import BranchTensors, Twin, Unit


def told_apart(units: Sequence[Unit], masked: Twin, logprobs: Callable[[Sequence[Unit]], BranchTensors], above: float) -> BranchTensors:
    """1 at trained tokens that are more than ``above`` nats likelier behind the whole prompt than behind the ``masked`` one; 0 at the
    others, and wherever a prompt has nothing to mask. One pass of ``logprobs``, the policy's, over the units with something masked.

    Behind the whole prompt a token is as likely as ``old_logprobs`` says where they are recorded, else ``sampler_logprobs``."""
    prompts = [masked(unit.prompt) for unit in units]
    without = iter(logprobs([replace(unit, prompt=prompt) for unit, prompt in zip(units, prompts) if prompt is not None]))
    found: BranchTensors = []
    for unit, prompt in zip(units, prompts):
        whole = [b.signals["old_logprobs" if "old_logprobs" in b.signals else "sampler_logprobs"] for b in unit.branches]
        other = whole if prompt is None else next(without)
        kinds = [grounded(a_T, b_T, above) for a_T, b_T in zip(whole, other, strict=True)]
        found.append(tuple(kind_T * b.trained_T for kind_T, b in zip(kinds, unit.branches, strict=True)))
    return found
