"""From groups to credited units: alignment, invalid and truncated samples, KL in the reward, and the metrics of a batch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from keel.methods.credit.assign import ESTIMATORS, CreditRule, assign
from keel.methods.credit.measures import complexity, group_metrics, kl_metrics
from keel.methods.credit.units import rollout_units
from keel.types import Encoded, Group, Prompt, Rollout, Unit


def rollout(n: int, finish: str = "stop", sampled: list[bool] | None = None, logprob: float = -1.0) -> Rollout:
    sampled_T = torch.tensor(sampled if sampled is not None else [True] * n)
    zeros = torch.zeros(n, dtype=torch.int64)
    return Rollout("p", 3, 0, torch.arange(n), sampled_T, torch.where(sampled_T, logprob, 0.0), zeros, finish)


def group(rollouts: list[Rollout], rewards: list[float], valid: list[bool] | None = None, parts: dict | None = None) -> Group:
    valid_G = torch.tensor(valid if valid is not None else [True] * len(rollouts))
    return Group(Prompt("p", text="?"), Encoded(torch.tensor([7, 8])), tuple(rollouts), torch.tensor(rewards), parts or {}, valid_G)


def with_signal(units: tuple[Unit, ...], name: str, value: float) -> tuple[Unit, ...]:
    return tuple(
        replace(u, branches=tuple(replace(b, signals={**b.signals, name: torch.full((len(b),), value)}) for b in u.branches)) for u in units
    )


def advantages(units: tuple[Unit, ...]) -> list[list[list[float]]]:
    return [[[round(x, 5) for x in b.signals["advantages"].tolist()] for b in u.branches] for u in units]


def test_units_hold_the_valid_rollouts_only():
    groups = [
        group([rollout(2), rollout(1), rollout(3)], [1.0, 9.0, 3.0], [True, False, True]),
        group([rollout(1)], [5.0], [False]),
        group([rollout(1), rollout(2)], [0.0, 4.0]),
    ]
    units = rollout_units(groups)
    assert [[len(b) for b in u.branches] for u in units] == [[2, 3], [1, 2]]
    assert units[0].unit_id == "p/3"
    assert units[0].branches[0].signals["sampler_logprobs"].tolist() == [-1.0, -1.0]
    # the failed sample's 9.0 is in no mean; the group without a valid sample is in no batch
    assert advantages(assign(groups, units, CreditRule("group_centred"))) == [[[-1.0] * 2, [1.0] * 3], [[-2.0], [2.0] * 2]]
    assert advantages(assign(groups, units, CreditRule("batch_baseline"))) == [[[-1.0] * 2, [1.0] * 3], [[-2.0], [2.0] * 2]]


def test_failed_rewards_may_be_nan():
    groups = [group([rollout(1), rollout(1), rollout(1)], [1.0, float("nan"), 3.0], [True, False, True])]
    assert advantages(assign(groups, rollout_units(groups), CreditRule("leave_one_out"))) == [[[-2.0], [2.0]]]


def test_only_sampled_tokens_are_trained_and_credited():
    groups = [group([rollout(3, sampled=[True, False, True]), rollout(1)], [0.0, 2.0])]
    (unit,) = assign(groups, rollout_units(groups), CreditRule("group_centred"))
    assert unit.branches[0].trained_T.tolist() == [True, False, True]
    assert unit.branches[0].signals["advantages"].tolist() == [-1.0, 0.0, -1.0]


def test_truncated_answers_count_in_the_statistics_but_are_not_trained_on():
    groups = [group([rollout(2, "length"), rollout(1)], [0.0, 4.0]), group([rollout(1, "length")], [1.0])]
    units = assign(groups, rollout_units(groups), CreditRule("group_centred", mask_truncated=True))
    assert advantages(units) == [[[2.0]]]
    assert advantages(assign(groups, rollout_units(groups), CreditRule("group_centred"))) == [[[-2.0] * 2, [2.0]], [[0.0]]]


def test_kl_in_the_reward_of_a_sequence():
    groups = [group([rollout(2), rollout(1)], [1.0, 1.0])]
    units = with_signal(rollout_units(groups), "ref_logprobs", -3.0)  # k1 = 2 a token: 4 and 2
    credited = assign(groups, units, CreditRule("leave_one_out", kl_coef=0.5))
    assert advantages(credited) == [[[-1.0, -1.0], [1.0]]]  # rewards -1 and 0
    recorded = with_signal(units, "old_logprobs", -3.0)  # where the trainer recorded the policy, that is the policy
    assert advantages(assign(groups, recorded, CreditRule("leave_one_out", kl_coef=0.5))) == [[[0.0, 0.0], [0.0]]]
    with pytest.raises(KeyError, match="ref_logprobs"):
        assign(groups, rollout_units(groups), CreditRule("leave_one_out", kl_coef=0.5))


def test_gae_runs_over_the_sampled_tokens():
    groups = [group([rollout(3, sampled=[True, False, True])], [3.0])]
    units = with_signal(with_signal(rollout_units(groups), "ref_logprobs", -2.0), "values", 1.0)
    (unit,) = assign(groups, units, CreditRule("gae", gamma=0.5, lam=0.5, kl_coef=0.1))
    # token rewards -0.1 and 2.9; deltas -0.1 + 0.5 - 1 = -0.6 and 1.9; gamma * lam = 0.25
    assert advantages((unit,)) == [[[-0.125, 0.0, 1.9]]]
    assert [round(x, 5) for x in unit.branches[0].signals["returns"].tolist()] == [0.875, 0.0, 2.9]
    with pytest.raises(KeyError, match="values"):
        assign(groups, rollout_units(groups), CreditRule("gae"))


def test_estimators_get_what_they_read():
    """Lengths count sampled tokens only; the greedy answer's reward is its group's, less no KL."""
    groups = [group([rollout(3, sampled=[True, False, True]), rollout(6)], [0.0, 4.0]), group([rollout(1)], [5.0])]
    units = rollout_units(groups)
    assert advantages(assign(groups, units, CreditRule("optimal_baseline"))) == [[[-3.0, 0.0, -3.0], [1.0] * 6], [[0.0]]]
    greedy = [replace(groups[0], greedy_reward=1.0), replace(groups[1], greedy_reward=7.0)]
    assert advantages(assign(greedy, units, CreditRule("greedy_baseline"))) == [[[-1.0, 0.0, -1.0], [3.0] * 6], [[-2.0]]]
    priced = assign(greedy, with_signal(units, "ref_logprobs", -2.0), CreditRule("greedy_baseline", kl_coef=0.5))
    assert advantages(priced) == [[[-2.0, 0.0, -2.0], [0.0] * 6], [[-2.5]]]
    with pytest.raises(AssertionError, match="greedy_B"):
        assign(groups, units, CreditRule("greedy_baseline"))


def test_reward_to_go():
    groups = [group([rollout(3)], [4.0])]
    assert advantages(assign(groups, rollout_units(groups), CreditRule("reward_to_go", gamma=0.5))) == [[[1.0, 2.0, 4.0]]]


def test_whitening_counts_tokens_of_the_whole_batch():
    groups = [group([rollout(3, sampled=[True, False, True])], [4.0]), group([rollout(2)], [0.0])]
    credited = assign(groups, rollout_units(groups), CreditRule("reward_to_go", whiten=True))
    assert advantages(credited) == [[[1.0, 0.0, 1.0]], [[-1.0, -1.0]]]


def test_units_of_other_groups_are_noticed():
    groups = [group([rollout(1), rollout(1)], [0.0, 1.0])]
    with pytest.raises(AssertionError):
        assign(groups, rollout_units([group([rollout(1)], [0.0])]), CreditRule("group_centred"))


def test_estimators_name_what_they_need():
    assert ESTIMATORS["gae"].needs_critic
    assert not ESTIMATORS["reward_to_go"].needs_critic
    compare = {"group_normalised", "group_centred", "leave_one_out", "optimal_baseline"}
    alone = {"batch_baseline", "batch_normalised", "greedy_baseline", "no_baseline"}
    assert {name: ESTIMATORS[name].min_samples for name in compare | alone} == dict.fromkeys(compare, 2) | dict.fromkeys(alone, 1)


def test_metrics_by_hand():
    groups = [
        group(
            [rollout(2), rollout(4, "length"), rollout(9)], [1.0, 3.0, 99.0], [True, True, False], {"rm": torch.tensor([1.0, 3.0, 99.0])}
        ),
        group([rollout(6), rollout(6)], [5.0, 5.0], parts={"rm": torch.tensor([2.0, float("nan")])}),
    ]
    metrics = group_metrics(groups)
    assert metrics == pytest.approx(
        {
            "reward": 3.5,
            "reward_min": 1.0,
            "reward_max": 5.0,
            "reward_std": 2**0.5 / 2,
            "frac_reward_zero_std": 0.5,
            "rewards/rm/mean": 2.0,
            "rewards/rm/std": 1.0,
            "completions/reward_length_corr": 1.0,
            "completions/mean_length": 4.5,
            "completions/min_length": 2.0,
            "completions/max_length": 6.0,
            "completions/clipped_ratio": 0.25,
            "completions/mean_terminated_length": 14 / 3,
            "completions/failed_ratio": 0.2,
            "completions/unique_token_ratio": 1.0,
            "completions/distinct_1": 6 / 18,
            "completions/distinct_2": 5 / 14,
            "completions/perplexity": math.e,
        }
    )


def test_how_rewards_follow_lengths_within_groups_by_hand():
    """Less their group's mean: rewards -1 1 and 1 -1, lengths -1 1 and -2 2: 2 - 4 over the root of 4 * 10."""
    up, down = group([rollout(1), rollout(3)], [0.0, 2.0]), group([rollout(2), rollout(6)], [9.0, 7.0])
    assert group_metrics([up, down])["completions/reward_length_corr"] == pytest.approx(-2 / math.sqrt(4 * 10))
    apart = [group([rollout(1), rollout(1)], [0.0, 0.0]), group([rollout(9), rollout(9)], [5.0, 5.0])]
    assert group_metrics(apart)["completions/reward_length_corr"] == 0.0, "prompts differ, answers to one do not"
    assert "completions/reward_length_corr" not in group_metrics([group([rollout(1), rollout(2)], [0.0, 0.0])]), "nothing judged"


