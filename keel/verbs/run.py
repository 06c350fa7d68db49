"""One verb from a recipe: load, check, run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from keel.core.config import load, read_recipe
from keel.core.errors import ConfigError
from keel.verbs.collect.recipe import CollectRecipe
from keel.verbs.collect.run import run_collect
from keel.verbs.constitution.plan import plan_constitution
from keel.verbs.constitution.plan import plan_lines as constitution_lines
from keel.verbs.constitution.recipe import ConstitutionRecipe
from keel.verbs.constitution.run import run_constitution
from keel.verbs.evaluate.recipe import EvalRecipe
from keel.verbs.evaluate.run import run_eval
from keel.verbs.improve.plan import plan_improve
from keel.verbs.improve.plan import plan_lines as improve_lines
from keel.verbs.improve.recipe import ImproveRecipe
from keel.verbs.improve.run import run_improve
from keel.verbs.offline.build import build as build_offline
from keel.verbs.offline.recipe import OfflineRecipe
from keel.verbs.prefer.build import build as build_prefer
from keel.verbs.prefer.recipe import PreferRecipe
from keel.verbs.preferences.recipe import PreferencesRecipe
from keel.verbs.preferences.run import run_preferences
from keel.verbs.reward.recipe import RewardRecipe
from keel.verbs.reward.run import run_reward
from keel.verbs.rl.build import build as build_rl
from keel.verbs.rl.recipe import RLRecipe
from keel.verbs.sft.build import build as build_sft
from keel.verbs.sft.recipe import SFTRecipe
from keel.verbs.shared.continual import datasets_after_earlier
from keel.verbs.shared.parts import Parts, run_parts
from keel.verbs.shared.personal import for_owners
from keel.verbs.shared.recipes import ModelRecipe
from keel.verbs.shared.session import Session, show_recipe
from keel.verbs.shared.units import Splits

Builder = Callable[[Session, Any, Splits], Parts]  # (open session, recipe, its data) -> what takes part in its training
StageFunction = Callable[[Any, Path, str], dict[str, Any]]  # (recipe, run directory, parent run) -> summary

BUILDERS: dict[str, Builder] = {"sft": build_sft, "rl": build_rl, "prefer": build_prefer, "offline": build_offline}

STAGE_FUNCTIONS: dict[str, StageFunction] = {
    **{verb: partial(run_parts, verb, build) for verb, build in BUILDERS.items()},
    **{verb: partial(run_parts, verb, for_owners(BUILDERS[verb]), read=datasets_after_earlier) for verb in ("sft", "prefer", "rl")},
    "collect": run_collect,
    "constitution": run_constitution,
    "preferences": run_preferences,
    "reward": run_reward,
    "eval": run_eval,
    "improve": run_improve,
}


RECIPES: dict[str, type[ModelRecipe]] = {
    "sft": SFTRecipe,
    "reward": RewardRecipe,
    "prefer": PreferRecipe,
    "offline": OfflineRecipe,
    "rl": RLRecipe,
    "eval": EvalRecipe,
    "improve": ImproveRecipe,
    "collect": CollectRecipe,
    "constitution": ConstitutionRecipe,
    "preferences": PreferencesRecipe,
}
STARTED = tuple(verb for verb in RECIPES if verb != "preferences")  # by a command of their own; the other one in a pipeline alone


def run_directory(wanted: str, recipe_path: Path) -> Path:
    """The run directory asked for, or ``runs/<recipe's name>``."""
    return Path(wanted) if wanted else Path("runs") / recipe_path.stem


def run_verb(verb: str, recipe_path: Path, overrides: Sequence[str], *, dry_run: bool = False) -> dict[str, Any]:
    """Run (or resume) one stage. ``dry_run`` prints the resolved recipe and stops."""
    if "stages" in read_recipe(recipe_path):
        raise ConfigError(f"{recipe_path} is the recipe of a pipeline, not of one stage", f"keel run {recipe_path}")
    recipe: ModelRecipe = load(RECIPES[verb], recipe_path, overrides)
    path = run_directory(recipe.run_dir, recipe_path)
    if dry_run:
        show_recipe(recipe)
        return {"run_dir": str(path), "dry_run": True, **show_price(recipe)}
    return STAGE_FUNCTIONS[verb](recipe, path, "")


def show_price(recipe: object) -> dict[str, Any]:
    """Print what a stage will pay at most, before its first call; {} for one that pays nobody."""
    if isinstance(recipe, ConstitutionRecipe):
        plan = plan_constitution(recipe)
        lines = constitution_lines(plan)
    elif isinstance(recipe, ImproveRecipe):
        plan = plan_improve(recipe)
        lines = improve_lines(plan)
    else:
        return {}
    print("\n".join(f"# {line}" for line in lines))
    return {"plan": plan}
