"""Recipes refuse what would train something else than was sampled or recorded."""

from __future__ import annotations

from typing import Any

import pytest

from keel.core.config import load
from keel.core.errors import UserError
from keel.verbs.run import RECIPES

RL = ("model=tiny:llama", "data.path=x.jsonl", "rewards=[{type: finished, name: ended}]")
PREFER = ("model=tiny:llama", "data.path=x.jsonl")


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("sampling.top_k=1", r"sampling\.top_k=1: greedy"),
        ("sampling.temperature=0", r"sampling\.temperature=0: greedy"),
        ("lora={r: 2, dropout: 0.1}", r"lora\.dropout is 0\.1, .* set lora\.dropout=0"),
    ],
)
def test_rl_trains_the_distribution_it_samples_from(override: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        load(RECIPES["rl"], None, [*RL, override])
    load(RECIPES["rl"], None, [*RL, "sampling.temperature=0.7", "sampling.stop=[END]", "lora.r=2"])
    load(RECIPES["rl"], None, [*RL, "sampling={top_p: 0.9, top_k: 2, min_tokens: 3}"])


def test_exploration_needs_a_correction() -> None:
    for exploring in ("exploration.temperatures=[0.7, 1.1]", "exploration.share=0.1"):
        with pytest.raises(UserError, match="nothing would correct for it"):
            load(RECIPES["rl"], None, [*RL, exploring])
        load(RECIPES["rl"], None, [*RL, exploring, "algorithm.correction.kind=truncate"])
    with pytest.raises(UserError, match="3 temperatures for 2 samples"):
        load(RECIPES["rl"], None, [*RL, "exploration.temperatures=[1, 2, 3]", "samples=2", "algorithm.correction.kind=mask"])
    with pytest.raises(UserError, match="greedy samples of a prompt would all be the same"):
        load(RECIPES["rl"], None, [*RL, "exploration.temperatures=[0, 1]", "algorithm.correction.kind=mask"])


def test_preferences_may_sample_from_a_part_of_the_distribution() -> None:
    recipe: Any = load(RECIPES["preferences"], None, [*PREFER, "preferences={}", "sampling={top_p: 0.9, top_k: 40, min_tokens: 2}"])
    assert recipe.sampling.top_p == 0.9


def test_dropout_is_for_losses_that_compare_with_nothing_recorded() -> None:
    with pytest.raises(UserError, match=r"lora\.dropout"):
        load(RECIPES["prefer"], None, [*PREFER, "lora.dropout=0.1"])
    for verb in ("sft", "reward"):
        recipe: Any = load(RECIPES[verb], None, [*PREFER, "lora.dropout=0.1"])
        assert recipe.lora.dropout == 0.1
