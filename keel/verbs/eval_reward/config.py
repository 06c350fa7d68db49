"""Settings of `keel eval reward`."""

from __future__ import annotations

from pydantic import Field

from keel.core.config import Section
from keel.data.config import DataConfig
from keel.learner.config import BatchConfig
from keel.models.config import ModelOptions
from keel.models.quantise import Way
from keel.render.config import RenderConfig


class EvalRewardConfig(Section):
    """`keel eval reward MODEL DATA`: how good a reward model is, and what ails it."""

    model: str = Field(description="Reward model: a folder that `keel reward` made, or any model spec with a score head.")
    data: DataConfig = Field(description="Labelled data that it was not trained on: pairs, comparisons, rankings, ratings, steps.")
    others: dict[str, DataConfig] = Field(default={}, description="Further data by name, measured beside it: another domain, say.")
    trained_on: DataConfig | None = Field(
        default=None, description="What it was trained on: prompts that stand there are left out and counted, and over-fitting shows."
    )
    category: str = Field(default="", description="Extra column to split by; empty = category, subset, domain or language, if there.")
    stress_pairs: int = Field(default=200, ge=0, description="Pairs that variants are made of; 0 = no stress set.")
    write_stress: str = Field(default="", description="File for the variants as pairs (JSONL), to look at or to train on.")
    bins: int = Field(default=5, ge=2, le=50, description="Bins of the reliability plot.")
    draws: int = Field(default=2000, ge=100, description="Bootstrap resamples behind each interval.")
    quantised: list[Way] = Field(
        default=[], description="Ways to keep its weights in fewer bits, e.g. [int8, int4]: what each costs in accuracy is measured."
    )
    model_options: ModelOptions = Field(default=ModelOptions(), description="How the model is loaded and computed.")
    render: RenderConfig = Field(default=RenderConfig(), description="How messages become tokens.")
    batch: BatchConfig = Field(default=BatchConfig(), description="Tokens of one pass.")
