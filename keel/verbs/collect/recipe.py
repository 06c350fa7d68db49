"""Settings of `keel collect`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from keel.core.config import Section
from keel.data.cleaning.config import CleanConfig
from keel.data.config import DataConfig
from keel.feedback.negatives import KINDS, NegativeKind
from keel.rollout.config import SamplerConfig, SamplingConfig
from keel.verbs.shared.recipes import ModelRecipe, NamedFile


class ModelSource(Section):
    """Answers sampled from a model: one checkpoint, one strategy, its own system prompt."""

    type: Literal["model"] = Field(description="Answers are sampled from a model.")
    name: str = Field(min_length=1, description="What this source is called in the answers' origin and the report.")
    model: str = Field(default="", description="The model, as in the recipe's `model`; empty = that one.")
    samples: int = Field(default=2, ge=1, description="Answers to each prompt, over all temperatures together.")
    temperatures: list[float] = Field(default=[1.0], min_length=1, description="Temperatures that the samples are spread over; 0 = greedy.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Draw from the fewest likely tokens that hold this share; 1 = off.")
    top_k: int = Field(default=0, ge=0, description="Draw from the k most likely tokens only; 0 = off.")
    system: str | None = Field(default=None, description="System prompt of this source; empty = that of `render`.")

    @model_validator(mode="after")
    def _temperatures_make_answers(self) -> ModelSource:
        if min(self.temperatures) < 0:
            raise ValueError("temperatures must be 0 (greedy) or more")
        if len(self.temperatures) > self.samples:
            raise ValueError(f"{len(self.temperatures)} temperatures for {self.samples} samples: at least one sample a temperature")
        if 0 in self.temperatures and self.samples > len(self.temperatures):
            raise ValueError("a greedy answer is always the same: give temperature 0 a source of its own with samples=1")
        return self


class ReferenceSource(Section):
    """The answers that stand in the data beside the prompts: demonstrations, both sides of pairs, ranked and rated ones."""

    type: Literal["reference"] = Field(description="Answers stand in the data.")
    name: str = Field(default="reference", min_length=1, description="What this source is called.")


class FileSource(Section):
    """Answers in another file, found by their prompts."""

    type: Literal["file"] = Field(description="Answers stand in a file of their own.")
    name: str = Field(min_length=1, description="What this source is called.")
    data: DataConfig = Field(description="The file: any layout with answers.")


Source = Annotated[ModelSource | ReferenceSource | FileSource, Field(discriminator="type")]


class CandidatesConfig(Section):
    """Which answers to a prompt are kept."""

    min_words: int = Field(default=10, ge=0, description="Shortest answer in words; a Han character is one.")
    max_words: int = Field(default=500, ge=1, description="Longest answer in words.")
    similarity: float = Field(
        default=0.9, gt=0, le=1, description="Answers more alike than this (overlap of words and word pairs) are one."
    )
    keep: int = Field(
        default=6, ge=2, description="At most this many answers a prompt, poor ones made on purpose included: the most different."
    )
    at_least: int = Field(default=2, ge=1, description="Prompts with fewer answers are left out.")

    @model_validator(mode="after")
    def _ranges(self) -> CandidatesConfig:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words ({self.min_words}) is larger than max_words ({self.max_words})")
        if self.at_least > self.keep:
            raise ValueError(f"at_least ({self.at_least}) is larger than keep ({self.keep})")
        return self


class NegativesConfig(Section):
    """Poor answers made on purpose; their origin says so."""

    share: float = Field(default=0.0, ge=0, le=1, description="Share of the prompts that get one, or `each`; 0 = none.")
    each: int = Field(default=1, ge=1, description="How many such a prompt gets, of different kinds.")
    kinds: list[NegativeKind] = Field(default=list(KINDS), min_length=1, description="Which kinds, in turn by hash.")

    @model_validator(mode="after")
    def _read(self) -> NegativesConfig:
        if self.share == 0 and self.changed - {"share"}:
            raise ValueError(f"{min(self.changed - {'share'})} would have no effect with share=0")
        if self.each > len(set(self.kinds)):
            raise ValueError(f"each is {self.each}, but there are only {len(set(self.kinds))} kinds")
        return self


class TaskConfig(Section):
    """What annotators are asked about the answers."""

    kind: Literal["ranking", "pairwise", "rating", "spans"] = Field(
        default="ranking", description="ranking: all answers of a prompt; pairwise: two of them; rating, spans: each by itself."
    )
    pairs: int = Field(default=4, ge=1, description="pairwise: at most this many pairs a prompt.")
    protocol: str = Field(
        default="", description="Protocol of the tasks; empty = KIND-v1. Judgements of different protocols are not mixed."
    )

    campaign: str = Field(default="", description="Campaign that the tasks are for: `keel feedback import` makes it. Empty = none.")
    people: int = Field(default=3, ge=1, description="Different people an item, in that campaign.")

    @model_validator(mode="after")
    def _pairs_are_read(self) -> TaskConfig:
        if not self.campaign and "people" in self.changed:
            raise ValueError("people would have no effect without campaign")
        if self.kind != "pairwise" and "pairs" in self.changed:
            raise ValueError(f"pairs would have no effect with kind={self.kind}")
        return self


class CollectRecipe(ModelRecipe):
    """Answers from several sources to each prompt, filtered, the most different of them as tasks for annotators."""

    model: str = Field(default="", description="The model of sources that name none of their own.")
    data: DataConfig = Field(description="Prompts; answers beside them are a source `reference`.")
    clean: CleanConfig | None = Field(default=CleanConfig(), description="Cleaning of the data before anything is sampled; null = none.")
    sources: list[Source] = Field(min_length=1, description="Where answers come from.")
    sampling: SamplingConfig = Field(
        default=SamplingConfig(), description="Lengths and stops of sampled answers; the rest is a source's own."
    )
    sampler: SamplerConfig = Field(default=SamplerConfig(max_rows=256), description="How the sampler packs its work.")
    candidates: CandidatesConfig = Field(default=CandidatesConfig(), description="Which answers are kept.")
    negatives: NegativesConfig = Field(default=NegativesConfig(), description="Poor answers made on purpose.")
    task: TaskConfig = Field(default=TaskConfig(), description="What is asked about the answers.")

    def files(self) -> Iterator[NamedFile]:
        for i, source in enumerate(self.sources):
            if isinstance(source, ModelSource):
                yield NamedFile(f"sources.{i}.model" if source.model else "model", source.model or self.model, is_model=True)
            elif isinstance(source, FileSource):
                yield from (NamedFile(f"sources.{i}.data.path", path) for path in source.data.paths)
        for path in self.clean.decontaminate.path if self.clean is not None else ():
            yield NamedFile("clean.decontaminate.path", path)

    @model_validator(mode="after")
    def _sources_fit(self) -> CollectRecipe:
        names = [s.name for s in self.sources]
        twice = next((n for i, n in enumerate(names) if n in names[:i]), None)
        if twice is not None:
            raise ValueError(f"two sources are called {twice!r}: give each a name of its own")
        models = [s for s in self.sources if isinstance(s, ModelSource)]
        nameless = next((s.name for s in models if not s.model), None)
        if not self.model and nameless is not None:
            raise ValueError(f"source {nameless!r} names no model, and there is no `model`")
        if self.model and nameless is None:
            raise ValueError("model would have no effect: every source names its own, or none samples")
        if not models and self.sampling.changed:
            raise ValueError("sampling would have no effect: no source is a model")
        ours = self.sampling.changed & {"temperature", "top_p", "top_k"}
        if ours:
            raise ValueError(f"sampling.{min(ours)} would have no effect: each source has its own")
        return self
