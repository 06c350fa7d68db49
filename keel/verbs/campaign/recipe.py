"""Settings of the stage `annotate`: people, or simulated ones, judge a campaign through the server of `keel annotate`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from keel.core.config import Section
from keel.data.config import DataConfig
from keel.feedback.config import AggregateConfig
from keel.feedback.negatives import KINDS, NegativeKind
from keel.simulate.people_config import PeopleConfig


class GoldConfig(Section):
    """Known items among the others: an answer of the data beside a poor one made of it on purpose."""

    data: DataConfig | None = Field(default=None, description="Demonstrations (or pairs: their chosen answers); empty = none are made.")
    count: int = Field(default=30, ge=1, description="At most this many known items.")
    kinds: list[NegativeKind] = Field(
        default=["truncated", "repeated"], min_length=1, description="How the poor answer is poor, in turn by hash."
    )
    share: float = Field(default=0.1, ge=0, le=0.9, description="Share of each person's items whose answer is known.")
    fit: bool = Field(
        default=True,
        description="Fit the soft labels of a model of annotators on them. Known items that are easier than the work make labels too sure.",
    )

    @field_validator("kinds")
    @classmethod
    def _known(cls, value: list[NegativeKind]) -> list[NegativeKind]:
        return [k for k in KINDS if k in value]


class QualityConfig(Section):
    """Whose work is taken back. The measures are those of docs/feedback_quality.md."""

    retract: bool = Field(default=True, description="Take back the work of people who are found to be faulty; false: only report them.")
    alpha: float = Field(
        default=0.01, gt=0, lt=1, description="Chance that an honest person is ever found faulty, however long they work and one looks."
    )
    rounds: int = Field(default=3, ge=1, description="How often the others do the items again that lost a vote, at most.")


class LabelRecipe(Section):
    """Tasks go to people through the server of `keel annotate`; what they say becomes comparisons and pairs."""

    tasks: str = Field(description="File of tasks, one a line: `keel collect`'s or `mine`'s ('@collect/tasks.jsonl'). Pairs of answers.")
    people: Literal["browser"] | PeopleConfig = Field(
        default=PeopleConfig(), description="Simulated people, or `browser`: the invitation is printed, and the stage waits for persons."
    )
    per_item: int = Field(default=3, ge=1, description="Different people an item.")
    repeat_share: float = Field(default=0.05, ge=0, le=0.9, description="Share of items that a person gets a second time, sides swapped.")
    gold: GoldConfig = Field(default=GoldConfig(), description="Known items.")
    quality: QualityConfig = Field(default=QualityConfig(), description="What is done about faulty people.")
    aggregate: AggregateConfig = Field(default=AggregateConfig(), description="From votes to training pairs.")
    more_pairs: list[str] = Field(
        default=[], description="Files of pairs that stand beside those of the votes in pairs.jsonl, e.g. '@mine/hack_pairs.jsonl'."
    )
    store: str = Field(default="", description="Store: sqlite:///FILE or postgresql://user@host/name; empty = one in the run directory.")
    campaign: str = Field(default="", description="Campaign of the store; empty = the name of the run directory.")
    app: dict[str, Any] = Field(default={}, description="Further settings of `keel annotate`, e.g. {page: {reason: off}, guideline: FILE}.")
    port: int = Field(default=0, ge=0, le=65535, description="Port on 127.0.0.1; 0 = one that is free. For `people: browser`.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of people, of the order on the screen, of known items.")
    run_dir: str = Field(default="", description="Run directory.")

    @model_validator(mode="after")
    def _enough_people(self) -> LabelRecipe:
        ours = {"wanted", "gold_share", "repeat_share", "seed"} & set(self.app)
        if ours:
            raise ValueError(f"app.{min(ours)}: this stage has a setting of its own for it (per_item, gold.share, repeat_share, seed)")
        if isinstance(self.people, PeopleConfig):
            if self.per_item > self.people.count:
                raise ValueError(f"per_item is {self.per_item}, but there are only {self.people.count} people: raise people.count")
            if "port" in self.changed:
                raise ValueError("port would have no effect with simulated people")
        if self.gold.data is None and self.gold.changed:
            raise ValueError(f"gold.{min(self.gold.changed)} would have no effect without gold.data")
        return self
