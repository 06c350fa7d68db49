"""From groups of rollouts to units: every valid rollout's tokens, each behind what it was sampled behind."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from keel.core.errors import UserError
from keel.types import Branch, Group, Rollout, Unit


def rollout_units(groups: Sequence[Group]) -> tuple[Unit, ...]:
    """One unit for every group that has a valid rollout, a branch for each valid rollout in the group's order; behind it a unit for each
    fork of its rollouts, with the prompt of the fork and one branch, so that every sampled token stands behind what it was sampled behind.
    A rollout that forks at its very first token (an agent asked something else) has no branch behind the group's prompt, and where all do
    so there is no such unit.

    Branches carry ``sampler_logprobs`` and the rollouts' supports; the tokens that the policy sampled are the trained ones.

    Raises:
        UserError: a rollout was drawn under a bias on tokens: its distribution is not the policy's, and no ratio here would say so.
    """
    biased = next((r for g in groups for r in g.rollouts if r.biased), None)
    if biased is not None:
        raise UserError(
            f"an answer to prompt {biased.prompt_id} was drawn with some of its words made less likely: it is no sample of the policy",
            "learn from such answers as pairs or demonstrations, or sample without a bias on tokens",
        )
    units: list[Unit] = []
    for group in groups:
        valid = [r for r, ok in zip(group.rollouts, group.valid_G, strict=True) if ok]
        if not valid:
            continue
        name, meta = f"{group.prompt.prompt_id}/{group.rollouts[0].attempt}", group.prompt.meta
        begun = tuple(_branch(r, r.streams[0]) for r in valid if r.streams[0].stop)
        units += [Unit(name, group.encoded, begun, meta=meta)] if begun else []
        units += [
            Unit(f"{name}/{r.sample}/{k}", fork.prompt, (_branch(r, stream),), meta=meta)
            for r in valid
            for k, (fork, stream) in enumerate(zip(r.forks, r.streams[1:], strict=True), 1)
        ]
    return tuple(units)


def _branch(rollout: Rollout, stream: slice) -> Branch:
    """One stream of a rollout."""
    if not rollout.forks:
        return Branch(rollout.tokens_T, rollout.sampled_T, {"sampler_logprobs": rollout.logprobs_T}, rollout.support)
    support = None if rollout.support is None else rollout.support.take(torch.arange(stream.start, stream.stop))
    return Branch(rollout.tokens_T[stream], rollout.sampled_T[stream], {"sampler_logprobs": rollout.logprobs_T[stream]}, support)
