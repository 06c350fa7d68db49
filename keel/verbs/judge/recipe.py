"""Settings of `keel judge`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from keel.core.config import Section
from keel.core.errors import ConfigError
from keel.evaluate.judge_report import JudgeReportConfig
from keel.judges.config import JudgesFile


class JudgeRecipe(Section):
    """`keel judge`: a judge labels pairs, orders or scores answers, in both orders, every call kept."""

    judges: str = Field(default=JudgesFile.SAMPLE, description="File of judges.")
    judge: str = Field(default="", description="Name of the judge in it.")
    data: str = Field(
        default="",
        description="What is judged: rows {prompt, answers: [...]}, any layout with pairs, rankings or single answers; "
        "empty: the items of the store's campaign.",
    )
    out: str = Field(default="", description="Where the judgements go (JSONL that `keel feedback import` reads).")
    kind: Literal["auto", "rubric"] = Field(
        default="auto", description="auto = two answers are compared, more put in order, one scored; rubric = one is scored by criteria."
    )
    criteria: list[str] = Field(default=[], description="Criteria of a rubric; empty = all of the judge's template.")
    reference: str = Field(default="", description="Column with a right answer, for templates that show one.")
    samples: int = Field(default=1, ge=1, description="How often each order is asked.")
    report: str = Field(default="", description="Report of `keel judge report` that lets this judge label.")
    override: str = Field(default="", description="Name of a judge that labels without a passed report; stands in the manifest.")
    store: str = Field(default="", description="Store of feedback that the judgements also go into, e.g. sqlite:///feedback.db.")
    campaign: str = Field(default="judged", min_length=1, description="Campaign of the judgements.")

    @model_validator(mode="after")
    def _is_read(self) -> JudgeRecipe:
        if self.criteria and self.kind != "rubric":
            raise ConfigError("criteria would have no effect with kind=auto", "kind=rubric")
        return self


class JudgeReportRecipe(JudgeReportConfig):
    """`keel judge report`: a judge measured against people's labels."""

    judges: str = Field(default=JudgesFile.SAMPLE, description="File of judges.")
    judge: str = Field(min_length=1, description="Name of the judge in it.")
    labels: str = Field(min_length=1, description="Pairs with people's labels: comparisons of several people, or pairs.")
    reference: str = Field(default="", description="Column with a right answer, for templates that show one.")
