"""Settings of `keel improve`: rounds in which a model learns from a judge's verdicts on its own answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from keel.core.config import Section
from keel.core.errors import ConfigError
from keel.core.python_file import file_of, names_a_file
from keel.data.config import DataConfig
from keel.evaluate.statistics import DRAWS, LEVEL
from keel.judges.config import JudgeUse
from keel.learner.config import BatchConfig, OptimConfig
from keel.loops.config import LoopConfig
from keel.methods.preference import ObjectiveConfig
from keel.models.config import LoraConfig
from keel.rewards.table import RewardConfig
from keel.rollout.config import EvalSamplingConfig, SamplerConfig, SamplingConfig
from keel.simulate.people_config import PeopleConfig
from keel.verbs.shared.inputs import reward_files
from keel.verbs.shared.recipes import ModelRecipe, NamedFile

LEAST_HELD_OUT = 10  # prompts: of fewer an interval over prompts says nothing


class ExploreConfig(Section):
    """Answers that are drawn hotter than the others, so that a round can find what the model would not say by itself."""

    share: float = Field(default=0.25, ge=0, lt=1, description="Share of a prompt's answers that are drawn hotter, rounded up; 0 = none.")
    temperature: float = Field(default=1.3, ge=0.001, description="Their temperature.")


class ReplayConfig(Section):
    """The best of earlier rounds, learnt again."""

    share: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="Share of a round's lessons that are the best of earlier rounds that were not refused; 0 = none.",
    )


class DifficultyConfig(Section):
    """Which prompts a round asks. Success at a prompt is the share of comparisons that the model's answers won over the starting model's
    answer when it was last asked; the lower half of all prompts are the harder ones."""

    prompts: int = Field(default=0, ge=0, description="Prompts of a round; 0 = all, and then nothing is chosen.")
    harder: float = Field(default=0.5, ge=0, le=1, description="Share of them from the harder half in the first round; 0.5 is no choice.")
    step: float = Field(default=0.1, ge=0, le=1, description="How much that share grows after a round of success.")
    above: float = Field(default=0.6, ge=0, le=1, description="Mean success of a round from which the share grows.")
    most: float = Field(default=0.8, ge=0, le=1, description="Largest share of harder prompts: the easy ones must not be forgotten.")

    @model_validator(mode="after")
    def _grows(self) -> DifficultyConfig:
        if self.most < self.harder:
            raise ValueError(f"most is {self.most:g}, below harder, {self.harder:g}: the share starts there and only grows")
        if not self.prompts and self.changed:
            raise ValueError(f"{min(self.changed)} would have no effect with prompts=0: every round asks all prompts")
        return self


class SelectConfig(Section):
    """What is learnt of a round. The score of an answer is the share of the comparisons that it wins: with the other answers to its prompt
    and with the starting model's; ties half, both orders."""

    least: float = Field(default=0.5, ge=0, le=1, description="train.by=sft: the best answer to a prompt is learnt from this score on.")
    margin: float = Field(
        default=0.25, gt=0, le=1, description="train.by=prefer: the best and the worst answer are a pair when their scores differ so far."
    )
    cut: bool = Field(
        default=False,
        description="May an answer that was cut off at sampling.max_tokens be the best? It would teach to end in the middle; it may be the "
        "worst in any case.",
    )


class TrainingConfig(Section):
    """How a round trains: on the best answers, or on pairs of the best and the worst. Every round has a schedule of its own."""

    by: Literal["sft", "prefer"] = Field(default="prefer", description="sft = imitate the best answers; prefer = pairs, by `objective`.")
    objective: ObjectiveConfig = Field(
        default=ObjectiveConfig(), description="The loss on pairs; its reference is the model that the round starts from."
    )
    lora: LoraConfig | None = Field(default=None, description="Train adapters of this shape, merged after each round; empty = all weights.")
    optim: OptimConfig = Field(default=OptimConfig(), description="Optimizer, learning rate, schedule.")
    batch: BatchConfig = Field(default=BatchConfig(), description="How an optimizer batch is cut into micro-batches.")
    loop: LoopConfig = Field(default=LoopConfig(), description="How long a round trains, on how many lessons a step.")

    @model_validator(mode="after")
    def _objective_is_read(self) -> TrainingConfig:
        if self.by == "sft" and self.objective.changed:
            raise ValueError("objective would have no effect with by=sft")
        return self


class PeopleUse(Section):
    """People who compare held-out answers of a round with those of the last good one, blind, through the server of `keel annotate`."""

    people: Literal["browser"] | PeopleConfig = Field(
        default="browser", description="`browser`: the invitation is printed, and the run waits for persons; or simulated people."
    )
    per_item: int = Field(default=1, ge=1, description="Different people a pair of answers.")
    app: dict[str, Any] = Field(default={}, description="Further settings of `keel annotate`, e.g. {guideline: FILE}.")
    port: int = Field(default=0, ge=0, le=65535, description="Port on 127.0.0.1; 0 = one that is free.")


