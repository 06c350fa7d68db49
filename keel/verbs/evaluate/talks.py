"""Models in an environment: their conversations, and what these came to."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from keel.environments.config import EnvironmentConfig
from keel.evaluate.conversations import changes, measured
from keel.models.model import Model
from keel.render.renderer import Renderer
from keel.rollout.local import LocalSampler
from keel.types import Group, Prompt
from keel.verbs.evaluate.answering import answer
from keel.verbs.evaluate.recipe import EvalRecipe
from keel.verbs.evaluate.results import Compared
from keel.verbs.shared.account import Account
from keel.verbs.shared.environment import world_of
from keel.verbs.shared.prompts import encode


def conversations(
    model: Model,
    renderer: Renderer,
    prompts: Sequence[Prompt],
    recipe: EvalRecipe,
    config: EnvironmentConfig,
    account: Account,
    name: str,
) -> tuple[Group, ...]:
    """``evaluate.samples`` conversations of ``model`` about every prompt with the recipe's world, as ``answer`` draws."""
    world = world_of(config, renderer, recipe.evaluate.seed)
    assert world is not None, "an environment is named"
    with contextlib.closing(world.opener.host):
        encoded = encode(prompts, renderer, account, name, config.max_tokens, world.open)
        return answer(model, renderer, encoded, recipe, world.sampler(LocalSampler(model, renderer.decode, recipe.sampler)))


def talks(recipe: EvalRecipe, base: Sequence[Group], compared: Sequence[Compared]) -> dict[str, Any]:
    """What each model's conversations came to, and how they differ from ``base``, the baseline's."""
    how = {"above": recipe.evaluate.success, "level": recipe.evaluate.level}
    found: dict[str, Any] = {recipe.baseline_name: measured(base, **how)}
    return found | {c.name: {**measured(c.groups, **how), "change": changes(base, c.groups, **how)} for c in compared}
