"""The root recipes: one class a verb. Sections belong to their rooms; here they are only put together."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from keel.algorithms import AlgorithmConfig, resolve
from keel.algorithms.offline import LoggedConfig, logged_objective
from keel.algorithms.preference import ObjectiveConfig, preference_objective
from keel.config import Section
from keel.data.config import DataConfig
from keel.errors import ConfigError
from keel.evaluate.config import EvaluateConfig
from keel.feedback.config import PreferencesConfig
from keel.learner.config import BatchConfig, OptimConfig
from keel.loops.config import ExplorationConfig, LoopConfig
from keel.loops.order_config import OrderConfig
from keel.models.config import LoraConfig, ModelOptions
from keel.models.head_config import HeadConfig
from keel.render.config import RenderConfig
from keel.rewards.composition_config import CompositionConfig
from keel.rewards.config import RewardConfig, StepsReward, segments_of
from keel.rewards.source_config import OnFailure
from keel.rollout.config import EvalSamplingConfig, PolicyEnsembleConfig, RolloutConfig, SamplerConfig, SamplingConfig
from keel.runs.config import CheckpointConfig, TrackingConfig
from keel.selftest import CheckName
from keel.stages.online_config import OnlineConfig
from keel.stages.reward_config import EarlierConfig, MembersConfig, RewardLossConfig, TeacherConfig
from keel.watch.config import WatchConfig


class Settings(Section):
    """How a run behaves as a program: threads, checkpoints, trackers, the self-test, alarms."""

    threads: int | None = Field(
        default=None, ge=1, le=1024, description="CPU threads; empty = what torch chooses. Part of what makes a resume exact."
    )
    deterministic: bool = Field(default=True, description="Ask torch for deterministic algorithms (on CPU they are anyway).")
    skip_self_test: list[CheckName] = Field(default=[], description="Self-test checks to skip; the message of a failed check names it.")
    checkpoint: CheckpointConfig = Field(default=CheckpointConfig(), description="When to save and what to keep.")
    tracking: TrackingConfig = Field(default=TrackingConfig(), description="Where metrics go beside the run directory.")
    watch: WatchConfig = Field(default=WatchConfig(), description="Limits on metrics that warn or stop.")


class ModelRecipe(Section):
    """What every verb shares: the model, how text becomes tokens, where the run lives."""

    model: str = Field(description="Folder, Hugging Face id, *.gguf file, package:PKG/FILE (a file in an installed package) or tiny:ARCH.")
    model_options: ModelOptions = Field(default=ModelOptions(), description="How the model is loaded and computed.")
    render: RenderConfig = Field(default=RenderConfig(), description="How messages become tokens and which tokens are trained.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of everything that is drawn.")
    run_dir: str = Field(default="", description="Run directory; empty = runs/<recipe's name>. Started again, it resumes.")
    settings: Settings = Field(default=Settings(), description="Threads, checkpoints, trackers, self-test, alarms.")


class TrainRecipe(ModelRecipe):
    """What every training verb shares."""

    lora: LoraConfig | None = Field(
        default=None, description="Train adapters of this shape instead of all weights; empty = full fine-tuning."
    )
    optim: OptimConfig = Field(default=OptimConfig(), description="Optimizer, learning rate, schedule.")
    batch: BatchConfig = Field(default=BatchConfig(), description="How an optimizer batch is cut into micro-batches.")
    loop: LoopConfig = Field(default=LoopConfig(), description="How long, how much at once, when to evaluate.")
    data: DataConfig = Field(description="Training data.")
    held_out: DataConfig | float = Field(
        default=0.1, description="Held-out data: a data section, or the share of prompts to hold out of `data`."
    )

    test: DataConfig | float = Field(
        default=0.0,
        description="Data to evaluate on once, after training; it chooses nothing. A section, or a share of `data`'s prompts; 0 = none.",
    )

    @field_validator("held_out", "test")
    @classmethod
    def _is_a_share(cls, value: DataConfig | float) -> DataConfig | float:
        if not isinstance(value, DataConfig) and not 0.0 <= value < 1.0:
            raise ValueError(f"a share of the prompts is at least 0 and below 1, not {value:g}")
        return value

    @model_validator(mode="after")
    def _phases_are_read(self) -> TrainRecipe:
        prices = [p.name for p in self.loop.phases if p.kl_coef is not None or p.entropy_coef is not None]
        if prices and not isinstance(self, RLRecipe):
            raise ConfigError(f"loop.phases: {prices[0]} sets kl_coef or entropy_coef, which only RL has", "leave it out")
        return self

    def _refuse_dropout(self) -> None:
        """For losses that compare with recorded log-probabilities. A reward model's loss has none: its answers are only compared with one
        another, and scores are taken without dropout."""
        if self.lora is not None and self.lora.dropout > 0:
            raise ValueError(
                f"lora.dropout is {self.lora.dropout}, but this loss compares log-probabilities with recorded ones, which have no dropout: "
                "set lora.dropout=0"
            )


class SFTRecipe(TrainRecipe):
    """`keel sft`: imitate demonstrations."""


class RewardRecipe(TrainRecipe):
    """`keel reward`: a reward model from pairs, comparisons, rankings, ratings or stepwise labels; the data say which."""

    head: HeadConfig = Field(default=HeadConfig(), description="What stands on top of the body.")
    loss: RewardLossConfig = Field(default=RewardLossConfig(), description="How preferences become a loss.")
    teacher: TeacherConfig | None = Field(default=None, description="Reward models to learn from; empty = the labels alone.")
    earlier: EarlierConfig | None = Field(default=None, description="What the model learnt before and must not forget.")
    order: OrderConfig = Field(default=OrderConfig(), description="Which training rows come first, and which come again.")
    ensemble: MembersConfig | None = Field(default=None, description="Train several models in place of one; empty = one.")
    margin: float | None = Field(
        default=None,
        ge=0,
        description="Nats of lead asked for per unit of the data's margin (Llama 2); 0 = labels alone. Empty: the largest margin of the "
        "data asks for a lead of 1.",
    )
    centring: float = Field(
        default=0.0, ge=0, description="Coefficient of (score of the winner + score of the loser) squared, which keeps scores near 0."
    )

    @model_validator(mode="after")
    def _one_kind_of_ensemble(self) -> RewardRecipe:
        if self.ensemble is not None and self.head.members > 1:
            raise ConfigError("head.members and ensemble.members are two kinds of ensemble", "leave one of the two out")
        return self


class PreferRecipe(TrainRecipe):
    """`keel prefer`: direct preference optimisation."""

    objective: ObjectiveConfig = Field(default=ObjectiveConfig(), description="Which loss, and its numbers.")
    online: OnlineConfig | None = Field(
        default=None, description="Make the pairs while training, from answers to `data`'s prompts; empty = the data's own."
    )
    reference_model: str = Field(
        default="", description="The model that the loss keeps near to, as `model`; empty = the starting weights. It stays as it is."
    )
    reference_cache: str = Field(
        default="",
        description="Folder of the reference's log-probabilities, by content: runs that share it take them once; empty = the run's own.",
    )

    @model_validator(mode="after")
    def _no_dropout(self) -> PreferRecipe:
        self._refuse_dropout()
        return self

    @model_validator(mode="after")
    def _reference_is_read(self) -> PreferRecipe:
        if not self.reference_model:
            return self
        objective = preference_objective(self.objective)
        if not objective.needs_reference and "ref_kl" not in objective.needs:
            raise ConfigError(f"reference_model would have no effect: the loss '{self.objective.name}' has no reference", "leave it out")
        if self.online is not None and self.online.reference.kind not in (None, "fixed"):
            raise ConfigError("reference_model stays as it is, and online.reference follows the policy", "leave one of the two out")
        return self

    @model_validator(mode="after")
    def _online_fits(self) -> PreferRecipe:
        if self.online is None:
            return self
        if self.reference_cache:
            raise ConfigError("reference_cache would have no effect with online: every answer is new", "leave it out")
        if self.online.minibatches > self.loop.batch_size:
            raise ConfigError(
                f"online.minibatches is {self.online.minibatches}, loop.batch_size {self.loop.batch_size}: updates would be left out",
                "lower minibatches, or take more prompts a round",
            )
        objective, fixed = preference_objective(self.objective), self.online.reference.kind in (None, "fixed")
        if not fixed and not objective.needs_reference and "ref_kl" not in objective.needs:
            raise ConfigError(f"online.reference would have no effect: the loss '{self.objective.name}' has no reference", "leave it out")
        if objective.needs_strangers and self.loop.batch_size < 2 * self.online.minibatches:
            raise ConfigError(
                f"the loss '{self.objective.name}' needs answers to other prompts, and an update may have one prompt",
                "set loop.batch_size to at least twice online.minibatches",
            )
        return self


class OfflineRecipe(TrainRecipe):
    """`keel offline`: reinforcement learning on answers whose rewards were logged; nothing is sampled."""

    objective: LoggedConfig = Field(default=LoggedConfig(), description="Which loss, and its numbers.")
    reference_cache: str = Field(
        default="",
        description="Folder of the starting weights' log-probabilities, by content, for runs to share; empty = the run's own.",
    )

    @model_validator(mode="after")
    def _no_dropout(self) -> OfflineRecipe:
        if logged_objective(self.objective).needs_reference:
            self._refuse_dropout()
        return self


class RLRecipe(TrainRecipe):
    """`keel rl`: sample, reward, improve."""

    algorithm: AlgorithmConfig = Field(default=AlgorithmConfig(), description="Which algorithm, and its numbers.")
    sampling: SamplingConfig = Field(default=SamplingConfig(), description="The distribution that rollouts are drawn from.")
    eval_sampling: EvalSamplingConfig = Field(
        default=EvalSamplingConfig(), description="How held-out and test prompts are answered, whatever the training draws by."
    )
    sampler: RolloutConfig = Field(default=RolloutConfig(), description="What draws the rollouts, and how it packs its work.")
    samples: int = Field(default=8, ge=1, description="Rollouts a prompt (G).")
    exploration: ExplorationConfig = Field(
        default=ExplorationConfig(), description="Rollouts drawn otherwise than from the policy; needs algorithm.correction."
    )
    rewards: list[RewardConfig] = Field(min_length=1, description="Named rewards and their weights.")
    composition: CompositionConfig = Field(default=CompositionConfig(), description="How the rewards become one, their weights in the run.")
    critic_model: str = Field(default="", description="What PPO's critic starts from; empty = the policy's own starting weights.")
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
    def _the_engine_draws_it(self) -> RLRecipe:
        self.sampler.check_sampling(self.sampling, told=True)
        if self.sampler.engine == "vllm" and self.exploration.on:
            raise ConfigError("exploration is drawn by the local sampler only", "leave it out, or set sampler.engine=local")
        return self

    @model_validator(mode="after")
    def _parts_of_a_sum(self) -> RLRecipe:
        """What is due at a token is a share of a weighted sum whose weights stand."""
        parted = [r.name for r in self.rewards if segments_of(r) is not None or isinstance(r, StepsReward)]
        if parted and resolve(self.algorithm, self.samples).credits_tokens and self.composition.changed:
            raise ConfigError(f"reward '{parted[0]}' is credited part by part, and composition makes no plain sum", "leave composition out")
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
        if len(self.exploration.temperatures) > self.samples:
            raise ConfigError(
                f"exploration has {len(self.exploration.temperatures)} temperatures for {self.samples} samples of a prompt",
                "take more samples or fewer temperatures",
            )
        if algorithm.kl is None and any(p.kl_coef is not None for p in self.loop.phases):
            raise ConfigError(
                f"loop.phases sets kl_coef, but the algorithm '{algorithm.name}' has no KL", "set algorithm.kl.place and algorithm.kl.coef"
            )
        unread = [name for name in ("critic_model", "critic_optim") if name in self.changed]
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


class EvalRecipe(ModelRecipe):
    """`keel eval`: two models on held-out prompts."""

    baseline: str = Field(description="The model to compare against (as `model`).")
    evaluate: EvaluateConfig = Field(description="Prompts, samples, sampling, bootstrap.")
    rewards: list[RewardConfig] = Field(default=[], description="Scorers, reported side by side.")
    sampler: SamplerConfig = Field(default=SamplerConfig(max_rows=256), description="How the sampler packs its work.")
    ensemble: PolicyEnsembleConfig | None = Field(default=None, description="Evaluate `model` together with others, as one policy.")


class PreferencesRecipe(ModelRecipe):
    """Candidates from the model, compared by simulated annotators, aggregated into pairs."""

    data: DataConfig = Field(description="Prompts.")
    preferences: PreferencesConfig = Field(description="How many answers, at which temperatures, by how many annotators.")
    sampling: SamplingConfig = Field(
        default=SamplingConfig(), description="Sampling of the candidates; temperatures come from `preferences`."
    )
    sampler: SamplerConfig = Field(default=SamplerConfig(max_rows=256), description="How the sampler packs its work.")

    @model_validator(mode="after")
    def _temperatures_are_those_of_preferences(self) -> PreferencesRecipe:
        if "temperature" in self.sampling.changed:
            raise ConfigError(
                "sampling.temperature would have no effect: candidates are sampled at preferences.temperatures",
                "set preferences.temperatures, a list",
            )
        return self


RECIPES: dict[str, type[ModelRecipe]] = {
    "sft": SFTRecipe,
    "reward": RewardRecipe,
    "prefer": PreferRecipe,
    "offline": OfflineRecipe,
    "rl": RLRecipe,
    "eval": EvalRecipe,
    "preferences": PreferencesRecipe,
}
