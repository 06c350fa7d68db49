"""Ensembles as a source of reward: what is made of several members, where there is none, and what is told of both uncertainties."""

from __future__ import annotations

import logging

import pytest
import torch

from keel.rewards.composition.rewards import Reward, apply_rewards
from keel.rewards.sources.ensemble import EnsembleSource, Expert, aggregate, robust, spread
from keel.rewards.sources.model import EnsembleConfig, Standardiser
from keel.types import Encoded, Group, Prompt, Rollout, Unit, empty_group

MEMBERS = torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])


def rollout(i: int, failed: bool = False) -> Rollout:
    zero = torch.zeros(1, dtype=torch.int64)
    return Rollout("p", 0, i, zero + i, zero.bool() | True, zero.float(), zero, "error" if failed else "stop")


def group(*failed: bool) -> Group:
    return empty_group(Prompt("p", text="?"), Encoded(torch.tensor([1])), [rollout(i, f) for i, f in enumerate(failed)])


def expert(units: list[Unit]):
    """Two members that agree on token 0 and are 2 apart on token 1, and so on; each expects labels to scatter by 3."""
    found = []
    for unit in units:
        tokens = torch.tensor([float(b.tokens_T[0]) for b in unit.branches])
        found.append((torch.stack([10 + tokens, 10 - tokens], 1), torch.full((len(tokens), 2), 9.0)))
    return found


def source(**settings) -> EnsembleSource:
    return EnsembleSource("judge", [Expert(expert, Standardiser(10.0, 2.0))], lambda prompt, tokens_T: tokens_T, EnsembleConfig(**settings))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [3.0, 4.0]),
        ({"aggregate": "median"}, [2.0, 4.0]),
        ({"aggregate": "min"}, [1.0, 4.0]),
        ({"aggregate": "weighted"}, [3.0, 4.0]),
        ({"aggregate": "lower_bound", "k": 0.5}, [3.0 - 0.5 * (14 / 3) ** 0.5, 4.0]),
    ],
)
def test_aggregates(settings: dict, expected: list[float]) -> None:
    assert aggregate(MEMBERS, EnsembleConfig(**settings)).tolist() == pytest.approx(expected)
    assert spread(MEMBERS).tolist() == pytest.approx([(14 / 3) ** 0.5, 0.0])


def test_weights_count() -> None:
    weighted = EnsembleConfig(aggregate="weighted")
    assert aggregate(MEMBERS, weighted, torch.tensor([1.0, 2.0, 1.0])).tolist() == pytest.approx([2.75, 4.0])
    agreed = EnsembleSource(
        "judge", [Expert(expert, weight=3.0), Expert(lambda u: [(s + 8, v) for s, v in expert(u)])], lambda p, tokens_T: tokens_T, weighted
    )
    (scores,) = agreed.score([group(False)])
    assert scores.tolist() == pytest.approx([12.0])  # three quarters of 10, one of 18

    def alone(units: list[Unit]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(scores_G2[:, :1] + 8, variance_G2[:, :1]) for scores_G2, variance_G2 in expert(units)]

    of_two_and_one = EnsembleSource("judge", [Expert(expert, weight=3.0), Expert(alone)], lambda p, tokens_T: tokens_T, weighted)
    (scores,) = of_two_and_one.score([group(False)])
    assert scores.tolist() == pytest.approx([12.0])  # an expert's weight is shared by its scores


def test_an_outlier_counts_little() -> None:
    # distances from the median 1 are 1, 0, 0.5, 0.5, 99: their median is 0.5, the scale 0.7413
    members = torch.tensor([[0.0, 1.0, 1.5, 0.5, 100.0], [2.0, 2.0, 2.0, 2.0, 50.0]], dtype=torch.float64)
    near, far, out = 1 / (1 + (0.5 / 0.7413) ** 2), 1 / (1 + (1 / 0.7413) ** 2), 1 / (1 + (99 / 0.7413) ** 2)
    expected = (1.0 + 2.0 * near + 100.0 * out) / (1 + 2 * near + far + out)
    assert robust(members).tolist() == pytest.approx([expected, 2.0])
    assert aggregate(members, EnsembleConfig(aggregate="robust")).tolist() == pytest.approx([expected, 2.0])


