"""From a recipe and the keys to what is run and what counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keel.ablate.config import AblateConfig, AblateRecipe
from keel.ablate.off import Change, changes_of
from keel.core.errors import ConfigError
from keel.tune.recipe import Training, measure_of, read_training
from keel.tune.trial import Trial
from keel.watch.names import direction

_IN_MEASURE = {"eval/reward": ("sampling.", "render.", "environment."), "eval/loss": ("algorithm.", "render.")}


@dataclass(frozen=True, slots=True)
class Study:
    """An ablation, read and checked. Number 0 is the recipe as it stands, number i the i-th change."""

    training: Training
    changes: tuple[Change, ...]
    measure: str
    higher: bool
    gamed: bool  # the measure is what the run is trained on, on other prompts

    @property
    def config(self) -> AblateConfig:
        return self.training.config

    @property
    def seeds(self) -> list[int]:
        first = self.training.recipe.seed
        return list(range(first, first + self.config.seeds))

    @property
    def trials(self) -> list[Trial]:
        """All runs, seed by seed: after each seed every change has as many runs as the recipe as it stands."""
        points: list[dict[str, Any]] = [{}, *({c.key: c.value} for c in self.changes)]
        return [Trial(number, point, seed) for seed in self.seeds for number, point in enumerate(points)]

    @property
    def steps(self) -> int:
        """Optimizer steps of a run; 0 where its length is told in epochs."""
        return self.training.recipe.loop.steps or 0

    def warnings(self) -> list[str]:
        """What makes a difference say something else than it seems to."""
        said: list[str] = []
        if self.gamed:
            said.append(f"{self.measure} is the reward that runs are trained on: what games it looks useful. Add a reward of weight 0")
        for change in self.changes:
            if any(change.key.startswith(part) for part in _IN_MEASURE.get(self.measure, ())):
                said.append(f"{self.measure} is computed with {change.key}: its difference is that of another measure, too")
        return said


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(what to switch off, settings of the study: ``ablate.NAME=VALUE`` and ``run_dir=DIR``)."""
    own = [w for w in words if w.partition("=")[0] == "run_dir" or w.startswith("ablate.")]
    return [w for w in words if w not in own], own


def read_study(path: Path, words: Sequence[str], overrides: Sequence[str] = ()) -> Study:
    """``words``: of the command line, see ``split_words``; ``overrides`` hold for all runs. Raises ConfigError."""
    keys, own = split_words(words)
    training = read_training(path, [*overrides, *own], "ablate", AblateRecipe)
    changes = changes_of(training, [*_config_keys(training.config, keys), *keys])
    measure, gamed = measure_of(training.recipe, training.config)
    for change in changes:
        if change.key.startswith("rewards") and measure == "eval/reward":
            raise ConfigError(
                f"{change.key}: {measure} is the sum of the rewards, it would be another measure",
                "name one of them: ablate.measure=eval/rewards/NAME/mean",
            )
    return Study(training, tuple(changes), measure, (training.config.mode or direction(measure)) == "max", gamed)


def _config_keys(config: AblateConfig, keys: Sequence[str]) -> list[str]:
    """Keys of the recipe's section, unless the command line names some."""
    return [] if keys else list(config.keys)


def run_folder(study: Study) -> Path:
    """Where it is kept: ``run_dir``, or a folder named after the recipe."""
    wanted = study.training.recipe.run_dir
    return Path(wanted) if wanted else Path("runs") / f"ablate_{study.training.path.stem}"