def test_variety_by_hand():
    """7 7 7 8, a token of a tool not counted, and 8 7: pairs 77 77 78 and 87."""
    first = replace(rollout(5, sampled=[True, True, False, True, True]), tokens_T=torch.tensor([7, 7, 99, 7, 8]))
    second = replace(rollout(2, logprob=-3.0), tokens_T=torch.tensor([8, 7]))
    metrics = group_metrics([group([first, second, rollout(9)], [0.0, 0.0, 0.0], [True, True, False])])
    assert metrics["completions/unique_token_ratio"] == (2 / 4 + 2 / 2) / 2
    assert (metrics["completions/distinct_1"], metrics["completions/distinct_2"]) == (2 / 6, 3 / 4)
    assert metrics["completions/perplexity"] == pytest.approx(math.exp((4 * 1 + 2 * 3) / 6))
    assert group_metrics([group([rollout(1)], [0.0])])["completions/distinct_2"] == 0.0


def test_metrics_of_single_samples_and_of_nothing():
    metrics = group_metrics([group([rollout(1, "length")], [1.0]), group([rollout(1, "length")], [3.0])])
    assert metrics["reward_std"] == pytest.approx(2**0.5)
    assert "frac_reward_zero_std" not in metrics
    assert metrics["completions/mean_terminated_length"] == 0.0
    assert group_metrics([group([rollout(1)], [1.0], [False])]) == {"completions/failed_ratio": 1.0}
    assert group_metrics([]) == {"completions/failed_ratio": 0.0}