def test_members_are_asked_only_where_the_first_disagree() -> None:
    asked: list[int] = []

    def same(units: list[Unit]):
        return [(torch.tensor([[float(b.tokens_T[0])] for b in u.branches]), torch.ones(len(u.branches), 1)) for u in units]

    def other(units: list[Unit]):
        return [(2 * s, v) for s, v in same(units)]

    def last(units: list[Unit]):
        asked.extend(int(b.tokens_T[0]) for u in units for b in u.branches)
        return [(3 * s, v) for s, v in same(units)]

    config = EnsembleConfig(early_exit={"first": 2, "below": 1.0})
    ensemble = EnsembleSource("judge", [Expert(same), Expert(other), Expert(last)], lambda prompt, tokens_T: tokens_T, config)
    first, second = ensemble.score([group(False, False, False, False), group(False, False)])
    # the first two are half a token apart: token 3 alone is more than 1 apart
    assert asked == [3]
    assert first.tolist() == pytest.approx([0.0, 1.5, 3.0, 6.0])
    assert second.tolist() == pytest.approx([0.0, 1.5])
    assert ensemble.details["asked"][0].tolist() == [2.0, 2.0, 2.0, 3.0]
    assert ensemble.details["epistemic"][0][3] == pytest.approx(float(spread(torch.tensor([[3.0, 6.0, 9.0]]))))


def test_settings_that_nothing_would_read() -> None:
    with pytest.raises(ValueError, match="set aggregate=weighted"):
        EnsembleConfig(weights=[1.0, 2.0])
    with pytest.raises(ValueError, match="not all 0"):
        EnsembleConfig(aggregate="weighted", weights=[0.0, 0.0])


def test_uncertainty_costs_what_it_is_told_to() -> None:
    (scores,) = source(aggregate="lower_bound", k=2.0).score([group(False, False, False)])
    assert scores.tolist() == pytest.approx([0.0, -1.0, -2.0])  # members 1/2 and 1 apart from their mean, 0


def test_both_uncertainties_are_told_in_units_of_the_reward() -> None:
    ensemble = source()
    (judged,) = apply_rewards([group(False, True, False)], [Reward(ensemble, 2.0)])
    assert judged.parts["judge/epistemic"].nan_to_num(-1.0).tolist() == [0.0, -1.0, 1.0]
    assert judged.parts["judge/aleatoric"].nan_to_num(-1.0).tolist() == pytest.approx([1.5, -1.0, 1.5])
    assert judged.rewards_G.tolist() == [0.0, 0.0, 0.0]
    assert judged.valid_G.tolist() == [True, False, True]


def test_where_members_disagree_there_is_no_reward_and_it_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    ensemble = source(refuse_above=0.75)
    with caplog.at_level(logging.WARNING, "keel"):
        first, second = apply_rewards([group(False, False, False), group(False, False)], [Reward(ensemble)])
    assert first.valid_G.tolist() == [True, True, False], "1/2 apart is rewarded, 1 is not"
    assert second.valid_G.tolist() == [True, True]
    assert (ensemble.refused, ensemble.scored) == (1, 5)
    assert "members differ by more than 0.75 (1 of 5 so far)" in caplog.text


def test_models_of_different_scale_count_alike() -> None:
    def big(units: list[Unit]):
        return [(100 * members, variance) for members, variance in expert(units)]

    both = EnsembleSource(
        "judge",
        [Expert(expert, Standardiser(10.0, 2.0)), Expert(big, Standardiser(1000.0, 200.0))],
        lambda p, tokens_T: tokens_T,
        EnsembleConfig(),
    )
    both.score([group(False, False)])
    assert both.details["epistemic"][0].tolist() == [0.0, 0.5]
    assert both.details["aleatoric"][0].tolist() == pytest.approx([((2.25 + 9 / 200**2) / 2) ** 0.5] * 2)


def shifted(units: list[Unit]):
    """The heads of ``expert``, the second with a zero 6 higher."""
    return [(scores_G2 + torch.tensor([0.0, 6.0]), variance_G2) for scores_G2, variance_G2 in expert(units)]


def test_a_head_s_own_zero_is_no_disagreement() -> None:
    def of(judge, scale: Standardiser, offsets: tuple[float, ...] = ()) -> EnsembleSource:
        return EnsembleSource("judge", [Expert(judge, scale, offsets=offsets)], lambda p, tokens_T: tokens_T, EnsembleConfig())

    plain, mended = of(expert, Standardiser(10.0, 2.0)), of(shifted, Standardiser(13.0, 2.0), (-3.0, 3.0))
    groups = [group(False, False, False)]
    assert torch.equal(mended.score(groups)[0], plain.score(groups)[0])
    assert mended.details["epistemic"][0].tolist() == plain.details["epistemic"][0].tolist() == [0.0, 0.5, 1.0]
    crude = of(shifted, Standardiser(13.0, 2.0))
    crude.score(groups)
    assert crude.details["epistemic"][0].tolist() == [1.5, 1.0, 0.5], "the answer on which both agree looked like the most doubtful one"
    with pytest.raises(ValueError, match="1 offsets for 2 heads"):
        of(shifted, Standardiser(), (1.0,)).score(groups)
