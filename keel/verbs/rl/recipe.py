"""Settings of `keel rl`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field, model_validator

from keel.core.errors import ConfigError
from keel.core.python_file import file_of, names_a_file
from keel.environments.config import EnvironmentConfig
from keel.learner.config import OptimConfig
from keel.loops.config import ExplorationConfig, GroundingConfig, RobustConfig, RolloutsConfig
from keel.methods import AlgorithmConfig, resolve
from keel.models.heads import ValueKind
from keel.rewards.composition.config import CompositionConfig
from keel.rewards.settings import OnFailure
from keel.rewards.table import RewardConfig, in_parts
from keel.rollout.config import EvalSamplingConfig, RolloutConfig, SamplingConfig
from keel.verbs.shared.continual import ContinualRecipe
from keel.verbs.shared.inputs import reward_files
from keel.verbs.shared.recipes import NamedFile


class RLRecipe(ContinualRecipe):
    """`keel rl`: sample, reward, improve."""

    PRICED: ClassVar[bool] = True

    algorithm: AlgorithmConfig = Field(default=AlgorithmConfig(), description="Which algorithm, and its numbers.")
    sampling: SamplingConfig = Field(default=SamplingConfig(), description="The distribution that rollouts are drawn from.")
    eval_sampling: EvalSamplingConfig = Field(
        default=EvalSamplingConfig(), description="How held-out and test prompts are answered, whatever the training draws by."
    )
    sampler: RolloutConfig = Field(default=RolloutConfig(), description="What draws the rollouts, and how it packs its work.")
    rollouts: RolloutsConfig = Field(default=RolloutsConfig(), description="How far the sampler may run ahead of the training.")
    samples: int = Field(default=8, ge=1, description="Rollouts a prompt (G).")
    exploration: ExplorationConfig = Field(
        default=ExplorationConfig(), description="Rollouts drawn otherwise than from the policy; needs algorithm.correction."
    )
    grounding: GroundingConfig = Field(
        default=GroundingConfig(), description="Which tokens hang on the images of their prompt, for measures and for algorithm.kl."
    )
    environment: EnvironmentConfig | None = Field(
        default=None, description="The world that the policy talks with in many turns, with tools and a reward of its own; empty = none."
    )
    robust: RobustConfig | None = Field(
        default=None, description="The group of prompts that does worst counts most; empty = all prompts count the same."
    )
    rewards: list[RewardConfig] = Field(
        default=[],
        description="Named rewards and their weights; at least one, unless a teacher is followed or an environment gives one. Weight 0: "
        "only measured.",
    )
    teacher: str = Field(
        default="",
        description="The model that algorithm.name=distill or gkd follows, as `model`, of the same tokenizer. It stays as it is.",
    )
    composition: CompositionConfig = Field(default=CompositionConfig(), description="How the rewards become one, their weights in the run.")
    critic_model: str = Field(default="", description="What PPO's critic starts from; empty = the policy's own starting weights.")
    critic_head: ValueKind | None = Field(
        default=None,
        description="What gives PPO's values: linear, on the hidden state; image_attention, where a hidden state first attends to the "
        "images before it. Empty: as critic_model has it, else linear.",
    )
    critic_optim: OptimConfig = Field(default=OptimConfig(lr=2e-5), description="The critic's optimizer.")
    on_reward_failure: OnFailure = Field(
        default="drop_sample",
        description="A reward that fails: leave the sample out of its group's statistics (drop_sample), the same after asking again "
        "(retry), or stop the run.",
    )

    @model_validator(mode="after")
    def _trained_as_sampled(self) -> RLRecipe:
        """The log-probabilities that are trained are those of the distribution that was sampled from."""
        self._refuse_dropout()
        s = self.sampling
        if s.temperature == 0 or s.top_k == 1:
            name = "temperature=0" if s.temperature == 0 else "top_k=1"
            raise ValueError(f"sampling.{name}: greedy rollouts of a prompt are all the same and have no policy gradient; set it higher")
        return self

    @model_validator(mode="after")
    def _learns_from_something(self) -> RLRecipe:
        """From rewards, from a teacher, or from both."""
        algorithm = resolve(self.algorithm, self.samples)
        if algorithm.taught and not self.teacher:
            raise ConfigError(f"algorithm.name={algorithm.name} follows a teacher, and none is named", "set teacher to a model")
        if self.teacher and not algorithm.taught:
            raise ConfigError(
                f"teacher would have no effect: the algorithm '{algorithm.name}' follows none", "set algorithm.name=distill or gkd"
            )
        rewarded = bool(self.rewards) or (self.environment is not None and self.environment.weight is not None)
        if not rewarded and not algorithm.taught:
            raise ConfigError("rewards: there are none, and nothing else says which answers are good", "name at least one reward")
        unread = [name for name in ("composition", "on_reward_failure") if name in self.changed]
        if not rewarded and unread:
            raise ConfigError(f"{' and '.join(unread)} would have no effect: there are no rewards", "leave it out")
        counted = [r.name for r in self.rewards if r.weight] + (["environment"] if self.environment and self.environment.weight else [])
        if algorithm.taught and counted and algorithm.credits_tokens and algorithm.credit.gamma == 0:
            raise ConfigError(
                f"reward '{counted[0]}' would count for the last token of an answer alone: algorithm.credit.gamma is 0",
                "set its weight to 0, which only measures, or algorithm.credit.gamma=1",
            )
        return self

    @model_validator(mode="after")
    def _the_engine_draws_it(self) -> RLRecipe:
        self.sampler.check_sampling(self.sampling, told=True)
        if self.sampler.foreign and self.exploration.on:
            raise ConfigError("exploration is drawn by the local sampler only", "leave it out, or set sampler.engine=local")
        return self

    @model_validator(mode="after")
    def _in_flight_and_kept(self) -> RLRecipe:
        flies, server = self.rollouts.in_flight, self.sampler.server
        if flies and (self.sampler.engine != "server" or not self.rollouts.lag):
            raise ConfigError(
                "rollouts.in_flight changes weights under rollouts that engines draw steps ahead, and there are none",
                "set sampler.engine=server and rollouts.lag=1, or leave it out",
            )
        if flies and server.kind == "sglang":
            raise ConfigError(
                "rollouts.in_flight: SGLang gets new weights between rollouts only", "leave it out, or draw with vLLM or Keel's engines"
            )
        if self.rollouts.journal == "on" and self.environment is not None:
            raise ConfigError("rollouts.journal=on: the journal keeps no conversations", "leave it out")
        if self.rollouts.journal == "off" and flies:
            raise ConfigError("rollouts.in_flight: without its journal a killed run would draw others", "leave rollouts.journal out")
        return self

    @property
    def journal(self) -> bool:
        """Are rollouts kept as they arrive?"""
        auto = (self.rollouts.in_flight or not self.sampler.repeats) and self.environment is None
        return self.rollouts.journal == "on" or (self.rollouts.journal == "auto" and auto)

    @model_validator(mode="after")
    def _parts_of_a_sum(self) -> RLRecipe:
        """What is due at a token is a share of a weighted sum whose weights stand."""
        parted = [r.name for r in self.rewards if in_parts(r)]
        if self.environment is not None and self.environment.weight is not None:
            parted.append("environment")
        if parted and resolve(self.algorithm, self.samples).credits_tokens and self.composition.changed:
            raise ConfigError(f"reward '{parted[0]}' is credited part by part, and composition makes no plain sum", "leave composition out")
        return self

    @model_validator(mode="after")
    def _the_world_is_whole(self) -> RLRecipe:
        if self.environment is None:
            return self
        if any(r.name == "environment" for r in self.rewards):
            raise ConfigError("a reward is named 'environment', which is the name of the environment's own", "give it another name")
        if self.environment.max_tokens < self.sampling.max_tokens:
            raise ConfigError(
                f"environment.max_tokens is {self.environment.max_tokens}, less than the {self.sampling.max_tokens} of one answer",
                "raise it, or lower sampling.max_tokens",
            )
        if self.settings.tracking.red_team.every:
            raise ConfigError("settings.tracking.red_team makes single answers, and the environment wants conversations", "leave it out")
        return self

    @model_validator(mode="after")
    def _normalised_once(self) -> RLRecipe:
        """GDPO normalises scores one by one in their groups, then their sum over the batch; a group's sum is not normalised again."""
        algorithm = resolve(self.algorithm, self.samples)
        by_group = self.composition.normalise == "group"
        if algorithm.name == "gdpo" and not by_group:
            raise ConfigError("algorithm.name=gdpo normalises each reward within its group", "set composition.normalise=group")
        if by_group and self.samples < 2:
            raise ConfigError(
                f"composition.normalise=group compares the samples of a prompt, and samples is {self.samples}", "set samples=2 or more"
            )
        if by_group and (algorithm.credit.estimator == "group_normalised" or algorithm.needs_greedy):
            raise ConfigError(
                f"composition.normalise=group: the credit '{algorithm.credit.estimator}' would undo it or has no group to compare with",
                "set algorithm.name=gdpo, or algorithm.credit.estimator=batch_normalised",
            )
        return self

    @model_validator(mode="after")
    def _algorithm_fits(self) -> RLRecipe:
        algorithm = resolve(self.algorithm, self.samples)
        if self.exploration.on and algorithm.correction is None:
            raise ConfigError(
                "exploration draws rollouts from another distribution than the policy's, and nothing would correct for it",
                "set algorithm.correction.kind=truncate (or mask)",
            )
        if self.rollouts.lag and self.environment is not None:
            raise ConfigError("rollouts.lag: conversations are drawn by the newest weights only", "set rollouts.lag=0")
        if self.rollouts.lag and algorithm.correction is None:
            raise ConfigError(
                f"rollouts.lag={self.rollouts.lag} trains on what an older policy drew, and nothing would correct for it",
                "set algorithm.correction.kind=truncate (or mask)",
            )
        if self.rollouts.lag and not algorithm.policy_loss.clips:
            raise ConfigError(
                f"rollouts.lag={self.rollouts.lag}: {algorithm.objective} does not clip: an older policy's rollouts pull without a bound",
                "set algorithm.objective=ppo_clip, or rollouts.lag=0",
            )
        if len(self.exploration.temperatures) > self.samples:
            raise ConfigError(
                f"exploration has {len(self.exploration.temperatures)} temperatures for {self.samples} samples of a prompt",
                "take more samples or fewer temperatures",
            )
        if algorithm.kl is None and any(p.kl_coef is not None for p in self.loop.phases):
            raise ConfigError(
                f"loop.phases sets kl_coef, but the algorithm '{algorithm.name}' has no KL", "set algorithm.kl.place and algorithm.kl.coef"
            )
        unread = [name for name in ("critic_model", "critic_head", "critic_optim") if name in self.changed]
        if unread and not algorithm.needs_critic:
            raise ConfigError(
                f"{' and '.join(unread)} would have no effect: the algorithm '{algorithm.name}' has no critic", "leave it out"
            )
        if algorithm.minibatches > self.loop.batch_size:
            raise ConfigError(
                f"algorithm.minibatches is {algorithm.minibatches}, loop.batch_size {self.loop.batch_size}: updates would be left out",
                "lower minibatches, or take more prompts a step",
            )
        return self

    def shared(self) -> list[tuple[str, bool, str]]:
        algorithm, tracking = resolve(self.algorithm, self.samples), self.settings.tracking
        kl, watching = algorithm.kl, ("rollouts" in tracking.changed, tracking.audit.every, tracking.red_team.every)
        return [
            ("algorithm.name", algorithm.needs_critic, f"has no critic for each owner, and {algorithm.name} needs one: use grpo or rloo"),
            ("algorithm.kl.reference", kl is not None and kl.reference is not None, "keeps the base as it is: leave it out"),
            ("rollouts.lag", self.rollouts.lag > 0, "draws by the newest weights of each owner: set rollouts.lag=0"),
            ("robust", self.robust is not None, "weighs no group against another: leave robust out"),
            ("sampler.engine", self.sampler.engine != "local", "changes adapters in this process: set sampler.engine=local"),
            ("settings.tracking", any(watching), "keeps no answers of owners for people: leave rollouts, audit and red_team out"),
        ]

    def files(self) -> Iterator[NamedFile]:
        yield from super().files()
        if self.critic_model:
            yield NamedFile("critic_model", self.critic_model, is_model=True)
        if self.teacher:
            yield NamedFile("teacher", self.teacher, is_model=True)
        if names_a_file(self.algorithm.objective):
            yield NamedFile("algorithm.objective", file_of(self.algorithm.objective))
        if self.sampler.file:
            yield NamedFile("sampler.engine", self.sampler.file)
        if self.environment is not None:
            yield NamedFile("environment.path", self.environment.file)
        yield from reward_files("rewards", self.rewards)
