"""`keel reward`: a reward model from any kind of label."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from keel.verbs.reward.build import build
from keel.verbs.reward.members import run_members
from keel.verbs.reward.recipe import RewardRecipe
from keel.verbs.reward.refresh import datasets_with_earlier
from keel.verbs.shared.parts import run_parts

train_one = partial(run_parts, "reward", build, read=datasets_with_earlier)  # of an ensemble the member that the recipe names


def run_reward(recipe: RewardRecipe, path: Path, parent: str = "") -> dict[str, Any]:
    """Train a reward model, or all members of an ensemble; leaves ``final/`` and its held-out measures in the summary."""
    if recipe.ensemble is not None and recipe.ensemble.member is None:
        return run_members(recipe, path, parent, train_one)
    return train_one(recipe, path, parent)
