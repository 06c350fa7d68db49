"""A reward model as a source: it scores the very tokens that were sampled, and its scale is frozen before RL begins. The settings of
several models as one stand here too; what they do is in ``ensemble``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from keel.core.config import Section
from keel.core.errors import UserError
from keel.rewards.score import Argument, SourceRow
from keel.rewards.settings import InputFile, SegmentedConfig
from keel.types import Branch, Group, Prompt, Rollout, Unit

if TYPE_CHECKING:
    from torch import Tensor  # settings are read, and workers start, without torch


class EarlyExitConfig(Section):
    """Members that are asked only where the first ones disagree."""

    first: int = Field(default=2, ge=2, description="Models (or adapters) that are asked about every answer.")
    below: float = Field(gt=0, description="Where their standard deviation is at most this, the others are not asked.")


class AskConfig(Section):
    """Answers that the members disagree on become tasks for people, while the policy is trained."""

    above: float = Field(gt=0, description="Standard deviation of the members' scores from which on a person is asked.")
    per_step: int = Field(default=4, ge=1, description="Tasks at most each time answers are scored in training, the most doubtful first.")
    tasks: str = Field(default="", description="File that the tasks go to; empty = asked.jsonl in the run directory.")
    store: str = Field(default="", description="Store that they go to instead: sqlite:///FILE or postgresql://user@host/name.")
    campaign: str = Field(default="unsure", min_length=1, description="Campaign of the store; made when missing.")
    people: int = Field(default=3, ge=1, description="Different people an item, in a campaign that is made.")
    protocol: str = Field(default="pairwise-v1", min_length=1, description="Protocol of the tasks.")

    @model_validator(mode="after")
    def _one_place(self) -> AskConfig:
        if self.store and self.tasks:
            raise ValueError("tasks and store are two places: leave one out")
        unread = {"campaign", "people"} & self.changed
        if unread and not self.store:
            raise ValueError(f"{min(unread)} would have no effect without store")
        return self


class EnsembleConfig(Section):
    """What becomes of several members' scores."""

    aggregate: Literal["mean", "weighted", "median", "robust", "min", "lower_bound"] = Field(
        default="mean",
        description="Of the members' scores: mean; mean by `weights`; median; a mean in which members far from the median "
        "count little; the least; the mean less `k` standard deviations.",
    )
    k: float = Field(default=1.0, ge=0, description="lower_bound: standard deviations that are taken off.")
    refuse_above: float | None = Field(
        default=None, gt=0, description="An answer on which the members' standard deviation is above this gets no reward, and is counted."
    )
    members: list[str] = Field(default=[], description="Further reward models that are asked beside `path`; each score in its own scale.")
    weights: list[float] = Field(
        default=[], description="weighted: of the models in order; empty = softmax of their held-out accuracies over `sharpness`."
    )
    sharpness: float = Field(
        default=0.05, gt=0, description="weighted: a model whose held-out accuracy is better by this much counts e times as much."
    )
    ask: AskConfig | None = Field(default=None, description="Ask people about answers that the members disagree on; empty = never.")
    early_exit: EarlyExitConfig | None = Field(
        default=None, description="Ask all members only where the first disagree; empty = always all."
    )

    @model_validator(mode="after")
    def _weights_are_read(self) -> EnsembleConfig:
        if self.aggregate != "weighted" and {"weights", "sharpness"} & self.changed:
            raise ValueError("weights and sharpness would have no effect: set aggregate=weighted")
        if self.weights and (min(self.weights) < 0 or sum(self.weights) <= 0):
            raise ValueError("weights are 0 or more, and not all 0")
        return self


