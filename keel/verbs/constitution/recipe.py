"""Settings of `keel constitution`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from keel.core.config import Section
from keel.core.errors import ConfigError
from keel.critique.config import RULES, AuditConfig, PairsConfig, ReviseConfig
from keel.data.config import DataConfig
from keel.rewards.constitution.use import ConstitutionUse
from keel.rollout.config import SamplerConfig, SamplingConfig
from keel.verbs.shared.recipes import ModelRecipe, NamedFile


class MeasureConfig(Section):
    """How often a critic is wrong, on principles whose truth rules and verifiers know."""

    answers: int = Field(default=0, ge=0, description="Answers that the critic is asked about, each principle of each; 0 = not measured.")
    critic: str = Field(
        default="", description="Who is measured: a judge of the file of judges (endpoint or local); empty = `model` itself."
    )
    labels: bool = Field(
        default=True,
        description="Measure `model` also where it cannot write badly: by the probabilities of one label, as a local judge is asked.",
    )

    @model_validator(mode="after")
    def _is_read(self) -> MeasureConfig:
        if not self.answers and self.changed:
            raise ConfigError(f"measure.{min(self.changed)} would have no effect with measure.answers=0")
        return self


class ConstitutionRecipe(ModelRecipe):
    """`keel constitution`: answers scored by principles, criticised and revised; demonstrations, pairs, and tasks for people."""

    model: str = Field(default="", description="The model that answers, and criticises itself where nobody else does; empty = none.")
    data: DataConfig = Field(description="Prompts, or with source=data rows with answers: any layout, or {prompt, answers: [texts]}.")
    source: Literal["model", "data"] = Field(
        default="model", description="Where answers come from: `model` samples them, or `data` has them."
    )
    samples: int = Field(default=4, ge=1, le=64, description="Answers that `model` samples to each prompt.")
    sampling: SamplingConfig = Field(default=SamplingConfig(), description="The distribution that answers are drawn from.")
    sampler: SamplerConfig = Field(default=SamplerConfig(max_rows=256), description="How the sampler packs its work.")
    constitution: ConstitutionUse = Field(description="The principles and their judge.")
    revise: ReviseConfig = Field(default=ReviseConfig(), description="Critique and revision.")
    pairs: PairsConfig = Field(default=PairsConfig(), description="Pairs of answers by their scores.")
    audit: AuditConfig = Field(default=AuditConfig(), description="What people look at.")
    measure: MeasureConfig = Field(default=MeasureConfig(), description="How often a critic is wrong.")

    @property
    def needs_model(self) -> bool:
        """Is anything asked of `model`?"""
        own = self.revise.answers > 0 and not (self.revise.critic and self.revise.reviser)
        return self.source == "model" or own or (self.measure.answers > 0 and (not self.measure.critic or self.measure.labels))

    def files(self) -> Iterator[NamedFile]:
        if self.model:
            yield from super().files()
        for key, path, is_model in self.constitution.used_files():
            yield NamedFile(f"constitution.{key}", path, is_model)
        if set(self.writers()) and "constitution.judges" not in {f"constitution.{k}" for k, _, _ in self.constitution.used_files()}:
            yield NamedFile("constitution.judges", self.constitution.judges)
        for key in ("critique_template", "revision_template"):
            if name := getattr(self.revise, key):
                yield NamedFile(f"revise.{key}", name)

    def writers(self) -> list[str]:
        """Names of the file of judges that write critiques or revisions."""
        found = [self.revise.critic, self.revise.reviser] if self.revise.answers else []
        return [name for name in (*found, self.measure.critic) if name and name != RULES]

    @model_validator(mode="after")
    def _fits(self) -> ConstitutionRecipe:
        if self.needs_model and not self.model:
            raise ConfigError(
                "model: needed, since it answers, criticises or revises", "name it, or source: data with another critic and reviser"
            )
        if self.model and not self.needs_model:
            raise ConfigError("model would have no effect: answers, critiques and revisions come from elsewhere", "leave it out")
        if self.source == "data" and self.changed & {"samples", "sampling"}:
            raise ConfigError("samples and sampling would have no effect with source=data")
        if self.source == "model" and self.samples > 1 and self.sampling.temperature == 0:
            raise ConfigError("sampling.temperature=0 gives the same answer again and again", "samples=1, or a temperature above 0")
        if self.revise.answers and self.revise.revisions > 1 and self.revise.temperature == 0:
            raise ConfigError(
                "revise.temperature=0 gives the same revision again and again", "revise.revisions=1, or a temperature above 0"
            )
        if self.revise.reviser == RULES:
            raise ConfigError("revise.reviser: rules cannot write", "name a judge (endpoint or local), or leave it empty")
        if self.measure.critic == RULES:
            raise ConfigError("measure.critic: rules are the truth that critics are held against", "name another critic")
        return self
