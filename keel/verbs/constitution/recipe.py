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
    cut: Literal["drop", "worse", "keep"] = Field(
        default="drop",
        description="Sampled answers that were cut off at sampling.max_tokens, which teach to end in the middle: `drop` = left out by "
        "name; `worse` = scored and revised, the worse of a pair at most, no demonstration as they are; `keep` = like any other.",
    )
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

    @property
    def writes(self) -> bool:
        """Does somebody of the file of judges write critiques or revisions?"""
        return bool(self.writers())

    def _unread(self) -> Iterator[tuple[str, str]]:
        """(setting that is not at its default, why nothing reads it)."""
        own = self.revise.answers > 0 and not (self.revise.critic and self.revise.reviser)
        measured = self.measure.answers > 0
        critic_writes = measured or (self.revise.answers > 0 and self.revise.critic != RULES)
        for name in sorted(self.revise.changed - {"answers"}):
            if name == "critique_template" and not critic_writes:
                yield f"revise.{name}", "nobody writes a critique"
            elif name == "max_tokens" and not own and not (measured and not self.measure.critic):
                yield f"revise.{name}", "`model` writes nothing itself; judges have a max_tokens of their own"
            elif not self.revise.answers and name not in ("critique_template", "max_tokens"):
                yield f"revise.{name}", "with revise.answers=0"
            elif name == "slack" and self.revise.revisions == 1:
                yield f"revise.{name}", "one revision is all that can be taken (revise.revisions=1)"
        for name in sorted(self.audit.changed - {"share", "unsure"}):
            if not self.audit.share and not self.audit.unsure:
                yield f"audit.{name}", "nobody is asked (audit.share=0, audit.unsure=0)"
            elif name in ("campaign", "people") and not self.audit.store:
                yield f"audit.{name}", "tasks go into no store (audit.store)"
        if self.source == "data":
            unread = self.changed & ({"samples", "sampling", "cut"} if self.needs_model else {"samples", "sampling", "cut", "sampler"})
            yield from ((name, "with source=data") for name in sorted(unread))

    @model_validator(mode="after")
    def _fits(self) -> ConstitutionRecipe:
        if self.needs_model and not self.model:
            raise ConfigError(
                "model: needed, since it answers, criticises or revises", "name it, or source: data with another critic and reviser"
            )
        if self.model and not self.needs_model:
            raise ConfigError("model would have no effect: answers, critiques and revisions come from elsewhere", "leave it out")
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
        if unread := list(self._unread()):
            told = "; ".join(f"{name} would have no effect: {why}" for name, why in unread)
            raise ConfigError(told, "leave it out" if len(unread) == 1 else "leave them out")
        return self