class ModelReward(SegmentedConfig):
    """A reward model's score, standardised with constants that stay as they are during RL."""

    by_token: ClassVar[bool] = True

    type: Literal["model"] = Field(default="model", description="A reward model.")
    path: str = Field(description="Reward model: a folder that `keel reward` made, or any model spec with a score head.")
    standardise: bool = Field(default=True, description="Use (score - mean) / std.")
    mean: float | None = Field(default=None, description="Mean of the scores; empty = measured on the starting policy's answers.")
    std: float | None = Field(
        default=None, gt=0, description="Their standard deviation; empty = measured on the starting policy's answers."
    )
    quantise: Literal["none", "int8", "int8_dynamic"] = Field(
        default="none", description="Keep its matrices in 8 bits, a quarter of the memory; `keel eval reward` measures what that costs."
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

    def files(self) -> Iterator[InputFile]:
        yield InputFile("path", self.path, is_model=True)
        for i, member in enumerate(self.ensemble.members):
            yield InputFile(f"ensemble.members.{i}", member, is_model=True)


Ending = Callable[[Prompt, "Tensor"], "Tensor"]  # an answer's ids [T] as a reward model has learnt to read them: ``Renderer.closed``
Scorer = Callable[[Sequence[Unit]], Sequence["Tensor"]]  # units -> float32 [branches] each: ``LocalLearner.scores``


@dataclass(frozen=True, slots=True)
class Standardiser:
    """(score - mean) / std with fixed constants. They never follow the policy: a moving scale would hide that rewards rise."""

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, scores_G: Tensor) -> Tensor:
        return (scores_G - self.mean) / self.std


def fit_standardiser(scores: Iterable[Tensor], mean: float | None = None, std: float | None = None) -> Standardiser:
    """Constants from the scores [G] of the starting policy's answers, failed ones (not finite) left out; given ones are kept.

    The standard deviation is that of the population (no n - 1). Raises UserError when a reward model cannot tell answers apart.
    """
    import torch

    if mean is not None and std is not None:
        return Standardiser(mean, std)
    all_N = torch.cat([s.reshape(-1) for s in scores]).double()
    all_N = all_N[torch.isfinite(all_N)]
    found = float(all_N.std(correction=0)) if len(all_N) else math.nan
    if std is None and not found > 1e-6:
        raise UserError(
            f"the reward model gives {len(all_N)} answers of the starting policy scores that do not differ (standard deviation {found:g})",
            "check that this is a trained reward model and that the sampling temperature is above 0, or set mean and std",
        )
    return Standardiser(float(all_N.mean()) if mean is None else mean, found if std is None else std)


def units_of(group: Group, ending: Ending) -> tuple[Unit | None, list[int]]:
    """The group's usable rollouts as one unit, tokens as sampled, and their places in the group.

    A reward model has learnt to give its score at the end of an answer. So every answer that does not end so (cut off at the length limit,
    stopped at a text, ended by another end token) is closed by ``ending``, as cut-off candidates were in training. Read anywhere else the
    score would mean nothing.

    Raises:
        UserError: a conversation that the chat template shows in another way as it goes on: it is no one text that could be read.
    """
    if any(rollout.forks for rollout in group.rollouts):
        raise UserError(
            f"a reward model reads a conversation as it was written; the chat template rewrites that of prompt {group.prompt.prompt_id}",
            "let the environment give the reward, or a reward that reads text, or take a template that keeps thoughts",
        )
    used = [i for i, valid in enumerate(group.valid_G.tolist()) if valid]
    branches = tuple(_closed(group.rollouts[i], ending(group.prompt, group.rollouts[i].tokens_T)) for i in used)
    return (Unit(group.prompt.prompt_id, group.encoded, branches) if used else None), used


def _closed(rollout: Rollout, tokens_T: Tensor) -> Branch:
    """``tokens_T``: the rollout's with another end, or as they are. What was put there was not sampled."""
    import torch

    n = min(len(tokens_T), len(rollout))
    same_T = (tokens_T[:n] == rollout.tokens_T[:n]).cumprod(0).bool()
    sampled_T = torch.zeros(len(tokens_T), dtype=torch.bool)
    sampled_T[:n] = rollout.sampled_T[:n] & same_T
    return Branch(tokens_T, sampled_T)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A ``RewardSource`` of a reward model with the policy's tokenizer. ``scorer`` is a learner's or a model's ``scores``."""

    repeats: ClassVar[bool] = True  # asked again it would say the same

    name: str
    scorer: Scorer
    ending: Ending
    standardiser: Standardiser = Standardiser()

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        """float32 [G] for each group, standardised; NaN for rollouts that failed and for scores that are not finite."""
        import torch

        found = [units_of(g, self.ending) for g in groups]
        scores = iter(self.scorer([unit for unit, _ in found if unit is not None]))
        result = [torch.full((len(g.rollouts),), torch.nan) for g in groups]
        for out_G, (unit, used) in zip(result, found, strict=True):
            if unit is not None:
                out_G[used] = self.standardiser(next(scores).detach().float().cpu())
            out_G[~torch.isfinite(out_G)] = torch.nan
        return result


ROW = SourceRow(ModelReward, argument=Argument("path", "DIR"))
