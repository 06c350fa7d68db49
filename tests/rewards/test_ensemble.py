"""Ensembles as a source of reward: what is made of several members, where there is none, and what is told of both uncertainties."""

from __future__ import annotations

import logging

import pytest
import torch

from keel.rewards.compose import Reward, apply_rewards
from keel.rewards.ensemble import EnsembleSource, aggregate, spread
from keel.rewards.ensemble_config import EnsembleConfig
from keel.rewards.model import Standardiser
from keel.types import Encoded, Group, Prompt, Rollout, Unit, empty_group

MEMBERS = torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])


def rollout(i: int, failed: bool = False) -> Rollout:
    zero = torch.zeros(1, dtype=torch.int64)
    return Rollout("p", 0, i, zero + i, zero.bool() | True, zero.float(), zero, zero, zero, "error" if failed else "stop")


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
    return EnsembleSource("judge", [(expert, Standardiser(10.0, 2.0))], lambda prompt: (), EnsembleConfig(**settings))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [3.0, 4.0]),
        ({"aggregate": "median"}, [2.0, 4.0]),
        ({"aggregate": "min"}, [1.0, 4.0]),
        ({"aggregate": "lower_bound", "k": 0.5}, [3.0 - 0.5 * (14 / 3) ** 0.5, 4.0]),
    ],
)
def test_aggregates(settings: dict, expected: list[float]) -> None:
    assert aggregate(MEMBERS, EnsembleConfig(**settings)).tolist() == pytest.approx(expected)
    assert spread(MEMBERS).tolist() == pytest.approx([(14 / 3) ** 0.5, 0.0])


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

    both = EnsembleSource("judge", [(expert, Standardiser(10.0, 2.0)), (big, Standardiser(1000.0, 200.0))], lambda p: (), EnsembleConfig())
    both.score([group(False, False)])
    assert both.details["epistemic"][0].tolist() == [0.0, 0.5]
    assert both.details["aleatoric"][0].tolist() == pytest.approx([((2.25 + 9 / 200**2) / 2) ** 0.5] * 2)
