"""Settings of preferences that are made while training."""

from __future__ import annotations

from pydantic import Field, model_validator

from keel.core.config import Section
from keel.loops.pairing import PairRule
from keel.methods.rl_config import ReferenceConfig
from keel.rewards.composition.config import CompositionConfig
from keel.rewards.settings import OnFailure
from keel.rewards.sources.python import CompareConfig
from keel.rewards.table import RewardConfig
from keel.rollout.config import EvalSamplingConfig, RolloutConfig, SamplingConfig


class AnswersConfig(Section):
    """The answers that are compared."""

    sampling: SamplingConfig = Field(default=SamplingConfig(), description="The distribution that answers are drawn from.")
    eval_sampling: EvalSamplingConfig = Field(default=EvalSamplingConfig(), description="How held-out and test prompts are answered.")
    sampler: RolloutConfig = Field(default=RolloutConfig(), description="What draws the answers, and how it packs its work.")
    samples: int = Field(default=4, ge=2, description="Answers to a prompt.")


class OnlineConfig(AnswersConfig):
    """Rounds of sampling, scoring, pairing and training in place of labelled pairs. A round is a step of `loop`: its prompts are
    `loop.batch_size` of `data`, its updates `epochs` times `minibatches`."""

    rewards: list[RewardConfig] = Field(default=[], description="Named rewards and their weights; their sum says which answer is better.")
    judge: CompareConfig | None = Field(default=None, description="A function that compares two answers, in place of rewards.")
    composition: CompositionConfig = Field(default=CompositionConfig(), description="How the rewards become one, their weights in the run.")
    on_reward_failure: OnFailure = Field(
        default="drop_sample",
        description="A reward or comparison that fails: leave the answer out, the same after asking again (retry), or stop the run.",
    )
    pairs: PairRule = Field(
        default="best_worst", description="Which answers of a prompt are compared: the best with the worst, two by chance, every two."
    )
    least_gap: float = Field(
        default=0.0,
        ge=0,
        description="Answers whose rewards (probabilities of being the better one) differ by less make no pair; equal ones never do.",
    )
    epochs: int = Field(default=1, ge=1, description="Passes over a round's pairs.")
    minibatches: int = Field(default=1, ge=1, description="Updates of a pass; the round's prompts are shared out among them.")
    reference: ReferenceConfig = Field(
        default=ReferenceConfig(), description="Whether the reference follows the policy; `every` in rounds."
    )

    @model_validator(mode="after")
    def _one_says_which_is_better(self) -> OnlineConfig:
        if bool(self.rewards) == (self.judge is not None):
            raise ValueError("give either online.rewards or online.judge, not " + ("both" if self.rewards else "neither"))
        if self.judge is not None and self.composition.changed:
            raise ValueError("online.composition would have no effect: a judge compares answers, there is no reward to compose")
        return self

    @model_validator(mode="after")
    def _the_engine_draws_it(self) -> OnlineConfig:
        self.sampler.check_sampling(self.sampling, told=False)
        return self

    @model_validator(mode="after")
    def _answers_differ(self) -> OnlineConfig:
        if self.sampling.temperature == 0:
            raise ValueError("online.sampling.temperature=0: greedy answers to a prompt are all the same; set it above 0")
        rule = self.reference
        unread = [name for name, kind in (("decay", "ema"), ("every", "refresh")) if getattr(rule, name) is not None and rule.kind != kind]
        if unread:
            raise ValueError(f"online.reference.{unread[0]} would have no effect with reference.kind={rule.kind or 'fixed'}")
        return self
