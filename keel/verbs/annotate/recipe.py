"""Settings of `keel annotate`, given as overrides: what a campaign is when it is made, and what of it may be changed later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from keel.core.config import Section
from keel.core.errors import ConfigError
from keel.web.questions import DIMENSIONS, SPAN_KINDS

if TYPE_CHECKING:
    from keel.feedback.campaign_settings import CampaignSettings


JUDGING = (  # settings of the campaign that may be changed one by one
    *("pass_mark", "right_at", "scale", "disagreement", "repeat_gap"),
    *("order", "judge_sure", "judge_labels", "judge_audit"),
)


class DimensionConfig(Section):
    """One line of a rating."""

    name: str = Field(min_length=1, description="What it is called on the page and in the judgements.")
    weight: float = Field(default=1.0, ge=0, description="What it counts for in the guideline.")
    low: int = Field(default=1, description="The worst score.")
    high: int = Field(default=5, description="The best score.")


class PageConfig(Section):
    """What the annotator's page asks."""

    dimensions: list[DimensionConfig] = Field(
        default=[DimensionConfig(**asdict(d)) for d in DIMENSIONS], min_length=1, description="Of ratings: names, weights and scales."
    )
    span_kinds: list[str] = Field(default=list(SPAN_KINDS), min_length=1, description="What may be wrong with a marked stretch of text.")
    strength_steps: int = Field(default=3, ge=1, description="How many degrees of clearness a choice between two has; 1 asks for none.")
    min_read_ms: int = Field(default=0, ge=0, description="Answers can be given only after an item was shown for so many milliseconds.")
    ahead: int = Field(default=6, ge=1, le=19, description="Items that the page keeps ready: more last longer without the network.")
    reason: Literal["off", "optional", "required"] = Field(default="optional", description="Whether people say why, in words.")
    language: str = Field(default="", pattern="^(|en|zh)$", description="Of the page at first, en or zh; empty: what the browser wants.")
    completion_code: str = Field(default="", description="What a person gets who has done all, for Prolific; empty: a code of their own.")
    completion_url: str = Field(
        default="", pattern="^(|https://.*)$", description="Where the page leads in the end, with the code beside it."
    )


class AnnotateRecipe(Section):
    """A campaign. ``wanted`` and ``seed`` stay as they were when it was made; the others may be changed at any later start."""

    wanted: int = Field(default=3, ge=1, description="Different people an item.")
    gold_share: float = Field(default=0.1, ge=0, le=0.9, description="Share of the items of each person whose answer is known.")
    repeat_share: float = Field(default=0.05, ge=0, le=0.9, description="Share of items that a person gets a second time, sides swapped.")
    lease_seconds: float = Field(default=1800.0, gt=0, description="How long an item is kept for the person who got it.")
    seed: int = Field(default=0, ge=0, description="Of the order on the screen and of where known items and repeats stand.")
    pass_mark: float = Field(default=0.8, ge=0, le=1, description="Share of the qualification items that must be right.")
    right_at: float = Field(default=1.0, ge=0, le=1, description="Likeness to the known answer from which an answer is right.")
    scale: float = Field(default=1.0, gt=0, description="Width of the scale of scores: differences are measured against it.")
    disagreement: float | None = Field(
        default=None, ge=0, le=1, description="Votes that disagree more go to an adjudicator; null: none do."
    )
    repeat_gap: int = Field(default=5, ge=1, description="Items between one and its repeat, at least.")
    order: Literal["given", "judge_doubt"] = Field(
        default="given", description="Of items of one priority: as they came, or first those that judges doubt (`keel judge` asks them)."
    )
    judge_sure: float = Field(default=0.9, gt=0.5, le=1, description="order=judge_doubt: confidence from which a judge's verdict is sure.")
    judge_labels: bool = Field(default=False, description="order=judge_doubt: what a judge is sure of it labels; people get the rest.")
    judge_audit: float = Field(
        default=0.1, gt=0, le=1, description="judge_labels: share of the sure ones that people are asked all the same."
    )
    guideline: str = Field(default="", description="A Markdown file; its text is kept under the version that its hash names.")
    weights: dict[str, float] = Field(default={}, description="Of the guideline; empty: those of the page's dimensions.")
    page: PageConfig = Field(default=PageConfig(), description="The annotator's page.")

    def settings(self) -> CampaignSettings:
        """The part that judges answers and shows pages."""
        from keel.feedback.campaign_settings import CampaignSettings  # the database is an extra, the page of settings is not

        return CampaignSettings(page=self.page_row(), **{name: getattr(self, name) for name in JUDGING})

    @model_validator(mode="after")
    def _is_read(self) -> AnnotateRecipe:
        given = [name for name in ("judge_sure", "judge_labels", "judge_audit") if name in self.changed]
        if given and self.order == "given" and "order" in self.changed:
            raise ConfigError(f"{given[0]} would have no effect with order=given", "order=judge_doubt")
        return self

    def page_row(self) -> Mapping[str, Any]:
        """The page's settings that are not the usual ones."""
        return {name: value for name, value in self.page.model_dump(mode="json").items() if name in self.page.changed}
