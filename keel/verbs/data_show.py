"""`keel data show`: what a file holds and what would be trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field
from rich.console import Console

from keel.core.config import Section, as_override, load
from keel.data.config import DataConfig
from keel.data.dataset import load as load_data
from keel.data.findings import find
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.render.config import RenderConfig
from keel.render.show import show
from keel.verbs.shared.session import renderer_of


class DataShowRecipe(Section):
    """Settings of `keel data show`, given as overrides."""

    data: DataConfig = Field(description="The data; its path is the command's argument.")
    render: RenderConfig = Field(default=RenderConfig(), description="How messages become tokens.")
    model_options: ModelOptions = Field(default=ModelOptions(), description="How the model is read.")


def data_show(path: str, model: str, rows: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Print ``rows`` rows as tokens, trained ones highlighted; return what was found."""
    recipe = load(DataShowRecipe, None, [as_override("data.path", path), *overrides])
    dataset = load_data(recipe.data)
    loaded = load_model(model, recipe.model_options)
    renderer = renderer_of(loaded, recipe.render)
    show(dataset, renderer, rows, Console())
    found = find(dataset.records)
    labels = {"duplicates": found.duplicates, "contradictions": found.contradictions}
    return {"path": path, "layout": dataset.layout, "counts": {**dataset.counts, **labels}, "bad": [str(b) for b in dataset.bad[:10]]}
