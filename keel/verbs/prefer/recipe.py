"""Settings of `keel prefer`."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, model_validator

from keel.core.errors import ConfigError
from keel.core.python_file import file_of, names_a_file
from keel.methods.preference import ObjectiveConfig, preference_objective
from keel.render.augment import AugmentConfig
from keel.verbs.prefer.online_config import OnlineConfig
from keel.verbs.shared.continual import ContinualRecipe
from keel.verbs.shared.inputs import reward_files
from keel.verbs.shared.recipes import NamedFile


class PreferRecipe(ContinualRecipe):
    """`keel prefer`: direct preference optimisation."""

    objective: ObjectiveConfig = Field(default=ObjectiveConfig(), description="Which loss, and its numbers.")
    online: OnlineConfig | None = Field(
        default=None, description="Make the pairs while training, from answers to `data`'s prompts; empty = the data's own."
    )
    augment: AugmentConfig | None = Field(
        default=None,
        description="Training images in another form each epoch; empty = as they are. The reference sees what the policy sees.",
    )
    reference_model: str = Field(
        default="", description="The model that the loss keeps near to, as `model`; empty = the starting weights. It stays as it is."
    )
    reference_cache: str = Field(
        default="",
        description="Folder of the reference's log-probabilities, by content: runs that share it take them once; empty = the run's own.",
    )

    @model_validator(mode="after")
    def _no_dropout(self) -> PreferRecipe:
        self._refuse_dropout()
        return self

    @model_validator(mode="after")
    def _reference_is_read(self) -> PreferRecipe:
        if not self.reference_model:
            return self
        objective = preference_objective(self.objective)
        if not objective.needs_reference and "ref_kl" not in objective.needs:
            raise ConfigError(f"reference_model would have no effect: the loss '{self.objective.name}' has no reference", "leave it out")
        if self.online is not None and self.online.reference.kind not in (None, "fixed"):
            raise ConfigError("reference_model stays as it is, and online.reference follows the policy", "leave one of the two out")
        return self

    @model_validator(mode="after")
    def _augment_fits(self) -> PreferRecipe:
        if self.augment is not None and self.online is not None:
            raise ConfigError("augment changes images of the data's pairs, and online makes its own", "leave it out")
        if self.augment is not None and preference_objective(self.objective).needs_strangers:
            raise ConfigError(
                f"the loss '{self.objective.name}' compares with answers to other prompts, whose images would stay as they are",
                "leave augment out, or set another objective.name",
            )
        return self

    @model_validator(mode="after")
    def _continual_fits(self) -> PreferRecipe:
        if self.continual is not None and self.online is not None:
            raise ConfigError("continual is of the data's own pairs, and online makes its own", "leave one of the two out")
        return self

    @model_validator(mode="after")
    def _online_fits(self) -> PreferRecipe:
        if self.online is None:
            return self
        if self.reference_cache:
            raise ConfigError("reference_cache would have no effect with online: every answer is new", "leave it out")
        if self.online.minibatches > self.loop.batch_size:
            raise ConfigError(
                f"online.minibatches is {self.online.minibatches}, loop.batch_size {self.loop.batch_size}: updates would be left out",
                "lower minibatches, or take more prompts a round",
            )
        if preference_objective(self.objective).needs_contrast:
            raise ConfigError(
                f"the loss '{self.objective.name}' compares answers of the data behind corrupted images, and online makes its own",
                "leave online out, or set another objective.name",
            )
        objective, fixed = preference_objective(self.objective), self.online.reference.kind in (None, "fixed")
        if not fixed and not objective.needs_reference and "ref_kl" not in objective.needs:
            raise ConfigError(f"online.reference would have no effect: the loss '{self.objective.name}' has no reference", "leave it out")
        if objective.needs_strangers and self.loop.batch_size < 2 * self.online.minibatches:
            raise ConfigError(
                f"the loss '{self.objective.name}' needs answers to other prompts, and an update may have one prompt",
                "set loop.batch_size to at least twice online.minibatches",
            )
        return self

    def shared(self) -> list[tuple[str, bool, str]]:
        return [
            ("online", self.online is not None, "learns from the judgements that the data hold: leave online out"),
            ("augment", self.augment is not None, "shows images as they are: leave augment out"),
        ]

    def files(self) -> Iterator[NamedFile]:
        yield from super().files()
        if names_a_file(self.objective.name):
            yield NamedFile("objective.name", file_of(self.objective.name))
        if self.online is not None:
            if self.online.sampler.file:
                yield NamedFile("online.sampler.engine", self.online.sampler.file)
            yield from reward_files("online.rewards", self.online.rewards)
