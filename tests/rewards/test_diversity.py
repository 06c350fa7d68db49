"""The bonus for variety: by hand, and what cannot earn it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from keel.core.errors import UserError
from keel.methods.credit.measures import group_metrics
from keel.rewards.build import build_rewards
from keel.rewards.composition.rewards import Reward, apply_rewards
from keel.rewards.sources.diversity import DiversityReward, DiversitySource
from keel.rewards.verifiers.gaming import GamingReward
from keel.types import Encoded, Group, Prompt, Rollout, empty_group

BASE = ["it is seven", "seven it is", "the answer: seven", "eight perhaps"]


@dataclass(frozen=True, slots=True)
class Right:
    """1 where "seven" is in it."""

    name: str = "right"

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        return [torch.tensor([float("seven" in r.text) for r in g.rollouts]) for g in groups]


def group(texts: Sequence[str], failed: Sequence[int] = ()) -> Group:
    ones_T = torch.ones(1)
    made = [
        Rollout("p", 0, i, torch.tensor([1]), ones_T.bool(), -ones_T, ones_T, "error" if i in failed else "stop", t)
        for i, t in enumerate(texts)
    ]
    return empty_group(Prompt("p", text="Is it the answer, perhaps eight?"), Encoded(torch.tensor([1])), made)


def rewarded(texts: Sequence[str], failed: Sequence[int] = (), enough: float = 1.0) -> Group:
    rewards = (Reward(DiversitySource("varied", "right", 0.5, enough), 0.25), Reward(Right()))  # the order of the recipe does not matter
    return apply_rewards([group(texts, failed)], rewards)[0]


def test_thoughts_earn_nothing() -> None:
    """The same answers behind thoughts that share no word,."""
    thoughts = ["one red apple", "two blue pears", "three green plums", "four white figs"]
    plain = rewarded(BASE)
    behind = rewarded([f"<think>{t}</think>{a}" for t, a in zip(thoughts, BASE, strict=True)])
    assert torch.equal(plain.parts["varied"], behind.parts["varied"])
    same = rewarded([f"<think>{t}</think>it is seven" for t in thoughts])
    assert same.parts["varied"].tolist() == [0.0] * 4


def test_by_hand() -> None:
    """Good are three: {it, is, seven} twice, {the, answer, seven}: 1/3 of the words in common. So (0 + 2/3)/2, the same, (2/3 + 2/3)/2."""
    found = rewarded(BASE)
    assert found.parts["varied"].tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 0.0])
    assert found.rewards_G.tolist() == pytest.approx([1 + 1 / 12, 1 + 1 / 12, 1 + 1 / 6, 0.0])
    assert rewarded(BASE, enough=0.5).parts["varied"].tolist() == pytest.approx([2 / 3, 2 / 3, 1.0, 0.0])


def test_the_metrics_look_at_all_answers() -> None:
    """ "eight perhaps" shares nothing with the three others. Pairs of words: 2 + 2 + 2 + 1, of which "it is" stands there twice."""
    metrics = group_metrics([rewarded(BASE)])
    each = [(0 + 2 / 3 + 1) / 3, (0 + 2 / 3 + 1) / 3, (2 / 3 + 2 / 3 + 1) / 3, 1.0]
    assert metrics["rewards/varied/difference/mean"] == pytest.approx(sum(each) / 4)
    assert metrics["rewards/varied/distinct/mean"] == pytest.approx(6 / 7)
    assert metrics["rewards/varied/mean"] == pytest.approx((1 / 3 + 1 / 3 + 2 / 3) / 4)


def test_answers_that_failed_are_not_compared_with() -> None:
    found = rewarded(BASE, failed=[2])
    assert found.parts["varied"].tolist() == [0.0, 0.0, 0.0, 0.0]
    assert found.valid_G.tolist() == [True, True, False, True]


@pytest.mark.parametrize("seed", range(50))
def test_noise_alone_earns_nothing(seed: int) -> None:
    """A wrong answer gets 0, however different it is; so does noise of words that nobody else uses around a right answer."""
    draw = random.Random(seed)
    noise = [" ".join("".join(draw.choices("abcdefgh", k=3)) for _ in range(draw.randint(1, 9))) for _ in range(draw.randint(1, 5))]
    found = rewarded(["seven", *noise, *(f"seven {i}q{''.join(n.split())}" for i, n in enumerate(noise))])
    assert found.parts["varied"].tolist() == [0.0] * (2 * len(noise) + 1)


@pytest.mark.parametrize("seed", range(50))
def test_with_a_weight_below_the_gap_no_wrong_answer_passes_a_right_one(seed: int) -> None:
    draw = random.Random(seed)
    said = [draw.choices(["seven", "eight", "it", "is", "the"], k=draw.randint(1, 6)) for _ in range(draw.randint(2, 6))]
    found = rewarded([" ".join(w) for w in said], enough=0.3)
    right = [r for r, w in zip(found.rewards_G.tolist(), said, strict=True) if "seven" in w]
    wrong = [r for r, w in zip(found.rewards_G.tolist(), said, strict=True) if "seven" not in w]
    assert all(1.0 <= r <= 1.25 for r in right)
    assert all(r == 0.0 for r in wrong)


def test_it_needs_the_reward_that_it_looks_at() -> None:
    varied = DiversityReward(name="varied", among="right")

    def nothing(config: object) -> DiversitySource:
        raise AssertionError

    with pytest.raises(UserError, match="among='right' is no reward that it could look at"):
        build_rewards([varied, GamingReward(name="gaming")], nothing)
    with pytest.raises(UserError, match="among='varied' is no reward"):
        build_rewards([DiversityReward(name="varied", among="varied")], nothing)
    assert len(build_rewards([varied, GamingReward(name="right")], nothing)) == 2
