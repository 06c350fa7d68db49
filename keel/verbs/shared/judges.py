"""Judges of a file, ready to be asked; reward models among them are loaded here."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from keel.evaluate.reward_judge import RewardModelJudge
from keel.judges.ask import Judge
from keel.judges.build import make_judge, read_judges
from keel.judges.config import RewardModelConfig
from keel.rewards.composition.rewards import Reward
from keel.rewards.sources.constitution import ConstitutionSource
from keel.rewards.sources.judge import JudgeSource
from keel.runs.directory import RunDir

log = logging.getLogger("keel")


def judge_named(file: str, name: str) -> Judge:
    """The judge ``name`` of a file of judges. Raises UserError."""
    return make_judge(name, read_judges(file), _reward_model)


def record_judges(run: RunDir, rewards: Iterable[Reward], others: Iterable[Mapping[str, Any]] = ()) -> None:
    """The manifest is told of every judge at work: its identity, its report, and whether it was let through by name."""
    sources = [r.source for r in rewards if isinstance(r.source, JudgeSource | ConstitutionSource)]
    found = [dict(s.admitted) for s in sources if s.admitted] + [dict(x) for x in others]
    for x in found:
        if x.get("override"):
            log.warning("judge %s is %s by override: %s", x["judge"], x["as"], x["refused_for"])
    if found:
        run.record(judges=found)


def _reward_model(name: str, config: RewardModelConfig) -> Judge:
    from keel.rewards.sources.model import ModelReward
    from keel.runs.fingerprints import model_fingerprint
    from keel.verbs.shared.text_model import ModelScorer  # loads torch

    scorer = ModelScorer.load(ModelReward(name=name, type="model", path=config.path))
    path = Path(config.path).expanduser()
    return RewardModelJudge(name, config, scorer, model_fingerprint(path) if path.exists() else config.path)
