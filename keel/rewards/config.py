"""Settings of rewards: a list of named sources, each with a weight, chosen by ``type``; and what a rule file may hold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from keel.core.config import Section
from keel.core.errors import ConfigError
from keel.rewards.ensemble_config import EnsembleConfig
from keel.rewards.remote_config import RemoteReward
from keel.rewards.settings import FormConfig, IsolatedConfig, SegmentedConfig, SegmentsConfig, SourceConfig, compiles
from keel.rewards.verifier_config import (
    ChoiceReward,
    CodeReward,
    ExactReward,
    GymReward,
    IFEvalReward,
    JsonSchemaReward,
    MathReward,
    NumericReward,
    RegexReward,
    StepsReward,
)

FormatCheck = Literal["finished", "plain", "no_role_marks", "newline", "list", "bold", "two_sentences"]

# --------------------------------------------------------------------------------------------------------------------------------
# Rule sets: the content of a rule file
# --------------------------------------------------------------------------------------------------------------------------------


class FormatRules(Section):
    """Points for what the text looks like."""

    weight: float = Field(default=1.0, gt=0, description="Share of the format among the rules.")
    checks: dict[FormatCheck, float] = Field(
        min_length=1,
        description="Points by check: finished (ends with sentence punctuation), plain (no Markdown), no_role_marks (speaks for nobody "
        "else), newline, list, bold, two_sentences (two or more).",
    )

    @field_validator("checks")
    @classmethod
    def _positive(cls, value: dict[FormatCheck, float]) -> dict[FormatCheck, float]:
        if min(value.values()) <= 0:
            raise ValueError("points must be above 0; leave a check out to ignore it")
        return value


class Band(Section):
    """A range of lengths and its score."""

    low: int = Field(default=0, ge=0, description="Shortest length of the band.")
    high: int | None = Field(default=None, ge=0, description="Longest length of the band; empty = no limit.")
    score: float = Field(ge=0, le=1, description="Score of a text in this band.")

    @model_validator(mode="after")
    def _ordered(self) -> Band:
        if self.high is not None and self.high < self.low:
            raise ValueError(f"a band from {self.low} to {self.high} is empty")
        return self


class LengthRules(Section):
    """Score by length; the first band that holds the length counts."""

    weight: float = Field(default=1.0, gt=0, description="Share of the length among the rules.")
    unit: Literal["words", "characters"] = Field(
        default="words", description="What is counted; of Chinese, each character is a word. White space does not count."
    )
    bands: list[Band] = Field(min_length=1, description="Bands for every language that has none of its own.")
    bands_by_language: dict[str, list[Band]] = Field(default={}, description="Bands of their own for texts in a language: {zh: [...]}.")
    otherwise: float = Field(default=0.0, ge=0, le=1, description="Score of a length outside all bands.")


class Element(Section):
    """Something the text should have: one of the words is enough."""

    name: str = Field(description="Name of the element.")
    any: list[str] = Field(min_length=1, description="Words or phrases, any language; one of them is enough.")
    points: float = Field(default=1.0, gt=0, description="Points of the element.")


class ElementRules(Section):
    """Points for required elements, each a group of words."""

    weight: float = Field(default=1.0, gt=0, description="Share of the elements among the rules.")
    groups: list[Element] = Field(min_length=1, description="The elements.")
    enough: float | None = Field(default=None, gt=0, description="Points that count as complete; empty = the points of all elements.")


class Forbidden(Section):
    """Something the text must not have."""

    name: str = Field(description="Name of what is forbidden.")
    words: list[str] = Field(default=[], description="Words or phrases, any language, in any case.")
    patterns: list[str] = Field(default=[], description="Regular expressions, in any case.")
    cost: float = Field(default=1.0, gt=0, le=1, description="What is taken off the score, once; 1 makes it 0.")

    @field_validator("patterns")
    @classmethod
    def _regular(cls, value: list[str]) -> list[str]:
        return [compiles(p) for p in value]

    @model_validator(mode="after")
    def _something(self) -> Forbidden:
        if not self.words and not self.patterns:
            raise ValueError("give words or patterns: nothing would be forbidden")
        return self


class RuleSet(Section):
    """Rules of form: score = weighted mean of format, length and elements, less the cost of what is forbidden, never below 0."""

    format: FormatRules | None = Field(default=None, description="What the text looks like.")
    length: LengthRules | None = Field(default=None, description="How long it is.")
    elements: ElementRules | None = Field(default=None, description="What it should have.")
    forbidden: list[Forbidden] = Field(default=[], description="What it must not have.")

    @model_validator(mode="after")
    def _not_empty(self) -> RuleSet:
        if not (self.format or self.length or self.elements or self.forbidden):
            raise ValueError("there is no rule: give format, length, elements or forbidden")
        return self


# --------------------------------------------------------------------------------------------------------------------------------
# Sources
# --------------------------------------------------------------------------------------------------------------------------------


class ModelReward(SegmentedConfig):
    """A reward model's score, standardised with constants that stay as they are during RL."""

    type: Literal["model"] = Field(default="model", description="A reward model.")
    path: str = Field(description="Reward model: a folder that `keel reward` made, or any model spec with a score head.")
    standardise: bool = Field(default=True, description="Use (score - mean) / std.")
    mean: float | None = Field(default=None, description="Mean of the scores; empty = measured on the starting policy's answers.")
    std: float | None = Field(
        default=None, gt=0, description="Their standard deviation; empty = measured on the starting policy's answers."
    )
    ensemble: EnsembleConfig = Field(default=EnsembleConfig(), description="What becomes of several members' scores.")

    @model_validator(mode="after")
    def _own_scales(self) -> ModelReward:
        if self.ensemble.members and (self.mean is not None or self.std is not None):
            raise ValueError("mean and std are one model's: each of ensemble.members has its own scale, leave them out")
        return self

    @model_validator(mode="after")
    def _says_the_same_again(self) -> ModelReward:
        if self.on_failure == "retry":
            raise ValueError(
                "on_failure=retry would have no effect, a reward model says the same again: set drop_sample or stop, or leave it out"
            )
        return self


