"""`keel scenes FOLDER`: pictures with everything known about them, and rows to train and evaluate vision-language models on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from keel.core.config import Section, load
from keel.core.errors import UserError
from keel.simulate.scenes.config import SceneConfig
from keel.simulate.scenes.judge import ErrorType
from keel.simulate.scenes.write import write_scenes
from keel.verbs.shared.made import make_once


class ScenesRecipe(Section):
    """Settings of `keel scenes`, given as overrides, or of a stage of a pipeline."""

    n: int = Field(default=200, ge=1, description="Pictures.")
    seed: int = Field(default=0, ge=0, description="Which series: other seeds share no scene on purpose.")
    chinese: float = Field(default=0.25, ge=0, le=1, description="Share of the rows in Chinese.")
    planted: dict[ErrorType, float] = Field(
        default={}, description="By type of error, the share of captions that get one: demonstrations of a model that makes things up."
    )
    scenes: SceneConfig = Field(default=SceneConfig(), description="How hard the pictures are.")


def run_scenes(folder: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Write the folder; returns the rows of each file. Raises UserError for one that holds something already."""
    recipe = load(ScenesRecipe, None, list(overrides))
    out = Path(folder)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{folder} is there already", "name a new folder, or empty this one")
    return _write(recipe, out)


def make_scenes(recipe: ScenesRecipe, path: Path, parent: str = "") -> dict[str, Any]:
    """As a stage of a pipeline: the folder is ``@name`` there, its files ``@name/captions.jsonl`` and so on."""
    return make_once("scenes", recipe, recipe.seed, path, parent, {}, lambda: _write(recipe, path / "scenes"))


def _write(recipe: ScenesRecipe, out: Path) -> dict[str, Any]:
    rows = write_scenes(out, recipe.n, recipe.seed, recipe.scenes, recipe.chinese, recipe.planted)
    return {"file": str(out), "rows": rows}
