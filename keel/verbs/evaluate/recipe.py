"""Settings of `keel eval`."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, model_validator

from keel.core.config import Section
from keel.core.errors import ConfigError
from keel.core.python_file import file_of
from keel.environments.config import EnvironmentConfig
from keel.evaluate.config import EvaluateConfig
from keel.judges.config import JudgeUse
from keel.rewards.table import RewardConfig
from keel.rollout.config import PolicyEnsembleConfig, SamplerConfig
from keel.verbs.shared.grounded_decoding import GroundedDecodingConfig
from keel.verbs.shared.inputs import reward_files
from keel.verbs.shared.recipes import ModelRecipe, NamedFile


class OtherModel(Section):
    """One more model that is compared with the baseline."""

    name: str = Field(min_length=1, description="What it is called in the results.")
    model: str = Field(description="As `model`.")
    at: float | None = Field(
        default=None, ge=0, description="Training steps or examples that made it: where it stands on the learning curve."
    )


class PeopleUse(Section):
    """People as a scorer: their votes on the models' answers, from a store of feedback."""

    store: str = Field(min_length=1, description="sqlite:///feedback.db or postgresql://user@host/name.")
    campaign: str = Field(min_length=1, description="Campaign whose votes count; pairs are found again by prompt and answers.")


class EvalRecipe(ModelRecipe):
    """`keel eval`: any number of models on held-out prompts, each against the baseline."""

    model_name: str = Field(default="model", min_length=1, description="What `model` is called in the results.")
    baseline_name: str = Field(default="baseline", min_length=1, description="What `baseline` is called in the results.")
    at: float | None = Field(default=None, ge=0, description="Training steps or examples that made `model`, for the learning curve.")
    others: list[OtherModel] = Field(default=[], description="More models; all are compared with the baseline and rated together.")
    people: PeopleUse | None = Field(
        default=None, description="People's votes as a scorer. Without votes yet, samples/people.jsonl is what they can be asked."
    )

    baseline: str = Field(description="The model to compare against (as `model`).")
    evaluate: EvaluateConfig = Field(description="Prompts, samples, sampling, bootstrap.")
    environment: EnvironmentConfig | None = Field(
        default=None,
        description="The world that every model talks with, in place of single answers; evaluate.max_tokens is the limit of one answer.",
    )
    rewards: list[RewardConfig] = Field(default=[], description="Scorers, reported side by side.")
    judge: JudgeUse | None = Field(
        default=None,
        description="A judge that compares both models' answers; the win rate's interval holds the error that its report tells of.",
    )
    sampler: SamplerConfig = Field(default=SamplerConfig(max_rows=256), description="How the sampler packs its work.")
    ensemble: PolicyEnsembleConfig | None = Field(default=None, description="Evaluate `model` together with others, as one policy.")
    grounded_decoding: GroundedDecodingConfig | None = Field(
        default=None, description="Grounded decoding of `model`'s answers; the baseline's are drawn without it."
    )

    @model_validator(mode="after")
    def _names_differ(self) -> EvalRecipe:
        names = [self.baseline_name, self.model_name, *(o.name for o in self.others)]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"two models are called {twice[0]!r}: give each a name of its own")
        return self

    @model_validator(mode="after")
    def _conversations_are_whole(self) -> EvalRecipe:
        """What answers a prompt once, or compares single answers, has no place in a conversation."""
        world, config = self.environment, self.evaluate
        if world is None:
            if "success" in config.changed:
                raise ConfigError("evaluate.success would have no effect: there is no environment", "leave it out, or name an environment")
            return self
        own = {name: getattr(self, name) is not None for name in ("ensemble", "grounded_decoding", "judge", "people")}
        own |= {"evaluate.shots": bool(config.shots), "evaluate.detector": config.detecting is not None}
        if used := [name for name, is_used in own.items() if is_used]:
            raise ConfigError(
                f"{used[0]} reads or makes single answers, and the environment wants conversations", "leave one of the two out"
            )
        if world.weight is None:
            raise ConfigError("environment.weight=null: the world gives no reward, and nothing would tell success", "leave weight out")
        if any(r.name == "environment" for r in self.rewards):
            raise ConfigError("a reward is named 'environment', which is the name of the environment's own", "give it another name")
        if world.max_tokens < config.max_tokens:
            raise ConfigError(
                f"environment.max_tokens is {world.max_tokens}, less than the {config.max_tokens} of one answer",
                "lower evaluate.max_tokens",
            )
        return self

    @model_validator(mode="after")
    def _parts_are_of_one_model(self) -> EvalRecipe:
        asked = [name for name in ("refusals", "hhh", "retention", "lm_eval") if getattr(self.evaluate, name) is not None]
        used = [name for name in ("ensemble", "grounded_decoding") if getattr(self, name) is not None]
        if asked and used:
            raise ValueError(f"evaluate.{asked[0]} is of a model by itself, and {used[0]} answers in its place: leave one of the two out")
        return self

    def files(self) -> Iterator[NamedFile]:
        yield from super().files()
        yield NamedFile("baseline", self.baseline, is_model=True)
        if self.environment is not None:
            yield NamedFile("environment.path", self.environment.file)
        for i, other in enumerate(self.others):
            yield NamedFile(f"others.{i}.model", other.model, is_model=True)
        if self.evaluate.shot_examples:
            yield NamedFile("evaluate.shot_examples", self.evaluate.shot_examples)
        if self.evaluate.retention_text:
            yield NamedFile("evaluate.retention_text", self.evaluate.retention_text)
        if self.grounded_decoding is not None:
            yield from self.grounded_decoding.files("grounded_decoding")
        if isinstance(self.evaluate.gold, str):
            yield NamedFile("evaluate.gold", file_of(self.evaluate.gold))
        if (detector := self.evaluate.detecting) is not None:
            for file in detector.detector_files():
                yield NamedFile("evaluate.detector" if file.key == "detector" else f"evaluate.detector.{file.key}", file.path)
        yield from _part_files(self.evaluate)
        yield from reward_files("rewards", self.rewards)
        for key, path, is_model in self.judge.judge_files("judge.") if self.judge is not None else ():
            yield NamedFile(key, path, is_model=is_model)


def _part_files(config: EvaluateConfig) -> Iterator[NamedFile]:
    for i, one in enumerate(config.sets):
        yield from (NamedFile(f"evaluate.sets.{i}.prompts.{k}", name) for k, name in enumerate(one.prompts))
    if (refusals := config.refusals) is not None:
        for side, files in (("safe", refusals.safe), ("unsafe", refusals.unsafe)):
            yield from (NamedFile(f"evaluate.refusals.{side}.{k}", name) for k, name in enumerate(files))
        if refusals.reader:
            yield NamedFile("evaluate.refusals.reader", file_of(refusals.reader))
    if config.hhh is not None:
        yield from (NamedFile(f"evaluate.hhh.items.{k}", name) for k, name in enumerate(config.hhh.items))
    if config.retention is not None:
        for kind in ("texts", "tasks"):
            yield from (NamedFile(f"evaluate.retention.{kind}.{name}", file) for name, file in getattr(config.retention, kind).items())
    if config.lm_eval is not None and config.lm_eval.include_path:
        yield NamedFile("evaluate.lm_eval.include_path", config.lm_eval.include_path)
