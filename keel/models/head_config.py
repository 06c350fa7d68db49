"""Settings of a reward model's head."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from keel.config import Section
from keel.models.heads import Pooling


class HeadConfig(Section):
    """What stands on top of the body of a reward model. The default is a linear map of the last real token's state to one number, which
    plain transformers loads as a sequence classifier."""

    trunk: Literal["linear", "mlp"] = Field(
        default="linear", description="From the pooled state to the score: linear, or one hidden layer."
    )
    width: int = Field(default=0, ge=0, description="Width of the MLP's hidden layer; 0 = the model's own.")
    pooling: Pooling = Field(
        default="last",
        description="What is read of an answer: its last real token, the mean of its tokens, attention over them, or a learnt mix "
        "of the first two.",
    )
    norm: Literal["none", "layer"] = Field(default="none", description="Layer normalisation of the pooled state.")
    bound: Literal["none", "tanh"] = Field(default="none", description="tanh keeps scores in [-1, 1].")
    output: Literal["auto", "point", "gaussian", "ordinal", "distribution"] = Field(
        default="auto",
        description="A number; a mean with its own variance; a place among ordered levels; the chance of each level. auto: ordinal for "
        "ratings in whole steps (up to 11), else a number.",
    )
    dimensions: list[str] = Field(default=[], description="Named scores of ratings that are learnt; empty = all that the data have.")
    weights: dict[str, float] = Field(default={}, description="Weights of the dimensions in the one score; empty = equal shares.")
    members: int = Field(default=1, ge=1, le=64, description="Heads on one trunk: an ensemble that tells how unsure it is.")
    bootstrap: bool = Field(default=True, description="Each member sees its own draw of the prompts (only with several members).")

    @model_validator(mode="after")
    def _fit_together(self) -> HeadConfig:
        if self.width and self.trunk == "linear":
            raise ValueError("head.width would have no effect: trunk is linear")
        if self.bound != "none" and self.output not in ("auto", "point"):
            raise ValueError(f"head.bound={self.bound} bounds a plain number: use output=point")
        if self.weights and self.dimensions and set(self.weights) != set(self.dimensions):
            raise ValueError(f"head.weights names {', '.join(self.weights)}, head.dimensions {', '.join(self.dimensions)}")
        if self.weights and not any(self.weights.values()):
            raise ValueError("head.weights are all 0: there would be no score")
        return self
