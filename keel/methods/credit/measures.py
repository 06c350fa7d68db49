"""What a batch of rollouts looked like: the numbers that dashboards know by these names."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from keel.methods.credit.conversations import conversation_metrics
from keel.types import Group, Rollout, Unit

_SAME = 1e-6  # less than this is rounding: rewards, or lengths, are the same


def group_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Rewards, lengths and variety of all valid samples.

    ``reward`` mean, ``reward_min``, ``reward_max``; ``reward_std`` mean over groups of the deviation (n - 1) within a group, over the batch
    where no group has two valid samples; ``frac_reward_zero_std`` share of the groups with two or more samples whose rewards are all equal:
    they teach group-relative methods nothing; ``rewards/<name>/{mean,std}`` each source before weighting; ``completions/*``: lengths in
    sampled tokens, ``clipped_ratio`` the share cut off at the limit, ``mean_terminated_length`` of the answers that ended by themselves (0
    where none did), ``reward_length_corr`` how closely rewards follow lengths within groups (0 where either is the same throughout),
    ``unique_token_ratio`` different tokens of an answer over its length (mean over answers), ``distinct_1`` and
    ``distinct_2`` different tokens and pairs of neighbours over all of the batch, ``perplexity`` of the distribution sampled from,
    ``failed_ratio`` the share of samples that are not valid. Without a valid sample only ``completions/failed_ratio`` is given; what no
    reward has judged has no metrics of rewards. Conversations have those of ``conversation_metrics`` too, also without a valid one.
    """
    n_samples = sum(len(g.rollouts) for g in groups)
    valid = [(g, i) for g in groups for i in range(len(g.rollouts)) if bool(g.valid_G[i])]
    failed = {"completions/failed_ratio": 1.0 - len(valid) / n_samples if n_samples else 0.0}
    metrics = failed | conversation_metrics(groups)
    if not valid:
        return metrics
    rollouts = [g.rollouts[i] for g, i in valid]
    judged = any(g.parts or bool(g.rewards_G.any()) for g in groups)
    of_rewards = {**_reward_metrics(groups), "completions/reward_length_corr": _reward_length_corr(groups)} if judged else {}
    return metrics | of_rewards | _length_metrics(rollouts) | _text_metrics(rollouts)


def staleness(groups: Sequence[Group], version: int) -> dict[str, float]:
    """How many versions the policy is ahead of the one that sampled a token, over the sampled tokens of valid samples:
    ``sampling/staleness/{mean,max}``. 0 for a sampler that had the newest weights throughout."""
    rollouts = [r for g in groups for r, ok in zip(g.rollouts, g.valid_G, strict=True) if bool(ok)]
    behind = torch.cat([version - r.version_T[r.sampled_T] for r in rollouts]) if rollouts else torch.zeros(0)
    if not len(behind):
        return {}
    return {"sampling/staleness/mean": float(behind.double().mean()), "sampling/staleness/max": float(behind.max())}


def support_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """How many tokens could have been drawn where one was, over the sampled tokens of valid samples: ``sampling/support/{mean,max}``, and
    ``sampling/support/single_ratio``, the share that had no other choice and so teaches nothing. Nothing where nothing was cut."""
    kept = [r for g in groups for r, ok in zip(g.rollouts, g.valid_G, strict=True) if bool(ok) and r.support is not None]
    sizes = [r.support.sizes()[r.sampled_T] for r in kept if r.support is not None]
    sizes_N = torch.cat(sizes) if sizes else torch.zeros(0)
    if not len(sizes_N):
        return {}
    of_all = {"mean": sizes_N.double().mean(), "max": sizes_N.max(), "single_ratio": (sizes_N == 1).double().mean()}
    return {f"sampling/support/{name}": float(value) for name, value in of_all.items()}


def complexity(groups: Sequence[Group]) -> dict[str, float]:
    """``prompts/complexity``, the mean over prompts of ``Encoded.complexity``; nothing where none has any."""
    found = [group.encoded.complexity for group in groups]
    return {"prompts/complexity": sum(found) / len(found)} if any(found) else {}


def _reward_metrics(groups: Sequence[Group]) -> dict[str, float]:
    rewards = [g.rewards_G[g.valid_G].double() for g in groups]
    compared = [r for r in rewards if len(r) > 1]
    together = torch.cat(rewards)
    metrics = {"reward": float(together.mean()), "reward_min": float(together.min()), "reward_max": float(together.max())}
    if compared:
        metrics["reward_std"] = sum(float(r.std()) for r in compared) / len(compared)
        metrics["frac_reward_zero_std"] = sum(bool((r == r[0]).all()) for r in compared) / len(compared)
    else:
        metrics["reward_std"] = _deviation(together)
    for name in sorted({name for g in groups for name in g.parts}):
        parts = torch.cat([g.parts[name][g.valid_G].double() for g in groups if name in g.parts])
        known = parts[~parts.isnan()]
        if len(known):
            metrics[f"rewards/{name}/mean"] = float(known.mean())
            metrics[f"rewards/{name}/std"] = _deviation(known)
    return metrics


