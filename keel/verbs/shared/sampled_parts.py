"""What the parts of all trainings have in common that learn from a policy's own answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from keel.core.errors import DivergedError
from keel.core.events import EventBus
from keel.loops.auditing import Auditor
from keel.loops.gathering import Rewarder
from keel.loops.harness import TrainResult
from keel.loops.keeping import Keeper
from keel.loops.online import Actors, Evaluator, OnlineTrainer
from keel.loops.pairing import PairByJudge
from keel.loops.red_team import RedTeam
from keel.methods import rollout_units
from keel.models.loading import Loaded
from keel.rewards.composition.composer import Composer
from keel.rewards.composition.rewards import Reward, RunRewards
from keel.selftest import CheckName, check_policy_looks
from keel.types import Sampler, SamplingParams, Twin, Unit
from keel.verbs.shared.learners import AnyLearner, close, meet
from keel.verbs.shared.prompts import Prompts
from keel.verbs.shared.recipes import Training
from keel.verbs.shared.reference import Reference, actors_of
from keel.verbs.shared.sampled import answered, check_rewards, looking_answers, refused_answers
from keel.verbs.shared.session import Session, save_final, train
from keel.watch.config import EarlyStopConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledParts:
    """Policy, sampler, reward and prompts. What is made of the answers is a kind's own: its ``trainer`` and its self-test."""

    NOTHING: ClassVar[str]  # what there was none of, where no update was made

    loaded: Loaded
    policy: AnyLearner
    sampler: Sampler
    reward: Rewarder
    prompts: Mapping[str, Prompts]  # by side: train, and perhaps held_out and test
    params: SamplingParams
    training: Training
    reference: Reference | None = None
    critic: AnyLearner | None = None
    rewards: tuple[Reward, ...] = ()  # behind ``reward``
    composer: Composer | None = None  # how they become one
    judge: RunRewards | PairByJudge | None = None  # who knows what failed
    evaluators: Mapping[str, Evaluator] = field(default_factory=dict[str, Evaluator])
    evaluators_for: Callable[[Mapping[str, Prompts]], Mapping[str, Evaluator]] | None = None  # the same for other prompts, by side
    keeper: Keeper | None = None  # of answers, for people
    auditor: Auditor | None = None  # of the reward, by people
    red_team: RedTeam | None = None  # against the reward
    best: EarlyStopConfig = field(default_factory=lambda: EarlyStopConfig(metric="eval/reward", mode="max"))
    twins: Mapping[str, Twin] = field(default_factory=dict[str, Twin])  # of prompts with images: the pictures taken out
    summary: Mapping[str, Any] = field(default_factory=dict[str, Any])  # what there is to tell before training
    told: Callable[[], Mapping[str, Any]] = dict  # and after it

    @property
    def actors(self) -> Actors:
        """Those that the loop knows."""
        return actors_of(self.policy, self.sampler, self.reward, self.reference, self.critic)

    def trainer(self) -> OnlineTrainer:
        """The loop over these parts, one step at a time."""
        raise NotImplementedError

    def self_test(self, bus: EventBus, skip: Sequence[CheckName] = ()) -> None:
        """Prove the parts on the loaded model and the real data. Raises SelfTestError; leaves the learners as they were."""
        raise NotImplementedError

    def check_looks(self, units: Sequence[Unit], bus: EventBus, skip: Sequence[CheckName]) -> None:
        """The policy looks at images, where prompts show any, and the reward models read what they score."""
        pictured = looking_answers(self.sampler, self.prompts["train"], self.params)
        check_policy_looks(self.policy, rollout_units(pictured), self.twins, bus, skip)
        check_rewards(self.rewards, units, bus, skip, pictured, self.twins)

    def train(self, session: Session) -> TrainResult:
        """Raises DivergedError, where no update was made too; where rewards failed to the end it tells the first failure."""
        meet(self.policy, session.run)
        try:
            result = train(session, self.trainer(), self.best)
            if not result.interrupted and not self.policy.updates:
                raise DivergedError(f"nothing was trained: {self.NOTHING}")
        except DivergedError as error:
            if self.judge is None or not self.judge.all_failed:
                raise
            text = f"{error.message}; the first failure: {self.judge.failure}"
            raise DivergedError(text, "mend the reward and start again in another run_dir") from None
        return result

    def close(self) -> None:
        """End the ranks, if there are any."""
        close(self.policy)

    def save(self, session: Session) -> dict[str, Any]:
        """``final/``, read again and compared on the policy's own answers, and ``critic/``; the summary."""
        units = answered(self.sampler, self.prompts.get("held_out") or self.prompts["train"], self.params)
        save_final(session, self.loaded, self.policy, units)
        if self.critic is not None:
            self.critic.save(session.run.path / "critic", self.loaded.tokenizer, self.loaded.processor)
        composed = {"composition": self.composer.summary()} if self.composer is not None else {}
        audited = self.auditor.summary() if self.auditor is not None else {}
        return {**self.summary, **refused_answers(self.rewards), **composed, **audited, **self.told()}
