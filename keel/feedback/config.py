"""Settings of feedback: which answers are compared, who compares them, what their votes become."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from keel.core.config import Section


class AnnotatorsConfig(Section):
    """Simulated annotators: slightly different readers of one hidden utility, each with noise of their own."""

    count: int = Field(default=6, ge=1, description="How many simulated annotators there are.")
    per_item: int = Field(default=3, ge=1, description="How many of them judge each pair of answers.")
    noise: float = Field(default=0.08, ge=0, description="Standard deviation of a judgement's noise, on the scale of the utility (0 to 1).")
    spread: float = Field(
        default=0.3, ge=0, description="How much annotators differ: standard deviation of the log of their weights and noises."
    )
    tie_threshold: float = Field(default=0.03, ge=0, description="Perceived differences below about this are called ties.")
    utility: str = Field(
        default="",
        pattern=r"^(.+\.py:\w+)?$",
        description="FILE.py:NAME of fn(prompt, text) -> what each feature of the text is worth, by name, about 1 in all at best; empty = "
        "the shop assistant's of the quickstart.",
    )
    position_bias: float = Field(default=0.02, description="How much better the answer on the left looks, on the scale of the utility.")

    @model_validator(mode="after")
    def _enough_annotators(self) -> AnnotatorsConfig:
        if self.per_item > self.count:
            raise ValueError(f"per_item is {self.per_item}, but there are only {self.count} annotators: raise count or lower per_item")
        return self


class AggregateConfig(Section):
    """How several votes on one pair of answers become one training pair."""

    method: Literal["votes", "majority", "weighted", "dawid_skene", "mace"] = Field(
        default="votes",
        description="votes: the share of votes; majority: the answer with more votes, label 1; weighted: the share, each vote counted by "
        "how often its annotator is right by Dawid-Skene; dawid_skene, mace: a model of annotators' errors, mixed with the share "
        "(docs/feedback_quality.md).",
    )
    label: Literal["soft", "majority"] = Field(
        default="soft", description="soft: what `method` says (ties half); majority: 1 for the likelier answer, or 0.5 when even."
    )
    smoothing: float = Field(default=0.0, ge=0, description="Laplace smoothing of soft labels: this many made-up votes for each side.")
    ties: Literal["drop", "keep"] = Field(default="drop", description="Even votes: leave the pair out, or keep it with label 0.5.")
    weight: Literal["equal", "votes"] = Field(
        default="equal", description="Weight of a pair: 1, or its votes over the mean number of votes."
    )


class PreferencesConfig(Section):
    """Answers of one model to each prompt, compared in pairs."""

    samples: int = Field(default=6, ge=2, description="Answers sampled for each prompt, over all temperatures together.")
    temperatures: list[float] = Field(default=[0.7, 1.0, 1.2], min_length=1, description="Temperatures that the samples are spread over.")
    keep: int = Field(default=4, ge=2, description="At most this many answers a prompt are compared: the most different ones.")
    similarity: float = Field(default=0.9, gt=0, le=1, description="Answers more similar than this (word overlap) count as one.")
    pairs: int = Field(default=4, ge=1, description="At most this many pairs of answers are compared for each prompt.")
    store: str = Field(
        default="", description="Store that the judgements go to as well: sqlite:///FILE or postgresql://user@host/name; empty = none."
    )
    campaign: str = Field(default="simulated", min_length=1, description="Campaign of the store that they belong to; made when missing.")
    annotators: AnnotatorsConfig = Field(default=AnnotatorsConfig(), description="The simulated annotators.")
    aggregate: AggregateConfig = Field(default=AggregateConfig(), description="From votes to training pairs.")
    gold: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the pairs whose better answer is known (by the utility, without taste and noise). `dawid_skene` and `mace` "
        "are fitted on them: how sure labels are, and how much of them is the vote share. 20 at least, else all of it is.",
    )

    @model_validator(mode="after")
    def _gold_is_read(self) -> PreferencesConfig:
        if self.gold and self.aggregate.method not in ("dawid_skene", "mace"):
            raise ValueError(f"gold would have no effect: aggregate.method is {self.aggregate.method}, and nothing of it is fitted")
        return self

    @model_validator(mode="after")
    def _samples_reach(self) -> PreferencesConfig:
        if self.keep > self.samples:
            raise ValueError(f"keep is {self.keep}, but only {self.samples} answers are sampled: raise samples or lower keep")
        if len(self.temperatures) > self.samples:
            raise ValueError(f"{len(self.temperatures)} temperatures for {self.samples} samples: at least one sample a temperature")
        if min(self.temperatures) <= 0:
            raise ValueError("temperatures must be above 0: at 0 all samples of a prompt are the same")
        return self
