"""Settings of `keel reward`."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, model_validator

from keel.core.errors import ConfigError
from keel.loops.config import OrderConfig
from keel.models.config import HeadConfig
from keel.render.augment import AugmentConfig
from keel.verbs.reward.config import EarlierConfig, MembersConfig, RewardLossConfig, TeacherConfig
from keel.verbs.shared.recipes import NamedFile, TrainRecipe


class RewardRecipe(TrainRecipe):
    """`keel reward`: a reward model from pairs, comparisons, rankings, ratings or stepwise labels; the data say which."""

    head: HeadConfig = Field(default=HeadConfig(), description="What stands on top of the body.")
    loss: RewardLossConfig = Field(default=RewardLossConfig(), description="How preferences become a loss.")
    teacher: TeacherConfig | None = Field(default=None, description="Reward models to learn from; empty = the labels alone.")
    earlier: EarlierConfig | None = Field(default=None, description="What the model learnt before and must not forget.")
    order: OrderConfig = Field(default=OrderConfig(), description="Which training rows come first, and which come again.")
    augment: AugmentConfig | None = Field(default=None, description="Training images in another form each epoch; empty = as they are.")
    ensemble: MembersConfig | None = Field(default=None, description="Train several models in place of one; empty = one.")
    margin: float | None = Field(
        default=None,
        ge=0,
        description="Nats of lead asked for per unit of the data's margin (Llama 2); 0 = labels alone. Empty: the largest margin of the "
        "data asks for a lead of 1.",
    )
    centring: float = Field(
        default=0.0, ge=0, description="Coefficient of (score of the winner + score of the loser) squared, which keeps scores near 0."
    )

    @model_validator(mode="after")
    def _one_kind_of_ensemble(self) -> RewardRecipe:
        if self.ensemble is not None and self.head.members > 1:
            raise ConfigError("head.members and ensemble.members are two kinds of ensemble", "leave one of the two out")
        return self

    def files(self) -> Iterator[NamedFile]:
        yield from super().files()
        for k, teacher in enumerate(self.teacher.paths if self.teacher is not None else ()):
            yield NamedFile(f"teacher.paths.{k}", teacher, is_model=True)
        if self.order.curriculum is not None and self.order.curriculum.model:
            yield NamedFile("order.curriculum.model", self.order.curriculum.model, is_model=True)