def test_kl_metrics_are_per_sequence():
    groups = [group([rollout(2), rollout(4, sampled=[True, False, True, True])], [1.0, 2.0])]
    units = with_signal(rollout_units(groups), "ref_logprobs", -2.0)  # 1 nat a token: 2 and 3
    expected = {
        "objective/kl": 2.5,
        "objective/kl_per_token": 1.0,
        "objective/scores": 1.5,
        "objective/non_score_reward": -0.25,
        "objective/rlhf_reward": 1.25,
    }
    assert kl_metrics(groups, units, 0.1) == pytest.approx(expected)
    assert kl_metrics([], (), 0.1) == {}


def test_whitening_is_over_what_is_trained():
    """A truncated answer that is left out takes no part in the mean and deviation of the others' advantages."""
    groups = [group([rollout(2), rollout(3), rollout(4, "length"), rollout(1)], [1.0, 3.0, 50.0, 4.0])]
    rule = CreditRule("reward_to_go", whiten=True, mask_truncated=True)
    (unit,) = assign(groups, rollout_units(groups), rule)
    assert len(unit.branches) == 3
    trained = torch.cat([b.signals["advantages"] for b in unit.branches])
    assert float(trained.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(trained.std(correction=0)) == pytest.approx(1.0, abs=0.15)
    alone = [group([rollout(2), rollout(3), rollout(1)], [1.0, 3.0, 4.0])]
    assert advantages((unit,)) == advantages(assign(alone, rollout_units(alone), rule))


def test_what_is_due_at_a_token_is_credited_there():
    """Reward 3 of the whole, of which 1 is due at the first token: that token sees all of it, the later ones 2."""
    groups = [replace(group([rollout(3, sampled=[True, False, True])], [3.0]), moved=(torch.tensor([1.0, 9.0, -1.0]),))]
    units = rollout_units(groups)
    assert advantages(assign(groups, units, CreditRule("reward_to_go"))) == [[[3.0, 0.0, 2.0]]]
    assert advantages(assign(groups, units, CreditRule("group_centred"))) == [[[0.0, 0.0, 0.0]]]


def test_plain_credit_neither_discounts_nor_whitens_nor_leaves_out():
    groups = [group([rollout(2), rollout(1, "length")], [4.0, 2.0])]
    units = with_signal(rollout_units(groups), "values", 1.0)
    assert advantages(assign(groups, units, CreditRule("gae"))) == [[[3.0, 3.0], [1.0]]]  # returns minus values
    assert not CreditRule("gae").whiten
    assert [name for name, e in ESTIMATORS.items() if getattr(e, "unit_free", False)] == ["group_normalised"]


def test_the_price_of_the_kl_in_the_reward_differs_by_kind():
    """One token each, 1 nat from the reference; the first answer's is grounded and costs 0.5 * 4, the second's 0.5 * 2."""
    groups = [group([rollout(1), rollout(1)], [0.0, 0.0])]
    units = with_signal(rollout_units(groups), "ref_logprobs", -2.0)
    (unit,) = units
    kinds = (torch.tensor([1.0]), torch.tensor([0.0]))
    told = (replace(unit, branches=tuple(replace(b, signals={**b.signals, "grounded": k}) for b, k in zip(unit.branches, kinds))),)
    assert advantages(assign(groups, told, CreditRule("no_baseline", kl_coef=0.5, kl_kinds=(4.0, 2.0)))) == [[[-2.0], [-1.0]]]
    assert advantages(assign(groups, units, CreditRule("no_baseline", kl_coef=0.5))) == [[[-0.5], [-0.5]]], "no kinds, no signal"
    with pytest.raises(KeyError, match="grounded"):
        assign(groups, units, CreditRule("no_baseline", kl_coef=0.5, kl_kinds=(4.0, 2.0)))


def test_gamma_goes_on_with_complexity():
    """gamma 0.5, slope 0.5, complexity 0.4: 0.5 + 0.5 * 0.4 * 0.5 = 0.6."""
    simple = group([rollout(3)], [1.0])
    rich = replace(simple, encoded=replace(simple.encoded, complexity=0.4))
    rule = CreditRule("reward_to_go", gamma=0.5, gamma_slope=0.5)
    assert advantages(assign([simple], rollout_units([simple]), rule)) == [[[0.25, 0.5, 1.0]]]
    assert advantages(assign([rich], rollout_units([rich]), rule)) == [[[0.36, 0.6, 1.0]]]
    assert advantages(assign([rich], rollout_units([rich]), CreditRule("reward_to_go", gamma=0.5))) == [[[0.25, 0.5, 1.0]]]
    assert rule.for_complexity(1.0).gamma == 0.75
    assert replace(rule, gamma_slope=1.0).for_complexity(1.0).gamma == 1.0


def test_gae_follows_complexity_too():
    """gamma 0.5 -> 0.75 with slope 0.5 at complexity 1, lambda 1: 0.75 * 4 - 1 and 4 - 1."""
    rich = group([rollout(2)], [4.0])
    rich = replace(rich, encoded=replace(rich.encoded, complexity=1.0))
    units = with_signal(rollout_units([rich]), "values", 1.0)
    assert advantages(assign([rich], units, CreditRule("gae", gamma=0.5, gamma_slope=0.5))) == [[[2.0, 3.0]]]


def test_complexity_is_a_mean_over_prompts():
    simple = group([rollout(3)], [1.0])
    rich = replace(simple, encoded=replace(simple.encoded, complexity=0.4))
    assert complexity([simple, rich]) == {"prompts/complexity": pytest.approx(0.2)}
    assert complexity([simple]) == {}
