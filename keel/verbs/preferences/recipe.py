"""Settings of the stage `preferences`."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, model_validator

from keel.core.errors import ConfigError
from keel.core.python_file import file_of
from keel.data.config import DataConfig
from keel.feedback.config import PreferencesConfig
from keel.rollout.config import SamplerConfig, SamplingConfig
from keel.verbs.shared.grounded_decoding import GroundedDecodingConfig
from keel.verbs.shared.recipes import ModelRecipe, NamedFile


class PreferencesRecipe(ModelRecipe):
    """Candidates from the model, compared by simulated annotators, aggregated into pairs."""

    data: DataConfig = Field(description="Prompts.")
    preferences: PreferencesConfig = Field(description="How many answers, at which temperatures, by how many annotators.")
    sampling: SamplingConfig = Field(
        default=SamplingConfig(), description="Sampling of the candidates; temperatures come from `preferences`."
    )
    sampler: SamplerConfig = Field(default=SamplerConfig(max_rows=256), description="How the sampler packs its work.")
    grounded_decoding: GroundedDecodingConfig | None = Field(default=None, description="Grounded decoding of the candidates.")

    def files(self) -> Iterator[NamedFile]:
        yield from super().files()
        if self.grounded_decoding is not None:
            yield from self.grounded_decoding.files("grounded_decoding")
        if utility := self.preferences.annotators.utility:
            yield NamedFile("preferences.annotators.utility", file_of(utility))

    @model_validator(mode="after")
    def _temperatures_are_those_of_preferences(self) -> PreferencesRecipe:
        if "temperature" in self.sampling.changed:
            raise ConfigError(
                "sampling.temperature would have no effect: candidates are sampled at preferences.temperatures",
                "set preferences.temperatures, a list",
            )
        return self
