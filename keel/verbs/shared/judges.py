"""Judges of a file, ready to be asked; reward models among them are loaded here."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.evaluate.reward_judge import RewardModelJudge
from keel.judges.ask import Judge, check_images
from keel.judges.build import make_judge, read_judges
from keel.judges.config import RewardModelConfig
from keel.judges.pictures import holds_image
from keel.rewards.composition.rewards import Reward
from keel.rewards.constitution.scoring import Scorer
from keel.rewards.sources.constitution import ConstitutionReward, ConstitutionSource
from keel.rewards.sources.constitution import of_settings as constitution_source
from keel.rewards.sources.judge import JudgeReward, JudgeSource
from keel.rewards.sources.judge import of_settings as judge_source
from keel.runs.directory import RunDir
from keel.types import Prompt, RewardSource

log = logging.getLogger("keel")


def judge_named(file: str, name: str) -> Judge:
    """The judge ``name`` of a file of judges. Raises UserError."""
    return make_judge(name, read_judges(file), _reward_model)


def check_seen(sources: Iterable[RewardSource], prompts: Iterable[Prompt]) -> None:
    """Raises DataError, before anything is asked, where prompts hold images and the judge of a reward reads text alone: a constitution's
    judge may read what a column says of them instead."""
    pictured = [p for p in prompts if holds_image(p.messages)]
    for source in sources if pictured else ():
        try:
            if isinstance(source, JudgeSource):
                check_images(source.judged_by, ((p, ()) for p in pictured))
            elif isinstance(source, ConstitutionSource):
                check_described(source.scorer, pictured)
        except DataError as error:
            raise DataError(f"reward '{source.name}': {error.message}", error.hint) from None


def check_described(scorer: Scorer, prompts: Iterable[Prompt]) -> None:
    """The same of a constitution's own judge."""
    if scorer.judge is not None:
        asked = [p for p in prompts if scorer.calls(p) and scorer.constitution.shown(p) is None]
        hint = "say in a column what they show (image_text of the constitution), leave them out, or take a judge that sees images"
        check_images(scorer.judge, ((p, ()) for p in asked), hint)


def check_seen_by(configs: Iterable[object], prompts: Sequence[Prompt]) -> None:
    """`check_seen` before the rewards are made; their judges are made only where a prompt holds an image."""
    configs = [c for c in configs if isinstance(c, JudgeReward | ConstitutionReward) and c.judge]
    if configs and any(holds_image(p.messages) for p in prompts):
        made = [judge_source(c, None) if isinstance(c, JudgeReward) else constitution_source(c, None) for c in configs]
        check_seen(made, prompts)


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
    from keel.judges.showing import sees_images
    from keel.rewards.sources.model import ModelReward
    from keel.runs.fingerprints import model_fingerprint
    from keel.verbs.shared.text_model import ModelScorer  # loads torch

    scorer = ModelScorer.load(ModelReward(name=name, type="model", path=config.path))
    path = Path(config.path).expanduser()
    return RewardModelJudge(name, config, scorer, model_fingerprint(path) if path.exists() else config.path, sees_images(scorer.renderer))
