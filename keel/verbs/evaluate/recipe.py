"""Settings of `keel eval`."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from keel.core.python_file import file_of
from keel.evaluate.config import EvaluateConfig
from keel.judges.config import JudgeUse
from keel.rewards.table import RewardConfig
from keel.rollout.config import PolicyEnsembleConfig, SamplerConfig
from keel.verbs.shared.grounded_decoding import GroundedDecodingConfig
from keel.verbs.shared.inputs import reward_files
from keel.verbs.shared.recipes import ModelRecipe, NamedFile


class EvalRecipe(ModelRecipe):
    """`keel eval`: two models on held-out prompts."""

    baseline: str = Field(description="The model to compare against (as `model`).")
    evaluate: EvaluateConfig = Field(description="Prompts, samples, sampling, bootstrap.")
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

    def files(self) -> Iterator[NamedFile]:
        yield from super().files()
        yield NamedFile("baseline", self.baseline, is_model=True)
        if self.evaluate.retention_text:
            yield NamedFile("evaluate.retention_text", self.evaluate.retention_text)
        if self.grounded_decoding is not None:
            yield from self.grounded_decoding.files("grounded_decoding")
        if isinstance(self.evaluate.gold, str):
            yield NamedFile("evaluate.gold", file_of(self.evaluate.gold))
        if (detector := self.evaluate.detecting) is not None:
            for file in detector.detector_files():
                yield NamedFile("evaluate.detector" if file.key == "detector" else f"evaluate.detector.{file.key}", file.path)
        yield from reward_files("rewards", self.rewards)
        for key, path, is_model in self.judge.judge_files("judge.") if self.judge is not None else ():
            yield NamedFile(key, path, is_model=is_model)