class HeldOutConfig(Section):
    """By what a round is accepted or refused: answers to prompts that are never trained on, measured by something else than the judge
    that the model learns from. One of `rewards`, `judge` and `people`."""

    prompts: DataConfig | float = Field(default=0.2, description="Held-out prompts: a data section, or the share of `data`'s prompts.")
    rewards: list[RewardConfig] = Field(default=[], description="Gold: the weighted sum of these, of each answer.")
    judge: JudgeUse | None = Field(
        default=None, description="Another judge: the share of comparisons won over the starting model's answers."
    )
    people: PeopleUse | None = Field(default=None, description="People: comparisons with the answers of the last good round.")
    sampling: EvalSamplingConfig = Field(default=EvalSamplingConfig(samples=2), description="How held-out answers are drawn.")
    max_lost: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Largest share of held-out answers without a measure; beyond it the run stops, nothing accepted.",
    )
    draws: int = Field(default=DRAWS, ge=100, description="Bootstrap resamples of prompts behind an interval.")
    level: float = Field(default=LEVEL, gt=0, lt=1, description="Level of the intervals.")

    @field_validator("prompts")
    @classmethod
    def _is_a_share(cls, value: DataConfig | float) -> DataConfig | float:
        if not isinstance(value, DataConfig) and not 0.0 < value < 1.0:
            raise ValueError(f"a share of the prompts lies between 0 and 1, not {value:g}: without held-out prompts nothing can be refused")
        return value

    @property
    def by(self) -> str:
        """What measures: rewards, judge, people; "" = nothing."""
        given = {"rewards": bool(self.rewards), "judge": self.judge is not None, "people": self.people is not None}
        return next((name for name, there in given.items() if there), "")

    @model_validator(mode="after")
    def _one_measure(self) -> HeldOutConfig:
        if bool(self.rewards) + (self.judge is not None) + (self.people is not None) > 1:
            raise ValueError("rewards, judge and people: one of them decides, leave the others out")
        return self


class ImproveRecipe(ModelRecipe):
    """`keel improve`: generate, judge, train, again; a round that is worse by a held-out measure is refused, and the run stops there."""

    data: DataConfig = Field(description="Prompts to answer.")
    judge: JudgeUse = Field(description="The judge that the model learns from.")
    rounds: int = Field(default=4, ge=1, le=1000, description="Rounds at most.")
    samples: int = Field(default=4, ge=2, le=64, description="Answers to each prompt in each round.")
    sampling: SamplingConfig = Field(default=SamplingConfig(), description="The distribution that answers are drawn from.")
    sampler: SamplerConfig = Field(default=SamplerConfig(max_rows=256), description="How the sampler packs its work.")
    explore: ExploreConfig = Field(default=ExploreConfig(), description="Hotter answers.")
    replay: ReplayConfig = Field(default=ReplayConfig(), description="The best of earlier rounds.")
    difficulty: DifficultyConfig = Field(default=DifficultyConfig(), description="Which prompts are asked.")
    select: SelectConfig = Field(default=SelectConfig(), description="What is learnt of the answers.")
    train: TrainingConfig = Field(default=TrainingConfig(), description="How a round trains.")
    held_out: HeldOutConfig = Field(default=HeldOutConfig(), description="By what a round is accepted or refused.")
    gate: bool = Field(
        default=True,
        description="Refuse a round that is worse than the last good one, and stop there; false = go on whatever is measured, and keep the "
        "last round.",
    )
    patience: int = Field(
        default=2,
        ge=0,
        description="Rounds in a row without a gain that is clear of its interval, after which the run has converged; 0 = never.",
    )
    unguarded: str = Field(
        default="",
        description="Name of the judge, where nothing but it measures the held-out answers too: what it is wrong about rises unseen. It "
        "stands in manifest and summary.",
    )
    keep: Literal["good", "all"] = Field(
        default="good", description="Weights of which rounds stay: the last good, the best, the newest; or all."
    )
    store: str = Field(default="", description="Store of feedback that the judgements also go into, e.g. sqlite:///feedback.db.")
    campaign: str = Field(default="self-improvement", min_length=1, description="Campaign of the judgements.")

    def files(self) -> Iterator[NamedFile]:
        yield from super().files()
        yield from reward_files("held_out.rewards", self.held_out.rewards)
        for key, use in (("judge.", self.judge), ("held_out.judge.", self.held_out.judge)):
            for name, path, is_model in use.judge_files(key) if use is not None else ():
                yield NamedFile(name, path, is_model=is_model)
        if names_a_file(self.train.objective.name):
            yield NamedFile("train.objective.name", file_of(self.train.objective.name))

    @model_validator(mode="after")
    def _can_be_judged(self) -> ImproveRecipe:
        if self.sampling.temperature == 0:
            raise ConfigError("sampling.temperature=0 gives the same answer again and again: nothing could be compared", "sample")
        if self.held_out.by and self.unguarded:
            raise ConfigError("unguarded would have no effect: held_out has a measure of its own", "leave it out")
        if not self.held_out.by and self.unguarded != self.judge.judge:
            raise ConfigError(
                f"held_out: nothing but the judge that the model learns from ({self.judge.judge}) would measure it: what that judge is "
                "wrong about rises and nobody sees it",
                f"give held_out.rewards, held_out.judge or held_out.people; or unguarded: {self.judge.judge} to go on all the same",
            )
        if self.train.by == "sft" and "margin" in self.select.changed:
            raise ConfigError("select.margin would have no effect with train.by=sft", "leave it out")
        if self.train.by == "prefer" and "least" in self.select.changed:
            raise ConfigError("select.least would have no effect with train.by=prefer", "leave it out")
        if self.train.lora is not None and self.train.lora.dropout > 0 and self.train.by == "prefer":
            raise ConfigError("train.lora.dropout: pairs are compared with recorded log-probabilities, which have none", "set it to 0")
        return self
