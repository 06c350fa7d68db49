"""Settings of the stage `mine`: a policy's failures become tasks for people."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, model_validator

from keel.core.config import Section
from keel.core.python_file import file_of
from keel.data.config import DataConfig
from keel.feedback import hacks
from keel.rewards.sources.model import ModelReward
from keel.rewards.table import RewardConfig
from keel.rollout.config import SamplerConfig, SamplingConfig
from keel.verbs.shared.inputs import reward_files
from keel.verbs.shared.recipes import ModelRecipe, NamedFile


class HacksConfig(Section):
    """Answers that look made for the reward. They become rejected answers of pairs, and their prompts tasks."""

    repetition: float = Field(default=hacks.REPETITION, ge=0, le=1, description="Share of repeated 4-grams from which on; 0 = off.")
    echo: float = Field(default=hacks.ECHO, ge=0, le=1, description="Share of the answer's 4-grams that stand in the prompt; 0 = off.")
    refrain: float = Field(
        default=hacks.REFRAIN, ge=0, le=1, description="A sentence that answers to this share of all prompts hold is a refrain; 0 = off."
    )
    detector: str = Field(
        default="",
        pattern=r"^(.+\.py:\w+)?$",
        description="FILE.py:NAME of fn(prompt, text) -> {name: how much}, empty where nothing is found; beside the others.",
    )
    pairs: bool = Field(default=True, description="Write hack_pairs.jsonl: a good answer to the same prompt against each hack.")


class MineConfig(Section):
    """Which answers are failures, and how many become tasks."""

    tasks: int = Field(default=60, ge=1, description="Tasks, those of the random arm among them.")
    control: float = Field(
        default=0.2, gt=0, lt=1, description="Share drawn at random, which shows whether choosing helps. It cannot be switched off."
    )
    per_prompt: int = Field(default=2, ge=1, description="Of one prompt at most this many pairs are chosen.")
    similarity: float = Field(default=0.9, gt=0, le=1, description="Answers to one prompt that are more alike than this are one.")
    margin: float = Field(
        default=0.3, ge=0, description="close: two answers whose rewards differ by less, in standardised units of the reward model."
    )
    unsure: float = Field(
        default=0.15, ge=0, le=1, description="unsure: this share of the answers, those on which the ensemble's members differ most."
    )
    length_z: float = Field(
        default=2.0, gt=0, description="length: an answer whose reward lies so many deviations off what answers of its length get."
    )
    rules: dict[str, float] = Field(default={}, description="rule: by reward's name, the score below which an answer is a failure.")
    hacks: HacksConfig = Field(default=HacksConfig(), description="hack: answers that look made for the reward.")
    known: list[str] = Field(default=[], description="Files of tasks that were asked before: their pairs are not asked again.")
    protocol: str = Field(default="pairwise-v1", min_length=1, description="Protocol of the tasks.")


class MineRecipe(ModelRecipe):
    """Fresh answers of a policy; those that the reward model is unsure of, that break rules or look like hacks become tasks."""

    data: DataConfig = Field(description="Prompts to answer.")
    rewards: list[RewardConfig] = Field(min_length=1, description="A reward model, and rules whose scores `mine.rules` limits.")
    samples: int = Field(default=4, ge=2, le=32, description="Answers to each prompt.")
    sampling: SamplingConfig = Field(default=SamplingConfig(), description="The distribution that answers are drawn from.")
    sampler: SamplerConfig = Field(default=SamplerConfig(max_rows=256), description="How the sampler packs its work.")
    mine: MineConfig = Field(default=MineConfig(), description="Which answers are failures.")

    @property
    def judge(self) -> ModelReward:
        """The reward model."""
        return next(r for r in self.rewards if isinstance(r, ModelReward))

    def files(self) -> Iterator[NamedFile]:
        yield from super().files()
        yield from reward_files("rewards", self.rewards)
        for path in self.mine.known:
            yield NamedFile("mine.known", path)
        if self.mine.hacks.detector:
            yield NamedFile("mine.hacks.detector", file_of(self.mine.hacks.detector))

    @model_validator(mode="after")
    def _one_judge(self) -> MineRecipe:
        models = [r.name for r in self.rewards if isinstance(r, ModelReward)]
        if len(models) != 1:
            raise ValueError(f"rewards: one reward model (type: model) says what is unsure; here are {len(models)}")
        names = {r.name for r in self.rewards}
        unknown = next((name for name in self.mine.rules if name not in names), None)
        if unknown is not None:
            raise ValueError(f"mine.rules names {unknown!r}, rewards are: {', '.join(sorted(names))}")
        unread = next((n for n in names if n not in self.mine.rules and n not in models), None)
        if unread is not None:
            raise ValueError(f"reward {unread!r} would have no effect: give it a limit in mine.rules, or leave it out")
        if self.sampling.temperature == 0:
            raise ValueError("sampling.temperature=0 gives the same answer again and again: there would be no two to compare")
        return self
