"""Settings of cleaning: which records are taken out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from keel.core.config import Section


class QualityConfig(Section):
    """Rules on every text of a record, its prompt and its answers. Words are counted as everywhere: a Han character is one."""

    min_words: int = Field(default=1, ge=0, description="Fewest words of a prompt or an answer.")
    max_words: int = Field(default=8000, ge=1, description="Most words of a prompt or an answer.")
    max_repetition: float = Field(
        default=0.5, ge=0, le=1, description="Largest share of runs of four words that stood in the same text before."
    )
    min_letters: float = Field(default=0.2, ge=0, le=1, description="Smallest share of letters and digits among the characters.")
    broken: float = Field(default=0.0, ge=0, le=1, description="Largest share of replacement characters (�), left by a wrong encoding.")

    @model_validator(mode="after")
    def _some_length_is_left(self) -> QualityConfig:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words ({self.min_words}) is larger than max_words ({self.max_words})")
        return self


class DecontaminateConfig(Section):
    """Records that hold questions of an evaluation, told by runs of words (n-grams)."""

    path: list[str] = Field(default=[], description="Evaluation sets: files, folders or data set ids. Empty = none.")
    ngram: int = Field(default=13, ge=2, description="Length of a run in words; shorter questions count as one run.")
    share: float = Field(default=0.5, gt=0, le=1, description="A record goes when at least this share of a question's runs stands in it.")
    min_words: int = Field(default=5, ge=1, description="Questions shorter than this are only compared as wholes.")

    @model_validator(mode="after")
    def _read(self) -> DecontaminateConfig:
        if not self.path and self.changed:
            raise ValueError(f"{min(self.changed)} would have no effect without path")
        return self


class CleanConfig(Section):
    """What is taken out of data, in this order: low quality, duplicates, contradictions, questions of the evaluation."""

    quality: QualityConfig | None = Field(default=QualityConfig(), description="Rules on length, repetition, characters; null = off.")
    duplicates: Literal["near", "exact", "keep"] = Field(
        default="near",
        description="near: also records whose texts are more alike than `similarity`, with the same numbers; the first stays.",
    )
    similarity: float = Field(default=0.9, gt=0, lt=1, description="Overlap of words and word pairs (Jaccard) above which texts are one.")
    contradictions: Literal["drop", "first", "keep"] = Field(
        default="drop",
        description="Records that judge the same in opposite ways, or give a question two right answers: all go, all but the first, none.",
    )
    decontaminate: DecontaminateConfig = Field(default=DecontaminateConfig(), description="Questions of evaluations.")

    @model_validator(mode="after")
    def _similarity_is_read(self) -> CleanConfig:
        if self.duplicates != "near" and "similarity" in self.changed:
            raise ValueError(f"similarity would have no effect with duplicates={self.duplicates}")
        return self
