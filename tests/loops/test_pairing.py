"""Which answers of a prompt are compared, by hand."""

from __future__ import annotations

import pytest
import torch

from keel.algorithms.preference import ObjectiveConfig, preference_objective
from keel.loops.online_preference import pair_metrics, trainable
from keel.loops.pairing import edges_between, paired
from keel.types import Encoded, Group, PairTarget, Prompt, Rollout, Unit


def pairs(rewards: list[float], rule: str, least_gap: float = 0.0, *draw: int) -> list[tuple[int, int, float]]:
    return [(e.winner, e.loser, round(e.margin, 6)) for e in edges_between(rewards, rule, least_gap, *draw)]  # type: ignore[arg-type]


def test_the_best_meets_the_worst() -> None:
    assert pairs([0.5, 2.0, -1.0, 2.0], "best_worst") == [(1, 2, 3.0)]
    assert pairs([0.5, 2.0, -1.0], "best_worst", 3.0) == [(1, 2, 3.0)]
    assert pairs([0.5, 2.0, -1.0], "best_worst", 3.01) == []


def test_every_two_meet_but_equal_ones_and_close_ones() -> None:
    assert pairs([1.0, 3.0, 1.0], "all") == [(1, 0, 2.0), (1, 2, 2.0)]
    assert pairs([0.0, 1.0, 3.0], "all", 1.5) == [(2, 0, 3.0), (2, 1, 2.0)]


def test_two_by_chance_are_drawn_anew_and_the_better_one_wins() -> None:
    drawn = [pairs([0.0, 1.0, 2.0, 3.0], "random", 0.0, seed) for seed in range(60)]
    assert all(len(p) == 1 and p[0][0] > p[0][1] for p in drawn)
    assert {p[0][:2] for p in drawn} == {(1, 0), (2, 0), (3, 0), (2, 1), (3, 1), (3, 2)}
    assert drawn[7] == pairs([0.0, 1.0, 2.0, 3.0], "random", 0.0, 7)


@pytest.mark.parametrize("rule", ["best_worst", "random", "all"])
def test_one_answer_or_equal_ones_make_no_pair(rule: str) -> None:
    assert pairs([], rule) == pairs([1.0], rule) == pairs([1.0, 1.0, 1.0], rule) == []


def group(rewards: list[float], valid: list[bool], name: str = "p", prompt: int = 1) -> Group:
    def rollout(i: int) -> Rollout:
        none_T = torch.zeros(2, dtype=torch.int64)
        sampled_T, logprobs_T = torch.ones(2, dtype=torch.bool), torch.full((2,), -1.0)
        return Rollout(name, 0, i, torch.tensor([10 + i, 2]), sampled_T, logprobs_T, none_T, none_T, none_T, "stop")

    rollouts = tuple(rollout(i) for i in range(len(rewards)))
    return Group(Prompt(name, text=""), Encoded(torch.tensor([prompt])), rollouts, torch.tensor(rewards), {}, torch.tensor(valid))


def test_failed_answers_are_in_no_pair_and_unused_ones_are_left_out() -> None:
    unit = paired(group([9.0, 1.0, 0.0, 2.0], [False, True, True, True]), "best_worst", 0.0, 0, 0)
    assert unit is not None
    assert [b.tokens_T.tolist() for b in unit.branches] == [[12, 2], [13, 2]]
    assert isinstance(unit.target, PairTarget)
    assert [(e.winner, e.loser, e.margin) for e in unit.target.edges] == [(1, 0, 2.0)]
    assert paired(group([9.0, 1.0], [False, True]), "best_worst", 0.0, 0, 0) is None


def test_what_a_round_tells_of_its_pairs() -> None:
    groups = [group([0.0, 1.0, 3.0], [True] * 3), group([1.0, 1.0], [True] * 2, "q", 2)]
    units = tuple(u for g in groups if (u := paired(g, "all", 0.0, 0, 0)) is not None)
    assert pair_metrics(groups, units) == {"pairs": 3.0, "pairs/prompts": 0.5, "pairs/gap": pytest.approx(2.0)}
    assert pair_metrics(groups, ()) == {"pairs": 0.0, "pairs/prompts": 0.0}


def test_answers_to_other_prompts_need_another_prompt() -> None:
    one: tuple[Unit, ...] = tuple(u for g in [group([0.0, 1.0], [True] * 2)] if (u := paired(g, "all", 0.0, 0, 0)) is not None)
    two = (*one, *(u for g in [group([0.0, 1.0], [True] * 2, "q", 2)] if (u := paired(g, "all", 0.0, 0, 0)) is not None))
    dpo, kto = (preference_objective(ObjectiveConfig(name=name)) for name in ("dpo", "kto"))
    assert not trainable((), dpo)
    assert trainable(one, dpo)
    assert not trainable(one, kto)
    assert trainable(two, kto)
