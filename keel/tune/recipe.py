"""From a recipe with a section `tune` to what is searched, what counts, and the recipe that every run starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import create_model

from keel.core.config import Section, dump, load, parse_yaml, read_recipe
from keel.core.errors import ConfigError
from keel.core.recipe_files import as_override
from keel.methods import resolve
from keel.tune.config import MeasureConfig, RangeConfig, TuneConfig, TuneRecipe
from keel.tune.space import Point, rounded
from keel.verbs.rl.recipe import RLRecipe
from keel.verbs.run import RECIPES
from keel.verbs.shared.recipes import TrainRecipe
from keel.watch.names import direction

MEASURES: Mapping[str, str] = {"prefer": "eval/rewards/accuracies", "reward": "eval/accuracy", "sft": "eval/loss", "offline": "eval/loss"}
STUDIES = ("tune", "ablate")  # sections of many runs: one recipe may have both, each command reads its own
LR, KL = "optim.lr", "algorithm.kl.coef"
FACTOR = 10.0  # a default range goes from a tenth of the recipe's value to ten times it


@dataclass(frozen=True, slots=True)
class Search:
    """A search, read and checked."""

    path: Path
    config: TuneConfig
    recipe: TrainRecipe  # as it stands
    raw: dict[str, Any]  # the recipe as a mapping, without `tune`
    ranges: Mapping[str, RangeConfig]
    measure: str
    higher: bool
    gamed: bool  # the measure is what the run is trained on, on other prompts
    own: Point  # the recipe's own values


@dataclass(frozen=True, slots=True)
class Training:
    """A recipe of a stage that trains, read with a section of settings for many runs of it."""

    path: Path
    overrides: tuple[str, ...]
    whole: type[Section]  # the stage's recipe with that section
    config: Any  # the section
    recipe: TrainRecipe  # as it stands
    raw: dict[str, Any]  # the recipe as a mapping, without the section

    def check(self, key: str, value: Any) -> None:
        """Read the recipe with one setting changed. Raises ConfigError that tells the place."""
        load(self.whole, self.path, [*self.overrides, as_override(key, value)])


def read_training(path: Path, overrides: Sequence[str], section: str, settings: type[Section]) -> Training:
    """Read a recipe whose stage stands in ``section``. Raises ConfigError."""
    raw = read_recipe(path)
    for override in overrides:
        key, _, text = override.partition("=")
        put(raw, key.strip().split("."), parse_yaml(text))
    own = raw.get(section)
    verb = (own.get("verb") if isinstance(own, Mapping) else None) or "rl"
    if verb not in RECIPES or not issubclass(RECIPES[verb], TrainRecipe):
        raise ConfigError(f"{path}: {section}.verb={verb} is no stage that trains", "rl, prefer, sft, reward or offline")
    make: Any = type  # bases that are known only here
    others: Any = {name: (Any, None) for name in STUDIES if name != section}
    beside = create_model("Beside", __base__=Section, **others)
    combined = cast("type[Section]", make(settings.__name__, (settings, beside, RECIPES[verb]), {"__doc__": settings.__doc__}))
    whole: Any = load(combined, path, overrides)
    plain = {key: value for key, value in raw.items() if key not in (*STUDIES, "run_dir")}
    recipe: Any = RECIPES[verb].model_validate({key: value for key, value in dump(whole).items() if key not in STUDIES})
    if recipe.held_out == 0.0:
        raise ConfigError(f"{path}: held_out is 0, and what a run trains on chooses nothing", "set held_out")
    return Training(path, tuple(overrides), combined, getattr(whole, section), recipe, plain)


def read_search(path: Path, overrides: Sequence[str] = ()) -> Search:
    """Read a recipe. Raises ConfigError for what cannot be searched, with the place."""
    training = read_training(path, overrides, "tune", TuneRecipe)
    config: TuneConfig = training.config
    recipe = training.recipe
    if recipe.loop.steps is None:
        raise ConfigError(f"{path}: a search needs to know how long a run is", "set loop.steps")
    ranges = config.search or default_ranges(recipe)
    own = {key: value_of(recipe, key) for key in ranges}
    for key, where in ranges.items():  # a key or an end that the recipe refuses is told now, not at the tenth run
        for value in where.ends:
            training.check(key, value)
    measure, gamed = measure_of(recipe, config)
    higher = (config.mode or direction(measure)) == "max"
    return Search(path, config, recipe, training.raw, ranges, measure, higher, gamed, own)


def measure_of(recipe: TrainRecipe, config: MeasureConfig) -> tuple[str, bool]:
    """What counts, and whether the run is trained on the same. In RL a reward of weight 0 trains nothing: it is a measure."""
    rewards = recipe.rewards if isinstance(recipe, RLRecipe) else []
    trained = {"eval/reward"} | {f"eval/rewards/{r.name}/mean" for r in rewards if r.weight}
    unseen = [f"eval/rewards/{r.name}/mean" for r in rewards if not r.weight]
    measure = config.measure or (unseen[0] if unseen else MEASURES.get(config.verb, "eval/reward"))
    return measure, bool(rewards) and measure in trained


def default_ranges(recipe: TrainRecipe) -> dict[str, RangeConfig]:
    """The learning rate, and the price of the KL where there is one: a tenth to ten times the recipe's."""
    centres = {LR: recipe.optim.lr}
    if isinstance(recipe, RLRecipe):
        kl = resolve(recipe.algorithm, recipe.samples).kl
        if kl is not None and kl.coef > 0:
            centres[KL] = kl.coef
    return {key: RangeConfig(low=rounded(value / FACTOR), high=rounded(value * FACTOR)) for key, value in centres.items()}


def value_of(recipe: TrainRecipe, key: str) -> Any:
    """What a recipe has at a key path; the algorithm's own number where it leaves that empty."""
    if key == KL and isinstance(recipe, RLRecipe):
        kl = resolve(recipe.algorithm, recipe.samples).kl
        return None if kl is None else kl.coef
    here: Any = dump(recipe)
    for part in key.split("."):
        here = here[int(part)] if isinstance(here, list) and part.isdecimal() and int(part) < len(here) else _child(here, part)
    return here


def _child(here: Any, part: str) -> Any:
    return here.get(part) if isinstance(here, Mapping) else None


def put(raw: Any, keys: Sequence[str], value: Any) -> None:
    """Set one value in a recipe's mapping; sections that are not there are made. What cannot be set is left to the loader to tell."""
    for key in keys[:-1]:
        if isinstance(raw, list):
            if not key.isdecimal() or int(key) >= len(raw):
                return
            raw = raw[int(key)]
        elif isinstance(raw, dict):
            if raw.get(key) is None:
                raw[key] = {}
            raw = raw[key]
    if isinstance(raw, list) and keys[-1].isdecimal() and int(keys[-1]) <= len(raw):
        raw[int(keys[-1]) : int(keys[-1]) + 1] = [value]
    elif isinstance(raw, dict):
        raw[keys[-1]] = value


def with_point(raw: Mapping[str, Any], point: Point) -> str:
    """The recipe with these settings, as YAML."""
    changed = yaml.safe_load(yaml.safe_dump(dict(raw)))
    for key, value in point.items():
        put(changed, key.split("."), value)
    return yaml.safe_dump(changed, sort_keys=False, allow_unicode=True, width=140)
