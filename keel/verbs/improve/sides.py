"""The prompts of a self-improvement: those that are answered and learnt from, and those that are held out."""

from __future__ import annotations

from keel.core.errors import ConfigError
from keel.data.config import DataConfig
from keel.data.dataset import Dataset
from keel.data.dataset import load as load_data
from keel.verbs.improve.recipe import LEAST_HELD_OUT, ImproveRecipe


def sides_of(recipe: ImproveRecipe) -> tuple[Dataset, Dataset]:
    """Prompts to train on and held-out ones; no prompt is on both sides. Raises ConfigError for too few held-out ones."""
    whole, out = load_data(recipe.data, recipe.seed), recipe.held_out.prompts
    if isinstance(out, DataConfig):
        held_out = load_data(out, recipe.seed)
        train = whole.without_prompts(held_out)
    else:
        train, held_out = whole.split_by_prompt(out, recipe.seed)
    n = len(held_out.prompts())
    if n < LEAST_HELD_OUT:
        raise ConfigError(
            f"held_out: {n} prompts cannot tell one round from another, {LEAST_HELD_OUT} are the least", "hold out more (held_out.prompts)"
        )
    return train, held_out