class RulesReward(SegmentedConfig, IsolatedConfig, FormConfig):
    """Rules of form, from a file or written here."""

    type: Literal["rules"] = Field(default="rules", description="A rule set.")
    path: str = Field(default="", description="YAML file of the rules.")
    rules: RuleSet | None = Field(default=None, description="The rules themselves, in place of a file.")

    @model_validator(mode="after")
    def _one_of_both(self) -> RulesReward:
        if bool(self.path) == (self.rules is not None):
            raise ValueError("give either path (a rule file) or rules, not " + ("both" if self.path else "neither"))
        return self


class PythonReward(SegmentedConfig, IsolatedConfig):
    """A function of yours: ``fn(prompt: keel.types.Prompt, completion: str) -> float``. It is run as it is: use files you trust."""

    type: Literal["python"] = Field(default="python", description="A Python function.")
    function: str = Field(pattern=r"^.+\.py:\w+$", description="FILE.py:NAME of the function.")


class ContainsReward(SegmentedConfig, FormConfig):
    """Share of the words that stand in the answer."""

    type: Literal["contains"] = Field(default="contains", description="Words are looked for.")
    words: list[str] = Field(min_length=1, description="Words or phrases, any language, in any case.")
    need: Literal["any", "all"] = Field(default="all", description="any: 1 when one of them stands there; all: the share of them.")


def segments_of(config: SourceConfig) -> SegmentsConfig | None:
    """The parts that a source scores one by one; None where it scores the whole answer."""
    found = config.segments if isinstance(config, SegmentedConfig) else None
    if found is not None and found.by == "token" and not isinstance(config, ModelReward):
        raise ConfigError(f"reward '{config.name}': segments.by=token is for reward models", "use sentence, line or paragraph")
    return found


class FinishedReward(SourceConfig):
    """1 for an answer that ended by itself, 0 for one cut off at the length limit: its weight is the price of a missing end token."""

    type: Literal["finished"] = Field(default="finished", description="Whether the answer came to its end.")


RewardConfig = Annotated[
    ModelReward
    | RemoteReward
    | RulesReward
    | PythonReward
    | ExactReward
    | NumericReward
    | MathReward
    | ChoiceReward
    | ContainsReward
    | RegexReward
    | JsonSchemaReward
    | IFEvalReward
    | GymReward
    | CodeReward
    | StepsReward
    | FinishedReward,
    Field(discriminator="type"),
]
