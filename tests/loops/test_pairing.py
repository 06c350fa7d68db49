"""Which answers of a prompt are compared, by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from keel.core.errors import UserError
from keel.loops.online_preference import pair_metrics, trainable
from keel.loops.pairing import PairByJudge, PairByReward, PairRule, edges_between, judged_edges, meetings_of
from keel.methods.preference import ObjectiveConfig, preference_objective
from keel.rewards.score import Score, failure
from keel.rewards.sources.duels import Duel, PairJudge
from keel.rewards.sources.python import REFUSED, CompareConfig
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


def group(rewards: list[float], valid: list[bool], name: str = "p", prompt: int = 1, texts: str = "abcdef") -> Group:
    def rollout(i: int) -> Rollout:
        none_T = torch.zeros(2, dtype=torch.int64)
        sampled_T, logprobs_T = torch.ones(2, dtype=torch.bool), torch.full((2,), -1.0)
        return Rollout(name, 0, i, torch.tensor([10 + i, 2]), sampled_T, logprobs_T, none_T, "stop", texts[i])

    rollouts = tuple(rollout(i) for i in range(len(rewards)))
    return Group(Prompt(name, text=""), Encoded(torch.tensor([prompt])), rollouts, torch.tensor(rewards), {}, torch.tensor(valid))


def test_failed_answers_are_in_no_pair_and_unused_ones_are_left_out() -> None:
    (unit,) = PairByReward()((group([9.0, 1.0, 0.0, 2.0], [False, True, True, True]),), 0, 0).units
    assert [b.tokens_T.tolist() for b in unit.branches] == [[12, 2], [13, 2]]
    assert isinstance(unit.target, PairTarget)
    assert [(e.winner, e.loser, e.margin) for e in unit.target.edges] == [(1, 0, 2.0)]
    assert PairByReward()((group([9.0, 1.0], [False, True]),), 0, 0).units == ()


def test_what_a_round_tells_of_its_pairs() -> None:
    groups = (group([0.0, 1.0, 3.0], [True] * 3), group([1.0, 1.0], [True] * 2, "q", 2))
    units = PairByReward("all")(groups, 0, 0).units
    assert pair_metrics(groups, units) == {"pairs": 3.0, "pairs/prompts": 0.5, "pairs/gap": pytest.approx(2.0)}
    assert pair_metrics(groups, ()) == {"pairs": 0.0, "pairs/prompts": 0.0}


def test_answers_to_other_prompts_need_another_prompt() -> None:
    one: tuple[Unit, ...] = PairByReward("all")((group([0.0, 1.0], [True] * 2),), 0, 0).units
    two = (*one, *PairByReward("all")((group([0.0, 1.0], [True] * 2, "q", 2),), 0, 0).units)
    dpo, kto = (preference_objective(ObjectiveConfig(name=name)) for name in ("dpo", "kto"))
    assert not trainable((), dpo)
    assert trainable(one, dpo)
    assert not trainable(one, kto)
    assert trainable(two, kto)


# --- a judge of two ---------------------------------------------------------------------------------------------------------------


class Scripted:
    """Says of two letters what the table says, and remembers what it was asked."""

    def __init__(self, says: dict[str, float | Score]) -> None:
        self.says, self.asked = says, list[str]()

    def judge(self, items: Sequence[tuple[Prompt, tuple[str, str]]]) -> list[Score]:
        self.asked += ["".join(two) for _, two in items]
        return [Score(s) if not isinstance(s := self.says[a], Score) else s for a in ("".join(two) for _, two in items)]


def both_ways(table: dict[str, float]) -> dict[str, float | Score]:
    """Without a position bias."""
    return {**table, **{ab[::-1]: 1.0 - p for ab, p in table.items()}}


def by_judge(says: dict[str, float | Score], rule: PairRule = "all", order: str = "hash", **settings: Any) -> tuple[PairByJudge, Scripted]:
    source = Scripted(says)
    config = CompareConfig(function="judge.py:f", order=order, retries=1)  # type: ignore[arg-type]
    return PairByJudge(PairJudge(source, config, settings.pop("on_failure", "drop_sample")), rule, **settings), source


def test_the_best_and_the_worst_are_those_with_most_and_fewest_wins_and_must_meet_so() -> None:
    assert meetings_of(3, "best_worst") == [(0, 1), (0, 2), (1, 2)]
    assert len(meetings_of(5, "random", 1)) == 1
    verdicts = {(0, 1): 0.9, (0, 2): 0.75, (1, 2): 0.2}  # wins: 0.825, 0.15, 0.525
    assert [(e.winner, e.loser, e.label, round(e.margin, 6)) for e in judged_edges(verdicts, "best_worst", 0.0)] == [(0, 1, 0.9, 0.8)]
    assert [(e.winner, e.loser, e.label) for e in judged_edges(verdicts, "all", 0.55)] == [(0, 1, 0.9), (2, 1, 0.8)]
    circle = {(0, 1): 0.4, (0, 2): 1.0, (1, 2): 0.0}  # 0 wins most, 1 least, and 1 beats 0
    assert judged_edges(circle, "best_worst", 0.0) == ()
    assert judged_edges({(0, 1): 0.5, (0, 2): math.nan}, "all", 0.0) == ()


def test_a_judges_probability_is_the_label_and_the_share_of_wins_the_reward() -> None:
    pairing, _ = by_judge(both_ways({"ab": 0.75, "ac": 1.0, "bc": 0.5}))
    made = pairing((group([0.0] * 4, [True, False, True, True], texts="axbc"),), 0, 0)
    (unit,) = made.units
    assert isinstance(unit.target, PairTarget)
    assert [(e.winner, e.loser, e.label, e.margin) for e in unit.target.edges] == [(0, 1, 0.75, 0.5), (0, 2, 1.0, 1.0)]
    assert made.groups[0].rewards_G.tolist() == [0.875, 0.0, 0.375, 0.25]
    assert made.groups[0].valid_G.tolist() == [True, False, True, True]
    assert made.metrics["judge/ties"] == pytest.approx(1 / 3)


def test_a_bias_for_the_first_place_cancels_in_both_orders_and_is_seen_in_either() -> None:
    texts = [f"{i:02d}" for i in range(40)]
    first_wins = {a + b: 0.9 for a in texts for b in texts}
    judge, source = by_judge(first_wins)  # type: ignore[arg-type]
    said = judge.judge.probabilities([Duel(Prompt("p", text=""), a, b) for a in texts for b in texts if a < b])
    assert 0.4 < sum(p > 0.5 for p in said) / len(said) < 0.6  # by hash: either one is favoured as often
    assert judge.judge.metrics()["judge/first"] == pytest.approx(0.9)
    again = judge.judge.probabilities([Duel(Prompt("p", text=""), b, a) for a in texts for b in texts if a < b])
    assert again == [pytest.approx(1.0 - p) for p in said]
    half = len(source.asked) // 2
    assert source.asked[:half] == source.asked[half:]  # shown in the same order, whichever is named first
    both, _ = by_judge({"ab": 0.9, "ba": 0.7}, order="both")
    assert both.judge.probabilities([Duel(Prompt("p", text=""), "a", "b")]) == [pytest.approx(0.6)]
    assert both.judge.metrics()["judge/contradictions"] == 1.0
    assert both.judge.probabilities([Duel(Prompt("p", text=""), "a", "a")]) == [0.5]
    assert both.judge.metrics()["judge/asked"] == 0.0


def test_failed_and_declined_comparisons_make_no_pair_and_are_counted() -> None:
    declined, failed = Score(reason=REFUSED, error="the function returned None"), failure("ValueError: no")
    says: dict[str, float | Score] = {**both_ways({"ab": 1.0}), "ac": declined, "ca": declined, "bc": failed, "cb": failed}
    pairing, source = by_judge(says, on_failure="retry")
    made = pairing((group([0.0] * 3, [True] * 3),), 0, 0)
    assert len(made.units) == 1
    assert made.groups[0].valid_G.tolist() == [True, True, False]  # c met two and was judged by nobody
    assert made.groups[0].rewards_G.tolist() == [1.0, 0.0, 0.0]
    assert {key: made.metrics[f"judge/{key}"] for key in ("asked", "failed_ratio", "refused_ratio")} == {
        "asked": 3.0, "failed_ratio": pytest.approx(1 / 3), "refused_ratio": pytest.approx(1 / 3),
    }  # fmt: skip
    assert len(source.asked) == 4  # the failed one twice, the declined one once
    assert "ValueError: no" in pairing.failure
    assert not pairing.all_failed
    with pytest.raises(UserError, match="ValueError: no"):
        by_judge(says, on_failure="stop")[0]((group([0.0] * 3, [True] * 3),), 0, 0)
