"""Judges of a file, ready to be asked; reward models among them are loaded here."""

from __future__ import annotations

from pathlib import Path

from keel.evaluate.reward_judge import RewardModelJudge
from keel.judges.ask import Judge
from keel.judges.build import make_judge, read_judges
from keel.judges.config import RewardModelConfig


def judge_named(file: str, name: str) -> Judge:
    """The judge ``name`` of a file of judges. Raises UserError."""
    return make_judge(name, read_judges(file), _reward_model)


def _reward_model(name: str, config: RewardModelConfig) -> Judge:
    from keel.rewards.sources.model import ModelReward
    from keel.runs.fingerprints import model_fingerprint
    from keel.verbs.shared.text_model import ModelScorer  # loads torch

    scorer = ModelScorer.load(ModelReward(name=name, type="model", path=config.path))
    path = Path(config.path).expanduser()
    return RewardModelJudge(name, config, scorer, model_fingerprint(path) if path.exists() else config.path)