def _reward_length_corr(groups: Sequence[Group]) -> float:
    """Pearson's correlation of reward and length, both less their group's mean: what prompts differ in does not count."""
    rewards, lengths = [torch.zeros(0).double()], [torch.zeros(0).double()]
    for group in groups:
        valid = [r for r, ok in zip(group.rollouts, group.valid_G, strict=True) if bool(ok)]
        length_G = torch.tensor([float(r.sampled_T.sum()) for r in valid]).double()
        if valid:
            reward_G = group.rewards_G[group.valid_G].double()
            rewards.append(reward_G - reward_G.mean())
            lengths.append(length_G - length_G.mean())
    reward_N, length_N = torch.cat(rewards), torch.cat(lengths)
    spread = math.sqrt(float(reward_N @ reward_N) * float(length_N @ length_N))
    return float(reward_N @ length_N) / spread if spread > _SAME else 0.0


def _text_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Variety by token ids (Li et al. 2016, arXiv:1510.03055, for distinct n-grams) and perplexity, over sampled tokens."""
    texts = [r.tokens_T[r.sampled_T] for r in rollouts]
    pairs = [torch.stack([t[:-1], t[1:]]) for t in texts]
    tokens_N, pairs_N, logprobs_N = torch.cat(texts), torch.cat(pairs, 1), torch.cat([r.logprobs_T[r.sampled_T] for r in rollouts])
    ratios = [_distinct(t) / len(t) for t in texts if len(t)]
    if not ratios:
        return {}
    joined_N = pairs_N[0] * (int(tokens_N.max()) + 1) + pairs_N[1]
    return {
        "completions/unique_token_ratio": sum(ratios) / len(ratios),
        "completions/distinct_1": _distinct(tokens_N) / len(tokens_N),
        "completions/distinct_2": _distinct(joined_N) / len(joined_N) if len(joined_N) else 0.0,
        "completions/perplexity": math.exp(-float(logprobs_N.double().mean())),
    }


def _distinct(values_N: Tensor) -> int:
    """Different values among at least one."""
    return 1 + int((values_N.sort().values.diff() != 0).sum())


def _length_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    lengths = [int(r.sampled_T.sum()) for r in rollouts]
    ended = [n for n, r in zip(lengths, rollouts) if r.finish_reason == "stop"]
    return {
        "completions/mean_length": sum(lengths) / len(lengths),
        "completions/min_length": float(min(lengths)),
        "completions/max_length": float(max(lengths)),
        "completions/clipped_ratio": sum(r.finish_reason == "length" for r in rollouts) / len(rollouts),
        "completions/mean_terminated_length": sum(ended) / len(ended) if ended else 0.0,
    }


def _deviation(values: Tensor) -> float:
    return float(values.std()) if len(values) > 1 else 0.0


def kl_metrics(groups: Sequence[Group], units: Sequence[Unit], kl_coef: float) -> dict[str, float]:
    """What the reference costs, per sequence, under PPO's names: ``objective/kl`` the k1 sum over a sequence's tokens, in nats, of the
    policy that sampled (``old_logprobs`` where recorded, else ``sampler_logprobs``), ``objective/kl_per_token`` the same over all tokens of
    the batch, divided by their number; ``objective/scores`` the reward;
    ``objective/non_score_reward`` minus ``kl_coef`` times the KL; ``objective/rlhf_reward`` the sum of the two.

    ``units`` are those of ``rollout_units(groups)`` with ``ref_logprobs``.
    """
    kls: list[float] = []
    tokens = 0
    for branch in (b for u in units for b in u.branches):
        policy_T = branch.signals["old_logprobs" if "old_logprobs" in branch.signals else "sampler_logprobs"]
        kls.append(float((policy_T - branch.signals["ref_logprobs"])[branch.trained_T].sum()))
        tokens += int(branch.trained_T.sum())
    if not kls:
        return {}
    kl = sum(kls) / len(kls)
    score = float(torch.cat([g.rewards_G[g.valid_G].double() for g in groups]).mean())
    penalty = 0.0 - kl_coef * kl  # never -0.0
    return {
        "objective/kl": kl,
        "objective/kl_per_token": sum(kls) / max(1, tokens),
        "objective/scores": score,
        "objective/non_score_reward": penalty,
        "objective/rlhf_reward": score + penalty,
    }
